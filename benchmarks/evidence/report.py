"""What has been found, written into `docs/results.md` between two marks, with plots beside the other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import equal_time, frontier, over_optimisation, reward_models
from benchmarks.evidence.runs import FINISHED, LIMIT_SECONDS, Plan, Run
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import write_atomically

BEGIN = "<!-- evidence: begin, written by python -m benchmarks.evidence --report -->"
END = "<!-- evidence: end -->"
PAGE = "results.md"
EXPERIMENTS = (frontier, over_optimisation, equal_time, reward_models)
LEAD = """\
`make evidence` makes the runs below and `python -m benchmarks.evidence --report` this section. Each run is a few
commands in a folder of its own below `runs/evidence`, at most {limit} minutes long on two cores; what is finished is
skipped, so that the same command goes on where it was stopped. `summary.json` of each experiment holds settings,
seeds, commands, seconds, processor seconds and peak memory of every run. The data is read from `RLHF_REAL_DATA`. Other
work ran on the machine at times: seconds are upper bounds."""


def write_report(plan: Plan, docs: Path) -> str:
    """Replace the section and the plots; says what was written and what is missing.

    Raises:
        ValueError: the page does not have the two marks, in order.
    """
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks of the evidence: add the lines {BEGIN} and {END} where it belongs")
    write_atomically(page, f"{head}{BEGIN}\n\n{section(plan, docs / 'images')}\n\n{END}{tail}")
    return f"{page} is written; {missing(plan)}"


def section(plan: Plan, images: Path) -> str:
    """Everything between the marks."""
    parts = ["## Evidence", LEAD.format(limit=LIMIT_SECONDS // 60)]
    parts += [found for experiment in EXPERIMENTS if (found := experiment.section(plan, images))]
    parts += ["### Cost and commands", cost_table(plan), missing(plan).capitalize() + ".", commands(plan)]
    return "\n\n".join(parts)


def cost_table(plan: Plan) -> str:
    """Time and memory by experiment."""
    header = ["experiment", "runs", "minutes", "longest run, s", "processor minutes", "peak GB"]
    rows = []
    for experiment in dict.fromkeys(run.experiment for run in plan.runs):
        states = [plan.place.state(run) for run in finished(plan, experiment)]
        if not states:
            continue
        longest = max(state["seconds"] for state in states)
        over = sum(state["seconds"] > LIMIT_SECONDS for state in states)
        total = len([run for run in plan.runs if run.experiment == experiment])
        rows.append(
            [
                experiment.replace("_", " "),
                f"{len(states)} of {total}",
                f"{sum(state['seconds'] for state in states) / 60:.0f}",
                f"{longest:.0f}" + (f", {over} over the limit" if over else ""),
                f"{sum(state['cpu_seconds'] for state in states) / 60:.0f}",
                f"{max(state['peak_gb'] for state in states):.1f}",
            ]
        )
    return markdown(header, rows)


def commands(plan: Plan) -> str:
    """One run of each kind, as it would be typed."""
    shown: dict[str, Run] = {}
    for run in plan.runs:
        shown.setdefault(run.kind or run.name, run)
    lines = [f"# {run.name}\n" + "\n".join(map(" ".join, run.commands)) for run in shown.values()]
    return (
        "The first run of each kind; the others differ in seed, weight or arm.\n\n<details><summary>Commands</summary>"
        "\n\n```\n" + "\n\n".join(lines) + "\n```\n\n</details>"
    )


def missing(plan: Plan) -> str:
    """Which runs have no result, by experiment."""
    left = [run.name for run in plan.runs if plan.status(run) != FINISHED]
    if not left:
        return f"all {len(plan.runs)} runs have finished"
    shown = ", ".join(left[:5]) + (" and others" if len(left) > 5 else "")
    return f"{len(left)} of {len(plan.runs)} runs are missing: {shown}"


def finished(plan: Plan, experiment: str) -> Sequence[Run]:
    return [run for run in plan.runs if run.experiment == experiment and plan.status(run) == FINISHED]
