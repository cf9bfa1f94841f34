"""One PPO update, rollout, scoring and epochs, here and by the `PPOTrainer` of TRL 1.12.0, the last that has one.

    make benchmark-peers
    python -m benchmarks.ppo --peer --prompt_length 46 --response_length 48 --batch 16 --value_model shared

Both sample exactly `--response_length` tokens. TRL trains the whole value model: it has no other; ours is an adapter or
a head on the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.case import Case
from benchmarks.cost import Work, backward, forward, num_scored, num_tokens, rollout_seconds
from benchmarks.machine import Rates
from benchmarks.shapes import Shape, causal_lm, sequence_classifier
from benchmarks.side_by_side import ROOT, Benchmark, Numbers, run
from benchmarks.worker import PhaseTimer, TurnCallback, Turns, our_settings
from benchmarks.workload import Workload, prompts_workload
from rlhf.data.comparisons import Comparison, Message
from rlhf.engine.packing import Group


class TokenText:
    """A chat format in which a text is its token ids, written as numbers: what a `Chat` does, with no tokenizer."""

    def __init__(self, pad_id: int):
        self.pad_id = self.end_of_turn_id = pad_id
        self.stop_ids: set[int] = set()  # nothing ends a response before its length

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return [int(number) for number in messages[-1].content.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(str(int(token_id)) for token_id in ids)


PHASES = ("rollout", "scoring", "update")


class LoggedPhases(TrainerCallback):
    """Keeps the seconds by phase that our trainer logs."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if all(f"time/{phase}" in logs for phase in PHASES):
            self.steps.append({phase: logs[f"time/{phase}"] for phase in PHASES})


def ours(case: Case, work: Workload, turns: Turns, scratch: str) -> dict[str, Any]:
    """Our trainer, a turn an update."""
    from rlhf.training.ppo_arguments import PPOArguments
    from rlhf.training.ppo_trainer import PPOTrainer

    args = PPOArguments(
        **our_settings(case, scratch)
        | {
            "reward_model": "random",
            "value_model": case.value_model,
            "samples_per_prompt": case.samples_per_prompt,
            "rollout_engine": case.rollout_engine,
            "max_new_tokens": case.response_length,
            "rollout_batch_rows": case.batch * case.samples_per_prompt,
            "num_ppo_epochs": case.epochs,
            "missing_eos_penalty": 0.0,
            "adam_epsilon": 1e-5,
            "logging_steps": 1,
        }
    )
    chat: Any = TokenText(work.pad_id)
    phases = LoggedPhases()
    trainer = PPOTrainer(
        backbone_with_roles(case, args),
        args,
        chat=chat,
        prompts=[Comparison(prompt=(Message("user", chat.decode(ids)),)) for ids in work.prompts()],
        backbone_path=case.model,
        callbacks=[TurnCallback(turns), phases],
    )
    trainer.train()
    return {"phases": phases.steps}


def backbone_with_roles(case: Case, args: Any) -> Any:
    """Policy, value and reward on one backbone; the reward model says something, as a trained one would."""
    from rlhf.engine.backbone import Backbone

    backbone = Backbone(causal_lm(case))
    backbone.add_adapter("policy", args.lora_config(backbone.model))
    backbone.add_head("value")
    backbone.add_adapter("reward", args.lora_config(backbone.model))
    if case.value_model == "adapter":
        backbone.add_adapter("value", args.lora_config(backbone.model))
    torch.nn.init.normal_(backbone.add_head("reward").linear.weight, std=0.02)
    return backbone


