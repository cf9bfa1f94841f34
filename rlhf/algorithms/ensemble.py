"""One score out of several reward models, lowered where they disagree."""

from __future__ import annotations

import torch

RULES = ("mean", "min")


def ensemble_score(
    scores: torch.Tensor, *, penalty: float = 0.0, rule: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over an ensemble less `penalty` standard deviations, or its minimum.

    A policy drives its responses to where a reward model errs; models trained apart err apart, so their disagreement
    marks such responses. Coste et al. (arXiv 2310.02743) take the minimum, their worst-case optimisation, or take off
    the variance; mean minus deviation is one of the aggregates of Eisenstein et al. (arXiv 2312.09244). Here it is the
    deviation, so that the penalty has no unit.

    Args:
        scores: `[members, responses]`.
        penalty: of the rule mean, at least 0; 0 gives the mean.
        rule: "mean" or "min".

    Returns:
        `[responses]` scores and `[responses]` deviations over the members (divided by their number, not one less).

    Raises:
        ValueError: an unknown rule.
    """
    deviation = scores.std(dim=0, correction=0)
    if rule == "min":
        return scores.amin(dim=0), deviation
    if rule == "mean":
        return scores.mean(dim=0) - penalty * deviation, deviation
    raise ValueError(f"ensemble_rule is {rule!r}: choose {' or '.join(RULES)}")
