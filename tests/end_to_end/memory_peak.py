"""Train two steps on the embedded model and print how far memory rose above what it was after the imports.

`memory_peak.py SETTINGS FOLDER`: SETTINGS is JSON with stage, prompts, samples, prompt_length, response_length and
checkpointing; every prompt and every response has exactly that length.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from reward.trainer import RewardArguments, RewardTrainer
from rlhf.data.comparisons import Comparison, Message
from rlhf.engine import embedded
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.engine.sources import resolve_model
from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer
from rlhf.training.examples import RankedGroup
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.stage import load_chat


class Half:
    """Scores every response alike."""

    name = "half"

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        return [0.5 for _ in responses]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def highest() -> int:
    """Most bytes that this process ever had in memory."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) * 1024


def rankings(settings: dict[str, Any]) -> list[RankedGroup]:
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(100, 40_000) for _ in range(length)]

    pairs = [(0, k) for k in range(1, settings["samples"])]
    return [
        RankedGroup(
            Group(
                tokens(settings["prompt_length"]),
                [tokens(settings["response_length"]) for _ in range(settings["samples"])],
            ),
            pairs,
            0.0,
            1.0,
            str(number),
        )
        for number in range(2 * settings["prompts"])
    ]


def build(settings: dict[str, Any], folder: str) -> Any:
    """The stage's trainer on the embedded model."""
    backbone = Backbone.load(str(embedded.materialise()))
    stage = settings["stage"]
    names = {"reward": ["reward"], "dpo": ["policy"], "ppo": ["policy", "value"]}[stage]
    for name in names:
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        backbone.add_adapter(name, config)
    common: dict[str, Any] = {
        "output_dir": folder,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 2,
        "per_device_train_batch_size": settings["prompts"],
        "activation_checkpointing": settings["checkpointing"],
    }
    if stage == "dpo":
        return DPOTrainer(backbone, DPOArguments(**common), backbone_path="m", train_dataset=rankings(settings))
    if stage == "reward":
        backbone.add_head("reward")
        return RewardTrainer(backbone, RewardArguments(**common), backbone_path="m", train_dataset=rankings(settings))
    backbone.add_head("value")
    args = PPOArguments(
        **common | {"max_steps": 1},
        scorer="half",
        samples_per_prompt=settings["samples"],
        max_new_tokens=settings["response_length"],
        num_ppo_epochs=1,
    )
    text = "a " * settings["prompt_length"]
    prompts = [Comparison(prompt=(Message("user", f"{n} {text}"),)) for n in range(settings["prompts"])]
    args.max_prompt_length = settings["prompt_length"]
    chat = load_chat(resolve_model("smollm2-135m"), args)
    trainer = PPOTrainer(backbone, args, chat=chat, prompts=prompts, scorers=[Half()], backbone_path="m")
    return trainer


def main(settings: dict[str, Any], folder: str) -> None:
    torch.set_num_threads(1)
    before = resident()
    trainer = build(settings, folder)
    trainer.train()
    print(json.dumps({"peak": highest() - before}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
