"""PPO with each rollout engine, in this process, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from rlhf.data.comparisons import Message, read_prompts
from rlhf.engine.backbone import load_causal_lm
from rlhf.engine.sources import resolve_model
from rlhf.train_ppo import build_backbone
from rlhf.training.parser import parse
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.stage import load_chat
from tests.unit.vllm_stand_in import BASE, StandIn, serving


class ShorterIsBetter:
    name = "shorter"

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        return [-len(response) / 20 for response in responses]


def train(model: Path, data: Path, folder: Path, *flags: str) -> PPOTrainer:
    settings = {
        "model": model,
        "output_dir": folder,
        "prompt_file": data / "prompts.jsonl",
        "scorer": "tests:given",
        "dtype": "float32",
        "value_model": "shared",
        "samples_per_prompt": 2,
        "max_new_tokens": 8,
        "per_device_train_batch_size": 3,
        "num_ppo_epochs": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    args = parse(PPOArguments, [*(f"--{name}={value}" for name, value in settings.items()), *flags])
    source = resolve_model(args.model)
    set_seed(args.seed)
    trainer = PPOTrainer(
        build_backbone(args, str(source.backbone)),
        args,
        chat=load_chat(source, args),
        prompts=read_prompts(args.prompt_file)[0],
        scorers=[ShorterIsBetter()],
        backbone_path=str(source.backbone),
    )
    trainer.train()
    return trainer


def rows(trainer: PPOTrainer) -> list[dict]:
    return [row for row in trainer.state.log_history if "objective/score" in row]


def assert_two_steps_from_the_present_policy(trainer: PPOTrainer) -> None:
    assert trainer.state.global_step == 2
    first, second = rows(trainer)
    for row in (first, second):
        assert row["time/rollout_tokens_per_second"] > 0
        assert row["policy/first_ratio_error"] < 1e-5
        # at the second step the adapter is no longer zero: an engine that had missed the sync would show here
        assert row["policy/sampler_gap"] < 1e-5
    assert first["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert abs(second["objective/kl"]) > 1e-4


@pytest.fixture(scope="module")
def native(tiny_chat_model, data, tmp_path_factory) -> PPOTrainer:
    return train(tiny_chat_model, data, tmp_path_factory.mktemp("native"))


def test_native_is_the_default(native) -> None:
    assert native.args.rollout_engine == "native"
    assert_two_steps_from_the_present_policy(native)


def test_transformers_logs_the_same_measures(tiny_chat_model, data, tmp_path, native) -> None:
    trainer = train(tiny_chat_model, data, tmp_path, "--rollout_engine", "transformers")
    assert_two_steps_from_the_present_policy(trainer)
    assert [row.keys() for row in rows(trainer)] == [row.keys() for row in rows(native)]


def test_a_vllm_server_follows_the_training(tiny_chat_model, data, tmp_path, native) -> None:
    stand_in = StandIn(load_causal_lm(str(tiny_chat_model), dtype=torch.float32))
    with serving(stand_in) as url:
        trainer = train(tiny_chat_model, data, tmp_path, "--rollout_engine=vllm", f"--vllm_server_url={url}")
    assert_two_steps_from_the_present_policy(trainer)
    assert [row.keys() for row in rows(trainer)] == [row.keys() for row in rows(native)]
    asked = [body["model"] for body in stand_in.bodies("/v1/completions")]
    assert len(set(asked)) == 2, "one adapter to a step"
    assert BASE not in asked
    config = json.loads((tmp_path / "rollout_adapters" / asked[-1] / "adapter_config.json").read_text())
    assert config["r"] == 16


def test_an_engine_that_cannot_run_is_refused_before_the_run_folder(tmp_path, tiny_chat_model, data, capsys) -> None:
    from rlhf.train_ppo import main

    folder = tmp_path / "run"
    flags = [f"--model={tiny_chat_model}", f"--output_dir={folder}", f"--prompt_file={data / 'prompts.jsonl'}"]
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--scorer=m:f", "--rollout_engine=vllm", "--vllm_server_url=http://127.0.0.1:9"])
    assert stopped.value.code == 2
    assert "http://127.0.0.1:9: no vLLM server answers there" in capsys.readouterr().err
    assert not folder.exists()
