"""Estimates: a number, its interval, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# Weights of resampled items that are held in memory at once.
WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: None where it is not defined; `note` says why.
        low, high: the interval; None where there is none.
        n: how many items, or votes where that is said, it rests on.
        note: what to know of it, in words; empty where there is nothing.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ""


def share(successes: float, total: int, *, confidence: float = 0.95) -> Estimate:
    """`successes / total` with Wilson's score interval (1927), which holds for small numbers and near 0 and 1.

    `successes` may be a sum of numbers between 0 and 1; the interval is then too wide rather than too narrow.
    """
    if total == 0:
        return Estimate(None, None, None, 0, "nothing to count")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = successes / total
    middle = (value + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(value * (1 - value) / total + z * z / (4 * total * total))
    # Rounding must not put the value outside its interval.
    return Estimate(
        value, max(0.0, min(value, float(middle - half))), min(1.0, max(value, float(middle + half))), total
    )


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int, *, resamples: int, seed: int) -> np.ndarray:
    """The statistic of `resamples` samples with replacement of n items, the same for the same seed.

    Args:
        statistic: of weights `[samples, n]`, how often each item was drawn, to an array `[samples, ...]`.
    """
    generator = np.random.default_rng(seed)
    found = []
    at_once = max(1, WEIGHTS_AT_ONCE // max(n, 1))
    for start in range(0, resamples, at_once):
        samples = min(at_once, resamples - start)
        drawn = generator.integers(0, n, size=(samples, n)) + n * np.arange(samples)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n)
        found.append(statistic(weights.astype(np.float64)))
    return np.concatenate(found)


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The middle `confidence` of samples that are defined (not NaN); None twice where none is."""
    defined = samples[~np.isnan(samples)]
    if defined.size == 0:
        return None, None
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
