"""What a run does about memory where its user left that open: chosen before it starts, by the memory that is free.

The formulae are estimates. Nothing here stops a run: what cannot be planned runs as if all memory were there.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState

from rlhf.data.chat import Chat, Truncation
from rlhf.data.comparisons import Comparison
from rlhf.engine.adapters import last_layers
from rlhf.engine.free_memory import free_bytes
from rlhf.engine.memory import ModelShape, RunShape
from rlhf.engine.memory_choice import RUNTIME_BYTES, budgets, choose, planned_bytes
from rlhf.engine.packing import Group
from rlhf.engine.sources import ModelSource
from rlhf.training.arguments import DTYPES, StageArguments
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.run_folder import CONFIG

logger = logging.getLogger(__name__)

USABLE = 0.8  # of what is free; formulae are within a fifth of measured peaks
QUANTISED_BYTES = {"int8": 1.0, "nf4": 0.55}  # with their scales
# What runs that were started before there was a choice did, and those do for which none can be made.
WITHOUT_LIMIT: dict[str, Any] = {"micro_batch_tokens": 0, "activation_checkpointing": False, "merged_rollouts": True}
MEASURED_PROMPTS = 64  # of those with most characters, at least


def plan_run(stage: str, args: StageArguments, source: ModelSource, groups: Sequence[Group]) -> None:
    """Settle `micro_batch_tokens`, `activation_checkpointing` and `merged_rollouts` where they are unset.

    Every process must call it, before it loads the backbone, and settles the same. A resumed run takes what its
    config.yaml says. One line says what was settled and why; where nothing fits, a warning says what to change.

    Args:
        stage: reward, dpo or ppo.
        args: of the stage; the unset ones are set.
        source: where the backbone is.
        groups: what is trained on, or its longest; PPO's with responses of full length.
    """
    unsettled = open_settings(args)
    if not unsettled:
        return
    free, earlier = _agree(args)
    is_main = PartialState().is_main_process
    if earlier:
        settled = WITHOUT_LIMIT | {name: earlier[name] for name in unsettled if earlier.get(name) is not None}
        reason = f"as in the {CONFIG} of the run that is resumed"
    else:
        settled, reason, fits = choose_settings(stage, args, source, groups, free)
        if not fits and is_main:
            logger.warning("%s: %s", reason, _ways_out(args))
    for name in unsettled:
        setattr(args, name, settled[name])
    args.gradient_checkpointing = args.activation_checkpointing  # the Trainer's two names for one setting
    if is_main:
        print(f"{stage}: {_in_words(args)} ({reason})")


def open_settings(args: StageArguments) -> list[str]:
    """Names of the settings that the user left to the plan."""
    names = ["micro_batch_tokens"] if args.micro_batch_tokens is None else []
    names += ["activation_checkpointing"] if args.checkpointing_is_open else []
    if isinstance(args, PPOArguments) and args.rollout_engine == "native" and args.merged_rollouts is None:
        names.append("merged_rollouts")
    return names


def choose_settings(
    stage: str, args: StageArguments, source: ModelSource, groups: Sequence[Group], free: float | None
) -> tuple[dict[str, Any], str, bool]:
    """Values for the three settings by `free` bytes, the reason in words, and whether they fit.

    None for `free` stands for what could not be read.
    """
    if free is None:
        return WITHOUT_LIMIT, "free memory cannot be read: nothing is planned", True
    try:
        model = ModelShape.from_config(json.loads((source.backbone / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        return WITHOUT_LIMIT, f"nothing is planned: {error}", True
    room = USABLE * free - (RUNTIME_BYTES if args.device.type == "cuda" else 0)
    wanted = run_shape(stage, args, groups)
    run, fits = choose(
        model,
        wanted,
        room,
        checkpointing=(False, True) if args.checkpointing_is_open else (bool(args.activation_checkpointing),),
        merged_copy=_merged_choices(args),
        micro_batch_tokens=_budgets(args, wanted),
    )
    settled = {
        "micro_batch_tokens": run.micro_batch_tokens,
        "activation_checkpointing": run.checkpointing,
        "merged_rollouts": run.merged_copy,
    }
    return settled, f"{planned_bytes(model, run) / 1e9:.2f} GB planned, {free / 1e9:.2f} GB free", fits


def _budgets(args: StageArguments, wanted: RunShape) -> list[int]:
    if args.micro_batch_tokens is not None:
        return [args.micro_batch_tokens]
    every = budgets(wanted)
    if not args.pass_tokens or wanted.whole_tokens <= args.pass_tokens:
        return every
    return [tokens for tokens in every if 0 < tokens <= args.pass_tokens] or every[-1:]


def run_shape(stage: str, args: StageArguments, groups: Sequence[Group]) -> RunShape:
    """The run in the terms of the formulae; its largest batch is that of the longest groups."""
    size = args.per_device_train_batch_size
    by_length = sorted(groups, key=lambda group: -group.num_tokens)[:size]
    longest, samples = by_length[0], len(by_length[0].response_ids)
    batch_tokens = sum(group.num_tokens for group in by_length) + (size - len(by_length)) * longest.num_tokens
    is_ppo = isinstance(args, PPOArguments)
    return RunShape(
        stage,
        prompts=args.prompts_per_minibatch * args.num_mini_batches if is_ppo else size,
        samples=samples,
        prompt_length=len(longest.prompt_ids),
        response_length=-(-sum(map(len, longest.response_ids)) // samples),
        batch_tokens=batch_tokens,
        weight_bytes=DTYPES[args.dtype].itemsize,
        quantised_bytes=QUANTISED_BYTES.get(args.quantization),
        lora_r=args.lora_r,
        lora_last_layers=_trained_layers(args),
        rollout_rows=args.rollout_batch_rows if is_ppo else 0,
        shared_value=is_ppo and args.value_model != "adapter",
        members=len(args.reward_model) if is_ppo else getattr(args, "num_members", 1),
        judges=int(is_ppo and args.judge_model is not None),
        own_reference=is_ppo and args.holds_reference,
        gpus=args.world_size,
        zero=_zero_stage(args),
    )


def _trained_layers(args: StageArguments) -> int:
    """The last layers that are trained; 0: all. PPO's value model has adapters where the reward model has them."""
    counts = [args.lora_last_layers]
    if isinstance(args, PPOArguments) and args.reward_model and args.value_model == "adapter":
        counts.append(last_layers(Path(args.reward_model[0])))
    return 0 if 0 in counts else max(counts)


