"""Whether the probabilities that a reward model implies are right: ECE, reliability by bin, temperature.

A reward model says of a pair that the chosen response is better with probability sigmoid(margin). Without a chosen one
it would name the response of the higher score, with a confidence of sigmoid(|margin|), at least one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.data.folds import fold_of
from rlhf.evaluation.metrics import Estimate, bootstrap_mean

MOST_BINS = 15
LEAST_PAIRS_IN_BIN = 20
TEMPERATURE_FOLDS = 5
# Temperatures that are looked for: one at an end says that the pairs do not settle it.
TEMPERATURES = (1e-3, 1e3)


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: what the model claims of them, and how often it is right, with its interval."""

    confidence: float
    accuracy: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "accuracy": self.accuracy.to_dict()}


def num_bins_for(num_pairs: int) -> int:
    """15 bins, or as many as have 20 pairs each: with fewer, chance alone makes a bin look miscalibrated."""
    return max(1, min(MOST_BINS, num_pairs // LEAST_PAIRS_IN_BIN))


def reliability(margins: Sequence[float], groups: Sequence[str], num_bins: int) -> list[Bin]:
    """Confidence and accuracy in bins that hold about equally many pairs; pairs of equal confidence share a bin.

    Args:
        margins: `[pairs]`, chosen minus rejected.
        groups: `[pairs]`, for the intervals.
        num_bins: at most this many, ascending.
    """
    confidence, correct = _confidence(margins), _correct(margins)
    index = _bin_of_each(confidence, num_bins)
    bins = []
    for number in np.unique(index):
        inside = np.flatnonzero(index == number).tolist()
        accuracy = bootstrap_mean(correct[inside].tolist(), groups=[groups[i] for i in inside])
        bins.append(Bin(float(confidence[inside].mean()), accuracy))
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of accuracy from confidence over the bins, by their pairs (Guo et al., arXiv 1706.04599, eq. 3)."""
    total = sum(one.accuracy.n for one in bins)
    return sum(one.accuracy.n * abs(one.accuracy.value - one.confidence) for one in bins) / total


def error_by_chance(margins: Sequence[float], num_bins: int, *, num_draws: int = 200, seed: int = 0) -> float:
    """The ECE to expect of these confidences if they were right: few pairs in a bin are off by chance alone."""
    confidence = _confidence(margins)
    index = _bin_of_each(confidence, num_bins)
    generator = np.random.default_rng(seed)
    off = []
    for number in np.unique(index):
        inside = confidence[index == number]
        drawn = generator.random((num_draws, inside.size)) < inside
        off.append(np.abs(drawn.sum(axis=1) - inside.sum()))
    return float(sum(off).mean()) / confidence.size


def log_loss(margins: Sequence[float]) -> float:
    """Mean of -log sigmoid(margin) in nats; log 2 is what a model says that knows nothing."""
    return float(np.mean(np.logaddexp(0, -np.asarray(margins, dtype=np.float64))))


def brier_score(margins: Sequence[float]) -> float:
    """Mean of (1 - sigmoid(margin))^2; a quarter where a model knows nothing."""
    return float(np.mean(_sigmoid(-np.asarray(margins, dtype=np.float64)) ** 2))


def fit_temperature(margins: Sequence[float]) -> float:
    """The T that makes sigmoid(margin / T) likeliest (Guo et al., section 4.2); only the scale of scores changes by it.

    The log-likelihood is concave in 1 / T, so its derivative is bisected. Where no T within `TEMPERATURES` is best, the
    end is given: the low one if every pair is ordered rightly, the high one if the margins say nothing of the order.
    """
    numbers = np.asarray(margins, dtype=np.float64)

    def slope(temperature: float) -> float:
        """Of the log-likelihood in 1 / T: above 0 where a lower T is better."""
        return float(np.sum(numbers * _sigmoid(-numbers / temperature)))

    low, high = np.log(TEMPERATURES)
    if slope(np.exp(low)) >= 0:
        return TEMPERATURES[0]
    if slope(np.exp(high)) <= 0:
        return TEMPERATURES[1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def cross_fitted(margins: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Margins over a temperature that was fitted on the pairs of other prompts: five folds by the prompt's hash.

    A temperature that is judged on the pairs it was fitted on looks better than it is. Where one fold holds all
    prompts, the margins come back as they are.
    """
    numbers = np.asarray(margins, dtype=np.float64)
    folds = np.array([fold_of(group, TEMPERATURE_FOLDS) for group in groups])
    scaled = numbers.copy()
    for fold in np.unique(folds):
        others = numbers[folds != fold]
        if others.size:
            scaled[folds == fold] /= fit_temperature(others.tolist())
    return [float(margin) for margin in scaled]


def calibration(margins: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """ECE, log-loss and Brier score of margins, before and after a temperature, for `metrics.json`."""
    num_bins = num_bins_for(len(margins))
    scaled = cross_fitted(margins, groups)
    found: dict[str, Any] = {"temperature": fit_temperature(margins), "num_bins": num_bins}
    for name, numbers in (("before", margins), ("after", scaled)):
        bins = reliability(numbers, groups, num_bins)
        found[name] = {
            "ece": expected_calibration_error(bins),
            "ece_by_chance": error_by_chance(numbers, num_bins),
            "log_loss": log_loss(numbers),
            "brier": brier_score(numbers),
            "bins": [one.to_dict() for one in bins],
        }
    return found


def _bin_of_each(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    inner = np.quantile(confidence, np.linspace(0, 1, num_bins + 1))[1:-1]
    return np.searchsorted(inner, confidence, side="right")


def _confidence(margins: Sequence[float]) -> np.ndarray:
    return _sigmoid(np.abs(np.asarray(margins, dtype=np.float64)))


def _correct(margins: Sequence[float]) -> np.ndarray:
    """1 for a pair ordered as the annotator did, one half for equal scores, 0 else."""
    return (1 + np.sign(np.asarray(margins, dtype=np.float64))) / 2


def _sigmoid(numbers: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -numbers))
