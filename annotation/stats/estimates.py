"""Estimates: a number, its interval, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from annotation.stats.remarks import remark

# Resampled items that are held in memory at once.
DRAWN_AT_ONCE = 4_000_000
# To draw how often a kind comes takes so many times as long as to draw an item.
SLOWER = 12


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
        return Estimate(None, None, None, 0, remark("nothing"))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = successes / total
    middle = (value + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(value * (1 - value) / total + z * z / (4 * total * total))
    # Rounding must not put the value outside its interval.
    return Estimate(
        value, max(0.0, min(value, float(middle - half))), min(1.0, max(value, float(middle + half))), total
    )


def kinds_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows `[kinds, columns]`, and which of them each row is."""
    solid = np.ascontiguousarray(rows, dtype=np.float64)
    as_one = solid.view(np.dtype((np.void, solid.itemsize * solid.shape[1]))).ravel()
    _, first, kind = np.unique(as_one, return_index=True, return_inverse=True)
    return solid[first], kind


def bootstrap(
    kind: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, resamples: int, seed: int
) -> np.ndarray:
    """The statistic of `resamples` samples with replacement of n items, the same for the same seed.

    Items of one kind are drawn together: where there are few kinds, any number of items costs the same.

    Args:
        kind: `[n]`, what each item is, counted from 0.
        statistic: of weights `[samples, kinds]`, how often each kind was drawn, to an array `[samples, ...]`.
    """
    generator = np.random.default_rng(seed)
    counts = np.bincount(kind)
    n, num_kinds = len(kind), len(counts)
    found = []
    at_once = max(1, DRAWN_AT_ONCE // max(n, 1))
    for start in range(0, resamples, at_once):
        samples = min(at_once, resamples - start)
        if num_kinds * SLOWER < n:
            weights = generator.multinomial(n, counts / n, size=samples)
        else:
            drawn = kind[generator.integers(0, n, size=(samples, n))] + num_kinds * np.arange(samples)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=samples * num_kinds).reshape(samples, num_kinds)
        found.append(statistic(weights.astype(np.float64)))
    return np.concatenate(found)


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The middle `confidence` of samples that are defined (not NaN); None twice where none is."""
    defined = samples[~np.isnan(samples)]
    if defined.size == 0:
        return None, None
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
