"""`rlhf plan`: memory per GPU and time per step of a run, before it is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.engine.memory import (
    ModelShape,
    RunShape,
    check_last_layers,
    gathered_bytes_per_step,
    memory_parts,
    passes_per_step,
    step_operations,
)
from rlhf.engine.memory_choice import RUNTIME_BYTES, choose, planned_bytes
from rlhf.engine.sources import resolve_model
from rlhf.training.parser import exit_on_error, parse

# From the config.json of Llama 3.2 1B, Llama 3.1 8B and 70B (arXiv 2407.21783) and Qwen2.5 32B (arXiv 2412.15115).
SHAPES = {
    "1b": ModelShape(16, 2048, 8192, 32, 8, 64, 128256, True),
    "8b": ModelShape(32, 4096, 14336, 32, 8, 128, 128256, False),
    "32b": ModelShape(64, 5120, 27648, 40, 8, 128, 152064, False),
    "70b": ModelShape(80, 8192, 28672, 64, 8, 128, 128256, False),
}
USABLE = 0.9  # of the memory; the rest is for what varies from batch to batch


@dataclass
class PlanArguments:
    """Print what a run needs on each GPU, what fits, and how long a step takes by the formulae."""

    model: str = field(
        default="8b", metadata={"help": f"A shape ({', '.join(SHAPES)}), smollm2-135m, a folder or a hub name."}
    )
    stage: str = field(default="ppo", metadata={"help": "reward, dpo or ppo."})
    gpus: int = field(default=1, metadata={"help": "GPUs, over all machines."})
    gpu_memory: float = field(default=80.0, metadata={"help": "Of one GPU, in GB (1e9 bytes)."})
    zero: int | None = field(default=None, metadata={"help": "0, 2 or 3; unset: 2 where the weights fit, else 3."})
    batch: int = field(default=8, metadata={"help": "Prompts per optimiser step and GPU."})
    samples_per_prompt: int = field(default=2, metadata={"help": "Responses to a prompt."})
    prompt_length: int = field(default=512, metadata={"help": "Tokens of a prompt."})
    response_length: int = field(default=256, metadata={"help": "Tokens of a response."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_last_layers: int = field(default=0, metadata={"help": "Decoder layers with adapters, the last ones; 0: all."})
    value_model: str = field(default="adapter", metadata={"help": "adapter, shared, or none as with rloo and grpo."})
    own_reference: bool = field(
        default=False, metadata={"help": "Whether PPO's reference is an adapter: reference start, or one that follows."}
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout."})
    micro_batch_tokens: int = field(default=0, metadata={"help": "Tokens of one pass; 0: the most that fits."})
    tflops: float = field(default=400.0, metadata={"help": "Assumed rate of a GPU in training, in 1e12 a second."})
    link: float = field(default=50.0, metadata={"help": "Assumed rate at which a GPU gathers, in GB a second."})

    def __post_init__(self) -> None:
        if self.stage not in ("reward", "dpo", "ppo"):
            raise ValueError(f"stage is {self.stage!r}: choose reward, dpo or ppo")
        if self.zero not in (None, 0, 2, 3):
            raise ValueError(f"zero is {self.zero}: choose 0, 2 or 3")
        if self.value_model not in ("adapter", "shared", "none"):
            raise ValueError(f"value_model is {self.value_model!r}: choose adapter, shared or none")
        names = ("gpus", "batch", "samples_per_prompt", "prompt_length", "response_length", "lora_r", "num_ppo_epochs")
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("gpu_memory", "tflops", "link"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        check_last_layers(self.lora_last_layers)
        if self.micro_batch_tokens < 0:
            raise ValueError(f"micro_batch_tokens is {self.micro_batch_tokens}: it must be at least 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; 0 if it fits, else 1."""
    args = parse(PlanArguments, argv)
    with exit_on_error():
        model = model_shape(args.model)
    run, fits = first_that_fits(model, args)
    print(report(model, run, args, fits))
    return 0 if fits else 1


def model_shape(name: str) -> ModelShape:
    """The shape of that name, or that of a model's config.json.

    Raises:
        ValueError: there is no such model, or it has no such sizes.
    """
    if name in SHAPES:
        return SHAPES[name]
    config = json.loads((Path(resolve_model(name).backbone) / "config.json").read_text(encoding="utf-8"))
    return ModelShape.from_config(config)


def first_that_fits(model: ModelShape, args: PlanArguments) -> tuple[RunShape, bool]:
    """The run that costs least time, ZeRO-2 before ZeRO-3, and whether it fits; the smallest where none does."""
    check_last_layers(args.lora_last_layers, model.layers)
    room = args.gpu_memory * 1e9 * USABLE - RUNTIME_BYTES
    for zero in [args.zero] if args.zero is not None else [2, 3] if args.gpus > 1 else [0]:
        wanted = RunShape(
            stage=args.stage,
            prompts=args.batch,
            samples=args.samples_per_prompt,
            prompt_length=args.prompt_length,
            response_length=args.response_length,
            lora_r=args.lora_r,
            lora_last_layers=args.lora_last_layers,
            shared_value=args.value_model != "adapter",
            own_reference=args.own_reference,
            ppo_epochs=args.num_ppo_epochs,
            gpus=args.gpus,
            zero=zero,
        )
        budgets = [args.micro_batch_tokens] if args.micro_batch_tokens else []
        merged_copy = (False,) if zero == 3 else (True, False)
        run, fits = choose(model, wanted, room, merged_copy=merged_copy, micro_batch_tokens=budgets)
        if fits:
            break
    return run, fits


def _rollout_weights(run: RunShape) -> str:
    if run.zero == 3:
        return "a vLLM server, since the native decoder would hold all weights on each GPU"
    return "a merged copy" if run.merged_copy else "unmerged weights"


def report(model: ModelShape, run: RunShape, args: PlanArguments, fits: bool) -> str:
    """The plan as lines of text."""
    rows = [(name, size / 1e9) for name, size in memory_parts(model, run).items()]
    rows += [("runtime", RUNTIME_BYTES / 1e9), ("together", (planned_bytes(model, run) + RUNTIME_BYTES) / 1e9)]
    lines = [f"{args.stage} of {args.model} ({model.weights / 1e9:.2f} billion weights) on {run.gpus} GPUs, GB per GPU"]
    lines += [f"  {name:<32}{size:8.2f}" for name, size in rows]
    verdict = "fits" if fits else "DOES NOT FIT"
    lines.append(f"{verdict} {args.gpu_memory:g} GB, of which {USABLE:.0%} are planned with")
    lines.append(
        f"ZeRO-{run.zero}, {run.pass_tokens} tokens a pass, {passes_per_step(run)} passes a batch, "
        f"checkpointing {'on' if run.checkpointing else 'off'}"
        + (f", rollouts from {_rollout_weights(run)}" if args.stage == "ppo" else "")
    )
    lines.append(f"seconds per step at {args.tflops:g} TFLOP/s a GPU (decoding, bound by memory, takes longer):")
    operations = step_operations(model, run)
    lines += [f"  {phase:<32}{count / args.tflops / 1e12:8.2f}" for phase, count in operations.items()]
    if run.zero == 3:
        traffic = gathered_bytes_per_step(model, run)
        lines.append(
            f"  gathering {traffic / 1e9:.0f} GB at {args.link:g} GB/s".ljust(34) + f"{traffic / args.link / 1e9:8.2f}"
        )
    return "\n".join(lines)
