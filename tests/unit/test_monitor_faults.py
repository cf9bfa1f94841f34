"""Monitors on real runs of a tiny model: each alarms on its planted fault, and clean runs stay quiet."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.engine.adapters import adapter_tensors, load_adapter_weights
from rlhf.engine.generation import Sampling
from rlhf.training.monitor_settings import LIMITS
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.rollout import RolloutBatch
from tests.unit.tiny_ppo import GOOD, WORDS, Rule, logged, share_of, train, word_trainer

good = share_of(GOOD)
ONE_WORD = share_of({WORDS[0]})


def stop_sending_weights(trainer: PPOTrainer) -> None:
    """From the second rollout on the sampler keeps the weights it has."""
    sync = trainer.rollout_engine.sync
    trainer.rollout_engine.sync = lambda: None if trainer.state.global_step else sync()  # type: ignore[method-assign]


def mismeasure(trainer: PPOTrainer) -> None:
    """The ratio is of a policy under which every token was 20 times less likely."""
    measure = trainer.measure

    def wrongly(rollout: list[RolloutBatch]) -> None:
        measure(rollout)
        for batch in rollout:
            batch.old_logprobs = batch.old_logprobs - math.log(20)

    trainer.measure = wrongly  # type: ignore[method-assign]


def spoil_value_model(trainer: PPOTrainer) -> None:
    with torch.no_grad():
        trainer.backbone.head("value").linear.weight.normal_(generator=torch.Generator().manual_seed(0))


def share_of_repeats(spoken: list[str]) -> float:
    pairs = list(itertools.pairwise(spoken))
    return len(spoken) / 12 - len(set(pairs)) / max(1, len(pairs))


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a run, and the monitors that must say so."""

    monitors: set[str]
    rule: Callable[[list[str]], float]
    settings: dict[str, Any]
    plant: Callable[[PPOTrainer], None] = field(default=lambda trainer: None)


UNPENALISED: dict[str, Any] = {"learning_rate": 1e-2, "missing_eos_penalty": 0.0}
FAULTS = {
    "learning rate too high": Fault({"kl_target"}, good, {"kl_target": 1.0, "learning_rate": 3e-2, "max_steps": 6}),
    "budget spent": Fault({"kl_budget"}, good, {"kl_budget": 1.0, "learning_rate": 1e-2, "max_steps": 8}),
    "stale sampler": Fault(
        {"kl_negative", "sampler_gap"},
        good,
        {"learning_rate": 1e-2, "kl_coef": 0.0, "max_steps": 8},
        stop_sending_weights,
    ),
    "old log-probabilities of another distribution": Fault({"ratio"}, good, {"max_steps": 2}, mismeasure),
    "one word is paid": Fault(
        {"entropy", "duplicates", "kl_per_token"}, ONE_WORD, {"learning_rate": 1e-2, "kl_coef": 0.0, "max_steps": 25}
    ),
    "length is paid": Fault(
        {"eos", "length", "length_correlation"},
        lambda spoken: len(spoken) / 12,
        {**UNPENALISED, "max_new_tokens": 24, "max_steps": 18},
    ),
    "repetition is paid": Fault({"repetition"}, share_of_repeats, {**UNPENALISED, "kl_coef": 0.0, "max_steps": 26}),
    "spoilt value model": Fault({"explained_variance"}, good, {"value_coef": 1e-4, "max_steps": 20}, spoil_value_model),
}
SLOW_FAULTS = [name for name in FAULTS if name != "stale sampler"]


@pytest.fixture
def model(tiny_model) -> Any:
    return tiny_model(vocab_size=len(WORDS) + 4)


def alarmed(model: Any, folder: Path, fault: Fault) -> list[dict[str, Any]]:
    trainer = word_trainer(model, folder, Rule(fault.rule), None, seed=1, monitors="warn", **fault.settings)
    fault.plant(trainer)
    assert train(trainer) is None
    return logged(folder, "alarms.jsonl")


def noisy(spoken: list[str]) -> float:
    """A judge of the same mind as the scorer, but with noise of its own, .2 for each text."""
    return good(spoken) + (zlib.crc32(" ".join(spoken).encode()) % 1000 / 1000 - 0.5) * 0.7


