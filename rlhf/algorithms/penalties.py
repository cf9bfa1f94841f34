"""What a response loses of its score for how it ends and how long it is."""

from __future__ import annotations

import torch


def without_end(scores: torch.Tensor, finished: torch.Tensor, *, penalty: float, replace: bool) -> torch.Tensor:
    """Punish responses that were cut off before they ended by themselves (the EOS trick, arXiv 2403.17031).

    Args:
        scores: `[responses]`.
        finished: `[responses]`, True = the policy ended the response.
        penalty: what is taken off, usually 1.
        replace: minus the penalty becomes the score instead: nothing that a cut response says can win.
    """
    punished = torch.full_like(scores, -penalty) if replace else scores - penalty
    return torch.where(finished, scores, punished)


def overlong(lengths: torch.Tensor, *, soft_limit: int, hard_limit: int) -> torch.Tensor:
    """DAPO's soft punishment of long responses, between 0 and 1 (Yu et al., arXiv 2503.14476).

    0 up to `soft_limit` tokens, 1 at `hard_limit`, and in proportion between the two.

    Args:
        lengths: `[responses]` tokens.
        soft_limit: at least 0 and below `hard_limit`.
        hard_limit: the longest response there can be.
    """
    return ((lengths - soft_limit) / (hard_limit - soft_limit)).clamp(0, 1)
