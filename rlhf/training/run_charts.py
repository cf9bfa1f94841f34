"""Charts of what runs logged: a metric over the steps, grouped by name, and how responses were spread at a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlhf.evaluation.plots import Curve, distribution_plot, line_plot
from rlhf.evaluation.report import Section, charts, prose
from rlhf.training.run_record import RunRecord, number

Runs = Mapping[str, RunRecord]  # by the name that the report calls them

MOST_POINTS = 300  # of a line; more are averaged

# What a metric measures: the words of its axis and of its caption.
WORDS = {
    "objective/score": ("score", "Mean score of the responses."),
    "objective/kl": ("nats a response", "How far the policy has moved from the reference."),
    "objective/entropy": ("nats a token", "How undecided the policy is."),
    "objective/judge_score": ("score", "By the judge, which is not in the score."),
    "objective/kl_per_token": ("nats a token", "How far the policy has moved from the reference."),
    "objective/eos_rate": ("share", "Responses that ended by themselves."),
    "objective/response_length": ("tokens", "Mean length of the responses."),
    "objective/distinct_2": ("share", "Different word pairs among all of a response; low means repetition."),
    "objective/kl_coef": ("weight", "Weight of the KL in the reward."),
    "objective/reward": ("reward a token", "Score and KL penalty together."),
    "objective/score_std": ("score", "Disagreement of the reward models."),
    "loss/policy": ("loss", "Clipped policy loss."),
    "loss/value": ("loss", "Clipped value loss."),
    "loss": ("loss", "What is minimised."),
    "policy/approx_kl": ("nats a token", "How far an update moves the policy."),
    "policy/clip_fraction": ("share", "Tokens at which the update is clipped."),
    "policy/ratio": ("ratio", "New probability over old, mean over tokens."),
    "policy/max_ratio": ("ratio", "The highest of any token."),
    "policy/first_ratio_error": ("ratio", "Of the first minibatch, before any update: 0 if all is well."),
    "policy/first_approx_kl": ("nats a token", "Of the first minibatch, before any update: 0 if all is well."),
    "policy/sampler_gap": ("probability", "Between the sampler and the trainer, a token."),
    "value/explained_variance": ("share", "Of the returns, by the value model; 1 is all."),
    "reward/accuracy": ("share", "Pairs put the right way round."),
    "reward/margin": ("score", "Chosen minus rejected."),
    "reward/chosen": ("score", "Of the chosen responses."),
    "reward/rejected": ("score", "Of the rejected responses."),
    "reward/length_correlation": ("correlation", "Of score and length."),
    "learning_rate": ("rate", ""),
    "grad_norm": ("norm", "Before clipping."),
}
REFERENCES = {"reward/accuracy": 0.5, "reward/length_correlation": 0.0, "policy/ratio": 1.0}
AXES = {"score": "score", "kl": "KL from the reference, nats", "length": "length, tokens"}

# Titles of the sections in their order; others follow by name.
GROUPS = {
    "objective": "Objective",
    "score": "Scores",
    "reward": "Reward",
    "loss": "Losses",
    "policy": "Policy",
    "value": "Value",
    "judge": "Judge",
    "eval": "Evaluation",
    "training": "Training",
    "time": "Time",
}
NO_CHART = ("epoch", "num_tokens")


def chart_sections(runs: Runs) -> list[Section]:
    """A section for each group of metrics: a chart of each that changed, and what did not change in a sentence."""
    names = dict.fromkeys(name for run in runs.values() for name in run.metric_names() if name not in NO_CHART)
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (list(WORDS).index(name) if name in WORDS else len(WORDS), name)):
        groups.setdefault(group_of(name), []).append(name)
    order = [*GROUPS, *sorted(set(groups) - set(GROUPS))]
    sections = [(group, _charts(groups[group], runs)) for group in order if group in groups]
    return [Section(GROUPS.get(group, group.capitalize()), *parts) for group, parts in sections if parts]


def _charts(names: Sequence[str], runs: Runs) -> list[str]:
    drawn, still = [], []
    for name in names:
        curves = {label: run.curve(name) for label, run in runs.items()}
        curves = {label: curve for label, curve in curves.items() if len(set(curve[0])) > 1}
        values = {value for _, series in curves.values() for value in series}
        if len(values) == 1:
            still.append(f"`{name}` {values.pop():.4g}")
        elif curves:
            drawn.append(_chart(name, curves))
    return [
        *([charts(*drawn)] if drawn else []),
        *([prose(f"The same at every step: {', '.join(still)}.")] if still else []),
    ]


def group_of(name: str) -> str:
    """What stands before the stroke; plain names are losses, evaluations, or of the training as such."""
    if "/" in name:
        return name.partition("/")[0]
    if name.startswith("eval_"):
        return "eval"
    return "loss" if name.endswith("loss") else "training"


def _chart(name: str, curves: Mapping[str, Curve]) -> str:
    axis, words = WORDS.get(name, (_axis(name), ""))
    thinned = {label: _thinned(curve) for label, curve in curves.items()}
    if any(len(thinned[label][0]) < len(curves[label][0]) for label in curves):
        words = f"{words} A point is the mean of several rows.".strip()
    caption = f"{name}. {words}" if words else name
    return line_plot(thinned, x_label="step", y_label=axis, caption=caption, reference=REFERENCES.get(name))


def _axis(name: str) -> str:
    if name.endswith("_per_second"):
        return "a second"
    return "seconds" if name.startswith("time/") else ""


def _thinned(curve: Curve) -> Curve:
    """At most `MOST_POINTS` points: means over equally many rows, each at its last step."""
    steps, values = curve
    size = math.ceil(len(steps) / MOST_POINTS)
    if size == 1:
        return curve
    parts = [np.asarray(values[start : start + size]) for start in range(0, len(values), size)]
    return steps[size - 1 :: size] if len(steps) % size == 0 else [*steps[size - 1 :: size], steps[-1]], [
        float(part.mean()) for part in parts
    ]


def distribution_section(runs: Runs) -> Section | None:
    """How scores, KL and lengths were spread: of one run at its first, a middle and its last step, of several at
    their last.
    """
    names = dict.fromkeys(name for run in runs.values() for row in run.histograms for name in row if name != "step")
    plots = []
    for name in names:
        groups = dict(_groups(runs, name))
        if groups:
            axis = AXES.get(name, name)
            caption = f"{axis[0].upper()}{axis[1:]}: every response of a step; triangles are means."
            plots.append(distribution_plot(groups, x_label=axis, caption=caption))
    return Section("Responses of a step", charts(*plots)) if plots else None


def _groups(runs: Runs, name: str) -> Iterator[tuple[str, list[float]]]:
    for label, run in runs.items():
        rows = [(row.get("step"), _finite(row[name])) for row in run.histograms if name in row]
        rows = [(step, values) for step, values in rows if values]
        chosen = sorted({0, len(rows) // 2, len(rows) - 1}) if len(runs) == 1 else [len(rows) - 1]
        for step, values in (rows[index] for index in chosen if rows):
            yield f"step {step}" if len(runs) == 1 else f"{label}, step {step}", values


def _finite(values: Sequence[object]) -> list[float]:
    known = [number(value) for value in values]
    return [value for value in known if value is not None and math.isfinite(value)]
