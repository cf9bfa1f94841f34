"""Advantages: with a value model by GAE, without one from the returns or the other responses to the same prompt.

The masked statistics they need are here too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]

# Added to the deviation of a group: rewards that differ by rounding alone must not become advantages of 1.
GROUP_EPSILON = 1e-4


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


def discounted_returns(rewards: torch.Tensor, mask: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """What is still to come at each token: G_t = r_t + gamma G_{t+1}, the advantage of REINFORCE++ before whitening.

    REINFORCE++ (Hu et al., arXiv 2501.03262) has no value model: per-token rewards hold the KL penalty, and the
    returns of all responses, of all processes, are whitened together.

    Args:
        rewards: `[responses, max_response]` per-token rewards.
        mask: the same shape, True = a response token; True positions come first in each row.
        gamma: discount, usually 1.

    Returns:
        `[responses, max_response]`, 0 outside the mask.
    """
    rewards = rewards * mask
    returns = torch.zeros_like(rewards)
    later = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        later = rewards[:, t] + gamma * later
        returns[:, t] = later
    return returns * mask


def leave_one_out(rewards: torch.Tensor, group_index: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """RLOO: each response against the mean of the other responses to its prompt (Ahmadian et al., arXiv 2402.14740).

        A_i = R_i - mean over j != i of R_j

    Args:
        rewards: `[responses]` of whole responses, the KL penalty included.
        group_index: `[responses]` which prompt each answers.
        counts: `[responses]`, True = has a reward; others enter no baseline.

    Returns:
        `[responses]`; 0 where a response does not count, or no other of its group does.
    """
    size, total = _group_sums(rewards, group_index, counts)
    others = (total - rewards) / (size - 1).clamp(min=1)
    return torch.where(counts & (size > 1), rewards - others, torch.zeros_like(rewards))


def group_relative(
    rewards: torch.Tensor, group_index: torch.Tensor, counts: torch.Tensor, *, divide_by_deviation: bool = True
) -> torch.Tensor:
    """GRPO: each response against the mean of all responses to its prompt (Shao et al., arXiv 2402.03300).

        A_i = (R_i - mean R) / (std R + 1e-4)

    The deviation is the biased one. Dividing by it weighs prompts alike whose responses differ little and much;
    Liu et al. (Dr. GRPO, arXiv 2503.20783) leave it out, because it favours prompts that are nearly always or never
    solved.

    Args:
        rewards: `[responses]` of whole responses, the KL penalty included where it is part of the reward.
        group_index: `[responses]` which prompt each answers.
        counts: `[responses]`, True = has a reward; others enter neither mean nor deviation.
        divide_by_deviation: False leaves the division out.

    Returns:
        `[responses]`; 0 where a response does not count.
    """
    size, total = _group_sums(rewards, group_index, counts)
    centred = torch.where(counts, rewards - total / size.clamp(min=1), torch.zeros_like(rewards))
    if not divide_by_deviation:
        return centred
    _, squares = _group_sums(centred.square(), group_index, counts)
    return centred / ((squares / size.clamp(min=1)).sqrt() + GROUP_EPSILON)


def _group_sums(
    values: torch.Tensor, group_index: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each response how many of its group count, and the sum of their values: `[responses]` both."""
    totals = values.new_zeros(2, int(group_index.max()) + 1)
    what = torch.stack([counts.to(values.dtype), torch.where(counts, values, torch.zeros_like(values))])
    size, total = totals.index_add(1, group_index, what)[:, group_index]
    return size, total
