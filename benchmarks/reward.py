"""A step of reward training here and by TRL's `RewardTrainer`, which takes the pairs of a ranking one by one.

python -m benchmarks.reward --peer --num_responses 4 --json reward.json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.case import Case
from benchmarks.cost import backward, forward
from benchmarks.machine import Rates
from benchmarks.shapes import Shape, causal_lm, sequence_classifier
from benchmarks.side_by_side import Benchmark, Numbers, run
from benchmarks.worker import StepPhases, TurnCallback, Turns, our_settings
from benchmarks.workload import Workload, comparisons_workload, pair_tokens


def ours(case: Case, work: Workload, turns: Turns, scratch: str) -> None:
    """Our trainer, a turn a step."""
    from reward.trainer import RewardArguments, RewardTrainer
    from rlhf.engine.backbone import Backbone

    args = RewardArguments(**our_settings(case, scratch))
    backbone = Backbone(causal_lm(case))
    backbone.add_adapter("reward", args.lora_config(backbone.model))
    backbone.add_head("reward")
    phases = StepPhases(backbone, turns)
    trainer = RewardTrainer(
        backbone,
        args,
        train_dataset=work.ranked(),
        backbone_path=case.model,
        callbacks=[TurnCallback(turns, phases.take)],
    )
    trainer.train()


def peer(case: Case, work: Workload, turns: Turns, scratch: str) -> dict[str, Any]:
    """TRL's trainer on the same pairs."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from benchmarks.trl_peer import pair_rows, peer_dtype, peer_lora, peer_settings, peer_tokenizer

    settings = peer_settings(case, scratch) | {
        "max_steps": case.turns,
        "per_device_train_batch_size": case.batch * len(work.pairs),
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "center_rewards_coefficient": 0.01,
    }
    trainer = RewardTrainer(
        model=sequence_classifier(case, peer_dtype(case)),
        args=RewardConfig(**settings),
        train_dataset=Dataset.from_list(pair_rows(work, with_prompt=True)),
        processing_class=peer_tokenizer(case, work),
        peft_config=peer_lora(case, "SEQ_CLS"),
        callbacks=[TurnCallback(turns)],
    )
    trainer.train()
    return {"settings": settings | {"output_dir": "", "dtype": str(peer_dtype(case))}}


def limits(case: Case, shape: Shape, work: Workload, said: Numbers, step: int, rates: Rates) -> Mapping[str, float]:
    """Forward and backward through the body; the head reads one position of a response, which costs nothing."""
    groups, weight_bytes = work.steps[step], case.torch_dtype.itemsize
    parts = {
        "reward": forward(shape, groups, scored=0, weight_bytes=weight_bytes),
        "backward and optimiser": backward(shape, groups, weight_bytes=weight_bytes),
    }
    seconds = {name: part.seconds(rates) for name, part in parts.items()}
    return seconds | {"step": sum(seconds.values())}


BENCHMARK = Benchmark(
    name="reward",
    peer="TRL RewardTrainer",
    flags=("num_responses",),
    workload=comparisons_workload,
    tokens=pair_tokens,
    limits=limits,
    training=("step",),
)

if __name__ == "__main__":
    run(BENCHMARK)
