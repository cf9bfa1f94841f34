"""TRL's own trainers and ours on the same model and the same pairs, in float32.

TRL reads padded rows of prompt and response and merges no prompts; its reference is a second model, its reward
model one for sequence classification.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import pytest
import torch
import trl
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.trainer.dpo_trainer import DataCollatorForPreference as DPOCollator
from trl.trainer.reward_trainer import DataCollatorForPreference as RewardCollator

from reward.trainer import RewardArguments, RewardTrainer
from rlhf.engine.adapters import adapter_tensors, write_adapter
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer
from rlhf.training.examples import RankedGroup, collate_pairs

BETA = 0.3
PROMPTS = [[5, 9, 13, 7, 22], [33, 34], [20, 21, 22]]
CHOSEN = [[8, 30, 2], [35, 36, 37, 38, 2], [40, 2]]
REJECTED = [[11, 12, 13, 14, 2], [41, 2], [42, 43]]
MARGINS = [0.0, 0.7, 2.5]
COMMON = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
TRL_COMMON = {**COMMON, "bf16": False, "activation_checkpointing": False}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({str(i): i for i in range(61)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="2", pad_token="0", unk_token="1")


def examples(margins: list[float]) -> list[RankedGroup]:
    """Alternately with the chosen response first and with the rejected one first."""
    ranked = []
    for number, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, CHOSEN, REJECTED, strict=True)):
        group, pair = (
            (Group(prompt, [chosen, rejected]), (0, 1)) if number % 2 else (Group(prompt, [rejected, chosen]), (1, 0))
        )
        ranked.append(RankedGroup(group, [pair], margins[number], 1.0, str(number)))
    return ranked


@pytest.fixture
def backbone(tiny_model, fill_adapter, tmp_path) -> Backbone:
    """With adapters `policy` and `reward` and the head `reward`, all as if trained; adapters saved in tmp_path."""
    backbone = Backbone(tiny_model())
    for seed, name in enumerate(("policy", "reward")):
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        backbone.add_adapter(name, config)
        fill_adapter(backbone, name, seed=seed, std=0.08)
        write_adapter(tmp_path / name, adapter_tensors(backbone, name), config, backbone_path="tiny")
    torch.nn.init.normal_(backbone.add_head("reward").linear.weight, generator=torch.Generator().manual_seed(9))
    return backbone


def our_loss(trainer, margins=(0.0, 0.0, 0.0), rows=slice(None)) -> torch.Tensor:
    batch = examples(list(margins))[rows]
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    return trainer.compute_loss(trainer.model, collate_pairs(batch), num_items_in_batch=count)


# ---- DPO ------------------------------------------------------------------------------------------------


def trl_dpo(tiny_model, tmp_path, loss_type: str, label_smoothing: float) -> trl.DPOTrainer:
    config = trl.DPOConfig(
        str(tmp_path / "trl"), beta=BETA, loss_type=[loss_type], label_smoothing=label_smoothing, **TRL_COMMON
    )
    policy = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "policy"), is_trainable=True)
    row = {"prompt": "5 6", "chosen": " 7", "rejected": " 8"}
    return trl.DPOTrainer(
        policy, tiny_model(), args=config, train_dataset=datasets.Dataset.from_list([row]), processing_class=tokenizer()
    )


def trl_dpo_loss(trainer: trl.DPOTrainer, rows=slice(None)) -> torch.Tensor:
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(PROMPTS[rows], CHOSEN[rows], REJECTED[rows], strict=True)
    ]
    return trainer.compute_loss(trainer.model, DPOCollator(pad_token_id=0)(pairs))


def our_dpo(backbone, tmp_path, label_smoothing: float) -> DPOTrainer:
    arguments = DPOArguments(
        output_dir=str(tmp_path / "ours"), beta=BETA, label_smoothing=label_smoothing, dtype="float32", **COMMON
    )
    return DPOTrainer(backbone, arguments, backbone_path="tiny", train_dataset=examples([0.0] * 3))


def test_dpo_loss_and_gradients_are_those_of_trl(backbone, tiny_model, tmp_path) -> None:
    theirs, ours = trl_dpo(tiny_model, tmp_path, "sigmoid", 0.0), our_dpo(backbone, tmp_path, 0.0)
    expected, loss = trl_dpo_loss(theirs), our_loss(ours)
    assert abs(expected.item() - 0.6931) > 0.01, "an adapter that does something"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    loss.backward()
    gradients = {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in theirs.model.named_parameters()
        if parameter.grad is not None
    }
    parameters = backbone.adapter_parameters("policy")
    assert gradients.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert gradients[name].norm() > 0
        assert (parameter.grad - gradients[name]).norm() <= 1e-4 * gradients[name].norm(), name


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("label_smoothing", [0.1, 0.4])
def test_label_smoothing_is_that_of_trl(backbone, tiny_model, tmp_path, label_smoothing, row) -> None:
    """TRL smooths labels in its AOT loss, which for a single pair is the DPO loss."""
    rows = slice(row, row + 1)
    expected = trl_dpo_loss(trl_dpo(tiny_model, tmp_path, "aot", label_smoothing), rows)
    loss = our_loss(our_dpo(backbone, tmp_path, label_smoothing), rows=rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_logged_rewards_are_those_of_trl(backbone, tiny_model, tmp_path) -> None:
    theirs, ours = trl_dpo(tiny_model, tmp_path, "sigmoid", 0.0), our_dpo(backbone, tmp_path, 0.0)
    trl_dpo_loss(theirs)
    our_loss(ours)
    expected = {name: sum(v) / len(v) for name, v in next(filter(None, theirs._metrics.values())).items()}
    logged = ours._take_recorded()
    for mine, trls in {
        "reward/chosen": "rewards/chosen",
        "reward/rejected": "rewards/rejected",
        "reward/margin": "rewards/margins",
        "reward/accuracy": "rewards/accuracies",
    }.items():
        assert logged[mine] == pytest.approx(expected[trls], rel=1e-4), mine


# ---- reward ---------------------------------------------------------------------------------------------


def trl_reward(backbone, tiny_model, tmp_path, center: float | None) -> trl.RewardTrainer:
    base = tiny_model()
    merged = PeftModel.from_pretrained(base, str(tmp_path / "reward")).merge_and_unload()
    config = base.config.__class__(**{**base.config.to_dict(), "num_labels": 1})
    model = AutoModelForSequenceClassification.from_config(config)
    model.model.load_state_dict(merged.model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(backbone.heads["reward"].linear.weight)
    arguments = trl.RewardConfig(str(tmp_path / "trl"), center_rewards_coefficient=center, **TRL_COMMON)
    dataset = datasets.Dataset.from_list([{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}])
    return trl.RewardTrainer(model, args=arguments, train_dataset=dataset, processing_class=tokenizer())


@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("margins", [[0.0, 0.0, 0.0], MARGINS], ids=["no-margin", "margin"])
def test_bradley_terry_loss_and_head_gradient_are_those_of_trl(backbone, tiny_model, tmp_path, margins, center) -> None:
    theirs = trl_reward(backbone, tiny_model, tmp_path, center or None)
    arguments = RewardArguments(output_dir=str(tmp_path / "ours"), center_coef=center, dtype="float32", **COMMON)
    ours = RewardTrainer(backbone, arguments, backbone_path="tiny", train_dataset=examples(margins))
    pairs = [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
        for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    if any(margins):
        pairs = [{**pair, "margin": margin} for pair, margin in zip(pairs, margins, strict=True)]
    expected = theirs.compute_loss(theirs.model, RewardCollator(pad_token_id=0)(pairs))
    loss = our_loss(ours, margins)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    loss.backward()
    gradient, wanted = backbone.heads["reward"].linear.weight.grad, theirs.model.score.weight.grad
    assert (gradient - wanted).norm() <= 1e-4 * wanted.norm()
