"""The page on a run folder, or on several: figures, alarms, charts, samples, and what the run was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlhf.evaluation.measured import SHARES, measured
from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.plots import interval_plot
from rlhf.evaluation.report import (
    Branch,
    Section,
    caution,
    details,
    figures_table,
    key_figures,
    prose,
    tree,
    write_report,
)
from rlhf.training.run_charts import Runs, chart_sections, distribution_section
from rlhf.training.run_record import Ancestor, RunRecord, ancestors, number
from rlhf.training.run_samples import alarm_section, sample_section

HASH_LENGTH = 12

# Figures at the head of the page by stage: the metric, what the page calls it; those that are missing are left out.
HEADS = {
    "sft": {"eval_loss": "held-out loss", "eval_perplexity": "held-out perplexity", "loss": "training loss"},
    "reward": {"eval_accuracy": "held-out accuracy", "reward/accuracy": "accuracy in training", "loss": "loss"},
    "dpo": {"eval_accuracy": "held-out accuracy", "reward/margin": "margin in training", "loss": "loss"},
    "ppo": {
        "objective/score": "score",
        "objective/kl": "KL, nats",
        "objective/response_length": "tokens a response",
        "objective/eos_rate": "ended by themselves",
    },
    "evaluate": {"win_rate": "win rate", "kl": "KL, nats"},
}


def write_run_report(path: Path, runs: Sequence[RunRecord]) -> Path:
    """Write the page to `path` and give the path."""
    named = name_runs(runs)
    is_one = len(runs) == 1
    title = f"{runs[0].stage}: {next(iter(named))}" if is_one else " · ".join(named)
    sections = [
        Section("Figures", *_figures(named)),
        *([alarm_section(named)] if any(run.alarms for run in runs) or "ppo" in {run.stage for run in runs} else []),
        *chart_sections(named),
        distribution_section(named),
        sample_section(named),
        _final(named),
        Section("Made from", *(_lineage(label, run, named) for label, run in named.items())),
        _config(named),
    ]
    return write_report(path, title=title, lead=_lead(named), sections=[one for one in sections if one is not None])


def name_runs(runs: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Runs by the last parts of their folders, as many as tell them apart."""
    paths = [run.path.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, runs, strict=True))


def _lead(runs: Runs) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs beside each other."
    (run,) = runs.values()
    steps = f" after {run.last_step} steps" if run.rows else ""
    return f"A run of the stage {run.stage}, {run.status}{steps}.{_duration(run.seconds)}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f" It took {seconds:.0f} seconds." if seconds < 120 else f" It took {seconds / 60:.0f} minutes."


# ---- figures -------------------------------------------------------------------------------------------


def _figures(runs: Runs) -> Iterator[str]:
    heads = {label: dict(_head(run)) for label, run in runs.items()}
    if len(runs) == 1:
        (figures,) = heads.values()
        if figures:
            yield key_figures(figures)
    else:
        names = list(dict.fromkeys(name for figures in heads.values() for name in figures))
        stages = [[label, run.stage, run.status, str(run.last_step)] for label, run in runs.items()]
        rows = [[*row, *(heads[row[0]].get(name, "") for name in names)] for row in stages]
        yield figures_table(["run", "stage", "state", "steps", *names], rows)
    shares = _shares(runs)
    if shares:
        caption = "Accuracies and win rates with 95 % bootstrap intervals by prompt; the dashed line is guessing."
        yield interval_plot(shares, x_label="share, a tie counts one half", caption=caption)
    for label, run in runs.items():
        if run.status != "finished":
            where = "" if len(runs) == 1 else f"{label}: "
            yield caution(f"{where}The run is {run.status}: figures are of its last row, step {run.last_step}.")


