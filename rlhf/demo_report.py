"""The demo's report: what each stage did, in pictures, with samples side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotation.simulated import SimulatedAnnotator
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.plots import Curve, distribution_plot, interval_plot, line_plot
from rlhf.evaluation.report import (
    Sample,
    Section,
    caution,
    figures_table,
    key_figures,
    prose,
    samples_table,
    side_by_side,
    write_report,
)

NUM_SAMPLES = 8
Row = dict[str, Any]


def write_demo_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `report.html` into the demo's folder from what its stages left there."""
    judged = {name: read_comparisons([str(folder / f"{name}_vs_sft" / "judged.jsonl")])[0] for name in ("dpo", "ppo")}
    minutes = sum(summary["seconds_by_stage"].values()) / 60
    return write_report(
        folder / "report.html",
        title="From demonstrations to an aligned policy",
        lead=(
            f"SmolLM2-135M-Instruct went through SFT, a reward model, DPO and PPO in {minutes:.0f} minutes with a "
            f"peak of {summary['peak_gb']:.1f} GB. The annotator was simulated: a rule, not a person."
        ),
        sections=[
            _results(summary),
            _training(folder),
            _scores(judged),
            Section("Samples on held-out prompts", samples_table(_samples(judged))),
            _cost(summary),
        ],
    )


def _results(summary: dict[str, Any]) -> Section:
    estimates = {name: Estimate(**summary[f"{name}_win_rate"]) for name in ("dpo", "ppo")}
    accuracy = Estimate(**summary["reward_accuracy"])
    return Section(
        "Results",
        key_figures(
            {
                "reward accuracy": f"{accuracy.value:.2f}",
                "DPO win rate": f"{estimates['dpo'].value:.2f}",
                "PPO win rate": f"{estimates['ppo'].value:.2f}",
                "PPO KL, nats": f"{summary['ppo_kl']:.1f}",
            }
        ),
        interval_plot(
            {"DPO against SFT": estimates["dpo"], "PPO against SFT": estimates["ppo"]},
            x_label="win rate, a tie counts one half",
            caption="Held-out prompts, 95 % bootstrap interval by prompt. The dashed line is no difference.",
        ),
        prose(f"Reward accuracy on held-out comparisons: {accuracy}."),
        caution(
            "The judge is the rule that also ranked the training data. It shows that the optimisation works, not that "
            "people would prefer these answers."
        ),
    )


def _training(folder: Path) -> Section:
    logs = {name: _log(folder / name) for name in ("reward", "dpo", "ppo")}
    ppo = logs["ppo"]
    return Section(
        "Training",
        side_by_side(
            line_plot(
                {"score": _curve(ppo, "objective/score")},
                x_label="PPO step",
                y_label="reward model's score",
                caption="Mean score of the rollouts, by the learned reward model.",
            ),
            line_plot(
                {"KL": _curve(ppo, "objective/kl")},
                x_label="PPO step",
                y_label="sequence KL, nats",
                caption="How far the policy has moved from the SFT model.",
            ),
        ),
        side_by_side(
            line_plot(
                {"length": _curve(ppo, "objective/response_length")},
                x_label="PPO step",
                y_label="tokens",
                caption="Mean length of the responses.",
            ),
            line_plot(
                {"ended": _curve(ppo, "objective/eos_rate")},
                x_label="PPO step",
                y_label="share",
                caption="Responses that ended by themselves.",
            ),
        ),
        side_by_side(
            line_plot(
                {
                    "reward model": _curve(logs["reward"], "reward/accuracy"),
                    "DPO": _curve(logs["dpo"], "reward/accuracy"),
                },
                x_label="step",
                y_label="accuracy on its batch",
                caption="Pairs put the right way round in training.",
                reference=0.5,
            ),
            line_plot(
                {"reward model": _curve(logs["reward"], "loss"), "DPO": _curve(logs["dpo"], "loss")},
                x_label="step",
                y_label="loss",
                caption="Both start at ln 2 = 0.693, apart from the centering term and margins.",
            ),
        ),
    )


def _scores(judged: dict[str, list[Comparison]]) -> Section:
    annotator = SimulatedAnnotator()
    totals = {
        "SFT": [annotator.score(c.prompt, c.responses[1]).total for c in judged["ppo"]],
        "DPO": [annotator.score(c.prompt, c.responses[0]).total for c in judged["dpo"]],
        "PPO": [annotator.score(c.prompt, c.responses[0]).total for c in judged["ppo"]],
    }
    return Section(
        "Scores before and after",
        distribution_plot(
            totals, x_label="the rule's total", caption="Responses to held-out prompts, judged by the rule."
        ),
    )


def _samples(judged: dict[str, list[Comparison]]) -> list[Sample]:
    """The first response of every policy to the first prompts, as they come: not picked."""
    annotator = SimulatedAnnotator()
    dpo_by_prompt = {c.prompt_id: c for c in reversed(judged["dpo"])}
    samples, seen = [], set()
    for comparison in judged["ppo"]:
        if comparison.prompt_id in seen or comparison.prompt_id not in dpo_by_prompt:
            continue
        seen.add(comparison.prompt_id)
        dpo = dpo_by_prompt[comparison.prompt_id].responses[0]
        responses = {"SFT": comparison.responses[1], "DPO": dpo, "PPO": comparison.responses[0]}
        totals = {name: annotator.score(comparison.prompt, response).total for name, response in responses.items()}
        best = max(totals, key=lambda name: totals[name])
        samples.append(
            Sample(
                prompt=comparison.prompt[-1].content,
                answers={name: response.text for name, response in responses.items()},
                notes={name: f"rule {total:.2f}" for name, total in totals.items()},
                preferred=best,
            )
        )
    return samples[:NUM_SAMPLES]


def _cost(summary: dict[str, Any]) -> Section:
    rows = [(name, round(seconds)) for name, seconds in summary["seconds_by_stage"].items()]
    return Section("Time", figures_table(["stage", "seconds"], rows))


def _log(run: Path) -> list[Row]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _curve(rows: Sequence[Row], name: str) -> Curve:
    logged = [row for row in rows if name in row]
    return [row["step"] for row in logged], [float(row[name]) for row in logged]
