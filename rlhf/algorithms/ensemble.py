"""One score out of several reward models, lowered where they disagree."""

from __future__ import annotations

import torch


def ensemble_score(scores: torch.Tensor, *, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over an ensemble less `penalty` standard deviations.

    A policy drives its responses to where a reward model errs; models trained apart err apart, so their disagreement
    marks such responses. Mean minus deviation is one of the aggregates of Eisenstein et al. (arXiv 2312.09244); Coste
    et al. (arXiv 2310.02743) take off the variance. Here it is the deviation, so that the penalty has no unit.

    Args:
        scores: `[members, responses]`.
        penalty: at least 0; 0 gives the mean.

    Returns:
        `[responses]` scores and `[responses]` deviations over the members (divided by their number, not one less).
    """
    deviation = scores.std(dim=0, correction=0)
    return scores.mean(dim=0) - penalty * deviation, deviation