def clean_run(model: Any, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Thirty updates that double the score or better; all monitors are there."""
    targets = {"kl_target": 6.0, "kl_budget": 15.0}
    trainer = word_trainer(model, folder, Rule(good), Rule(noisy), seed=seed, monitors="warn", max_steps=30, **targets)
    assert train(trainer) is None
    scores = [float(row["objective/score"]) for row in logged(folder, "metrics.jsonl")]
    assert statistics.mean(scores[-3:]) > statistics.mean(scores[:3]) + 0.15
    return logged(folder, "alarms.jsonl")


def test_every_monitor_but_over_optimisation_has_a_planted_fault() -> None:
    assert set.union(*(fault.monitors for fault in FAULTS.values())) == set(LIMITS) - {"over_optimisation"}


def test_a_stale_sampler_alarms_and_names_a_sample(model, tmp_path) -> None:
    fault = FAULTS["stale sampler"]
    alarms = alarmed(model, tmp_path, fault)
    assert {alarm["monitor"] for alarm in alarms} == fault.monitors
    (negative,) = [alarm for alarm in alarms if alarm["monitor"] == "kl_negative"]
    assert negative["sample"]["kl"] < -1
    assert negative["sample"]["step"] == negative["step"]


def test_a_clean_run_stays_quiet(model, tmp_path) -> None:
    assert clean_run(model, tmp_path, seed=1) == []


def test_a_resumed_run_alarms_and_keeps_as_the_whole_run_did(tiny_model, tmp_path) -> None:
    settings = {**UNPENALISED, "max_steps": 7, "save_strategy": "steps", "save_steps": 4, "monitors": "warn", "seed": 1}

    def trainer(folder: Path) -> PPOTrainer:
        model = tiny_model(vocab_size=len(WORDS) + 4)
        return word_trainer(model, folder, Rule(lambda spoken: len(spoken) / 12), Rule(noisy), **settings)

    whole, broken = trainer(tmp_path / "whole"), trainer(tmp_path / "broken")
    assert train(whole) is None
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "broken" / "checkpoint-4")
    broken.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-4"))
    alarms = logged(tmp_path / "whole", "alarms.jsonl")
    assert [alarm["step"] for alarm in alarms] == [5]
    assert logged(tmp_path / "broken", "alarms.jsonl") == alarms
    assert broken.stage_state() == whole.stage_state()
    assert broken.watch.kept is not None
    assert whole.watch.kept is not None
    assert broken.watch.kept.state() == whole.watch.kept.state()
    kept = whole.watch.kept.adapter
    assert kept
    assert all(tensor.equal(kept[name]) for name, tensor in broken.watch.kept.adapter.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_FAULTS)
def test_alarms_on_its_planted_fault(name: str, model, tmp_path) -> None:
    found = {alarm["monitor"] for alarm in alarmed(model, tmp_path, FAULTS[name])}
    assert found >= FAULTS[name].monitors


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_at_most_one_false_alarm_in_20_clean_runs(tiny_model, tmp_path) -> None:
    alarms = []
    for seed in range(1, 21):
        model = tiny_model(vocab_size=len(WORDS) + 4)
        alarms += [(seed, a["step"], a["monitor"]) for a in clean_run(model, tmp_path / str(seed), seed)]
    assert len(alarms) <= 1, alarms


# ---- over-optimisation ----------------------------------------------------------------------------------


def padded(spoken: list[str]) -> float:
    """A scorer that pays a little for every word beyond 14."""
    return good(spoken) + 0.014 * max(0, len(spoken) - 14)


def gold(spoken: list[str]) -> float:
    """What is wanted: good words, and no more than 16."""
    return good(spoken) - max(0, len(spoken) - 16) / 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3, 4])
def test_a_length_hack_is_stopped_soon_after_the_gold_peak_and_the_peak_kept(seed: int, model, tmp_path) -> None:
    trainer = word_trainer(
        model,
        tmp_path,
        Rule(padded),
        Rule(gold),
        seed=seed,
        max_steps=60,
        learning_rate=1.2e-2,
        kl_coef=0.0,
        missing_eos_penalty=0.0,
        max_new_tokens=24,
        per_device_train_batch_size=64,
    )
    policies = []
    before = trainer.watch.before_update
    trainer.watch.before_update = lambda backbone: (  # type: ignore[method-assign]
        before(backbone),
        policies.append(adapter_tensors(backbone, "policy")),
    )[0]
    reason = train(trainer)
    assert reason is not None
    assert "over_optimisation" in reason
    (alarm,) = [alarm for alarm in logged(tmp_path, "alarms.jsonl") if alarm["monitor"] == "over_optimisation"]
    assert alarm["step"] == len(policies)

    golds = [measured_gold(trainer, policy) for policy in policies]
    # where the gold last was at its peak; the highest single value on a plateau is chance
    at_peak = [index for index, value in enumerate(golds) if value >= 0.95 * max(golds)]
    print(golds, at_peak, trainer.watch.kept)  # shown where it fails
    assert max(golds) > golds[0] + 0.25
    assert len(policies) - 1 - at_peak[-1] <= 5
    kept = trainer.watch.kept
    assert kept is not None
    assert kept.best is not None
    assert golds[kept.best.step] >= 0.95 * max(golds)

    trainer.save_model()
    load_adapter_weights(trainer.backbone, "policy", tmp_path)
    written = adapter_tensors(trainer.backbone, "policy")
    assert all(tensor.equal(written[name]) for name, tensor in policies[kept.best.step].items())
    load_adapter_weights(trainer.backbone, "policy", tmp_path / "last")


def measured_gold(trainer: PPOTrainer, policy: dict[str, torch.Tensor]) -> float:
    """Mean gold score of a policy over 384 samples of its own, the same draws for every policy."""
    with torch.no_grad():
        for name, parameter in trainer.backbone.adapter_parameters("policy").items():
            parameter.copy_(policy[name])
    trainer.rollout_engine.sync()
    encoded = [trainer.chat.encode_prompt(prompt.prompt) for prompt in trainer.prompts]
    samples = trainer.rollout_engine.sample(encoded, Sampling(4, 24, 1.0, 12345))
    return statistics.mean(gold(trainer.chat.decode(one.token_ids).split()) for group in samples for one in group)
