"""Passes of a tiny model: nothing is found in a sound one, and each planted fault by its name."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

from rlhf.engine.backbone import REWARD, Backbone, Role
from rlhf.engine.generation import Sample, Sampler
from rlhf.engine.packing import Group
from rlhf.training.checks import model_passes
from rlhf.training.checks.classifier import Classifier, check_classifier_scores
from rlhf.training.checks.findings import Finding
from rlhf.training.checks.model_passes import check_policy, check_scores, judge_scores
from rlhf.training.checks.probes import probe_conversations

PROMPTS = [[5, 9, 33, 12], [7, 8], [40, 41, 42, 43, 44, 45, 46]]
GROUPS = [Group(prompt, [[11, 12, 2], [13, 14, 15, 16, 2]]) for prompt in PROMPTS]
CHAT: Any = types.SimpleNamespace(stop_ids={2}, end_of_turn_id=2, pad_id=0)


@pytest.fixture
def backbone(tiny_model, fill_adapter) -> Backbone:
    """With an untrained adapter `policy` and a reward model that has been trained."""
    made = Backbone(tiny_model())
    made.add_adapter("policy", LoraConfig(r=4, target_modules="all-linear"))
    made.add_adapter("reward", LoraConfig(r=4, target_modules="all-linear"))
    fill_adapter(made, "reward")
    nn.init.normal_(made.add_head("reward").linear.weight, generator=torch.Generator().manual_seed(0))
    return made.eval()


def names(findings: Iterator[Finding]) -> list[str]:
    return [finding.name for finding in findings]


def test_a_sound_model_has_no_findings_and_stays_as_it_was(backbone) -> None:
    state, random_state = {k: v.clone() for k, v in backbone.state_dict().items()}, torch.get_rng_state()
    assert names(check_policy(backbone, CHAT, PROMPTS, is_fresh=True)) == []
    assert names(check_scores(backbone, REWARD, GROUPS, field="reward_model")) == []
    assert not backbone.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


def test_a_trained_policy_is_sound_too(backbone, fill_adapter) -> None:
    fill_adapter(backbone, "policy")
    assert names(check_policy(backbone, CHAT, PROMPTS, is_fresh=False)) == []


def test_a_trained_policy_is_not_the_reference(backbone, fill_adapter) -> None:
    fill_adapter(backbone, "policy")
    assert names(check_policy(backbone, CHAT, PROMPTS, is_fresh=True)) == ["first_kl_not_zero"]


def test_dropout_of_the_adapter_moves_the_ratio_off_one(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3))
    fill_adapter(backbone, "policy")
    assert "ratio_not_one" in names(check_policy(backbone.eval(), CHAT, PROMPTS, is_fresh=False))


def test_decoding_that_says_something_else_than_training_is_found(backbone, monkeypatch) -> None:
    decode = Sampler.sample

    def off(self: Sampler, *arguments: Any, **named: Any) -> list[list[Sample]]:
        return [
            [Sample(s.token_ids, [value - 1.0 for value in s.logprobs], s.finished) for s in samples]
            for samples in decode(self, *arguments, **named)
        ]

    monkeypatch.setattr(Sampler, "sample", off)
    assert names(check_policy(backbone, CHAT, PROMPTS, is_fresh=True)) == ["decoding_gap"]


def test_an_untrained_head_says_the_same_of_everything(backbone) -> None:
    backbone.add_head("reward")
    assert names(check_scores(backbone, REWARD, GROUPS, field="reward_model")) == ["scores_constant"]


def test_a_score_that_changes_with_its_neighbours_is_found_and_shown() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0])
    (finding,) = judge_scores(
        scores, {"another order": scores + torch.tensor([0.0, 0.2, 0.0])}, tolerance=0.1, field="reward_model"
    )
    assert finding.name == "scores_depend_on_batch"
    assert "another order" in finding.found
    assert finding.example == "probe response 2: -1 and -0.8"


@pytest.mark.parametrize(
    ("shift", "way"),
    [(lambda place, number: float(place), "another order"), (lambda place, number: float(number), "no other prompt")],
    ids=["place", "neighbours"],
)
def test_scores_are_computed_again_in_another_order_and_alone(backbone, monkeypatch, shift, way) -> None:
    """Whatever a group's scores are shifted by: its place in the batch, or how many groups are in it."""
    score = model_passes._scores

    def shifted(backbone: Backbone, role: Role, groups: Any) -> list[torch.Tensor]:
        found = enumerate(score(backbone, role, groups))
        return [scores + shift(place, len(groups)) for place, scores in found]

    monkeypatch.setattr(model_passes, "_scores", shifted)
    (finding,) = check_scores(backbone, REWARD, GROUPS, field="reward_model")
    assert finding.name == "scores_depend_on_batch"
    assert way in finding.found


class WidthModel:
    """Scores a row by its own tokens and by how wide its batch is, as a model that reads padding would."""

    dtype, device = torch.float32, torch.device("cpu")
    config: Any = types.SimpleNamespace(get_text_config=lambda: types.SimpleNamespace(pad_token_id=0))

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        score = (input_ids * attention_mask).sum(-1).float() / 100 + input_ids.shape[1]
        return types.SimpleNamespace(logits=score[:, None])


class LetterTokenizer:
    padding_side = "right"

    def apply_chat_template(self, rows: list[dict[str, str]], tokenize: bool) -> str:
        return "|".join(row["content"] for row in rows)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def test_a_classifier_that_reads_padding_is_found() -> None:
    found = check_classifier_scores(Classifier(WidthModel(), LetterTokenizer()), probe_conversations(), field="x")
    assert names(found) == ["scores_depend_on_padding"]
