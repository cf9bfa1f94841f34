"""Losses of reward models on pairs of responses; the one on whole rankings is `rlhf.algorithms.plackett_luce`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

LOSSES = ("bradley_terry", "rao_kupper", "plackett_luce")


def bradley_terry_loss(
    chosen_scores: torch.Tensor,
    rejected_scores: torch.Tensor,
    margin: torch.Tensor | None = None,
    target: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of a preference, certain or not, under Bradley and Terry's model (1952).

        L = -p log sigmoid(d) - (1 - p) log sigmoid(-d),    d = r_chosen - r_rejected - margin

    With p = 1 it is equation 1 of InstructGPT (arXiv 2203.02155); the margin is that of Llama 2 (arXiv 2307.09288,
    equation 2). With p below 1 the margin shrinks to (2 p - 1) of it, so that a tie, p = .5, asks for equal scores. A
    constant added to all scores changes nothing.

    Args:
        chosen_scores: `[pairs]`.
        rejected_scores: `[pairs]`.
        margin: `[pairs]` by how much the chosen one should lead, or None.
        target: `[pairs]` the probability p that the chosen one is better, or None for 1.

    Returns:
        `[pairs]`.
    """
    lead = chosen_scores - rejected_scores
    if target is None:
        return -F.logsigmoid(lead if margin is None else lead - margin)
    if margin is not None:
        lead = lead - (2 * target - 1) * margin
    # log s(-d) = log s(d) - d
    return (1 - target) * lead - F.logsigmoid(lead)


def rao_kupper_loss(
    chosen_scores: torch.Tensor,
    rejected_scores: torch.Tensor,
    is_tie: torch.Tensor,
    *,
    threshold: float,
    margin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Negative log-likelihood of a win or a tie under Rao and Kupper's model (1967), in which ties have a probability.

        P(i before j) = sigmoid(d - t),    P(tie) = 1 - sigmoid(d - t) - sigmoid(-d - t)
                                                  = (exp(2 t) - 1) sigmoid(d - t) sigmoid(-d - t)

    with d the difference of the scores and t the threshold, log theta in their paper: two responses that differ by less
    are told apart less often than not. Two of equal score tie with probability tanh(t / 2). As t goes to 0, wins are
    Bradley and Terry's.

    Args:
        chosen_scores: `[pairs]`.
        rejected_scores: `[pairs]`.
        is_tie: `[pairs]` True where neither is better.
        threshold: t, above 0.
        margin: `[pairs]` by how much the winner of a pair that is no tie should lead besides, or None.

    Returns:
        `[pairs]`.
    """
    lead = chosen_scores - rejected_scores
    won = -F.logsigmoid(lead - threshold if margin is None else lead - margin - threshold)
    tied = -math.log(math.expm1(2 * threshold)) - F.logsigmoid(lead - threshold) - F.logsigmoid(-lead - threshold)
    return torch.where(is_tie, tied, won)
