"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347) for language models (arXiv 1909.08593)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, *, kl_coef: float) -> torch.Tensor:
    """Per-token reward: minus the weighted KL at every token, plus the score on the last one.

        r_t = -kl_coef KL_t + [t = T] score

    Args:
        scores: `[responses]`.
        kl: `[responses, max_response]` per-token KL estimate in nats.
        mask: `[responses, max_response]`, True = a response token; True positions come first in each row.
        kl_coef: weight of the KL penalty.

    Returns:
        `[responses, max_response]`, 0 outside the mask.
    """
    rewards = -kl_coef * kl * mask
    last_index = mask.sum(dim=1) - 1
    return rewards.scatter_add(1, last_index[:, None], scores[:, None].to(rewards.dtype))


@dataclass(frozen=True)
class PolicyLoss:
    """What the clipped objective says per token: `[tokens]` each; `clipped` is True where the clip was active."""

    loss: torch.Tensor
    ratio: torch.Tensor
    approx_kl: torch.Tensor
    clipped: torch.Tensor


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate objective, equation 7 of arXiv 1707.06347, as a loss per token.

        L_t = max(-A_t rho_t, -A_t clip(rho_t, 1 - e, 1 + e_high)),   rho_t = exp(logprobs_t - old_logprobs_t)

    A bad token (A < 0) that has become much likelier has no bound there. The dual clip (Ye et al., arXiv 1912.09729)
    bounds it: L_t = min(L_t, -c A_t) where A_t < 0.

    Args:
        logprobs: `[tokens]` under the policy, differentiable.
        old_logprobs: `[tokens]` under the policy that sampled.
        advantages: `[tokens]`.
        clip_range: e, usually .2.
        clip_range_high: e_high; None takes e. Above it unlikely tokens have more room to become likelier (DAPO's
            clip-higher, arXiv 2503.14476, there .28).
        dual_clip: c > 1, usually 3; None sets no bound.
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    high = clip_range if clip_range_high is None else clip_range_high
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + high)
    loss = torch.maximum(unclipped, clipped)
    is_clipped = clipped.detach() > unclipped.detach()
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -dual_clip * advantages, torch.inf)
        is_clipped |= loss.detach() > bound
        loss = torch.minimum(loss, bound)
    with torch.no_grad():
        approx_kl = log_ratio.expm1() - log_ratio
    return PolicyLoss(loss, ratio.detach(), approx_kl, is_clipped)


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, *, clip_range: float
) -> torch.Tensor:
    """Clipped squared error of the value model per token (baselines' PPO2; Huang et al., arXiv 2403.17031).

        L_t = max((V_t - R_t)^2, (clip(V_t, V_old - e, V_old + e) - R_t)^2) / 2

    Args:
        values: `[tokens]`, differentiable.
        old_values: `[tokens]` at the time of the rollout.
        returns: `[tokens]`.
        clip_range: e, usually .2.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum((values - returns).square(), (clipped - returns).square()) / 2
