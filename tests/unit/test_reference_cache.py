"""The reference's log-probabilities are computed once per content, and a resumed run reads the same ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import set_seed

from rlhf.engine.adapters import adapter_tensors
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer
from rlhf.training.examples import RankedGroup, collate_pairs
from rlhf.training.reference_cache import ReferenceCache

FIRST = Group([5, 6], [[7, 2], [8]])
SECOND = Group([9], [[7, 2], [8], [3, 3, 3]])
COMMON = {"use_cpu": True, "disable_tqdm": True, "lora_r": 4, "lora_dropout": 0.1, "dtype": "float32"}


def filled() -> ReferenceCache:
    cache = ReferenceCache("a base")
    cache.add([FIRST, SECOND], torch.tensor([-1.5, -2.5, -3.5, -4.5, 1 / 3], dtype=torch.float64))
    return cache


# ---- the cache ------------------------------------------------------------------------------------------


def test_sums_come_back_by_content_in_the_order_asked_for() -> None:
    cache = filled()
    assert cache.sums([SECOND, FIRST, SECOND]).tolist() == [-3.5, -4.5, 1 / 3, -1.5, -2.5, -3.5, -4.5, 1 / 3]
    assert cache.sums([Group((5, 6), ((7, 2), (8,)))]).tolist() == [-1.5, -2.5]


def test_what_is_missing_is_named_once() -> None:
    third = Group([9], [[7, 2], [8]])
    assert filled().missing([third, FIRST, Group([9], [[7, 2], [8]]), SECOND]) == [third]
    assert filled().missing([SECOND]) == []


@pytest.mark.parametrize(
    "other",
    [
        Group([5], [[6, 7, 2], [8]]),  # the prompt ends elsewhere
        Group([5, 6], [[7], [2, 8]]),  # the first response ends elsewhere
        Group([5, 6], [[7, 2, 8]]),
        Group([5, 6], [[8], [7, 2]]),
        Group([5, 6], [[7, 2], [9]]),
    ],
)
def test_equal_tokens_cut_elsewhere_are_another_group(other) -> None:
    assert filled().missing([other]) == [other]


def test_a_saved_cache_is_read_to_the_last_bit(tmp_path) -> None:
    cache = filled()
    cache.save(tmp_path / "there" / "cache.safetensors")
    read = ReferenceCache("a base")
    read.load(tmp_path / "there" / "cache.safetensors")
    assert read.sums([FIRST, SECOND]).equal(cache.sums([FIRST, SECOND]))
    read.add([Group([1], [[1]])], torch.tensor([-9.0]))
    assert read.sums([Group([1], [[1]]), FIRST]).tolist() == [-9.0, -1.5, -2.5]
    other = ReferenceCache("another base")
    other.load(tmp_path / "there" / "cache.safetensors")
    assert other.missing([FIRST]) == [FIRST]


def test_without_a_file_the_cache_begins_anew(tmp_path) -> None:
    cache = filled()
    cache.load(tmp_path / "absent.safetensors")
    assert len(cache) == 0
    assert cache.missing([FIRST]) == [FIRST]
    cache.save(tmp_path / "empty.safetensors")
    assert not (tmp_path / "empty.safetensors").exists()


# ---- DPO ------------------------------------------------------------------------------------------------


def examples() -> list[RankedGroup]:
    """Ten pairs, 5 to 28 tokens each."""
    draw = random.Random(0)
    ranked = []
    for number in range(10):
        prompt, *responses = ([draw.randrange(3, 60) for _ in range(draw.randint(2, 9))] for _ in range(3))
        ranked.append(RankedGroup(Group(prompt, responses), [(0, 1)], 0.0, 1.0, str(number)))
    return ranked


def dpo(tiny_model, folder: Path, **settings: object) -> DPOTrainer:
    """Three optimiser steps an epoch: of 4, 4 and 2 pairs."""
    set_seed(3)
    backbone = Backbone(tiny_model())
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    backbone.add_adapter("policy", lora)
    args = DPOArguments(
        output_dir=str(folder), per_device_train_batch_size=4, learning_rate=1e-2, **{**COMMON, **settings}
    )
    return DPOTrainer(backbone, args, train_dataset=examples(), backbone_path="tiny")


def count_passes(trainer: DPOTrainer) -> list[str | None]:
    """The adapters of the rows of every pass that the trainer runs, in order."""
    passes: list[str | None] = []
    rows = trainer.backbone._adapters_by_row
    trainer.backbone.model.base_model.register_forward_hook(lambda *_: passes.extend(rows))
    return passes


def test_from_the_second_epoch_the_reference_is_not_computed(tiny_model, tmp_path) -> None:
    trainer = dpo(tiny_model, tmp_path, num_train_epochs=3, save_strategy="no")
    passes = count_passes(trainer)
    trainer.train()
    assert passes == [None, "policy"] * 3 + ["policy"] * 6
    assert len(trainer.reference_cache) == 10


def test_a_remembered_sum_is_the_computed_one(tiny_model, tmp_path) -> None:
    trainer = dpo(tiny_model, tmp_path, save_strategy="no")
    batch = collate_pairs(examples())
    computed = trainer._computed_reference_logprobs(batch.packed)
    assert trainer._reference_logprobs(batch).equal(computed)
    assert trainer._reference_logprobs(batch).equal(computed)
    few = collate_pairs(examples()[3:6])  # in another batch they would be computed with other last bits
    assert trainer._reference_logprobs(few).equal(computed[6:12])
    torch.testing.assert_close(trainer._computed_reference_logprobs(few.packed), computed[6:12], rtol=1e-5, atol=1e-5)


def test_only_what_is_missing_of_a_batch_is_computed(tiny_model, tmp_path) -> None:
    trainer = dpo(tiny_model, tmp_path, save_strategy="no")
    whole = trainer._computed_reference_logprobs(collate_pairs(examples()).packed)
    trainer._reference_logprobs(collate_pairs(examples()[2:4]))
    lengths: list[int] = []
    embeddings = trainer.backbone.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].numel()))
    sums = trainer._reference_logprobs(collate_pairs(examples()[:5]))
    assert lengths == [sum(examples()[index].group.num_tokens for index in (0, 1, 4))]
    torch.testing.assert_close(sums, whole[:10], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "stopped_at, passes_left", [(2, [None, *["policy"] * 6]), (4, ["policy"] * 4)], ids=["first epoch", "second epoch"]
)
def test_a_run_resumed_over_epochs_remembers_and_ends_with_the_same_bytes(
    tiny_model, tmp_path, stopped_at, passes_left
) -> None:
    whole = dpo(tiny_model, tmp_path / "whole", max_steps=8, save_strategy="no")
    whole.train()
    dpo(tiny_model, tmp_path / "broken", max_steps=stopped_at, save_steps=stopped_at).train()
    resumed = dpo(tiny_model, tmp_path / "broken", max_steps=8, save_strategy="no")
    passes = count_passes(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / f"checkpoint-{stopped_at}"))

    assert passes == passes_left
    expected, found = adapter_tensors(whole.backbone, "policy"), adapter_tensors(resumed.backbone, "policy")
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    logged = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert [row["loss"] for row in resumed.state.log_history if "loss" in row] == logged
