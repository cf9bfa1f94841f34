"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def preference_loss(
    chosen_logratio: torch.Tensor,
    rejected_logratio: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The DPO loss per pair, equation 7 of arXiv 2305.18290.

        L = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h),   h = chosen_logratio - rejected_logratio

    At the start policy and reference are one, h is 0 and every loss is ln 2.

    Args:
        chosen_logratio: `[pairs]` log(policy / reference) of the chosen response, summed over its tokens.
        rejected_logratio: `[pairs]` the same of the rejected response.
        beta: strength of the tie to the reference, usually .05 to .5.
        label_smoothing: e, the share of pairs taken to be labelled the wrong way round (conservative DPO).

    Returns:
        `[pairs]`.
    """
    logits = beta * (chosen_logratio - rejected_logratio)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
