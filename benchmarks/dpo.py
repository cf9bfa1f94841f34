"""A step of DPO here and by TRL's `DPOTrainer`: reference, forward, backward, optimiser.

python -m benchmarks.dpo --peer --prompt_length 128 --response_length 64 --batch 4 --json dpo.json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.case import Case
from benchmarks.cost import Work, backward, forward, num_scored
from benchmarks.machine import Rates
from benchmarks.shapes import Shape, causal_lm
from benchmarks.side_by_side import Benchmark, Numbers, run
from benchmarks.worker import StepPhases, TurnCallback, Turns, our_settings
from benchmarks.workload import Workload, comparisons_workload, pair_tokens


def ours(case: Case, work: Workload, turns: Turns, scratch: str) -> None:
    """Our trainer, a turn a step."""
    from rlhf.engine.backbone import Backbone
    from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer

    args = DPOArguments(**our_settings(case, scratch))
    backbone = Backbone(causal_lm(case))
    backbone.add_adapter("policy", args.lora_config(backbone.model))
    phases = StepPhases(backbone, turns)
    trainer = DPOTrainer(
        backbone,
        args,
        train_dataset=work.ranked(),
        backbone_path=case.model,
        callbacks=[TurnCallback(turns, phases.take)],
    )
    trainer.train()


def peer(case: Case, work: Workload, turns: Turns, scratch: str) -> dict[str, Any]:
    """TRL's trainer on the same pairs, all of a ranking's."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from benchmarks.trl_peer import pair_rows, peer_dtype, peer_lora, peer_settings, peer_tokenizer

    class Tokenised(DPOTrainer):
        """Takes rows that are tokenised already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    settings = peer_settings(case, scratch) | {
        "max_steps": case.turns,
        "per_device_train_batch_size": case.batch * len(work.pairs),
        "train_sampling_strategy": "sequential",
        "max_length": None,
    }
    trainer = Tokenised(
        model=causal_lm(case, peer_dtype(case)),
        args=DPOConfig(**settings),
        train_dataset=Dataset.from_list(pair_rows(work, with_prompt=False)),
        processing_class=peer_tokenizer(case, work),
        peft_config=peer_lora(case, "CAUSAL_LM"),
        callbacks=[TurnCallback(turns)],
    )
    trainer.train()
    return {"settings": settings | {"output_dir": "", "dtype": str(peer_dtype(case))}}


def limits(case: Case, shape: Shape, work: Workload, said: Numbers, step: int, rates: Rates) -> Mapping[str, float]:
    """Reference forward, policy forward with the gradient of the head's input, backward through the body."""
    groups, weight_bytes = work.steps[step], case.torch_dtype.itemsize
    reference = forward(shape, groups, scored=num_scored(groups), weight_bytes=weight_bytes)
    policy = reference + Work(head=reference.head)
    back = backward(shape, groups, weight_bytes=weight_bytes)
    parts = {"reference": reference, "policy": policy, "backward and optimiser": back}
    seconds = {name: part.seconds(rates) for name, part in parts.items()}
    return seconds | {"step": sum(seconds.values())}


BENCHMARK = Benchmark(
    name="dpo",
    peer="TRL DPOTrainer",
    flags=("num_responses",),
    workload=comparisons_workload,
    tokens=pair_tokens,
    limits=limits,
    training=("step",),
)

if __name__ == "__main__":
    run(BENCHMARK)
