"""Losses of reward models on pairs of responses."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bradley_terry_loss(
    chosen_scores: torch.Tensor, rejected_scores: torch.Tensor, margin: torch.Tensor | None = None
) -> torch.Tensor:
    """Negative log-likelihood of a preference under Bradley and Terry's model (1952).

        L = -log sigmoid(r_chosen - r_rejected - margin)

    Equation 1 of InstructGPT (arXiv 2203.02155); the margin is that of Llama 2 (arXiv 2307.09288, equation 2).
    A constant added to all scores changes nothing.

    Args:
        chosen_scores: `[pairs]`.
        rejected_scores: `[pairs]`.
        margin: `[pairs]` by how much the chosen one should lead, or None.

    Returns:
        `[pairs]`.
    """
    lead = chosen_scores - rejected_scores
    if margin is not None:
        lead = lead - margin
    return -F.logsigmoid(lead)
