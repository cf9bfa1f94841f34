"""Settings of PPO that no run can use, alone or together: each is refused with what was found and what to do."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from rlhf.algorithms.ensemble import RULES
from rlhf.engine.rollout_engines import ENGINES
from rlhf.engine.sources import reward_members
from rlhf.training.monitor_settings import read_limits, read_reactions
from rlhf.training.scoring import FAILED

if TYPE_CHECKING:
    from rlhf.training.ppo_arguments import PPOArguments

GROUP_ESTIMATORS = ("rloo", "grpo")
# Words that a setting may be; the first is the default.
CHOICES: dict[str, tuple[str, ...]] = {
    "advantage_estimator": ("gae", *GROUP_ESTIMATORS, "reinforce_pp"),
    "grpo_scale": ("deviation", "none"),
    "loss_average": ("token", "response", "constant"),
    "kl_in": ("reward", "loss"),
    "kl_estimator": ("k1", "k2", "k3"),
    "missing_eos": ("subtract", "replace"),
    "ensemble_rule": RULES,
    "failed_scores": FAILED,
    "reference": ("backbone", "start"),
    "rollout_engine": ENGINES,
}
AT_LEAST_1 = (
    "samples_per_prompt",
    "max_new_tokens",
    "num_ppo_epochs",
    "num_mini_batches",
    "rollout_batch_rows",
    "scorer_batch_size",
)
ABOVE_0 = (
    "temperature",
    "clip_range",
    "clip_range_high",
    "value_clip_range",
    "kl_target",
    "kl_horizon",
    "kl_budget",
    "score_clip",
    "target_approx_kl",
    "scorer_timeout",
)
AT_LEAST_0 = (
    "kl_coef",
    "value_coef",
    "entropy_coef",
    "ptx_coef",
    "missing_eos_penalty",
    "length_penalty",
    "ensemble_penalty",
    "value_warmup_steps",
    "reference_update_steps",
    "scorer_retries",
    "sample_rows",
)
# Settings that one estimator alone reads, and those that nothing reads unless another is set.
READ_BY = {"gae_lambda": "gae", "value_coef": "gae", "value_clip_range": "gae", "grpo_scale": "grpo"}
READ_WITH = {"kl_horizon": "kl_target", "reward_model_weight": "reward_model", "failed_scores": "scorer"}


def refuse_unusable(args: PPOArguments) -> None:
    """Look at every setting of PPO.

    Raises:
        ValueError: one that no run can use, that contradicts another, or that nothing would read.
    """
    _refuse_values(args)
    _refuse_unread(args)
    _refuse_estimator(args)
    _refuse_losses(args)
    _refuse_scores(args)
    _refuse_watch(args)
    _refuse_rollouts(args)


def _refuse_values(args: PPOArguments) -> None:
    for name, choices in CHOICES.items():
        if getattr(args, name) not in choices:
            raise ValueError(f"{name} is {getattr(args, name)!r}: choose {' or '.join(choices)}")
    for name in type(args).__annotations__:  # PPO's own settings
        value = getattr(args, name)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} is {value}: it must be finite")
    for names, least in ((AT_LEAST_1, 1), (AT_LEAST_0, 0)):
        for name in names:
            if getattr(args, name) < least:
                raise ValueError(f"{name} is {getattr(args, name)}: it must be at least {least}")
    for name in ABOVE_0:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}: it must be above 0")
    for name in ("gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"{name} is {getattr(args, name)}: it must be 0 to 1")


def _refuse_unread(args: PPOArguments) -> None:
    changed = {field.name for field in dataclasses.fields(args) if getattr(args, field.name) != field.default}
    for name, estimator in READ_BY.items():
        if name in changed and args.advantage_estimator != estimator:
            raise ValueError(
                f"{name} is {getattr(args, name)}, which advantage_estimator {args.advantage_estimator} does not read: "
                f"leave it out, or choose {estimator}"
            )
    for name, other in READ_WITH.items():
        if name in changed and not getattr(args, other):
            raise ValueError(
                f"{name} is {getattr(args, name)}, which nothing reads without {other}: leave it out, or set --{other}"
            )


def _refuse_estimator(args: PPOArguments) -> None:
    estimator = args.advantage_estimator
    if estimator == "gae":
        if args.value_model not in ("adapter", "shared"):
            raise ValueError(f"value_model is {args.value_model!r}: choose adapter or shared")
    else:
        if args.value_model not in ("adapter", "none"):
            raise ValueError(
                f"value_model is {args.value_model!r}, but advantage_estimator {estimator} has no value model: "
                "leave it out, or choose gae"
            )
        if args.value_warmup_steps:
            raise ValueError(
                f"value_warmup_steps is {args.value_warmup_steps}, but advantage_estimator {estimator} has no "
                "value model: leave it out, or choose gae"
            )
    if args.value_warmup_steps and args.weight_decay:
        raise ValueError(
            f"weight_decay is {args.weight_decay}: the policy would move in value_warmup_steps; take 0 for one"
        )
    if 0 < args.max_steps <= args.value_warmup_steps:
        raise ValueError(
            f"value_warmup_steps is {args.value_warmup_steps} of max_steps {args.max_steps}: the policy would never "
            "learn; take fewer"
        )
    if estimator in GROUP_ESTIMATORS:
        _refuse_groups(args)


def _refuse_groups(args: PPOArguments) -> None:
    estimator = args.advantage_estimator
    if args.samples_per_prompt < 2:
        raise ValueError(
            f"samples_per_prompt is {args.samples_per_prompt}: advantage_estimator {estimator} compares responses "
            "to one prompt and needs at least 2, usually 4 to 16"
        )
    if args.whiten_rewards:
        raise ValueError(f"whiten_rewards is true: {estimator} rewards whole responses; leave it out")
    if args.gamma != 1:
        raise ValueError(f"gamma is {args.gamma}: {estimator} rewards whole responses, undiscounted; leave it 1")


def _refuse_losses(args: PPOArguments) -> None:
    if args.kl_in == "loss" and args.kl_estimator == "k1":
        raise ValueError(
            "kl_estimator is 'k1': in the loss its gradient is 0 on average and holds nothing; choose k2 or k3, or "
            "--kl_in reward"
        )
    if args.kl_target is not None and not args.kl_coef:
        raise ValueError(f"kl_coef is 0, which kl_target {args.kl_target} multiplies in vain: start with .01 to .2")
    if args.clip_range_high is not None and args.clip_range_high < args.clip_range:
        raise ValueError(
            f"clip_range_high is {args.clip_range_high}, below clip_range {args.clip_range}: it gives unlikely tokens "
            "more room to rise; take .2 to .3, or leave it out"
        )
    if args.dual_clip is not None and not args.dual_clip > 1:
        raise ValueError(f"dual_clip is {args.dual_clip}: it must be above 1, usually 3")
    if bool(args.ptx_file) != bool(args.ptx_coef):
        raise ValueError(
            f"ptx_coef is {args.ptx_coef} and ptx_file is {args.ptx_file}: give both or neither, with a weight above 0"
        )
    if args.reference == "start" and args.policy_adapter is None:
        raise ValueError("reference is start, which is the backbone without --policy_adapter: leave it out")


def _refuse_scores(args: PPOArguments) -> None:
    soft = args.length_soft_limit
    if bool(args.length_penalty) != (soft is not None):
        raise ValueError(
            f"length_penalty is {args.length_penalty} and length_soft_limit is {soft}: give both or neither"
        )
    if soft is not None and not 0 <= soft < args.max_new_tokens:
        raise ValueError(
            f"length_soft_limit is {soft}: it must be at least 0 and below max_new_tokens ({args.max_new_tokens})"
        )
    if len(args.reward_model) < 2 and args.ensemble_penalty:
        raise ValueError(
            f"ensemble_penalty is {args.ensemble_penalty}, but --reward_model names no ensemble: name several"
        )
    if len(args.reward_model) < 2 and args.ensemble_rule == "min":
        raise ValueError("ensemble_rule is min, but --reward_model names no ensemble: name several")
    if args.ensemble_rule == "min" and args.ensemble_penalty:
        raise ValueError(
            f"ensemble_penalty is {args.ensemble_penalty}: the minimum takes off enough; leave it out, or choose "
            "--ensemble_rule mean"
        )
    if not args.reward_model and not args.scorer:
        raise ValueError("reward_model and scorer: neither is set; give at least one of them")
    if args.scorer_weights and len(args.scorer_weights) != len(args.scorer):
        raise ValueError(
            f"scorer_weights has {len(args.scorer_weights)} weights for {len(args.scorer)} scorers: give one each"
        )


def _refuse_watch(args: PPOArguments) -> None:
    if args.judge_model and args.judge:
        raise ValueError("judge_model and judge: both are set; give one of them")
    if args.keep not in (None, "best", "last"):
        raise ValueError(f"keep is {args.keep!r}: choose best or last")
    if args.keep == "best" and not (args.judge_model or args.judge):
        raise ValueError("keep is best, but nobody judges: name a --judge_model or a --judge")
    judges = [] if args.judge_model is None else [str(member) for member in reward_members(args.judge_model)]
    if {args.judge_model, *judges} & {*args.reward_model}:
        raise ValueError(
            f"judge_model is {args.judge_model}, which is in the score too: a judge must stand outside of it"
        )
    if len(judges) > 1:
        raise ValueError(f"judge_model is {args.judge_model}, an ensemble: name one member, such as {judges[0]}")
    read_reactions(args.monitors, args.monitor_reactions)
    for name in read_limits(args.monitor_limits):
        if name in ("kl_target", "kl_budget") and getattr(args, name) is None:
            raise ValueError(f"monitor_limits has {name}, which multiplies --{name} in nats: set that instead")


def _refuse_rollouts(args: PPOArguments) -> None:
    if args.merged_rollouts is False and args.rollout_engine != "native":
        raise ValueError(
            f"merged_rollouts is false, which rollout_engine {args.rollout_engine} cannot: leave it out, or choose "
            "native"
        )
    if not 0 < args.vllm_gpu_memory < 1:
        raise ValueError(f"vllm_gpu_memory is {args.vllm_gpu_memory}: it must lie between 0 and 1, usually .3")
