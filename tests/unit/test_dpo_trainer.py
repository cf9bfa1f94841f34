"""Every `--loss_type` in training: what it learns, logs, remembers, shares between passes and refuses."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import set_seed

from rlhf.engine.adapters import adapter_tensors
from rlhf.engine.backbone import POLICY, Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_arguments import LOSSES, NOT_OFFERED, OF_RANKINGS, WITHOUT_REFERENCE, DPOArguments
from rlhf.training.dpo_losses import ResponseTerms, imitated_tokens, pair_losses
from rlhf.training.dpo_trainer import DPOTrainer
from rlhf.training.examples import PairBatch, RankedGroup, collate_pairs

DOCS = Path(__file__).resolve().parents[2] / "docs" / "dpo.md"
COMMON: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
NEEDED = {"exo_pair": {"label_smoothing": 0.01}, "simpo": {"beta": 2.0}}  # what a loss does not go without
OF_PAIRS = [name for name in LOSSES if name not in OF_RANKINGS]
every_loss = pytest.mark.parametrize("name", LOSSES)
every_loss_of_pairs = pytest.mark.parametrize("name", OF_PAIRS)


def rankings(num: int = 6) -> list[RankedGroup]:
    """Rankings of 2 to 4 responses with margins, weights, and in some of them votes or a tie."""
    draw = random.Random(0)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, 60) for _ in range(draw.randint(low, high))]

    examples = []
    for number in range(num):
        group = Group(tokens(3, 9), [tokens(2, 8) for _ in range(2 + number % 3)])
        pairs = [(0, k) for k in range(1, len(group.response_ids))]
        targets = [1.0 if number % 2 else 0.75] * (len(pairs) - 1) + [0.5 if number == 4 else 1.0]
        examples.append(RankedGroup(group, pairs, number / 4, 1.0 + number / 10, str(number), targets))
    return examples


def arguments(folder: Path, loss_type: list[str], **given: Any) -> DPOArguments:
    needed = {key: value for name in loss_type for key, value in NEEDED.get(name, {}).items()}
    return DPOArguments(
        output_dir=str(folder), loss_type=loss_type, **{**COMMON, "dtype": "float32", **needed, **given}
    )


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    def make(loss_type: list[str], folder: str = "run", examples: list[RankedGroup] | None = None, **given: Any):
        set_seed(3)
        dtype = torch.float64 if given.get("dtype") == "float64" else torch.float32
        backbone = Backbone(tiny_model(dtype=dtype))
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        backbone.add_adapter("policy", lora)
        args = arguments(tmp_path / folder, loss_type, **given)
        return DPOTrainer(backbone, args, backbone_path="tiny", train_dataset=examples or rankings())

    return make


def step(trainer: DPOTrainer, batch: list[RankedGroup]) -> tuple[float, dict[str, torch.Tensor]]:
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.training_step(trainer.model, batch, num_items_in_batch=count)
    return loss.item(), {n: p.grad for n, p in trainer.backbone.named_parameters() if p.requires_grad}


@torch.no_grad()
def gap(trainer: DPOTrainer, examples: list[RankedGroup]) -> float:
    """Mean log-probability of the better response less that of the worse one, by tokens."""
    batch = collate_pairs(examples)
    logprobs = trainer.backbone(batch.packed, [POLICY])["policy"].logprobs
    means = batch.packed.sum_by_response(logprobs) / torch.tensor(batch.packed.response_lengths)
    return (means[batch.chosen_index] - means[batch.rejected_index]).mean().item()


# ---- learning -------------------------------------------------------------------------------------------


@every_loss
def test_a_few_steps_put_the_better_response_first(name, make_trainer) -> None:
    examples = [dataclasses.replace(example, targets=[]) for example in rankings(4)]
    trainer = make_trainer([name], examples=examples)
    optimizer = torch.optim.AdamW(trainer.backbone.adapter_parameters("policy").values(), lr=2e-2)
    before = gap(trainer, examples)
    for _ in range(3):
        step(trainer, examples)
        optimizer.step()
        optimizer.zero_grad()
    assert gap(trainer, examples) > before + 0.05
    row = trainer._take_recorded()
    assert row["reward/margin"] == pytest.approx(row["reward/chosen"] - row["reward/rejected"], abs=1e-5)
    assert trainer.accuracy(examples).value > 0.5


@pytest.mark.parametrize(
    ("losses", "given"),
    [
        (["sigmoid"], {"label_smoothing": 0.1, "margin_weight": 0.5}),
        (["bco_pair", "sft"], {"loss_weights": [1.0, 0.3]}),
        (["orpo", "simpo"], {}),
        (["plackett_luce", "ipo", "apo_zero"], {"length_normalization": True}),
        (["exo_pair"], {"f_divergence_type": "js_divergence"}),
    ],
    ids=lambda value: "-".join(value),
)
def test_passes_teach_what_the_whole_batch_does(losses, given, make_trainer, float64_norms) -> None:
    ends = []
    for budget in (0, 40):
        trainer = make_trainer(losses, str(budget), dtype="float64", micro_batch_tokens=budget, **given)
        with torch.no_grad():
            for parameter in trainer.backbone.adapter_parameters("policy").values():
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)
        trainer._rewards.update(10, 0.2, 0.0)
        ends.append((*step(trainer, rankings()), trainer._take_recorded(), trainer._rewards))
    (loss, gradients, logged, rewards), (split_loss, split_gradients, split_logged, split_rewards) = ends
    assert split_loss == pytest.approx(loss, rel=1e-6)
    for key, gradient in gradients.items():
        assert gradient.norm() > 0
        torch.testing.assert_close(split_gradients[key], gradient, rtol=0, atol=1e-6 * float(gradient.norm()))
    assert split_logged == pytest.approx(logged, rel=1e-5)
    assert split_rewards.mean == pytest.approx(rewards.mean)


def test_losses_add_up_by_their_weights_and_are_logged_by_name(make_trainer) -> None:
    weights = {"hinge": 0.5, "sft": 0.25, "plackett_luce": 2.0}
    trainer = make_trainer(list(weights), loss_weights=list(weights.values()))
    loss, _ = step(trainer, rankings())
    logged = trainer._take_recorded()
    assert loss == pytest.approx(sum(weight * logged[f"loss/{name}"] for name, weight in weights.items()), rel=1e-6)
    alone = {name: step(make_trainer([name]), rankings())[0] for name in weights}
    assert alone == pytest.approx({name: logged[f"loss/{name}"] for name in weights}, rel=1e-6)
    trainer = make_trainer(["hinge"])
    step(trainer, rankings())
    assert not any(name.startswith("loss/") for name in trainer._take_recorded())


def test_plackett_luce_of_pairs_is_dpo_with_its_gradients(make_trainer) -> None:
    examples = [dataclasses.replace(rankings()[index], targets=[]) for index in (0, 3)]
    (loss, gradients), (expected_loss, expected) = (
        step(make_trainer([name]), examples) for name in ("plackett_luce", "sigmoid")
    )
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-7)


# ---- reference ------------------------------------------------------------------------------------------


def test_losses_without_a_reference_never_read_it(make_trainer) -> None:
    trainer = make_trainer(["simpo", "orpo", "sft"], max_steps=2, per_device_train_batch_size=3)
    roles: list[Any] = []
    rows = trainer.backbone._adapters_by_row
    trainer.backbone.model.base_model.register_forward_hook(lambda *_: roles.extend(rows))
    trainer.train()
    trainer.accuracy(rankings())
    assert set(roles) == {"policy"}
    assert len(trainer.reference_cache) == 0


def test_rewards_without_a_reference_are_mean_logprobs(make_trainer) -> None:
    trainer = make_trainer(["simpo"], beta=2.0, ties="half")
    step(trainer, rankings())
    logged = trainer._take_recorded()
    batch = collate_pairs(rankings())
    logprobs = trainer.backbone(batch.packed, [POLICY])["policy"].logprobs
    means = batch.packed.sum_by_response(logprobs) / torch.tensor(batch.packed.response_lengths)
    decided = batch.chosen_index[batch.target > 0.5]
    assert logged["reward/chosen"] == pytest.approx(2 * means[decided].mean().item(), rel=1e-5)


# ---- the shift of bco_pair ------------------------------------------------------------------------------


def test_the_shift_is_the_mean_reward_of_all_steps_before(make_trainer) -> None:
    trainer = make_trainer(["bco_pair"], max_steps=3, per_device_train_batch_size=3, learning_rate=1e-2)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(sum(e.weight for e in first_batch(trainer)) / 3 * 2 * 0.693147, rel=1e-5)
    assert trainer._rewards.count > 0
    assert trainer.stage_state()["rewards"]["mean"] == trainer._rewards.mean != 0
    assert make_trainer(["sigmoid"]).stage_state() == {}


def test_the_shift_waits_for_the_whole_step_and_counts_no_response_twice(make_trainer, monkeypatch) -> None:
    trainer = make_trainer(["bco_pair"])
    passes = [[0, 1, 2], [3, 4, 5], []]  # the last as where another process needs three
    monkeypatch.setattr(trainer, "agreed_passes", lambda batches: [passes])
    for ends_step, count in ((False, 0), (True, 48)):  # 12 pairs of two responses, twice
        trainer.accelerator.gradient_state._set_sync_gradients(ends_step)
        step(trainer, rankings())
        assert trainer._rewards.count == count


def first_batch(trainer: DPOTrainer) -> list[RankedGroup]:
    set_seed(trainer.args.seed)
    return next(iter(trainer.get_train_dataloader()))


def test_a_resumed_run_of_bco_ends_with_the_same_bytes(make_trainer, tmp_path) -> None:
    given = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "num_train_epochs": 2}
    whole = make_trainer(["bco_pair", "sft"], "whole", max_steps=4, **given)
    whole.train()
    make_trainer(
        ["bco_pair", "sft"], "broken", max_steps=2, save_steps=2, **{**given, "save_strategy": "steps"}
    ).train()
    checkpoint = tmp_path / "broken" / "checkpoint-2"
    assert json.loads((checkpoint / "stage_state.json").read_text())["rewards"]["mean"] != 0
    resumed = make_trainer(["bco_pair", "sft"], "broken", max_steps=4, **given)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = adapter_tensors(whole.backbone, "policy"), adapter_tensors(resumed.backbone, "policy")
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert resumed.stage_state() == whole.stage_state()


# ---- targets, margins and weights -----------------------------------------------------------------------


def batch_of(target: float, margin: float = 0.0) -> PairBatch:
    """One pair: the responses have 3 and 5 tokens, the chosen one stands second."""
    group = Group([1, 2], [[3] * 3, [4] * 5])
    return collate_pairs([RankedGroup(group, [(1, 0)], margin, 1.0, "p", [target])])


def losses_of(name: str, args: DPOArguments, terms: ResponseTerms, batch: PairBatch) -> torch.Tensor:
    return pair_losses(name, args, terms, batch, reward_shift=0.2, imitated_length=4.0)


def terms_of(first: float, second: float, score: float) -> ResponseTerms:
    values = torch.tensor([first, second], dtype=torch.float64)
    return ResponseTerms(values, values - torch.tensor([score, -score]), torch.tensor([3, 5]))


@every_loss_of_pairs
@settings(deadline=None, max_examples=25)
@given(
    logprobs=st.tuples(st.floats(-30, -0.1), st.floats(-30, -0.1)),
    score=st.floats(-5, 5),
    target=st.floats(0.5, 1),
    margin=st.floats(0, 3),
)
def test_a_pair_told_the_other_way_round_is_the_same_loss(
    name, logprobs, score, target, margin, tmp_path_factory
) -> None:
    takes_margin = name in ("sigmoid", "hinge", "robust", "simpo")
    args = arguments(tmp_path_factory.getbasetemp(), [name], margin_weight=0.5 if takes_margin else 0.0)
    terms, batch = terms_of(*logprobs, score), batch_of(target, margin)
    told = dataclasses.replace(
        batch, chosen_index=batch.rejected_index, rejected_index=batch.chosen_index, target=1 - batch.target
    )
    expected = losses_of(name, args, terms, batch).item()
    assert losses_of(name, args, terms, told).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_margin_asked_is_weighed_and_none_of_a_tie(tmp_path) -> None:
    terms = ResponseTerms(torch.zeros(2), torch.tensor([1.0, 4.0]), torch.tensor([3, 5]))
    args = arguments(tmp_path, ["sigmoid"], beta=0.5, margin_weight=0.25)
    (loss,) = losses_of("sigmoid", args, terms, batch_of(1.0, margin=2.0)).tolist()
    assert loss == pytest.approx(0.313262)  # log(1 + exp(-(.5 * 3 - .25 * 2)))
    (tied,) = losses_of("sigmoid", args, terms, batch_of(0.5, margin=2.0)).tolist()
    assert tied == pytest.approx(0.951413)  # half of log(1 + exp(-1.5)) + log(1 + exp(1.5))
    (hinge,) = losses_of("hinge", args, terms, batch_of(1.0, margin=6.0)).tolist()
    assert hinge == pytest.approx(1.0)  # 1 - (1.5 - 1.5)
    simpo = arguments(tmp_path, ["simpo"], beta=2.0, margin_weight=0.25, simpo_gamma=0.7)
    logprobs = ResponseTerms(torch.tensor([-6.0, -5.0]), None, torch.tensor([3, 5]))
    (loss,) = losses_of("simpo", simpo, logprobs, batch_of(1.0, margin=2.0)).tolist()
    assert loss == pytest.approx(0.371101)  # log(1 + exp(-(2 * (-1 + 2) - .7 - .5)))


@every_loss
def test_margins_of_the_data_are_ignored_unless_asked_for(name, make_trainer) -> None:
    trainer = make_trainer([name])
    losses = [
        step(trainer, [dataclasses.replace(example, margin=margin) for example in rankings()])[0]
        for margin in (0.0, 5.0)
    ]
    assert losses[0] == losses[1]


@every_loss
def test_a_comparison_of_twice_the_weight_counts_twice(name, make_trainer) -> None:
    trainer = make_trainer([name])
    light, heavy = (
        step(trainer, [dataclasses.replace(example, weight=weight) for example in rankings()])[0] for weight in (1, 2)
    )
    assert heavy == pytest.approx(2 * light, rel=1e-6)


@every_loss_of_pairs
def test_tokens_outside_the_pair_get_no_gradient_and_change_nothing(name, make_trainer) -> None:
    group = Group([1, 2], [[3] * 3, [4] * 5, [5] * 4])
    examples = [RankedGroup(group, [(2, 0)], 0.0, 1.0, "p")]
    trainer, losses = make_trainer([name]), []
    trainer.reference_cache.add([group], torch.tensor([-5.0, -8.0, -6.0]))
    for other in (-1.0, -7.0):
        policy = torch.tensor([-1.0] * 3 + [other] * 5 + [-2.0] * 4, requires_grad=True)
        count = trainer._get_num_items_in_batch([examples], torch.device("cpu"))
        batch = collate_pairs(examples)
        model = lambda packed, roles, said=policy: {"policy": SimpleNamespace(logprobs=said)}  # noqa: E731
        loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
        loss.backward()
        losses.append(loss.item())
        assert policy.grad is not None
        assert policy.grad[3:8].tolist() == [0.0] * 5
        assert policy.grad[8:].abs().sum() > 0 or name == "hinge"
    assert losses[0] == losses[1]


def test_imitated_tokens_are_those_of_the_better_response() -> None:
    group = Group([1], [[3] * 3, [4] * 5, [5] * 4])
    assert imitated_tokens(RankedGroup(group, [(0, 1), (0, 2), (2, 1)], 0.0, 1.0, "p")) == pytest.approx(10 / 3)
    assert imitated_tokens(RankedGroup(group, [(0, 1)], 0.0, 1.0, "p", [0.75])) == pytest.approx(3.5)


# ---- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss_type": ["sigmod"]}, ["'sigmod'", "did you mean 'sigmoid'", "plackett_luce"]),
        ({"loss_type": []}, ["loss_type is empty"]),
        ({"loss_type": ["ipo", "ipo"]}, ["ipo ipo", "once"]),
        ({"loss_type": ["sigmoid_norm"]}, ["sigmoid with --length_normalization true"]),
        ({"loss_type": ["sigmoid", "aot"]}, ["'aot'", "passes and processes"]),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, ["1 weights for 2 losses"]),
        ({"loss_weights": [0.0]}, ["loss_weights has 0.0", "above 0"]),
        ({"loss_weights": [float("nan")]}, ["loss_weights has nan"]),
        ({"beta": 0.0}, ["beta is 0.0"]),
        ({"beta": float("inf")}, ["beta is inf", "finite"]),
        ({"label_smoothing": 0.5}, ["label_smoothing is 0.5", "below .5"]),
        ({"loss_type": ["ipo"], "label_smoothing": 0.1}, ["label_smoothing is 0.1", "ipo does not read", "robust"]),
        ({"loss_type": ["exo_pair"]}, ["label_smoothing is 0", ".001"]),
        ({"loss_type": ["nca_pair"], "margin_weight": 1.0}, ["margin_weight is 1.0", "nca_pair does not read"]),
        ({"margin_weight": -1.0}, ["margin_weight is -1.0", "at least 0"]),
        ({"margin_weight": float("nan")}, ["margin_weight is nan", "finite"]),
        ({"loss_type": ["ipo"], "length_normalization": True}, ["length_normalization is True", "ipo does not read"]),
        ({"loss_type": ["simpo"], "simpo_gamma": -0.1}, ["simpo_gamma is -0.1", "at least 0"]),
        ({"simpo_gamma": 1.0}, ["simpo_gamma is 1.0", "sigmoid does not read", "simpo"]),
        ({"f_divergence_type": "jensen"}, ["f_divergence_type is 'jensen'", "js_divergence"]),
        ({"loss_type": ["bco_pair"], "f_divergence_type": "forward_kl"}, ["forward_kl", "bco_pair has no meaning"]),
        ({"loss_type": ["simpo"], "f_divergence_type": "forward_kl"}, ["forward_kl", "reads no reference"]),
        ({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0}, ["coef is 2.0", "0 to 1"]),
        ({"f_alpha_divergence_coef": 0.3}, ["f_alpha_divergence_coef is 0.3", "alpha_divergence"]),
        ({"loss_type": ["plackett_luce"], "soft_labels": True}, ["soft_labels", "plackett_luce reads ranks"]),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join(map(str, value)),
)
def test_settings_that_cannot_be_meant_are_refused(given, words, tmp_path) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as refused:
        DPOArguments(output_dir=str(tmp_path), **{**COMMON, **given})
    for word in words:
        assert word in str(refused.value)


def test_a_beta_of_sums_is_warned_of_where_means_are_read(tmp_path, caplog) -> None:
    arguments(tmp_path, ["simpo"], beta=0.1)
    assert "beta is 0.1, small for means over tokens" in caplog.text
    caplog.clear()
    arguments(tmp_path, ["simpo"], beta=2.0)
    arguments(tmp_path, ["sigmoid", "orpo"], beta=0.1)
    assert "beta" not in caplog.text


def test_the_docs_list_every_loss_and_no_other() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == list(LOSSES)
    assert set(WITHOUT_REFERENCE) == set(
        re.search(r"Without a reference: (.*)\.", text)[1].replace("`", "").split(", ")
    )
    for name in NOT_OFFERED:
        assert f"`{name}`" in text
