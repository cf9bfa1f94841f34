"""Advantages and the masked statistics they need."""

from __future__ import annotations

from collections.abc import Callable

import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]


def _this_process_only(total: torch.Tensor) -> torch.Tensor:
    return total


def masked_mean(values: torch.Tensor, mask: torch.Tensor, reduce: Reduce = _this_process_only) -> torch.Tensor:
    """Mean of `values` where `mask` is True.

    Args:
        values: any shape.
        mask: the same shape, True = counts.
        reduce: sums a tensor over all processes.
    """
    total, count = reduce(torch.stack([(values * mask).sum(), mask.sum().to(values.dtype)]))
    return total / count


def whiten(
    values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True, reduce: Reduce = _this_process_only
) -> torch.Tensor:
    """Scale values to variance 1 and, with `shift_mean`, to mean 0, over the positions that count.

    The variance is the biased one. With `shift_mean=False` the mean stays what it was: (x - m) / s + m.

    Args:
        values: `[responses, max_response]`.
        mask: the same shape, True = counts; the result is 0 elsewhere.
        shift_mean: whether to centre.
        reduce: sums a tensor over all processes, so that each of them whitens by the same moments.
    """
    mean = masked_mean(values, mask, reduce)
    variance = masked_mean((values - mean).square(), mask, reduce)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, equations 11 to 16).

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lambda A_{t+1}

    An episode is a response; after its last token both V and A are 0, so nothing leaks past its end.

    Args:
        rewards: `[responses, max_response]` per-token rewards.
        values: the same shape; V_t, the estimate before token t is chosen.
        mask: the same shape, True = a response token; True positions come first in each row.
        gamma: discount, usually 1.
        gae_lambda: usually .95.

    Returns:
        advantages and returns (advantages + values), both 0 outside the mask.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    next_advantage = next_value = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * gae_lambda * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask
