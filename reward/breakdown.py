"""What a reward model's accuracy is made of: by source and strength, and how far length, place and doubt go with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from reward.judged_pairs import ENSEMBLE_RULES, MODEL, JudgedPairs, Scores
from rlhf.data.comparisons import Comparison
from rlhf.evaluation.metrics import Estimate, bootstrap_mean, pair_accuracy

NOT_GIVEN = "not given"
MOST_STRENGTHS = 5  # distinct ones that are shown each; more are put into quarters


def correct(margin: float) -> float:
    """1 for a pair ordered as the annotator did, one half for a tie, 0 else."""
    return 0.5 if margin == 0 else float(margin > 0)


def lead(margins: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Difference of two accuracies on the same pairs, with the interval of the paired difference."""
    differences = [correct(ours) - correct(theirs) for ours, theirs in zip(margins, others, strict=True)]
    return bootstrap_mean(differences, groups=groups)


def accuracy_by(pairs: JudgedPairs, label: Callable[[Comparison], str]) -> dict[str, Estimate]:
    """Accuracy of the reward model on the pairs of each label, labels in order."""
    labels = [label(owner) for owner in pairs.owners]
    return {one: _accuracy_where(pairs, [other == one for other in labels]) for one in sorted(set(labels))}


def accuracy_by_source(pairs: JudgedPairs) -> dict[str, Estimate]:
    """By where comparisons came from; empty where none says."""
    if all(owner.source is None for owner in pairs.owners):
        return {}
    return accuracy_by(pairs, lambda owner: owner.source or NOT_GIVEN)


def accuracy_by_strength(pairs: JudgedPairs) -> dict[str, Estimate]:
    """By how much better the annotator found the chosen response; empty where none says.

    Of more than five strengths, each quarter of the pairs is one label, from its least to its greatest strength.
    """
    given = sorted({owner.strength for owner in pairs.owners if owner.strength is not None})
    if not given:
        return {}
    if len(given) <= MOST_STRENGTHS:
        return _in_order(pairs, [(value, value) for value in given])
    strengths = [owner.strength for owner in pairs.owners if owner.strength is not None]
    inner = np.quantile(strengths, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(inner, given, side="right")
    parts = [[value for value, q in zip(given, quarter, strict=True) if q == number] for number in range(4)]
    return _in_order(pairs, [(part[0], part[-1]) for part in parts if part])


def _in_order(pairs: JudgedPairs, ranges: Sequence[tuple[float, float]]) -> dict[str, Estimate]:
    strengths = [owner.strength for owner in pairs.owners]
    found = {
        f"{low:g}" if low == high else f"{low:g} to {high:g}": _accuracy_where(
            pairs, [strength is not None and low <= strength <= high for strength in strengths]
        )
        for low, high in ranges
    }
    missing = [strength is None for strength in strengths]
    return found | ({NOT_GIVEN: _accuracy_where(pairs, missing)} if any(missing) else {})


def length_figures(pairs: JudgedPairs, comparisons: Sequence[Comparison], scores: Scores) -> dict[str, float | None]:
    """How far the score goes with the characters of a response.

    `pearson` and `spearman` are over all responses; `pearson_within` over what is left when each comparison's mean is
    taken off both, so that it does not see that some prompts ask for more. `longer_preferred` is the share of pairs in
    which the model prefers the longer response, `longer_chosen` that of the annotators; equal lengths are left out.
    """
    lengths = [np.array([float(len(response.text)) for response in comparison.responses]) for comparison in comparisons]
    values = [np.asarray(row, dtype=np.float64) for row in scores]
    flat_lengths, flat_values = np.concatenate(lengths), np.concatenate(values)
    within = [np.concatenate([row - row.mean() for row in rows]) for rows in (lengths, values)]
    difference = np.array(
        [
            len(owner.responses[chosen].text) - len(owner.responses[rejected].text)
            for owner, (chosen, rejected) in zip(pairs.owners, pairs.pairs, strict=True)
        ]
    )
    unequal = difference != 0
    agreed = np.array([correct(margin) for margin in pairs.margins[MODEL]])
    chosen_longer = difference[unequal] > 0
    preferred = np.where(chosen_longer, agreed[unequal], 1 - agreed[unequal])
    return {
        "pearson": correlation(flat_lengths, flat_values),
        "spearman": correlation(_ranks(flat_lengths), _ranks(flat_values)),
        "pearson_within": correlation(within[0], within[1]),
        "longer_preferred": float(preferred.mean()) if preferred.size else None,
        "longer_chosen": float(chosen_longer.mean()) if preferred.size else None,
    }


def position_figures(pairs: JudgedPairs) -> dict[str, Any]:
    """Accuracy where the chosen response stands before the rejected one in the file, and where it stands after it.

    A model that reads responses apart cannot see the order; what differs here is the annotators' or the data's.
    `first_preferred` is the share of pairs in which the model prefers the earlier response, `first_chosen` that of the
    annotators.
    """
    is_first = [chosen < rejected for chosen, rejected in pairs.pairs]
    agreed = [correct(margin) for margin in pairs.margins[MODEL]]
    preferred = [value if first else 1 - value for value, first in zip(agreed, is_first, strict=True)]
    places = {"chosen_first": is_first, "chosen_second": [not first for first in is_first]}
    return {
        **{name: _accuracy_where(pairs, where).to_dict() if any(where) else None for name, where in places.items()},
        "first_preferred": float(np.mean(preferred)),
        "first_chosen": float(np.mean(is_first)),
    }


def ensemble_figures(pairs: JudgedPairs, members: Sequence[Scores]) -> dict[str, Any]:
    """Accuracy of every member and way to combine them, and how far the members disagree.

    `deviation` is the mean over responses of the members' deviation. `margin_deviation` is that of the margins of
    pairs, where the mean is right and where it is wrong: members that know what they do not know disagree more in the
    latter.
    """
    margins = np.array(list(pairs.members.values()))
    deviation = margins.std(axis=0)
    is_right = np.array(pairs.margins[MODEL]) > 0
    names = [name for name in pairs.margins if name in ENSEMBLE_RULES or name in pairs.members]
    rows = [np.array(rows) for rows in zip(*members, strict=True)]
    return {
        "accuracy": {name: pair_accuracy(pairs.margins[name], pairs.prompt_ids).to_dict() for name in names},
        "lead_over_member_1": lead(pairs.margins[MODEL], pairs.margins["member 1"], pairs.prompt_ids).to_dict(),
        "deviation": float(np.concatenate([row.std(axis=0) for row in rows]).mean()),
        "margin_deviation": {
            "right": float(deviation[is_right].mean()) if is_right.any() else None,
            "wrong": float(deviation[~is_right].mean()) if not is_right.all() else None,
        },
        "margin_correlation": [[correlation(a, b) for b in margins] for a in margins],
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's; None where one of the two does not vary."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _accuracy_where(pairs: JudgedPairs, where: Sequence[bool]) -> Estimate:
    inside = [index for index, is_in in enumerate(where) if is_in]
    margins = [pairs.margins[MODEL][index] for index in inside]
    return pair_accuracy(margins, [pairs.prompt_ids[index] for index in inside])
