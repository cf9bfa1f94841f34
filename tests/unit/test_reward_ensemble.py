"""An ensemble is trained in one pass, and no member of it learns from another."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from reward.bayesian_bootstrap import bootstrap_weights
from reward.judged_pairs import MEAN_LESS_DEVIATION, MINIMUM, MODEL, scores_by_name
from reward.trainer import RewardArguments, RewardTrainer, add_members
from rlhf.engine.adapters import adapter_tensors, head_tensors, load_adapter_weights, load_head_weights
from rlhf.engine.backbone import Backbone, reward_roles
from rlhf.engine.packing import Group, pack
from rlhf.engine.sources import reward_members
from rlhf.training.examples import RankedGroup, collate_pairs

COMMON = {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "lora_r": 4, "dtype": "float32"}
MEMBERS = 3


def rankings(count: int = 8) -> list[RankedGroup]:
    draw = random.Random(0)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, 61) for _ in range(draw.randint(low, high))]

    examples = []
    for number in range(count):
        group = Group(tokens(3, 9), [tokens(2, 8) for _ in range(2 + number % 3)])
        pairs = [(0, k) for k in range(1, len(group.response_ids))]
        examples.append(RankedGroup(group, pairs, 0.0, 1.0, str(number)))
    return examples


@pytest.fixture
def train(tiny_model, float64_norms, tmp_path) -> Any:
    """`train(folder, **settings)`: a trainer whose model is that of the seed, before its first step."""

    def build(folder: str, **settings: Any) -> RewardTrainer:
        args = RewardArguments(
            output_dir=str(tmp_path / folder),
            **{**COMMON, "learning_rate": 1e-2, "max_steps": 4, "per_device_train_batch_size": 4, **settings},
        )
        torch.manual_seed(args.seed)
        backbone = Backbone(tiny_model())
        add_members(backbone, args)
        return RewardTrainer(backbone, args, backbone_path="tiny", train_dataset=rankings())

    return build


def weights_of(trainer: RewardTrainer, name: str) -> dict[str, torch.Tensor]:
    return adapter_tensors(trainer.backbone, name) | head_tensors(trainer.backbone, name)


@pytest.mark.parametrize("loss_type", ["bradley_terry", "plackett_luce"])
def test_a_member_learns_what_it_learns_alone(train, tmp_path, monkeypatch, loss_type) -> None:
    """From the same start, with the same weights, and with clipping that bites."""
    ensemble = train("ensemble", num_members=MEMBERS, max_grad_norm=0.05, loss_type=loss_type)
    ensemble.save_model(str(tmp_path / "start"))
    before = {key: tensor.clone() for key, tensor in weights_of(ensemble, "reward_3").items()}
    alone = train("alone", max_grad_norm=0.05, loss_type=loss_type)
    load_adapter_weights(alone.backbone, "reward", tmp_path / "start" / "member_3")
    load_head_weights(alone.backbone, "reward", tmp_path / "start" / "member_3")
    monkeypatch.setattr(alone, "member_weights", lambda batch: bootstrap_weights(batch.groups, MEMBERS, 42)[2:3])
    ensemble.train()
    alone.train()

    expected = weights_of(alone, "reward")
    for key, tensor in weights_of(ensemble, "reward_3").items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=2e-5)
        if "lora_B" in key:
            assert (tensor - before[key]).abs().max() > 1e-3, "it did learn"


def test_the_first_member_is_the_model_trained_without_an_ensemble(train) -> None:
    clipped = {"max_grad_norm": 0.05}
    ensemble, single = train("ensemble", num_members=MEMBERS, **clipped), train("single", **clipped)
    ensemble.train()
    single.train()
    expected = weights_of(single, "reward")
    for key, tensor in weights_of(ensemble, "reward").items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=2e-5)


@pytest.mark.parametrize("loss_type", ["bradley_terry", "plackett_luce"])
def test_the_loss_is_that_of_every_comparison_and_member_by_its_weight(train, loss_type) -> None:
    trainer = train("run", num_members=2, loss_type=loss_type, center_coef=0.1)
    for role in trainer.roles:
        trainer.backbone.head(role.name).linear.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    examples = [replace(example, weight=1.0 + number) for number, example in enumerate(rankings(4))]
    batch = collate_pairs(examples)
    with torch.no_grad():
        members = trainer.member_scores(trainer.backbone, batch.packed).double().tolist()
        found = trainer.loss_sum(trainer.model, batch).item()

    expected = 0.0
    for member, scores in enumerate(members):
        rest = iter(scores)
        for example in examples:
            best, *others = (next(rest) for _ in example.group.response_ids)  # the first is better than all
            loss = sum(0.1 * (best + other) ** 2 for other in others) / len(others)
            if loss_type == "bradley_terry":
                loss += sum(math.log1p(math.exp(other - best)) for other in others) / len(others)
            else:  # the others tie: each is drawn among all of them
                loss += math.log(sum(math.exp(score - best) for score in (best, *others)))
                loss += sum(math.log(sum(math.exp(score - other) for score in others)) for other in others)
            drawn = bootstrap_weights([example.group], 2, trainer.args.seed)[member, 0].item()
            expected += drawn * example.weight * loss
    assert found == pytest.approx(expected, rel=1e-4)


def test_members_differ_from_the_start_and_after(train) -> None:
    trainer = train("run", num_members=MEMBERS)
    batch = collate_pairs(rankings())
    for _ in range(2):
        with torch.no_grad():
            scores = trainer.member_scores(trainer.backbone, batch.packed)
        assert scores.shape == (MEMBERS, batch.packed.num_responses)
        differences = [(scores[i] - scores[j]).abs().max().item() for i, j in [(0, 1), (0, 2), (1, 2)]]
        assert min(differences) > 1e-3
        trainer.train()
    start = [adapter_tensors(train("fresh", num_members=MEMBERS).backbone, role.name) for role in reward_roles(MEMBERS)]
    key = next(key for key in start[0] if "lora_A" in key)
    assert not start[0][key].allclose(start[1][key])


def test_members_are_saved_and_resumed_each_in_a_folder(train, tmp_path) -> None:
    settings = {"num_members": 2, "save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.1}
    whole = train("whole", **settings)
    whole.train()
    train("broken", **settings, max_steps=2).train()
    again = train("broken", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-2"))
    for role in reward_roles(2):
        expected = weights_of(whole, role.name)
        assert all(tensor.equal(expected[key]) for key, tensor in weights_of(again, role.name).items())
    assert (tmp_path / "broken" / "checkpoint-4" / "member_2" / "reward_head.safetensors").is_file()


def test_each_member_is_normalised_by_its_own_scores(train) -> None:
    trainer = train("run", num_members=MEMBERS)
    trainer.train()
    groups = [example.group for example in rankings()]
    before = torch.cat(trainer.score_groups(groups, "test"), dim=1).double()
    moments = trainer.normalise(groups)
    after = torch.cat(trainer.score_groups(groups, "test"), dim=1).double()
    assert after.mean(dim=1).tolist() == pytest.approx([0.0] * MEMBERS, abs=1e-5)
    assert after.std(dim=1, correction=0).tolist() == pytest.approx([1.0] * MEMBERS, abs=1e-5)
    for row, scores in zip(moments, before.numpy(), strict=True):
        assert row["mean"] == pytest.approx(np.mean(scores))
        assert row["deviation"] == pytest.approx(np.std(scores))
        assert row["num_responses"] == scores.size


def test_scores_that_do_not_differ_are_shifted_and_not_scaled(train, caplog) -> None:
    trainer = train("run")
    trainer.backbone.head("reward").linear.bias.data.fill_(3.0)
    trainer.normalise([Group([5, 6], [[7, 8]])])
    assert trainer.backbone.head("reward").scale.item() == 1
    assert trainer.score_groups([Group([5, 6], [[7, 8]])], "test")[0].item() == pytest.approx(0)
    assert "not scaled" in caplog.text


def test_groups_are_scored_in_their_order_whatever_the_passes(train) -> None:
    groups = [example.group for example in rankings()]
    trainer = train("run", num_members=2, micro_batch_tokens=45)
    trainer.train()
    found = trainer.score_groups(groups, "test")
    with torch.no_grad():
        for group, scores in zip(groups, found, strict=True):
            alone = trainer.member_scores(trainer.backbone, pack([group]))
            torch.testing.assert_close(scores, alone, rtol=0, atol=1e-5)


# ---- weights --------------------------------------------------------------------------------------------

GROUPS = st.lists(
    st.builds(
        Group,
        st.lists(st.integers(3, 60), min_size=1, max_size=6),
        st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=5), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@given(GROUPS, st.integers(0, 2**31), st.randoms())
def test_a_weight_follows_a_comparison_wherever_it_stands(groups, seed, draw) -> None:
    order = list(range(len(groups)))
    draw.shuffle(order)
    weights = bootstrap_weights(groups, 3, seed)
    assert bootstrap_weights([groups[index] for index in order], 3, seed).equal(weights[:, order])
    assert (weights > 0).all()
    assert (weights[0] == 1).all()


def test_weights_are_exponential_and_members_draw_apart() -> None:
    groups = [Group([number], [[number % 7, 1], [2]]) for number in range(4000)]
    weights = bootstrap_weights(groups, 3, 0)[1:].double().numpy()
    assert weights.mean(axis=1) == pytest.approx([1, 1], abs=0.06)
    assert weights.std(axis=1) == pytest.approx([1, 1], abs=0.06)
    assert np.mean(weights > 1, axis=1) == pytest.approx([np.exp(-1)] * 2, abs=0.03)
    assert abs(np.corrcoef(weights)[0, 1]) < 0.05
    other = bootstrap_weights(groups, 2, 1)[1].double().numpy()
    assert abs(np.corrcoef(weights[0], other)[0, 1]) < 0.05


# ---- scores ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_backbone(tiny_model) -> Backbone:
    """Two reward models as if trained."""
    backbone = Backbone(tiny_model())
    for seed, role in enumerate(reward_roles(2)):
        backbone.add_adapter(role.name, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(seed)
        head = backbone.add_head(role.name).linear.weight
        for parameter in [*backbone.adapter_parameters(role.name).values(), head]:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return backbone


@settings(deadline=None, max_examples=15)
@given(GROUPS, st.randoms())
def test_scores_do_not_change_with_the_order_of_groups_and_responses(trained_backbone, groups, draw) -> None:
    order = list(range(len(groups)))
    draw.shuffle(order)
    turned = [Group(groups[i].prompt_ids, list(reversed(groups[i].response_ids))) for i in order]

    def scores(packed_groups: list[Group]) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = trained_backbone(pack(packed_groups), reward_roles(2))
        rows = torch.stack([outputs[role.name].scores for role in reward_roles(2)])
        return list(rows.split([len(group.response_ids) for group in packed_groups], dim=1))

    found = scores(groups)
    for position, index in enumerate(order):
        torch.testing.assert_close(scores(turned)[position].flip(1), found[index], rtol=0, atol=2e-5)


def test_an_ensemble_scores_by_its_mean_minimum_and_mean_less_deviation() -> None:
    scores = scores_by_name([[[1.0, 2.0]], [[3.0, 2.0]], [[5.0, -1.0]]])
    assert scores[MODEL] == [[3.0, 1.0]]
    assert scores[MINIMUM] == [[1.0, -1.0]]
    assert scores[MEAN_LESS_DEVIATION][0] == pytest.approx([3 - (8 / 3) ** 0.5, 1 - 2**0.5])
    assert scores["member 3"] == [[5.0, -1.0]]
    assert list(scores_by_name([[[1.0, 2.0]]])) == [MODEL]


# ---- on disk --------------------------------------------------------------------------------------------


def test_a_folder_stands_for_its_members(tmp_path: Path) -> None:
    assert reward_members(tmp_path) == [tmp_path]
    for number in range(2, 12):
        (tmp_path / f"member_{number}").mkdir()
    with pytest.raises(ValueError, match="10 members of an ensemble and no member_1"):
        reward_members(tmp_path)
    (tmp_path / "member_1").mkdir()
    assert [path.name for path in reward_members(tmp_path)] == [f"member_{number}" for number in range(1, 12)]
    assert reward_members(tmp_path / "member_2") == [tmp_path / "member_2"]


# ---- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"loss_type": "hinge"}, "loss_type is 'hinge'"),
        ({"loss_type": "rao_kupper"}, "--ties half"),
        ({"loss_type": "rao_kupper", "ties": "half", "soft_labels": True}, "no --soft_labels"),
        ({"tie_threshold": 0.0}, "tie_threshold is 0.0"),
        ({"num_members": 0}, "num_members is 0"),
        ({"folds": 1}, "folds is 1"),
        ({"folds": 5, "fold": 5}, "fold is 5: with --folds 5 it lies from 0 to 4"),
        ({"fold": 1}, "fold is 1"),
        ({"folds": 5, "eval_file": ["a"]}, "both set"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, words, tmp_path) -> None:
    with pytest.raises(ValueError, match=words):
        RewardArguments(output_dir=str(tmp_path), **COMMON, **wrong)


@pytest.mark.parametrize("loss_type", ["bradley_terry", "rao_kupper", "plackett_luce"])
def test_every_loss_learns_from_ties_and_a_step_of_ties_alone_logs_no_accuracy(train, loss_type) -> None:
    trainer = train("run", ties="half", loss_type=loss_type)
    group = rankings(1)[0].group
    tie = RankedGroup(group, [(0, 1)], 0.0, 1.0, "0", targets=[0.5], ranks=(1.0, 1.0))
    count = trainer._get_num_items_in_batch([[tie]], torch.device("cpu"))
    torch.nn.init.normal_(trainer.backbone.head("reward").linear.weight, generator=torch.Generator().manual_seed(1))
    loss = trainer.training_step(trainer.model, [tie], num_items_in_batch=count)
    assert loss.isfinite()
    assert trainer.backbone.head("reward").linear.weight.grad.norm() > 0
    assert "reward/accuracy" not in trainer._take_recorded()


def test_of_ties_alone_there_is_no_accuracy(train) -> None:
    tie = RankedGroup(rankings(1)[0].group, [(0, 1)], 0.0, 1.0, "0", targets=[0.5], ranks=(1.0, 1.0))
    assert train("run", ties="half").accuracy([tie]).to_dict() == {"value": None, "low": None, "high": None, "n": 0}
