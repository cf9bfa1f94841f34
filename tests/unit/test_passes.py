"""A batch split into passes of a token budget teaches what the whole batch teaches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reward.trainer import RewardArguments, RewardTrainer
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Message
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_trainer import DPOArguments, DPOTrainer
from rlhf.training.examples import RankedGroup
from rlhf.training.passes import split_further, token_passes
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer

VOCABULARY = 61
COMMON = {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "lora_r": 4}
DTYPES = [(torch.float64, "float64", 1e-12), (torch.float32, "float32", 1e-6)]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'][0] + ':' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)


# ---- which groups share a pass --------------------------------------------------------------------------


def test_groups_are_packed_longest_first_into_the_first_pass_with_room() -> None:
    # 7 + 3 = 10, 6 + 4 = 10, then 5: by hand
    assert token_passes([3, 5, 7, 4, 6], 10) == [[0, 2], [1], [3, 4]]


def test_a_batch_that_fits_stays_as_it_stands() -> None:
    assert token_passes([3, 5, 2], 10) == [[0, 1, 2]]
    assert token_passes([300, 500], 0) == [[0, 1]]
    assert token_passes([], 10) == []


def test_a_group_over_the_budget_goes_alone() -> None:
    assert token_passes([4, 50, 4], 10) == [[0, 2], [1]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_every_group_is_in_one_pass_and_passes_keep_the_budget(lengths: list[int], max_tokens: int) -> None:
    passes = token_passes(lengths, max_tokens)
    assert sorted(index for indices in passes for index in indices) == list(range(len(lengths)))
    for indices in passes:
        assert len(indices) == 1 or sum(lengths[index] for index in indices) <= max_tokens
    # first fit never opens a pass while two of them would fit into one
    totals = sorted(sum(lengths[index] for index in indices) for indices in passes)
    assert len(totals) == 1 or totals[0] + totals[1] > max_tokens


def test_passes_are_split_until_there_are_enough() -> None:
    lengths = [9, 1, 1, 1, 1]
    assert split_further([[0], [1, 2, 3, 4]], lengths, 3) == [[0], [1, 2], [3, 4]]
    assert split_further([[0], [1, 2, 3, 4]], lengths, 9) == [[0], [1], [2], [3], [4]]
    assert split_further([[0, 1], [2]], lengths, 2) == [[0, 1], [2]]


# ---- pairs and rankings ---------------------------------------------------------------------------------


def rankings() -> list[RankedGroup]:
    """Six rankings of 2 to 4 responses, 8 to 38 tokens each."""
    draw = random.Random(0)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(low, high))]

    examples = []
    for number in range(6):
        group = Group(tokens(3, 9), [tokens(2, 8) for _ in range(2 + number % 3)])
        pairs = [(0, k) for k in range(1, len(group.response_ids))]
        examples.append(RankedGroup(group, pairs, number / 4, 1.0 + number / 10, str(number)))
    return examples


@pytest.fixture
def make_backbone(tiny_model, fill_adapter, float64_norms) -> Any:
    """`make_backbone(dtype, names)`: with adapters and heads of these names, all as if trained."""

    def make(dtype: torch.dtype, *names: str) -> Backbone:
        backbone = Backbone(tiny_model(dtype=dtype))
        for seed, name in enumerate(names):
            config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
            backbone.add_adapter(name, config)
            fill_adapter(backbone, name, seed=seed)
            head = backbone.add_head(name)
            torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(10 + seed))
        return backbone

    return make


def pair_trainer(stage: str, backbone: Backbone, folder: Path, **settings: Any) -> DPOTrainer | RewardTrainer:
    trainer, arguments = {"dpo": (DPOTrainer, DPOArguments), "reward": (RewardTrainer, RewardArguments)}[stage]
    args = arguments(output_dir=str(folder), **COMMON, **settings)
    return trainer(backbone, args, backbone_path="tiny", train_dataset=rankings())


def gradients_of_a_step(trainer: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = rankings()
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.training_step(trainer.model, batch, num_items_in_batch=count)
    parameters = {name: p.grad for name, p in trainer.backbone.named_parameters() if p.requires_grad}
    return loss, parameters


@pytest.mark.parametrize(("dtype", "name", "tolerance"), DTYPES)
@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_pairs_give_the_gradients_of_the_whole_batch(
    stage, dtype, name, tolerance, make_backbone, tmp_path, monkeypatch
) -> None:
    names = ["policy", "reward"]
    whole = pair_trainer(stage, make_backbone(dtype, *names), tmp_path / "whole", dtype=name)
    split = pair_trainer(stage, make_backbone(dtype, *names), tmp_path / "split", dtype=name, micro_batch_tokens=40)
    sizes = []
    forward = split.model.forward
    monkeypatch.setattr(
        split.model, "forward", lambda batch, *rest, **kw: sizes.append(batch.num_groups) or forward(batch, *rest, **kw)
    )
    expected_loss, expected = gradients_of_a_step(whole)
    loss, gradients = gradients_of_a_step(split)
    assert sum(sizes) == 6 * (2 if stage == "dpo" else 1), "DPO reads the reference too"
    assert len(sizes) >= 3
    assert max(sizes) < 6
    assert loss.item() == pytest.approx(expected_loss.item(), rel=tolerance)
    for key, gradient in gradients.items():
        assert expected[key].norm() > 0
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=tolerance * float(expected[key].norm()))
    assert split._take_recorded() == pytest.approx(whole._take_recorded(), rel=1e-5)


def test_gradients_meet_in_the_last_pass_of_the_last_batch_of_a_step(make_backbone, tmp_path, monkeypatch) -> None:
    trainer = pair_trainer(
        "reward", make_backbone(torch.float32, "reward"), tmp_path, dtype="float32", micro_batch_tokens=40
    )
    state, backward, seen = trainer.accelerator.gradient_state, trainer.backward, []
    monkeypatch.setattr(trainer, "backward", lambda loss: seen.append(state.sync_gradients) or backward(loss))
    for ends_step in (False, True):
        state._set_sync_gradients(ends_step)
        gradients_of_a_step(trainer)
        assert state.sync_gradients is ends_step
        assert seen == [False] * (len(seen) - 1) + [ends_step]
        assert len(seen) > 2
        seen.clear()


def test_a_pass_that_only_other_processes_need_changes_nothing(make_backbone, tmp_path, monkeypatch) -> None:
    alone = pair_trainer("reward", make_backbone(torch.float64, "reward"), tmp_path / "a", dtype="float64")
    other = pair_trainer("reward", make_backbone(torch.float64, "reward"), tmp_path / "b", dtype="float64")
    monkeypatch.setattr(other, "agreed_passes", lambda batches: [[*token_passes(batches[0], 0), [], []]])
    expected_loss, expected = gradients_of_a_step(alone)
    loss, gradients = gradients_of_a_step(other)
    assert loss.equal(expected_loss)
    assert all(gradient.equal(expected[key]) for key, gradient in gradients.items())
    assert other._take_recorded() == alone._take_recorded()


def test_evaluation_scores_every_response_in_its_passes(make_backbone, tmp_path) -> None:
    backbone = make_backbone(torch.float64, "reward")
    whole = pair_trainer("reward", backbone, tmp_path / "a", dtype="float64")
    split = pair_trainer("reward", backbone, tmp_path / "b", dtype="float64", micro_batch_tokens=40)

    def scores(trainer: Any) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for chunk, _, values in trainer.scored(rankings(), "test"):
            remaining = iter(values.tolist())
            for example in chunk:
                found[example.prompt_id] = [next(remaining) for _ in example.group.response_ids]
        return found

    expected, found = scores(whole), scores(split)
    assert found.keys() == expected.keys()
    assert len(expected) == 6
    for prompt, values in expected.items():
        assert found[prompt] == pytest.approx(values, rel=1e-5)
    assert len(list(split.scored(rankings(), "test"))) > len(list(whole.scored(rankings(), "test")))


# ---- PPO ------------------------------------------------------------------------------------------------


def letters_chat() -> Chat:
    """A chat format whose tokens are letters."""
    letters = ["<unk>", "<s>", "</s>", *map(chr, range(65, 91)), *map(chr, range(97, 123)), ":", "?", " "]
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(" ", "isolated"), decoders.Fuse()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **special)
    assert len(letters) <= VOCABULARY
    return Chat(tokenizer, 40, 40)


class Vowels:
    """Scores a response by its share of vowels."""

    name = "vowels"

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        return [sum(letter in "aeiouAEIOU" for letter in text) / (len(text) + 1) for text in responses]


def ppo_trainer(backbone: Backbone, folder: Path, **settings: Any) -> PPOTrainer:
    prompts = [Comparison(prompt=(Message("user", "abc" * (number + 1) + "?"),)) for number in range(8)]
    args = PPOArguments(
        output_dir=str(folder),
        scorer="vowels",
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        num_mini_batches=2,
        num_ppo_epochs=2,
        samples_per_prompt=2,
        max_new_tokens=7,
        max_steps=1,
        # plain gradient descent: the weights moved show the gradients, where Adam shows little more than their signs
        optim="sgd",
        learning_rate=0.5,
        **COMMON,
        **settings,
    )
    return PPOTrainer(backbone, args, chat=letters_chat(), prompts=prompts, scorers=[Vowels()], backbone_path="tiny")


@pytest.mark.parametrize(("dtype", "name", "tolerance"), DTYPES)
@pytest.mark.parametrize("value_model", ["adapter", "shared"])
def test_ppo_learns_what_it_learns_from_whole_batches(
    value_model, dtype, name, tolerance, make_backbone, tmp_path
) -> None:
    before = make_backbone(dtype, "policy", "value")
    start = {key: parameter.detach().clone() for key, parameter in before.named_parameters()}
    moved = []
    for budget in (0, 60):
        backbone = make_backbone(dtype, "policy", "value")
        folder = tmp_path / str(budget)
        trainer = ppo_trainer(backbone, folder, dtype=name, value_model=value_model, micro_batch_tokens=budget)
        rollout = trainer.sample_rollout(trainer.next_prompts())
        minibatches = trainer._minibatches(rollout)
        assert [sum(batch.packed.num_groups for batch in minibatch) for minibatch in minibatches] == [6, 6]
        assert len(rollout) == 4 if budget == 0 else len(rollout) > 4
        trainer.prompt_position = 0
        trainer.train()
        moved.append({key: p.detach() - start[key] for key, p in backbone.named_parameters() if p.requires_grad})
    whole, split = moved
    assert any("lora_B" in key for key in whole)
    for key, change in whole.items():
        assert change.norm() > 0
        # four steps on, rounding has gone through the model four times
        assert (split[key] - change).norm() <= 20 * tolerance * change.norm(), key
