"""Phase 3 of PPO: from scores and KL to the advantage of every response token, by one of four estimators."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.algorithms.advantages import Reduce, discounted_returns, gae, group_relative, leave_one_out, whiten
from rlhf.algorithms.kl import kl_estimate
from rlhf.algorithms.ppo import token_rewards
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import RolloutBatch


def estimate_advantages(
    rollout: Sequence[RolloutBatch],
    scores: Sequence[torch.Tensor],
    args: PPOArguments,
    *,
    kl_coef: float,
    reduce: Reduce,
) -> list[torch.Tensor]:
    """Give every batch its `advantages`, and with GAE its `returns`.

    Args:
        rollout: measured batches of this process.
        scores: `[responses]` for each batch, shaped; 0 for those left out.
        args: estimator, discount and KL estimator.
        kl_coef: weight of the KL now.
        reduce: sums a tensor over all processes: whitening is over the rollouts of all.

    Returns:
        `[response_tokens]` rewards for each batch, before any whitening.
    """
    rewards = [
        _token_rewards(batch, score, args, kl_coef=kl_coef if args.kl_in == "reward" else 0.0)
        for batch, score in zip(rollout, scores, strict=True)
    ]
    counted = [batch.counted_tokens for batch in rollout]
    used = _whiten(rewards, counted, reduce, shift_mean=False) if args.whiten_rewards else rewards
    advantages = [_advantages(batch, reward, args) for batch, reward in zip(rollout, used, strict=True)]
    if args.advantage_estimator in ("gae", "reinforce_pp"):  # the group estimators have a scale of their own
        advantages = _whiten(advantages, counted, reduce)
    for batch, advantage in zip(rollout, advantages, strict=True):
        batch.advantages = advantage
    return rewards


def _token_rewards(batch: RolloutBatch, scores: torch.Tensor, args: PPOArguments, *, kl_coef: float) -> torch.Tensor:
    packed = batch.packed
    kl = packed.to_rows(kl_estimate(batch.old_logprobs, batch.ref_logprobs, args.kl_estimator))
    return packed.from_rows(token_rewards(scores, kl, packed.response_mask, kl_coef=kl_coef))


def _advantages(batch: RolloutBatch, rewards: torch.Tensor, args: PPOArguments) -> torch.Tensor:
    """`[response_tokens]` before whitening."""
    packed = batch.packed
    if args.advantage_estimator == "gae":
        rows = gae(
            packed.to_rows(rewards),
            packed.to_rows(batch.old_values),
            packed.response_mask,
            gamma=args.gamma,
            gae_lambda=args.gae_lambda,
        )
        advantages, batch.returns = (packed.from_rows(part) for part in rows)
        return advantages
    if args.advantage_estimator == "reinforce_pp":
        return packed.from_rows(discounted_returns(packed.to_rows(rewards), packed.response_mask, gamma=args.gamma))
    whole = packed.sum_by_response(rewards)
    if args.advantage_estimator == "rloo":
        by_response = leave_one_out(whole, packed.group_index, batch.counts)
    else:
        divide = args.grpo_scale == "deviation"
        by_response = group_relative(whole, packed.group_index, batch.counts, divide_by_deviation=divide)
    return by_response[packed.response_index]


def _whiten(
    parts: Sequence[torch.Tensor], counted: Sequence[torch.Tensor], reduce: Reduce, *, shift_mean: bool = True
) -> list[torch.Tensor]:
    whitened = whiten(torch.cat(list(parts)), torch.cat(list(counted)), shift_mean=shift_mean, reduce=reduce)
    return list(whitened.split([len(part) for part in parts]))
