"""What one forward pass of PPO costs: policy, KL, entropy and value, over the tokens that count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlhf.algorithms.kl import kl_estimate
from rlhf.algorithms.ppo import policy_loss, value_loss
from rlhf.engine.backbone import RoleOutput
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import RolloutBatch


@dataclass(frozen=True)
class RolloutLoss:
    """The loss of one pass over part of a rollout.

    Attributes:
        total: weighted sum over the tokens that count, to be divided by `loss_count` of the whole minibatch.
        approx_kl, ratio: `[tokens]` of those that count, against the policy that sampled.
        metrics: `[tokens]` values by metric name.
    """

    total: torch.Tensor
    approx_kl: torch.Tensor
    ratio: torch.Tensor
    metrics: dict[str, torch.Tensor]


def rollout_loss(
    batch: RolloutBatch, policy: RoleOutput, values: torch.Tensor | None, args: PPOArguments, *, kl_coef: float
) -> RolloutLoss:
    """Clipped policy loss, plus what of KL, entropy and value the settings add to it.

    Responses that are left out are cut out of every term, so that no gradient passes through them.

    Args:
        batch: with advantages, and returns where there are values.
        policy: what the policy says of the batch now, with an entropy that learns where there is a bonus.
        values: `[response_tokens]` of the value model now, or None without one.
        args: weights and clips.
        kl_coef: weight of the KL, where it is in the loss.
    """
    assert policy.logprobs is not None
    counted = batch.counted_tokens
    logprobs = policy.logprobs[counted]
    clipped = policy_loss(
        logprobs,
        batch.old_logprobs[counted],
        batch.advantages[counted],
        clip_range=args.clip_range,
        clip_range_high=args.clip_range_high,
        dual_clip=args.dual_clip,
    )
    loss, metrics = clipped.loss, {"loss/policy": clipped.loss}
    if args.kl_in == "loss":
        metrics["loss/kl"] = kl_estimate(logprobs, batch.ref_logprobs[counted], args.kl_estimator)
        loss = loss + kl_coef * metrics["loss/kl"]
    if args.entropy_coef:
        assert policy.entropy is not None
        metrics["loss/entropy"] = -policy.entropy[counted]
        loss = loss + args.entropy_coef * metrics["loss/entropy"]
    if values is not None:
        old_values, returns = batch.old_values[counted], batch.returns[counted]
        metrics["loss/value"] = value_loss(values[counted], old_values, returns, clip_range=args.value_clip_range)
        loss = loss + args.value_coef * metrics["loss/value"]
    metrics |= {
        "loss": loss,
        "policy/approx_kl": clipped.approx_kl,
        "policy/clip_fraction": clipped.clipped.float(),
        "policy/ratio": clipped.ratio,
    }
    total = (loss * loss_weights(batch, args)[counted]).sum()
    return RolloutLoss(total, clipped.approx_kl, clipped.ratio, metrics)


def loss_weights(batch: RolloutBatch, args: PPOArguments) -> torch.Tensor:
    """`[response_tokens]` weights by which a sum over tokens, divided by `loss_count`, is the mean that is asked for.

    token: every token alike, so that long responses count for more (DAPO, arXiv 2503.14476). response: the mean over
    each response first (GRPO, arXiv 2402.03300). constant: the sum over each response by the longest there can be
    (Dr. GRPO, arXiv 2503.20783), which favours neither.
    """
    lengths = batch.advantages.new_tensor(batch.packed.response_lengths)[batch.packed.response_index]
    if args.loss_average == "response":
        return 1 / lengths
    if args.loss_average == "constant":
        return torch.full_like(lengths, 1 / args.max_new_tokens)
    return torch.ones_like(lengths)


def loss_count(batch: RolloutBatch, args: PPOArguments) -> int:
    """Tokens that count, or responses where `loss_average` is over these."""
    return int(batch.counted_tokens.sum() if args.loss_average == "token" else batch.counts.sum())