def longest_rollouts(args: PPOArguments, chat: Chat, prompts: Sequence[Comparison]) -> list[Group]:
    """The prompts with most characters as tokens, each with responses of `max_new_tokens`."""
    counting = copy.copy(chat)
    counting.truncation = Truncation(prompts_cut=1)  # what is cut here is neither counted nor said
    by_characters = sorted(prompts, key=lambda prompt: -sum(len(message.content) for message in prompt.prompt))
    responses = [range(args.max_new_tokens)] * args.samples_per_prompt
    count = max(MEASURED_PROMPTS, args.per_device_train_batch_size)
    return [Group(counting.encode_prompt(prompt.prompt), responses) for prompt in by_characters[:count]]


def _agree(args: StageArguments) -> tuple[float | None, dict[str, Any]]:
    """Bytes that every process has, and what the config of the run says that the main process resumes."""
    free = args.memory_limit_gb * 1e9 if args.memory_limit_gb is not None else free_bytes(args.device)
    if isinstance(args, PPOArguments) and args.rollout_engine == "vllm" and args.vllm_server_url is None:
        free = None if free is None else free * (1 - args.vllm_gpu_memory)
    mine = (free, args.earlier_config())
    found = [mine]
    if torch.distributed.is_initialized():
        found = [mine] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, mine)
    known = [bytes_ for bytes_, _ in found if bytes_ is not None]
    return min(known, default=None), found[0][1]


def _merged_choices(args: StageArguments) -> tuple[bool, ...]:
    if not isinstance(args, PPOArguments) or args.rollout_engine == "vllm":
        return (False,)
    if args.rollout_engine == "transformers" or args.merged_rollouts or _zero_stage(args) == 3:
        return (True,)
    return (True, False) if args.merged_rollouts is None else (False,)


def _zero_stage(args: StageArguments) -> int:
    plugin = args.deepspeed_plugin
    return 0 if plugin is None else int(plugin.zero_stage)


def _in_words(args: StageArguments) -> str:
    tokens = args.micro_batch_tokens
    words = [f"passes of {tokens} tokens" if tokens else "a whole batch in one pass"]
    words += ["activations computed again"] if args.activation_checkpointing else []
    if isinstance(args, PPOArguments) and args.merged_rollouts is False:
        words.append("rollouts from unmerged weights")
    return ", ".join(words)


def _ways_out(args: StageArguments) -> str:
    names = ["max_prompt_length", "max_response_length"]
    if isinstance(args, PPOArguments):
        names = ["max_prompt_length", "max_new_tokens", "samples_per_prompt", "rollout_batch_rows"]
        names += ["value_model shared"] if args.value_model == "adapter" else []
    names += ["dtype bfloat16"] if args.dtype != "bfloat16" else []
    names += ["quantization nf4"] if args.quantization == "none" else []
    return f"the run may end out of memory; lower or set --{', --'.join(names)}"
