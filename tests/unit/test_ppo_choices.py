"""What PPO's choices do to a run, on a tiny model in this process."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from rlhf.algorithms.kl import AdaptiveKL, FixedKL
from rlhf.data.comparisons import Comparison, Message
from rlhf.engine.adapters import adapter_tensors, copy_adapter
from rlhf.engine.backbone import POLICY, Backbone
from rlhf.engine.generation import Sample
from rlhf.engine.packing import Group, pack
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.stopping import ScorerError
from tests.unit.tiny_ppo import GOOD, WORDS, Rule, share_of, word_chat

WITHOUT_VALUE = ("rloo", "grpo", "reinforce_pp")
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
SMALL = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "samples_per_prompt": 3,
    "max_new_tokens": 6,
    "max_steps": 2,
    "learning_rate": 3e-3,
    "dtype": "float32",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "monitors": "off",
}


def good() -> Rule:
    return Rule(share_of(GOOD), "good")


@pytest.fixture
def make_trainer(tiny_model, fill_adapter, tmp_path) -> Callable[..., PPOTrainer]:
    """`make_trainer(folder, scorers=, demonstrations=, trained=, **settings)`: policy, value, reference as asked."""

    def make(
        folder: str = "run",
        *,
        scorers: Sequence[Any] | None = None,
        demonstrations: Sequence[Group] = (),
        trained: bool = False,
        **changes: Any,
    ) -> PPOTrainer:
        scorers = [good()] if scorers is None else scorers
        args = PPOArguments(
            output_dir=str(tmp_path / folder), scorer=[scorer.name for scorer in scorers], **{**SMALL, **changes}
        )
        backbone = Backbone(tiny_model(vocab_size=len(WORDS) + 4))
        torch.manual_seed(7)
        backbone.add_adapter("policy", LoraConfig(**LORA))
        if trained:
            fill_adapter(backbone, "policy", seed=3)
        if args.holds_reference:
            backbone.add_adapter("reference", copy.deepcopy(backbone.adapter_configs["policy"]))
            if args.reference == "start":
                copy_adapter(backbone, "policy", "reference")
        if args.value_model == "adapter":
            backbone.add_adapter("value", LoraConfig(**LORA))
        if args.value_model != "none":
            backbone.add_head("value")
        return PPOTrainer(
            backbone,
            args,
            chat=word_chat(),
            prompts=[Comparison(prompt=(Message("user", word),)) for word in WORDS],
            scorers=scorers,
            demonstrations=demonstrations,
            backbone_path="tiny",
        )

    return make


def rows(trainer: PPOTrainer) -> list[dict[str, Any]]:
    return [row for row in trainer.state.log_history if "objective/score" in row]


def policy(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return adapter_tensors(trainer.backbone, "policy")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


# ---- estimators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["gae", *WITHOUT_VALUE])
def test_every_estimator_starts_at_ratio_1_and_learns_what_the_scorer_likes(estimator, make_trainer) -> None:
    trainer = make_trainer(
        advantage_estimator=estimator, max_steps=7, samples_per_prompt=4, learning_rate=3e-2, kl_coef=0.0,
        per_device_train_batch_size=8, gradient_accumulation_steps=1, num_mini_batches=1, missing_eos_penalty=0.0,
    )  # fmt: skip
    trainer.train()
    found = rows(trainer)
    assert found[0]["objective/kl"] == 0
    for row in found:
        assert row["policy/first_ratio_error"] == 0
        assert row["policy/first_approx_kl"] == 0
        assert row["policy/optimizer_steps"] == 2
        assert ("value/explained_variance" in row) == ("loss/value" in row) == (estimator == "gae")
    scores = [row["objective/score"] for row in found]
    assert sum(scores[-2:]) / 2 > sum(scores[:2]) / 2 + 0.15


@pytest.mark.parametrize("estimator", WITHOUT_VALUE)
def test_without_a_value_model_nothing_of_one_is_trained_or_saved(estimator, make_trainer, tmp_path) -> None:
    trainer = make_trainer(advantage_estimator=estimator, max_steps=1)
    assert set(trainer.backbone.adapter_configs) == {"policy"}
    assert not trainer.backbone.heads
    assert [role.name for role in trainer.roles.training] == ["policy"]
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "run" / "value").exists()
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def test_grpo_gives_every_token_of_a_response_its_place_in_the_group(make_trainer) -> None:
    trainer = make_trainer(advantage_estimator="grpo", kl_coef=0.0, missing_eos_penalty=0.0)
    rollout = trainer.sample_rollout(trainer.next_prompts())
    with torch.no_grad():
        trainer.measure(rollout)
    trainer.estimate_advantages(rollout)
    for batch in rollout:
        for group in range(batch.packed.num_groups):
            mine = (batch.packed.group_index == group).nonzero().flatten().tolist()
            scores = batch.scores[mine].double()
            spread = ((scores - scores.mean()) ** 2).mean().sqrt()
            for response, score in zip(mine, scores.tolist(), strict=True):
                tokens = batch.advantages[batch.packed.response_index == response]
                assert tokens.tolist() == pytest.approx([(score - scores.mean().item()) / (spread.item() + 1e-4)] * len(tokens), abs=1e-4)  # fmt: skip # noqa: E501


# ---- what stops, warms up and mixes in ------------------------------------------------------------------


def test_a_policy_that_is_far_off_ends_its_epochs_and_the_schedule_goes_on(make_trainer) -> None:
    schedule = {"lr_scheduler_type": "linear", "num_ppo_epochs": 3, "max_steps": 2}
    whole = make_trainer("whole", **schedule)
    short = make_trainer("short", target_approx_kl=1e-9, **schedule)
    whole.train()
    short.train()
    # the first step is at ratio 1, the second sees that the policy moved
    assert [row["policy/optimizer_steps"] for row in rows(short)] == [2, 2]
    assert [row["policy/optimizer_steps"] for row in rows(whole)] == [6, 6]
    assert [row["learning_rate"] for row in rows(short)] == [row["learning_rate"] for row in rows(whole)]
    roomy = make_trainer("roomy", target_approx_kl=1e9, **schedule)
    roomy.train()
    assert equal(policy(roomy), policy(whole))


@pytest.mark.parametrize("value_model", ["adapter", "shared"])
def test_while_the_value_model_warms_up_the_policy_stands(value_model, make_trainer) -> None:
    trainer = make_trainer(value_model=value_model, value_warmup_steps=2, max_steps=3)
    policies, heads = [], []

    def look(backbone: Backbone) -> None:
        policies.append(policy(trainer))
        heads.append(backbone.head("value").linear.weight.detach().clone())

    trainer.watch.before_update = look
    trainer.train()
    first, second, third = policies
    assert equal(first, second)
    assert equal(first, third)
    assert not heads[0].equal(heads[1])
    assert not heads[1].equal(heads[2])
    assert not equal(third, policy(trainer))


def demonstrations() -> list[Group]:
    chat = word_chat()
    texts = [f"{first} {second}" for first in WORDS[12:18] for second in WORDS[12:15]]
    return [Group(chat.encode_prompt([Message("user", "ba")]), [chat.encode_response(text)]) for text in texts]


def test_demonstrations_are_learnt_beside_the_rollouts(make_trainer) -> None:
    # nothing else to learn: every score is the same
    flat = Rule(lambda words: 1.0, "flat")
    trainer = make_trainer(
        scorers=[flat], demonstrations=demonstrations(), ptx_coef=1.0, ptx_file="x", max_steps=4,
        missing_eos_penalty=0.0, kl_coef=0.0, learning_rate=1e-2,
    )  # fmt: skip
    trainer.train()
    losses = [row["loss/ptx"] for row in rows(trainer)]
    assert losses[-1] < losses[0] - 0.3, losses
    assert rows(trainer)[0]["policy/first_ratio_error"] == 0


def test_demonstrations_cost_their_mean_over_tokens_in_any_number_of_passes(make_trainer) -> None:
    shown = demonstrations()[:4]  # as many as prompts, so a step has each once
    assert len({group.num_tokens for group in shown}) == 1
    shown[0].response_ids[0].insert(0, 5)
    flat = Rule(lambda words: 1.0, "flat")  # equal rewards: rloo has no advantage, and the rollout no gradient
    for budget in (0, 24):
        trainer = make_trainer(
            str(budget), scorers=[flat], demonstrations=shown, ptx_coef=0.5, ptx_file="x", advantage_estimator="rloo",
            missing_eos_penalty=0.0, max_steps=1, num_mini_batches=1, num_ppo_epochs=1, optim="sgd", learning_rate=0.1,
            max_grad_norm=0.0, micro_batch_tokens=budget,
        )  # fmt: skip
        before = policy(trainer)
        cost = -trainer.backbone(pack(shown), [POLICY])["policy"].logprobs.mean()
        parameters = trainer.backbone.adapter_parameters("policy")
        slopes = dict(zip(parameters, torch.autograd.grad(cost, list(parameters.values())), strict=True))
        trainer.train()
        assert any(slope.any() for slope in slopes.values())
        for name, tensor in policy(trainer).items():
            torch.testing.assert_close(tensor, before[name] - 0.1 * 0.5 * slopes[name], rtol=0, atol=1e-6)


def test_an_entropy_bonus_keeps_the_entropy_up(make_trainer) -> None:
    ends = {}
    for coef in (0.0, 0.5):
        trainer = make_trainer(
            str(coef), entropy_coef=coef, max_steps=4, learning_rate=1e-2, trained=True, advantage_estimator="rloo"
        )
        trainer.train()
        ends[coef] = rows(trainer)[-1]["objective/entropy"]
        assert rows(trainer)[0]["policy/first_ratio_error"] == 0
    assert ends[0.5] > ends[0.0] + 0.1


def test_the_kl_in_the_loss_holds_the_policy_too(make_trainer) -> None:
    ends = {}
    for coef in (0.0, 2.0):
        trainer = make_trainer(
            str(coef), kl_in="loss", kl_estimator="k2", kl_coef=coef, max_steps=4, learning_rate=1e-2,
            advantage_estimator="grpo",
        )  # fmt: skip
        trainer.train()
        assert rows(trainer)[0]["loss/kl"] >= 0
        ends[coef] = rows(trainer)[-1]["objective/kl"]
    assert ends[2.0] < ends[0.0] / 2


# ---- the reference --------------------------------------------------------------------------------------


def test_the_reference_is_the_backbone_or_the_policy_as_it_was(make_trainer) -> None:
    from_backbone = make_trainer("a", trained=True, max_steps=1)
    from_backbone.train()
    assert rows(from_backbone)[0]["objective/kl"] != 0
    assert "reference" not in from_backbone.backbone.adapter_configs
    from_start = make_trainer("b", trained=True, max_steps=2, policy_adapter="somewhere", reference="start")
    before = policy(from_start)
    from_start.train()
    assert rows(from_start)[0]["objective/kl"] == 0
    assert rows(from_start)[1]["objective/kl"] != 0
    assert equal(adapter_tensors(from_start.backbone, "reference"), before)


def test_the_reference_follows_every_few_rollouts(make_trainer) -> None:
    trainer = make_trainer(reference_update_steps=2, max_steps=5, learning_rate=1e-2)
    trainer.train()
    kl = [row["objective/kl"] for row in rows(trainer)]
    assert kl[0] == kl[2] == kl[4] == 0
    assert kl[1] != 0
    assert kl[3] != 0


# ---- scores ---------------------------------------------------------------------------------------------


def test_scores_of_several_scorers_are_weighed_and_logged_by_name(make_trainer) -> None:
    length = Rule(len, "words")
    trainer = make_trainer(scorers=[good(), length], scorer_weights=[2.0, -0.5], max_steps=1)
    trainer.train()
    (row,) = rows(trainer)
    assert row["objective/score"] == pytest.approx(2 * row["score/good"] - 0.5 * row["score/words"], abs=1e-5)
    with pytest.raises(ValueError, match="two parts of the score have one name"):
        make_trainer("twice", scorers=[good(), good()])


class Failing(Rule):
    """Gives no number for some responses of the rollouts whose numbers are given, and draws a little of each score."""

    def __init__(self, rollouts: set[int], every: int = 1):
        super().__init__(share_of(GOOD), "good")
        self.rollouts, self.every, self.number = rollouts, every, -1

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        self.number += 1
        scores = [score + 0.01 * random.random() for score in super().score(prompts, responses)]
        if self.number in self.rollouts:
            scores[:: self.every] = [float("nan")] * len(scores[:: self.every])
        return scores


@pytest.mark.parametrize("estimator", ["gae", *WITHOUT_VALUE])
def test_responses_without_a_score_are_left_out_and_counted(estimator, make_trainer) -> None:
    trainer = make_trainer(
        advantage_estimator=estimator, scorers=[Failing({0}, every=2)], failed_scores="leave_out",
        normalize_scores=True, max_steps=1,
    )  # fmt: skip
    seen = []
    update = trainer.update
    trainer.update = lambda model, rollout: seen.extend(rollout) or update(model, rollout)
    trainer.train()
    (row,) = rows(trainer)
    counts = torch.cat([batch.counts for batch in seen])
    scores = torch.cat([batch.scores for batch in seen])
    assert row["objective/failed_scores"] == int((~counts).sum()) == 12
    assert row["objective/score"] == pytest.approx(scores[counts].mean().item(), abs=1e-6)
    assert trainer.score_shaper.moments.count == int(counts.sum())
    advantages = torch.cat([batch.advantages for batch in seen])
    assert advantages.isfinite().all()
    assert not advantages[~torch.cat([batch.counted_tokens for batch in seen])].any()
    assert all(tensor.isfinite().all() for tensor in policy(trainer).values())


def test_a_rollout_in_which_no_response_has_a_score_stops_the_run(make_trainer) -> None:
    trainer = make_trainer(scorers=[Failing({0})], failed_scores="leave_out")
    with pytest.raises(ScorerError, match="no response of a rollout got a score"):
        trainer.train()


# ---- resume ---------------------------------------------------------------------------------------------

EVERYTHING = {
    "max_steps": 4,
    "reference_update_steps": 2,
    "normalize_scores": True,
    "kl_target": 3.0,
    "target_approx_kl": 1e-4,
    "lr_scheduler_type": "linear",
    "value_warmup_steps": 1,
    "ptx_coef": 0.5,
    "ptx_file": "x",
    "entropy_coef": 0.01,
    "save_strategy": "steps",
}


def test_a_scorer_that_fails_costs_nothing_but_the_time(make_trainer, tmp_path) -> None:
    # save_steps would write checkpoint-3 only: the others are written because the run stops
    shown = {"demonstrations": demonstrations(), **EVERYTHING, "save_steps": 3}
    whole = make_trainer("whole", scorers=[Failing(set())], **shown)
    whole.train()
    optimizer = load_file(tmp_path / "whole" / "checkpoint-3" / "optimizer.safetensors")
    for failing in (0, 2, 3):
        name = f"broken-{failing}"
        with pytest.raises(ScorerError, match="scorer good gave nan"):
            make_trainer(name, scorers=[Failing({failing})], **shown).train()
        resumed = make_trainer(name, scorers=[Failing(set())], **shown)
        resumed.train(resume_from_checkpoint=str(tmp_path / name / f"checkpoint-{failing}"))
        assert equal(policy(resumed), policy(whole))
        for role in ("value", "reference"):
            assert equal(adapter_tensors(resumed.backbone, role), adapter_tensors(whole.backbone, role))
        assert resumed.stage_state() == whole.stage_state()
        assert timeless(resumed) == timeless(whole)
        assert equal(load_file(tmp_path / name / "checkpoint-3" / "optimizer.safetensors"), optimizer)


def timeless(trainer: PPOTrainer) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows(trainer)]


def test_a_resumed_run_takes_the_kl_settings_it_is_given_and_keeps_the_weight_that_was_adapted(make_trainer) -> None:
    adapted, fixed = make_trainer("adapted", kl_target=3.0), make_trainer("fixed", kl_coef=0.07)
    adapted.kl_controller.kl_coef = 0.2
    other = make_trainer("other", kl_target=6.0, kl_horizon=500)
    other.load_stage_state(adapted.stage_state())
    assert other.kl_controller == AdaptiveKL(0.2, target=6.0, horizon=500)
    other = make_trainer("fixed-now", kl_coef=0.1)
    other.load_stage_state(adapted.stage_state())
    assert other.kl_controller == FixedKL(0.1)
    other = make_trainer("adapted-now", kl_target=6.0, kl_coef=0.1)
    other.load_stage_state(fixed.stage_state())
    assert other.kl_controller == AdaptiveKL(0.1, target=6.0, horizon=10_000)


# ---- prompts and responses ------------------------------------------------------------------------------


class Hearing(Rule):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(lambda words: float(len(words) % 3), "hearing")
        self.heard: list[list[Message]] = []

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        self.heard += [list(prompt) for prompt in prompts]
        return super().score(prompts, responses)


def test_conversations_of_several_turns_reach_policy_and_scorer_whole(make_trainer) -> None:
    scorer = Hearing()
    trainer = make_trainer(scorers=[scorer], max_steps=1)
    turns = (Message("user", "ba be"), Message("assistant", "da"), Message("user", "de"))
    trainer.prompts = [Comparison(prompt=turns)] * 4
    asked = []
    sample = trainer.rollout_engine.sample
    trainer.rollout_engine.sample = lambda prompts, sampling: asked.extend(prompts) or sample(prompts, sampling)
    trainer.train()
    assert scorer.heard == [list(turns)] * len(scorer.heard)
    chat = word_chat()
    assert asked == [chat.encode_prompt(turns)] * 8
    assert chat.tokenizer.decode(asked[0]).split() == ["<s>", "ba", "be", "</s>", "da", "</s>", "de", "</s>", ":"]


@pytest.mark.parametrize("estimator", ["gae", *WITHOUT_VALUE])
def test_a_policy_that_stops_at_once_is_trained_all_the_same(estimator, make_trainer) -> None:
    trainer = make_trainer(
        advantage_estimator=estimator, max_steps=1, normalize_scores=True, length_penalty=1.0, length_soft_limit=2,
        kl_in="loss", kl_estimator="k3", entropy_coef=0.01,
    )  # fmt: skip
    stop = word_chat().end_of_turn_id
    trainer.rollout_engine.sample = lambda prompts, sampling: [
        [Sample([stop], [-1.0], True) for _ in range(sampling.num_samples)] for _ in prompts
    ]
    trainer.train()
    (row,) = rows(trainer)
    assert row["objective/response_length"] == row["objective/eos_rate"] == row["objective/distinct_2"] == 1
    assert row["objective/score"] == 0
    assert all(torch.tensor(value).isfinite() for value in row.values())


# ---- settings that do not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"advantage_estimator": "ppo"}, "choose gae or rloo or grpo or reinforce_pp"),
        ({"advantage_estimator": "rloo", "samples_per_prompt": 1}, "samples_per_prompt is 1: advantage_estimator rloo"),
        ({"advantage_estimator": "grpo", "samples_per_prompt": 1}, "needs at least 2"),
        ({"advantage_estimator": "rloo", "value_model": "shared"}, "rloo has no value model"),
        ({"advantage_estimator": "reinforce_pp", "value_warmup_steps": 2}, "has no value model"),
        ({"advantage_estimator": "gae", "value_model": "none"}, "choose adapter or shared"),
        ({"advantage_estimator": "grpo", "whiten_rewards": True}, "rewards whole responses"),
        ({"advantage_estimator": "grpo", "gamma": 0.9}, "undiscounted"),
        ({"kl_in": "loss"}, "its gradient is 0 on average"),
        ({"kl_estimator": "k4"}, "choose k1 or k2 or k3"),
        ({"dual_clip": 1.0}, "above 1"),
        ({"clip_range_high": 0.0}, "clip_range_high is 0.0"),
        ({"clip_range_high": 0.1}, "below clip_range 0.2"),
        ({"gamma": 1.1}, "gamma is 1.1: it must be 0 to 1"),
        ({"gae_lambda": -0.1}, "gae_lambda is -0.1"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1"),
        ({"kl_coef": float("nan")}, "kl_coef is nan: it must be finite"),
        ({"value_coef": -1.0}, "value_coef is -1.0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"scorer_weights": [float("nan")]}, "it must be finite"),
        ({"kl_coef": 0.0, "kl_target": 3.0}, "kl_coef is 0, which kl_target 3.0"),
        ({"kl_target": 0.0}, "kl_target is 0.0"),
        ({"rollout_engine": "hf"}, "choose native or transformers or vllm"),
        ({"monitor_limits": ["kl_budget=10"]}, "multiplies --kl_budget"),
        ({"value_warmup_steps": 2}, "the policy would never learn"),
        ({"kl_horizon": 500}, "nothing reads without kl_target"),
        ({"reward_model_weight": 0.5}, "nothing reads without reward_model"),
        ({"grpo_scale": "none"}, "advantage_estimator gae does not read: leave it out, or choose grpo"),
        ({"advantage_estimator": "rloo", "gae_lambda": 0.9}, "gae_lambda is 0.9, which advantage_estimator rloo"),
        ({"advantage_estimator": "grpo", "value_coef": 0.5}, "value_coef is 0.5"),
        ({"ptx_coef": 0.1}, "give both or neither"),
        ({"reference": "start"}, "the backbone without --policy_adapter"),
        ({"length_penalty": 1.0}, "give both or neither"),
        ({"length_penalty": 1.0, "length_soft_limit": 6}, "below max_new_tokens"),
        ({"scorer_weights": [1.0, 2.0]}, "2 weights for 1 scorers"),
        ({"failed_scores": "ignore"}, "choose stop or leave_out"),
        ({"value_warmup_steps": 1, "weight_decay": 0.1}, "weight_decay is 0.1"),
        ({"entropy_coef": -0.1}, "entropy_coef is -0.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        PPOArguments(output_dir=str(tmp_path), **{"scorer": "a:b", **SMALL, **changes})
