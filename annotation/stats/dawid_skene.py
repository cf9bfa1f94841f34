"""The true labels and the annotators' confusions behind votes (Dawid & Skene 1979), by expectation maximisation."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import sparse

from annotation.stats.labels import Labels

# Stands for probability 0 under a logarithm.
SMALLEST = 1e-300


@dataclass(frozen=True)
class DawidSkene:
    """What the votes say once each annotator's way to err is known.

    Attributes:
        units, annotators, classes: what the arrays are indexed by.
        posterior: `[units, classes]`, how probable each class is for a unit.
        priors: `[classes]`, how frequent each class is.
        confusion: `[annotators, classes, classes]`, how often an annotator says the third index where the second is
            true; each row sums to 1.
        reliability: `[annotators]`, how often an annotator is expected to be right.
        log_likelihood: after each round; with smoothing, plus that of the votes it assumes. Never falls.
        converged: the last round gained next to nothing.
    """

    units: tuple[Hashable, ...]
    annotators: tuple[str, ...]
    classes: tuple[Hashable, ...]
    posterior: np.ndarray
    priors: np.ndarray
    confusion: np.ndarray
    reliability: np.ndarray
    log_likelihood: tuple[float, ...]
    converged: bool


def fit_dawid_skene(
    labels: Labels, *, smoothing: float = 1.0, tolerance: float = 1e-9, max_rounds: int = 500
) -> DawidSkene:
    """Fit by EM, from the shares of votes (the paper's equation 3.1): the same votes give the same fit.

    Args:
        labels: what annotators said.
        smoothing: how much is known of a stranger. Each annotator is taken to have given before, where a class is true,
            each answer `smoothing` times and the right one another `smoothing` times per class: of three classes, four
            right answers of six. 0 is the paper's maximum likelihood, which takes who has few votes at their word.
        tolerance: gain in log-likelihood per vote at which to stop.
        max_rounds: rounds at most.

    Raises:
        ValueError: there are no votes, or smoothing is negative.
    """
    if smoothing < 0:
        raise ValueError(f"smoothing is {smoothing}; use 0 or more")
    if len(labels.label) == 0:
        raise ValueError("there are no votes; judge some items first")
    num_units, num_annotators, num_classes = len(labels.units), len(labels.annotators), len(labels.classes)
    before = smoothing * (1 + num_classes * np.eye(num_classes))
    # [units, annotators x answers], how often an annotator gave a unit an answer
    answers = sparse.csr_matrix(
        (np.ones(len(labels.label)), (labels.unit, labels.annotator * num_classes + labels.label)),
        shape=(num_units, num_annotators * num_classes),
    )
    answers_of_annotators = answers.T.tocsr()
    counts = labels.counts()
    posterior = counts / counts.sum(axis=1, keepdims=True)
    trace: list[float] = []
    converged = False
    for _ in range(max_rounds):
        # 1. frequencies from the posterior (equations 2.3 and 2.4)
        priors = np.ones(num_units) @ posterior / num_units
        expected = (answers_of_annotators @ posterior).reshape(num_annotators, num_classes, num_classes)
        expected = expected.transpose(0, 2, 1) + before
        seen = expected.sum(axis=2, keepdims=True)
        confusion = np.where(seen > 0, expected / np.where(seen > 0, seen, 1), 1 / num_classes)
        # 2. the posterior from the frequencies (2.5), and the likelihood (2.7)
        log_confusion = np.log(np.maximum(confusion, SMALLEST))
        by_answer = log_confusion.transpose(0, 2, 1).reshape(num_annotators * num_classes, num_classes)
        joint = answers @ by_answer + np.log(np.maximum(priors, SMALLEST))
        best = reduce(np.maximum, joint.T)[:, None]
        scaled = np.exp(joint - best)
        total = (scaled @ np.ones(num_classes))[:, None]
        posterior = scaled / total
        trace.append(float((best + np.log(total)).sum() + (before * log_confusion).sum()))
        if len(trace) > 1 and trace[-1] - trace[-2] <= tolerance * len(labels.label):
            converged = True
            break
    return DawidSkene(
        units=labels.units,
        annotators=labels.annotators,
        classes=labels.classes,
        posterior=posterior,
        priors=priors,
        confusion=confusion,
        reliability=np.einsum("c,acc->a", priors, confusion),
        log_likelihood=tuple(trace),
        converged=converged,
    )
