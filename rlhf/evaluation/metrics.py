"""Means with bootstrap intervals: win rate, accuracy over pairs, and any other mean over responses.

Responses to one prompt resemble each other, so resampling them one by one gives intervals that are too
narrow. Every function takes `groups` (the prompt id of each value) and then resamples whole prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES_AT_ONCE = 2_000_000  # drawn indices held in memory at a time, 16 MB


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values with its interval; `low` and `high` are nan where one group cannot tell."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: nan becomes None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(number) else number for name, number in numbers.items()} | {"n": self.n}

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3f} (n={self.n})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def bootstrap_mean(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of `values` with a percentile bootstrap interval (Efron 1979), by group when groups are given.

    Args:
        values: [n], finite numbers.
        groups: [n], the group of each value, usually its prompt id; whole groups are drawn with replacement
            and the mean is taken over all values drawn (the ratio form of the cluster bootstrap, Davison &
            Hinkley 1997, 3.8). None makes each value its own group.
        num_resamples: 1,000 to 10,000; the ends of the interval move by about 1/sqrt(num_resamples) of its
        width.
        confidence: share of such intervals that hold the true mean, in (0, 1).

    With fewer than about 20 groups the interval is somewhat too narrow, and when all values are equal it has
    no width though the truth is not known that well; one group gives nan. Same arguments, same numbers.

    Raises:
        ValueError: no values, a value that is not finite, or groups of another length.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"values has shape {numbers.shape}; give a flat sequence with at least one number")
    if not np.isfinite(numbers).all():
        position = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(f"values[{position}] is {numbers[position]}; leave out what could not be measured")
    if groups is not None and len(groups) != numbers.size:
        raise ValueError(f"groups has {len(groups)} entries for {numbers.size} values; give one group for each value")
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ValueError(f"confidence is {confidence} and num_resamples {num_resamples}; use e.g. 0.95 and 2000")
    sums, counts = _group_totals(numbers, groups)
    mean = float(numbers.mean())
    if len(sums) == 1:
        return Estimate(mean, math.nan, math.nan, numbers.size)
    means = _resampled_means(sums, counts, num_resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean, float(low), float(high), numbers.size)


def win_rate(outcomes: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of wins, a tie being half a win. `outcomes`: [n], 1 win, 0.5 tie, 0 loss, or a mean of several
    judgments.

    0.5 means that neither side is preferred; ValueError for an outcome outside 0 to 1.
    """
    for position, outcome in enumerate(outcomes):
        if not 0 <= outcome <= 1:
            raise ValueError(f"outcomes[{position}] is {outcome}; use 1 for a win, 0.5 for a tie, 0 for a loss")
    return bootstrap_mean(outcomes, groups=groups)


def pair_accuracy(margins: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of pairs that a scorer orders as the annotator did.

    `margins`: [n], score of the chosen response minus score of the rejected one. Above 0 counts 1, exactly 0
    counts one half (what guessing would get), below 0 counts 0; nan is a ValueError, since a scorer that
    yields it is broken.
    """
    for position, margin in enumerate(margins):
        if math.isnan(margin):
            raise ValueError(f"margins[{position}] is nan; the scorer gave no number for one response of this pair")
    return bootstrap_mean([0.5 if margin == 0 else float(margin > 0) for margin in margins], groups=groups)


def _group_totals(values: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the values of each group, [num_groups] each, groups in order of first appearance."""
    if groups is None:
        return values, np.ones_like(values)
    numbering: dict[Hashable, int] = {}
    index = [numbering.setdefault(group, len(numbering)) for group in groups]
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, num_resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Means of `num_resamples` draws of all groups with replacement, [num_resamples]."""
    num_groups = len(sums)
    rows = max(1, RESAMPLES_AT_ONCE // num_groups)
    means = []
    for start in range(0, num_resamples, rows):
        drawn = generator.integers(0, num_groups, size=(min(rows, num_resamples - start), num_groups))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