def _head(run: RunRecord) -> Iterator[tuple[str, str]]:
    for name, words in HEADS.get(run.stage, {}).items():
        value = run.metrics.get(name)
        if isinstance(value, Mapping):
            value = value.get("value")
        if value is None and run.curve(name)[1]:
            value = run.curve(name)[1][-1]
        if (known := number(value)) is not None:
            yield words, f"{known:.2f}" if abs(known) >= 0.01 or known == 0 else f"{known:.1e}"


def _shares(runs: Runs) -> dict[str, Estimate]:
    found = {}
    for label, run in runs.items():
        for one in measured(label, run.metrics):
            if one.path[0] in SHARES and isinstance(one.value, Estimate):
                name = ": ".join(one.path[1:] or one.path)
                found[name if len(runs) == 1 else f"{label}: {name}"] = one.value
    return found


def _final(runs: Runs) -> Section | None:
    """The numbers of `metrics.json`; several runs have a column each."""
    numbers = {label: list(measured(label, run.metrics)) for label, run in runs.items() if run.metrics}
    if not numbers:
        return None
    if len(runs) == 1:
        (rows,) = numbers.values()
        table = figures_table(["measure", "value", "95 % interval", "n"], [one.cells()[1:] for one in rows])
    else:
        names = list(dict.fromkeys(one.name for rows in numbers.values() for one in rows))
        cells = {label: {one.name: one.cells()[2] for one in rows} for label, rows in numbers.items()}
        columns = [[cells.get(label, {}).get(name, "") for label in runs] for name in names]
        table = figures_table(["measure", *runs], [[name, *row] for name, row in zip(names, columns, strict=True)])
    return Section("Final numbers", table, *_truncation(runs))


def _truncation(runs: Runs) -> Iterator[str]:
    cut = {label: run.metrics["truncation"] for label, run in runs.items() if run.metrics.get("truncation")}
    names = list(dict.fromkeys(name for numbers in cut.values() for name in numbers))
    if cut:
        rows = [[label, *(numbers.get(name) for name in names)] for label, numbers in cut.items()]
        caption = "Prompts and responses, and how many of them were cut to their maximum length."
        yield figures_table(["run", *(name.replace("_", " ") for name in names)], rows, caption=caption)


# ---- where a run comes from ----------------------------------------------------------------------------


def _lineage(label: str, run: RunRecord, runs: Runs) -> str:
    root = Branch(f"{run.stage}: {label if len(runs) > 1 else 'this run'}", "", _branches(ancestors(run.manifest)))
    return tree([root])


def _branches(found: Sequence[Ancestor]) -> tuple[Branch, ...]:
    return tuple(
        Branch(
            f"{one.role.replace('_', ' ')}: {one.path}",
            f"{one.stage + ' run, ' if one.stage else ''}sha256 {one.sha256[:HASH_LENGTH]}",
            _branches(one.ancestors),
        )
        for one in found
    )


def _config(runs: Runs) -> Section:
    """Settings of one run, those that are unset left out; of several what differs between them."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run.config))
    if len(runs) == 1:
        (run,) = runs.values()
        rows = [[name, _setting(run.config[name])] for name in names if run.config[name] not in (None, [], {}, "")]
        about = [
            [name, str(run.manifest[name])]
            for name in ("created", "resumed", "finished", "python")
            if name in run.manifest
        ]
        code = {"code": run.manifest.get("code", {}), "packages": run.manifest.get("packages", {})}
        versions = [[f"{kind}: {name}", str(value)] for kind, values in code.items() for name, value in values.items()]
        return Section(
            "Settings and versions",
            details(f"{len(rows)} settings", figures_table(["setting", "value"], rows)),
            details("Times and versions", figures_table(["what", "value"], [*about, *versions])),
        )
    values = {name: [_setting(run.config.get(name)) for run in runs.values()] for name in names}
    differing = [[name, *row] for name, row in values.items() if len(set(row)) > 1]
    if not differing:
        return Section("Settings", prose("All settings are the same."))
    return Section("Settings that differ", figures_table(["setting", *runs], differing))


def _setting(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).removesuffix("...\n").strip()