def peer(case: Case, work: Workload, turns: Turns, scratch: str) -> dict[str, Any]:
    """TRL's trainer: the policy with adapters, a value model that is trained whole, a reward model."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    from benchmarks.trl_peer import peer_dtype, peer_lora, peer_settings, peer_tokenizer

    rows = [list(ids) for ids in work.prompts() for _ in range(case.samples_per_prompt)]
    settings = peer_settings(case, scratch) | {
        "per_device_train_batch_size": len(rows),
        "total_episodes": case.turns * len(rows),
        "response_length": case.response_length,
        "num_ppo_epochs": case.epochs,
        "num_sample_generations": 0,
        "missing_eos_penalty": None,
        "temperature": 1.0,
        "adam_epsilon": 1e-5,
    }
    if case.peer_settings == "tuned":
        settings["local_rollout_forward_batch_size"] = len(rows)
    tokenizer, dtype = peer_tokenizer(case, work), peer_dtype(case)
    rollouts, sampled = PhaseTimer(case.device), set()
    generate = ppo_trainer.batch_generation

    def noted(*positional: Any, **named: Any) -> Any:
        sequences, logits = generate(*positional, **named)
        sampled.add(logits.shape[1])
        return sequences, logits

    ppo_trainer.batch_generation = rollouts.wrap(noted)
    trainer = PPOTrainer(
        args=PPOConfig(**settings),
        processing_class=tokenizer,
        model=causal_lm(case, dtype),
        ref_model=None,
        reward_model=sequence_classifier(case, dtype),
        value_model=sequence_classifier(case, dtype),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in rows]),
        data_collator=lambda examples: {"input_ids": padded(examples, tokenizer.pad_token_id)},
        peft_config=peer_lora(case, "CAUSAL_LM"),
        callbacks=[TurnCallback(turns)],
    )
    trainer.train()
    return {
        "settings": settings | {"output_dir": "", "dtype": str(dtype)},
        "phases": {"rollout": rollouts.seconds[1:]},
        "response_lengths": sorted(sampled),
    }


def padded(examples: Sequence[Mapping[str, Any]], pad_id: int) -> torch.Tensor:
    """`[rows, longest]` token ids, padded on the left."""
    longest = max(len(example["input_ids"]) for example in examples)
    return torch.tensor(
        [[pad_id] * (longest - len(example["input_ids"])) + list(example["input_ids"]) for example in examples]
    )


def rollout_groups(case: Case, work: Workload) -> list[Group]:
    """The groups of one rollout, as far as their lengths go."""
    response = [0] * case.response_length
    return [Group(ids, [response] * case.samples_per_prompt) for ids in work.prompts()]


def tokens(case: Case, work: Workload, side: str, said: Sequence[Numbers]) -> tuple[int, int]:
    """Tokens of the counted rollouts; the peer has each prompt once for every response, padded to the longest."""
    if side == "ours":
        count = num_tokens(rollout_groups(case, work)) * len(said)
        return count, count
    lengths = [len(ids) for ids in work.prompts()]
    samples = case.samples_per_prompt * len(said)
    real = sum(length + case.response_length for length in lengths)
    return real * samples, len(lengths) * (max(lengths) + case.response_length) * samples


def limits(case: Case, shape: Shape, work: Workload, said: Numbers, step: int, rates: Rates) -> Mapping[str, float]:
    """Decoding with a merged copy, one pass over all roles, then the epochs over policy and value."""
    groups, weight_bytes = rollout_groups(case, work), case.torch_dtype.itemsize
    unscored = forward(shape, groups, scored=0, weight_bytes=weight_bytes)
    scored = forward(shape, groups, scored=num_scored(groups), weight_bytes=weight_bytes)
    back = backward(shape, groups, weight_bytes=weight_bytes)
    value_rows = int(case.value_model == "adapter")
    # reference and policy are read by the head; value, where it has an adapter, and reward are not
    scoring = scored * 2 + unscored * (1 + value_rows)
    update = (scored + Work(head=scored.head) + back + (unscored + back) * value_rows) * case.epochs
    lengths = [case.response_length] * (len(groups) * case.samples_per_prompt)
    return {
        "rollout": rollout_seconds(shape, work.prompts(), lengths, rates, weight_bytes=weight_bytes),
        "scoring": scoring.seconds(rates),
        "update": update.seconds(rates),
    }


BENCHMARK = Benchmark(
    name="ppo",
    peer="TRL 1.12.0 PPOTrainer",
    flags=("samples_per_prompt", "rollout_engine", "epochs", "value_model"),
    workload=prompts_workload,
    tokens=tokens,
    limits=limits,
    training=("update",),
    peer_path=ROOT / ".benchmark-peers" / "trl-1.12.0",
)

if __name__ == "__main__":
    run(BENCHMARK)
