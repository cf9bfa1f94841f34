"""The numbers of a recipe's run: `summary.json`, a table in Markdown, and a page with pictures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.evaluation.measured import SHARES, Measured, measured
from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.plots import interval_plot
from rlhf.evaluation.report import Section, figures_table, prose, write_report
from rlhf.recipe_file import Recipe
from rlhf.training.run_folder import METRICS, write_atomically


def write_summary(recipe: Recipe, runs: Path, progress: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write `summary.json`, `summary.md` and `report.html` from what the steps left; gives the Markdown file."""
    metrics = {step.name: json.loads((runs / step.name / METRICS).read_text("utf-8")) for step in recipe.steps}
    cost = {
        step.name: {key: progress[step.name][key] for key in ("seconds", "peak_gb", "attempts")}
        for step in recipe.steps
    }
    commands = {step.name: shlex.join(["rlhf", *step.arguments(runs)]) for step in recipe.steps}
    summary = {
        "title": recipe.title,
        "seconds": round(sum(row["seconds"] for row in cost.values()), 1),
        "peak_gb": max(row["peak_gb"] for row in cost.values()),
        "steps": {name: {"command": commands[name], **cost[name], "metrics": metrics[name]} for name in metrics},
    }
    write_atomically(runs / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    numbers = [number for step, values in metrics.items() for number in measured(step, values)]
    costs = [
        [name, f"{row['seconds']:.0f}", f"{row['peak_gb']:.2f}", str(row["attempts"])] for name, row in cost.items()
    ]
    costs.append(["all", f"{summary['seconds']:.0f}", f"{summary['peak_gb']:.2f}", ""])
    _write_page(recipe, runs, numbers, costs)
    text = "\n\n".join(
        [
            f"# {recipe.title}",
            markdown(["step", "measure", "value", "95 % interval", "n"], [number.cells() for number in numbers]),
            markdown(["step", "seconds", "peak GB", "started"], costs),
            "Commands:\n\n```\n" + "\n".join(commands.values()) + "\n```",
        ]
    )
    write_atomically(runs / "summary.md", text + "\n")
    return runs / "summary.md"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _write_page(recipe: Recipe, runs: Path, numbers: list[Measured], costs: list[list[str]]) -> None:
    shares = {
        f"{number.step}: {': '.join(number.path[1:]) or number.path[0]}": number.value
        for number in numbers
        if number.path[0] in SHARES and isinstance(number.value, Estimate)
    }
    drawn = prose("No accuracy or win rate was measured.")
    if shares:
        caption = "Accuracies and win rates with 95 % bootstrap intervals by prompt; the dashed line is guessing."
        drawn = interval_plot(shares, x_label="share, a tie counts one half", caption=caption)
    write_report(
        runs / "report.html",
        title=recipe.title,
        sections=[
            Section("Results", drawn),
            Section(
                "Numbers",
                figures_table(["step", "measure", "value", "95 % interval", "n"], [n.cells() for n in numbers]),
            ),
            Section("Cost", figures_table(["step", "seconds", "peak GB", "started"], costs)),
        ],
    )
