"""What has been found, written into `docs/results.md` experiment by experiment, with plots beside the other pictures.

An experiment without a finished run keeps what the page says of it: runs can be made on several machines, and one
experiment can be made again by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import equal_time, frontier, over_optimisation, reward_models
from benchmarks.evidence.runs import FINISHED, LIMIT_SECONDS, Plan, Run
from rlhf.training.run_folder import write_atomically

PAGE = "results.md"
EXPERIMENTS = {
    "frontier": frontier,
    "over_optimisation": over_optimisation,
    "equal_time": equal_time,
    "reward_models": reward_models,
}
SHARED = {"frontier": "sentiment", "over_optimisation": "small"}  # runs that several build on are counted once


def marks(experiment: str) -> tuple[str, str]:
    """The lines of the page between which an experiment stands."""
    return f"<!-- evidence {experiment}: begin -->", f"<!-- evidence {experiment}: end -->"


def write_report(plan: Plan, docs: Path) -> str:
    """Replace the sections and plots of the experiments that have a finished run; says what was written and what lacks.

    Raises:
        ValueError: the page does not have the marks of each experiment, in order.
    """
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    written = []
    for name, experiment in EXPERIMENTS.items():
        begin, end = marks(name)
        head, found_begin, rest = text.partition(begin)
        _, found_end, tail = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(f"{page} lacks the marks of {name}: add the lines {begin} and {end} where it belongs")
        if content := experiment.section(plan, docs / "images"):
            text = f"{head}{begin}\n\n{content}\n\n{cost(plan, name)}\n\n{commands(plan, name)}\n\n{end}{tail}"
            written.append(name)
    if not written:
        return f"{page} is left as it is: no experiment has a finished run"
    write_atomically(page, text)
    return f"{page} is written: {', '.join(written)}; {missing(plan.runs, plan)}"


def cost(plan: Plan, experiment: str) -> str:
    """Time and memory of an experiment's runs, and which of them lack."""
    runs = of_experiment(plan, experiment)
    states = [plan.place.state(run) for run in runs if plan.status(run) == FINISHED]
    if not states:
        return missing(runs, plan).capitalize() + "."
    longest = max(state["seconds"] for state in states)
    over = sum(state["seconds"] > LIMIT_SECONDS for state in states)
    return (
        f"{len(states)} of {len(runs)} runs, {sum(state['seconds'] for state in states) / 60:.0f} minutes "
        f"({sum(state['cpu_seconds'] for state in states) / 60:.0f} of processor time), the longest {longest:.0f} s"
        + (f" ({over} over {LIMIT_SECONDS} s)" if over else "")
        + f", at most {max(state['peak_gb'] for state in states):.1f} GB"
        + ("" if len(states) == len(runs) else f"; {missing(runs, plan)}")
        + "."
    )


def commands(plan: Plan, experiment: str) -> str:
    """One run of each kind, as it would be typed."""
    shown: dict[str, Run] = {}
    for run in of_experiment(plan, experiment):
        shown.setdefault(run.kind or run.name, run)
    lines = [f"# {run.name}\n" + "\n".join(map(" ".join, run.commands)) for run in shown.values()]
    return (
        "<details><summary>Commands: the first run of each kind; the others differ in seed, weight or arm</summary>"
        "\n\n```\n" + "\n\n".join(lines) + "\n```\n\n</details>"
    )


def missing(runs: Sequence[Run], plan: Plan) -> str:
    """Which runs have no result."""
    left = [run.name for run in runs if plan.status(run) != FINISHED]
    if not left:
        return f"all {len(runs)} runs have finished"
    shown = ", ".join(left[:5]) + (" and others" if len(left) > 5 else "")
    return f"{len(left)} of {len(runs)} runs are missing: {shown}"


def of_experiment(plan: Plan, experiment: str) -> list[Run]:
    """An experiment's runs, with the shared ones where they are counted."""
    names = (SHARED.get(experiment), experiment)
    return [run for run in plan.runs if run.experiment in names]
