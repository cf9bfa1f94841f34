"""No optimiser step on numbers that are none, though they are read once per step."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from rlhf.engine.adapters import adapter_tensors
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer
from rlhf.training.examples import RankedGroup

COMMON = {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "lora_r": 4, "dtype": "float32"}


@pytest.fixture
def trainer(tiny_model, tmp_path) -> DPOTrainer:
    """Eight equal pairs, one to a pass; two passes to an optimiser step."""
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    args = DPOArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=2, **COMMON
    )
    example = RankedGroup(Group([5, 6, 7], [[8, 2], [9, 9, 2]]), [(0, 1)], 0.0, 1.0, "p")
    return DPOTrainer(backbone, args, train_dataset=[example] * 8, backbone_path="tiny")


def policy(trainer: DPOTrainer) -> dict[str, torch.Tensor]:
    return adapter_tensors(trainer.backbone, "policy")


@pytest.mark.parametrize("bad_pass", [0, 1])
@pytest.mark.parametrize("bad_value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_in_any_pass_stops_before_the_step(trainer, bad_pass, bad_value, monkeypatch) -> None:
    loss_sum = trainer.loss_sum
    calls = []

    def broken(model, batch):
        calls.append(len(calls))
        return loss_sum(model, batch) * (bad_value if calls[-1] == bad_pass else 1.0)

    monkeypatch.setattr(trainer, "loss_sum", broken)
    before = policy(trainer)
    with pytest.raises(FloatingPointError, match=f"loss is {bad_value} at step 1: stopped before the weights change"):
        trainer.train()
    assert calls == [0, 1]
    assert all(tensor.equal(before[name]) for name, tensor in policy(trainer).items())


def test_the_step_that_failed_is_named_and_the_ones_before_were_taken(trainer, monkeypatch) -> None:
    loss_sum = trainer.loss_sum
    monkeypatch.setattr(
        trainer, "loss_sum", lambda model, batch: loss_sum(model, batch) / (trainer.state.global_step < 1)
    )
    before = policy(trainer)
    with pytest.raises(FloatingPointError, match="at step 2:"):
        trainer.train()
    assert not all(tensor.equal(before[name]) for name, tensor in policy(trainer).items())


def test_the_first_of_several_is_named(trainer) -> None:
    trainer.check_finite("loss", torch.tensor(1.0))
    trainer.stop_unless_finite()
    trainer.check_finite("loss", torch.tensor(1.0))
    trainer.check_finite("score", torch.tensor([1.0, float("nan")]))
    trainer.check_finite("loss", torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match="score is nan at step 1"):
        trainer.stop_unless_finite()
    trainer.stop_unless_finite()  # what was reported is not reported again
