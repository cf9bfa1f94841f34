"""A page about a reward model: what it gets right, against what baselines, how sure it is, and what it goes by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reward.calibration import TEMPERATURES
from reward.judged_pairs import MODEL, JudgedPairs
from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.plots import distribution_plot, interval_plot, reliability_plot
from rlhf.evaluation.report import (
    Sample,
    Section,
    figures_table,
    key_figures,
    prose,
    samples_table,
    side_by_side,
    write_report,
)

MISTAKES = 3
SHOWN_CHARACTERS = 600
SHARE = "share of pairs ordered as the annotator did"


def write_evaluation_report(path: Path, *, model: str, metrics: Mapping[str, Any], pairs: JudgedPairs) -> Path:
    """Write the page to `path`.

    Args:
        path: of the page.
        model: its name.
        metrics: what `metrics.json` gets.
        pairs: of all files.
    """
    sections = [
        Section("Accuracy", *_accuracy(metrics, pairs)),
        Section("Calibration", *_calibration(metrics["calibration"])),
        Section("What the score goes with", *_habits(metrics)),
    ]
    if "ensemble" in metrics:
        sections.append(Section("Ensemble", *_ensemble(metrics["ensemble"])))
    sections.append(Section("Its surest mistakes", *_mistakes(pairs)))
    num_prompts = len(set(pairs.prompt_ids))
    lead = (
        f"Measured on {len(pairs.pairs)} pairs of {num_prompts} prompts. Intervals are 95 % bootstrap intervals by "
        "prompt; equal scores count one half."
    )
    return write_report(path, title=f"Reward model {model}", lead=lead, sections=sections)


def _accuracy(metrics: Mapping[str, Any], pairs: JudgedPairs) -> list[str]:
    over_all = list(metrics["accuracy"].values())[-1]
    leads = list(metrics["lead"].values())[-1]
    found = metrics["calibration"]
    spearman = metrics["length"]["spearman"]
    figures = {
        "accuracy": f"{over_all[MODEL]['value']:.2f}",
        **{f"lead {name}": f"{row['value']:+.2f}" for name, row in leads.items()},
        "ECE": f"{found['before']['ece']:.2f}",
        "rank correlation with length": "none" if spearman is None else f"{spearman:.2f}",
    }
    bars = {name: _estimate(row) for name, row in over_all.items()}
    parts = {"": bars}
    if len(metrics["accuracy"]) > 2:
        by_file = {name: _estimate(row[MODEL]) for name, row in list(metrics["accuracy"].items())[:-1]}
        parts["By file."] = by_file
    for key, caption in (
        ("accuracy_by_source", "The reward model by source of the comparison."),
        ("accuracy_by_strength", "The reward model by how much better the annotator found the chosen response."),
    ):
        if len(metrics[key]) > 1:
            parts[caption] = {name: _estimate(row) for name, row in metrics[key].items()}
    plots = [
        interval_plot(
            estimates,
            x_label=SHARE,
            caption=caption
            or "Reward model and baselines; the dashed line is guessing. Filled: the interval leaves it out.",
        )
        for caption, estimates in parts.items()
    ]
    return [key_figures(figures), prose(_verdict(leads)), side_by_side(*plots)]


def _verdict(leads: Mapping[str, Any]) -> str:
    """Whether the baselines are beaten, in words."""
    words = []
    for name, row in leads.items():
        estimate = _estimate(row)
        baseline = f"`{name.removeprefix('over ')}`"
        if math.isnan(estimate.low):
            words.append(f"One prompt alone says nothing of the lead over {baseline}.")
        elif estimate.low > 0:
            words.append(f"It beats {baseline} by {estimate}.")
        elif estimate.high < 0:
            words.append(f"It is worse than {baseline}: {estimate}.")
        else:
            words.append(f"These pairs do not tell it from {baseline}: its lead is {estimate}.")
    return " ".join(words)


def _calibration(found: Mapping[str, Any]) -> list[str]:
    series = {
        label: [(one["confidence"], _estimate(one["accuracy"])) for one in found[name]["bins"]]
        for name, label in (("before", "scores as they are"), ("after", "with temperature"))
    }
    drawn = reliability_plot(
        series,
        x_label="confidence, sigmoid of the absolute margin",
        caption=f"Reliability in {found['num_bins']} bin{'s' * (found['num_bins'] > 1)} of equally many pairs, with "
        "intervals; below the dashed line the model is too sure.",
    )
    rows = [
        [label, found["before"][key], found["after"][key]]
        for key, label in (
            ("ece", "ECE"),
            ("ece_by_chance", "ECE by chance"),
            ("log_loss", "log-loss, nats"),
            ("brier", "Brier score"),
        )
    ]
    words = (
        f"{_temperature(found['temperature'])} The figures with temperature are of pairs that it was not fitted on, by "
        "five folds. ECE by chance is what a model that is right about its confidence would show on this many pairs; "
        "one that knows nothing has log-loss 0.693 and Brier score 0.25."
    )
    return [prose(words), side_by_side(drawn, figures_table(["", "as it is", "with temperature"], rows))]


def _temperature(temperature: float) -> str:
    """What a temperature says, in words."""
    if temperature in TEMPERATURES:
        why = "every pair is ordered rightly" if temperature < 1 else "margins say nothing of the order"
        return f"These pairs settle no temperature, for {why}; {temperature:g} is the end of what was tried."
    return (
        f"The temperature is {temperature:.3g}: margins over it are the likeliest log-odds. Scores are scaled to "
        "deviation 1, not to log-odds, so a temperature other than 1 is no fault."
    )


def _habits(metrics: Mapping[str, Any]) -> list[str]:
    length, position = metrics["length"], metrics["position"]
    first, second = position["chosen_first"], position["chosen_second"]
    rows = [
        ["longer response, share preferred", length["longer_preferred"], length["longer_chosen"]],
        ["earlier response, share preferred", position["first_preferred"], position["first_chosen"]],
    ]
    measures = [
        ["length and score, Pearson", length["pearson"]],
        ["length and score, Spearman", length["spearman"]],
        ["length and score, Pearson within prompts", length["pearson_within"]],
        ["accuracy, chosen response first in the file", first and first["value"]],
        ["accuracy, chosen response second in the file", second and second["value"]],
    ]
    words = (
        "Length is in characters. Scored again in reverse order, a score changed by at most "
        f"{metrics['order_change']:.2g} deviations."
    )
    return [
        prose(words),
        side_by_side(
            figures_table(["", "reward model", "annotators"], rows), figures_table(["measure", "value"], measures)
        ),
    ]


def _ensemble(found: Mapping[str, Any]) -> list[str]:
    named = {("mean" if name == MODEL else name): _estimate(row) for name, row in found["accuracy"].items()}
    lead, doubt = _estimate(found["lead_over_member_1"]), found["margin_deviation"]
    correlations = [
        value
        for i, row in enumerate(found["margin_correlation"])
        for j, value in enumerate(row)
        if i < j and value is not None
    ]
    words = (
        f"The mean leads the first member, which was trained as a single model is, by {lead}. Scores of one response "
        f"deviate by {found['deviation']:.2f} over the members."
    )
    if correlations:
        words += f" Margins of two members correlate by {np.mean(correlations):.2f} on average."
    if doubt["right"] is not None and doubt["wrong"] is not None:
        words += (
            f" Margins deviate by {doubt['right']:.2f} where the mean orders a pair rightly and by "
            f"{doubt['wrong']:.2f} where it does not."
        )
    return [prose(words), interval_plot(named, x_label=SHARE, caption="Members, and ways to make one score of theirs.")]


def _mistakes(pairs: JudgedPairs) -> list[str]:
    margins = np.array(pairs.margins[MODEL])
    wrong = [int(index) for index in np.argsort(margins, kind="stable")[:MISTAKES] if margins[index] < 0]
    drawn = distribution_plot(
        {MODEL: margins.tolist()},
        x_label="margin, chosen minus rejected",
        y_label="share of pairs",
        caption="Margins of all pairs; the triangle is their mean.",
    )
    if not wrong:
        return [drawn, prose("It orders every pair as the annotator did.")]
    samples = []
    for index in wrong:
        owner, (chosen, rejected) = pairs.owners[index], pairs.pairs[index]
        texts = {"chosen": owner.responses[chosen].text, "rejected": owner.responses[rejected].text}
        samples.append(
            Sample(
                prompt=_short(owner.prompt[-1].content),
                answers={name: _short(text) for name, text in texts.items()},
                notes={"rejected": f"scored {-margins[index]:.2f} higher"},
                preferred="chosen",
            )
        )
    return [drawn, samples_table(samples)]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "\N{HORIZONTAL ELLIPSIS}"


def _estimate(row: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if row[key] is None else float(row[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, row["n"])
