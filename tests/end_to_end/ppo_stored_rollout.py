"""PPO on a stored rollout, so that any number of processes learns from the same numbers.

`ppo_stored_rollout.py ROLLOUT RESULT [PPO's arguments]` reads for each prompt what was sampled and measured,
trains, and writes the logged rows and how many of the model's weights this process holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import set_seed

from rlhf.data.comparisons import Comparison, Message
from rlhf.engine.packing import Group
from rlhf.engine.sources import resolve_model
from rlhf.train_ppo import build_backbone
from rlhf.training.parser import parse
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.rollout import RolloutBatch, SampledGroup, pack_rollout
from rlhf.training.stage import load_chat

MEASURED = ("old_logprobs", "ref_logprobs", "old_values")


class StoredRolloutTrainer(PPOTrainer):
    """Takes for each prompt the stored row that its text numbers."""

    rows: list[dict]

    def sample_rollout(self, prompts: Sequence[Comparison]) -> list[RolloutBatch]:
        size = self.args.per_device_train_batch_size
        batches = []
        for start in range(0, len(prompts), size):
            rows = [self.rows[int(prompt.prompt[0].content)] for prompt in prompts[start : start + size]]
            groups = [
                SampledGroup(
                    messages=(),
                    group=Group(row["prompt_ids"], row["response_ids"]),
                    texts=[""] * len(row["response_ids"]),
                    finished=row["finished"],
                    logprobs=row["old_logprobs"],
                )
                for row in rows
            ]
            batch = pack_rollout(groups, self.args.device)
            for name in MEASURED:
                values = [value for row in rows for response in row[name] for value in response]
                setattr(batch, name, torch.tensor(values, device=self.args.device))
            batch.scores = torch.tensor([score for row in rows for score in row["scores"]], device=self.args.device)
            batch.entropy = torch.zeros_like(batch.old_logprobs)
            batches.append(batch)
        return batches

    def measure(self, rollout: list[RolloutBatch]) -> None:
        """It was measured when it was stored."""


def weights_held(model: torch.nn.Module) -> int:
    return sum(getattr(parameter, "ds_tensor", parameter).numel() for parameter in model.parameters())


def main(rollout: str, result: str, argv: list[str]) -> None:
    args = parse(PPOArguments, argv)
    source = resolve_model(args.model)
    set_seed(args.seed)
    rows = json.loads(Path(rollout).read_text())
    trainer = StoredRolloutTrainer(
        build_backbone(args, str(source.backbone)),
        args,
        chat=load_chat(source, args),
        prompts=[Comparison(prompt=(Message("user", str(i)),)) for i in range(len(rows))],
        backbone_path=str(source.backbone),
    )
    trainer.rows = rows
    trainer.train()
    if trainer.is_world_process_zero():
        Path(result).write_text(
            json.dumps({"rows": trainer.state.log_history, "weights_held": weights_held(trainer.backbone)})
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
