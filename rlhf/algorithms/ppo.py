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
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, *, clip_range: float
) -> PolicyLoss:
    """The clipped surrogate objective, equation 7 of arXiv 1707.06347, as a loss per token.

        L_t = max(-A_t rho_t, -A_t clip(rho_t, 1 - e, 1 + e)),   rho_t = exp(logprobs_t - old_logprobs_t)

    Args:
        logprobs: `[tokens]` under the policy, differentiable.
        old_logprobs: `[tokens]` under the policy that sampled.
        advantages: `[tokens]`.
        clip_range: e, usually .2.
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    with torch.no_grad():
        approx_kl = log_ratio.expm1() - log_ratio
    return PolicyLoss(
        torch.maximum(unclipped, clipped), ratio.detach(), approx_kl, clipped.detach() > unclipped.detach()
    )


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
