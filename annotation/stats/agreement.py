"""How far annotators agree: Krippendorff's alpha, Cohen's kappa, and the plain share.

A ranking is taken apart into the pairs of its responses. Intervals come from resampling items, with all their votes:
votes on one item are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import krippendorff
import numpy as np
from scipy import sparse

from annotation.stats.estimates import Estimate, bootstrap, interval, kinds_of
from annotation.stats.labels import Labels
from annotation.stats.remarks import remark
from annotation.stats.table import Votes, pair_labels, strength_labels

# What people reach when they say which of two responses is better: the share of equal answers of two of them in
# published studies. About 63 % for crowd workers and researchers (Bai et al. 2022), 73 to 77 % for trained labellers
# (Ouyang et al. 2022), 81 % for experts where neither says tie (Zheng et al. 2023). Below the band look at the
# guidelines and for careless annotators; above it the items may be too easy.
ORDINARY_AGREEMENT = (0.63, 0.81)


@dataclass(frozen=True)
class KappaMatrix:
    """Cohen's kappa of every two annotators.

    Attributes:
        annotators: rows and columns.
        kappa: None below two shared units, and where both always say the same one thing; 1 with oneself.
        shared: units that both judged.
    """

    annotators: tuple[str, ...]
    kappa: tuple[tuple[float | None, ...], ...]
    shared: tuple[tuple[int, ...], ...]


def preference_alpha(votes: Votes, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Krippendorff's alpha of which response is better (first, tie, second: nominal)."""
    return alpha(pair_labels(votes), "nominal", resamples=resamples, seed=seed, confidence=confidence)


def strength_alpha(votes: Votes, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Krippendorff's alpha of how much better it is (-3 to 3, a tie 0: ordinal). Pairs with a strength only."""
    return alpha(strength_labels(votes), "ordinal", resamples=resamples, seed=seed, confidence=confidence)


def alpha(labels: Labels, level: str, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Krippendorff's alpha: 1 is full agreement, 0 what chance gives, below 0 is worse than chance.

    Where all votes say the same one thing it is not defined: there is nothing that chance could have got wrong. The
    estimate has no value then and says that everyone agreed. Resamples in which that happens are left out.

    Args:
        level: "nominal", or "ordinal" with the classes in order.

    Raises:
        ValueError: another level.
    """
    if level not in ("nominal", "ordinal"):
        raise ValueError(f"level is {level!r}; use nominal or ordinal")
    counts = labels.counts()
    shared = counts.sum(axis=1) >= 2
    if not shared.any():
        return Estimate(None, None, None, 0, remark("alone"))
    counts, item_of_unit = counts[shared], labels.item_of_unit[shared]
    items, item_of_unit = np.unique(item_of_unit, return_inverse=True)
    used = np.flatnonzero(counts.sum(axis=0))
    if len(used) == 1:
        note = remark("unanimous", label=labels.classes[used[0]])
        return Estimate(None, None, None, len(items), note)
    counts = counts[:, used]
    value = float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))
    kinds, kind = kinds_of(_by_item(_coincidences(counts), item_of_unit, len(items)))
    samples = bootstrap(
        kind, lambda weights: _alphas(weights @ kinds, len(used), level), resamples=resamples, seed=seed
    )
    unanimous = int(np.isnan(samples).sum())
    left_out = remark("resamples", unanimous=unanimous, resamples=resamples) if unanimous else ""
    return Estimate(value, *interval(samples, confidence), len(items), left_out)


def kappa_matrix(votes: Votes) -> KappaMatrix:
    """Cohen's kappa of every two annotators over the units that both judged."""
    labels = pair_labels(votes)
    size = len(labels.units), len(labels.annotators)
    said = []
    for code in range(len(labels.classes)):
        here = labels.label == code
        ones = np.ones(int(here.sum()))
        said.append(sparse.csr_matrix((ones, (labels.unit[here], labels.annotator[here])), shape=size))
    # [row's class, column's class, row, column]
    together = np.array([[(row.T @ column).toarray() for column in said] for row in said])
    shared = together.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(together) / shared
        expected = (together.sum(axis=1) * together.sum(axis=0)).sum(axis=0) / shared**2
        kappa = (observed - expected) / (1 - expected)
    defined = (shared >= 2) & (expected < 1)
    everyone = range(size[1])
    return KappaMatrix(
        annotators=labels.annotators,
        kappa=tuple(tuple(float(kappa[a, b]) if defined[a, b] else None for b in everyone) for a in everyone),
        shared=tuple(tuple(int(shared[a, b]) for b in everyone) for a in everyone),
    )


def percent_agreement(
    votes: Votes,
    *,
    decided_only: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """How often two annotators of the same pair of responses say the same, every pair counting once.

    Args:
        decided_only: leave out ties, as studies without that answer do.
    """
    labels = pair_labels(votes)
    counts = labels.counts()
    if decided_only:
        counts = counts[:, [labels.classes.index("first"), labels.classes.index("second")]]
    judged = counts.sum(axis=1)
    shared = judged >= 2
    if not shared.any():
        return Estimate(None, None, None, 0, remark("alone"))
    counts, judged = counts[shared], judged[shared]
    agreed = (counts * (counts - 1)).sum(axis=1) / (judged * (judged - 1))
    items, item_of_unit = np.unique(labels.item_of_unit[shared], return_inverse=True)
    kinds, kind = kinds_of(_by_item(np.stack([agreed, np.ones(len(agreed))], axis=1), item_of_unit, len(items)))

    def mean(weights: np.ndarray) -> np.ndarray:
        total = weights @ kinds
        return total[:, 0] / total[:, 1]

    samples = bootstrap(kind, mean, resamples=resamples, seed=seed)
    return Estimate(float(agreed.mean()), *interval(samples, confidence), len(items))


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """`[units, classes²]`: ordered pairs of votes within a unit, by their two values, over its votes less one."""
    num_units, num_classes = counts.shape
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(num_classes)
    return (pairs / (counts.sum(axis=1) - 1)[:, None, None]).reshape(num_units, num_classes**2)


def _alphas(coincidences: np.ndarray, num_classes: int, level: str) -> np.ndarray:
    """Alpha of each sample's coincidences `[samples, classes²]` (Krippendorff 2011); NaN where it is not defined."""
    observed = coincidences.reshape(-1, num_classes, num_classes)
    totals = observed.sum(axis=1)
    row, column = totals[:, :, None], totals[:, None, :]
    if level == "nominal":
        distance = 1 - np.eye(num_classes)[None]
    else:
        # (n_c / 2 + all between + n_k / 2)², which the middles of the classes on the line of all values give
        middle = np.cumsum(totals, axis=1) - totals / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    disagreement = (observed * distance).sum(axis=(1, 2))
    by_chance = (row * column * distance).sum(axis=(1, 2)) / (totals.sum(axis=1) - 1)
    unanimous = (totals > 0).sum(axis=1) < 2
    return np.where(unanimous, np.nan, 1 - disagreement / np.where(unanimous, 1, by_chance))


def _by_item(rows: np.ndarray, item_of_unit: np.ndarray, num_items: int) -> np.ndarray:
    """Sums of rows `[units, ...]` over the units of each item."""
    units = np.arange(len(item_of_unit))
    belongs = sparse.csr_matrix((np.ones(len(units)), (item_of_unit, units)), shape=(num_items, len(units)))
    return belongs @ rows
