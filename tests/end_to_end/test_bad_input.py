"""A user's mistake gets one line that names the thing, the value and the fix, exit code 2, and no half-made run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reward import train_reward
from rlhf import evaluate_policy, sample, train_dpo, train_ppo, train_sft
from tests.end_to_end.launching import launched

MAIN = {
    "sft": train_sft.main,
    "reward": train_reward.main,
    "dpo": train_dpo.main,
    "ppo": train_ppo.main,
    "sample": sample.main,
    "evaluate": evaluate_policy.main,
}


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., str]:
    """Runs a stage that must refuse; returns its error line after checking how it refused."""

    def run(stage: str, *arguments: object, output: Path | None = None) -> str:
        output = output or tmp_path / "run"
        before = sorted(output.rglob("*")) if output.exists() else None
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            MAIN[stage]([*map(str, arguments), "--output_dir", str(output)])
        assert exit_info.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert (sorted(output.rglob("*")) if output.exists() else None) == before, "something was half-written"
        return said[said.index(line) :]

    return run


def lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


GOOD = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_missing_file(stage, refused, tiny_chat_model, tmp_path) -> None:
    said = refused(stage, "--model", tiny_chat_model, "--train_file", tmp_path / "absent.jsonl")
    assert "absent.jsonl" in said


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_evaluation_between_steps_where_there_is_none(stage, refused, tiny_chat_model, data) -> None:
    file = data / ("demonstrations.jsonl" if stage == "sft" else "pairs.jsonl")
    said = refused(stage, "--model", tiny_chat_model, "--train_file", file, "--eval_strategy", "steps")
    assert "eval_strategy is 'steps'" in said
    assert "eval_file" in said


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_no_file_at_all(stage, refused, tiny_chat_model) -> None:
    extra = ["--scorer", "math:sqrt"] if stage == "ppo" else []
    said = refused(stage, "--model", tiny_chat_model, *extra)
    assert "--train_file" in said or "--prompt_file" in said


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, '{"prompt": "Why?", '], ["pairs.jsonl:2"]),
        ([], ["pairs.jsonl", "empty"]),
        ([GOOD, {**GOOD, "chosen": ""}], ["pairs.jsonl:2", "chosen"]),
        ([GOOD, {"prompt": "Why?", "rejected": "No."}], ["pairs.jsonl:2", "chosen"]),
        ([{**GOOD, "margin": "large"}], ["pairs.jsonl:1", "margin", "large"]),
        ([{**GOOD, "prompt": 7}], ["pairs.jsonl:1", "prompt", "7"]),
        ([{"prompt": [{"role": "user", "content": "Q"}], "responses": [{"policy": "x"}]}], ["pairs.jsonl:1", "text"]),
    ],
    ids=["broken-json", "empty", "no-text", "no-response", "wrong-type", "wrong-prompt", "response-without-text"],
)
def test_bad_data(rows, words, refused, tiny_chat_model, tmp_path) -> None:
    file = lines(tmp_path / "pairs.jsonl", *rows)
    said = refused("dpo", "--model", tiny_chat_model, "--train_file", file)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rte", "1e-4"], ["learning_rte", "learning_rate"]),
        (["--learning_rat", "1e-4"], ["learning_rat", "learning_rate"]),
        (["--max_steps", "two"], ["max_steps", "two"]),
        (["--beta", "0"], ["beta", "0"]),
        (["--loss_type", "sigmod"], ["loss_type", "did you mean 'sigmoid'"]),
        (["--loss_type", "sigmoid", "sft", "--loss_weights", "1"], ["loss_weights", "1 weights for 2 losses"]),
        (["--dtype", "int8"], ["dtype", "int8"]),
        (["--model", "no-such-model"], ["no-such-model"]),
        (["--resume_from_checkpoint", "latest"], ["checkpoint"]),
    ],
    ids=[
        "unknown-flag",
        "abbreviated-flag",
        "wrong-type",
        "beta",
        "loss",
        "weights",
        "dtype",
        "model",
        "nothing-to-resume",
    ],
)
def test_bad_flags(arguments, words, refused, tiny_chat_model, data) -> None:
    said = refused("dpo", "--model", tiny_chat_model, "--train_file", data / "pairs.jsonl", *arguments)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rte: 1.0e-4", ["config.yaml", "learning_rte", "learning_rate"]),
        ("max_steps: 2.5", ["config.yaml", "max_steps", "2.5"]),
        ("save_steps: often", ["config.yaml", "save_steps", "often"]),
        ("env:\n  KEY: value", ["config.yaml", "env"]),
        ("beta: [1", ["config.yaml"]),
    ],
    ids=["unknown-key", "wrong-type", "wrong-word", "env", "broken-yaml"],
)
def test_bad_config(text, words, refused, tiny_chat_model, data, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text + "\n", encoding="utf-8")
    said = refused("dpo", "--config", config, "--model", tiny_chat_model, "--train_file", data / "pairs.jsonl")
    for word in words:
        assert word in said


def test_a_reward_model_for_another_base(refused, reward_model, data) -> None:
    said = refused(
        "ppo", "--model", "smollm2-135m", "--reward_model", reward_model, "--prompt_file", data / "prompts.jsonl"
    )
    assert "another base" in said
    assert "--model" in said


def test_no_reward_model_there(refused, tiny_chat_model, data, tmp_path) -> None:
    files = ["--model", tiny_chat_model, "--prompt_file", data / "prompts.jsonl"]
    assert "no finished reward model" in refused("ppo", *files, "--reward_model", tmp_path)
    assert "neither is set" in refused("ppo", *files)


def test_a_group_estimator_with_a_single_sample(refused, tiny_chat_model, data) -> None:
    files = ["--model", tiny_chat_model, "--prompt_file", data / "prompts.jsonl", "--scorer", "math:sqrt"]
    for estimator in ("rloo", "grpo"):
        said = refused("ppo", *files, "--advantage_estimator", estimator)
        assert f"samples_per_prompt is 1: advantage_estimator {estimator}" in said


def test_an_earlier_policy_that_is_none(refused, reward_model, tiny_chat_model, data, tmp_path) -> None:
    files = ["--prompt_file", data / "prompts.jsonl", "--reward_model", reward_model]
    for folder in (tmp_path, reward_model):
        said = refused("ppo", "--model", tiny_chat_model, *files, "--policy_adapter", folder)
        assert "no policy is there" in said
    other = shutil.copytree(tiny_chat_model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    adapter = shutil.copytree(reward_model, tmp_path / "adapter")
    (adapter / "reward_head.safetensors").unlink()
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(other)}))
    said = refused("ppo", "--model", tiny_chat_model, *files, "--policy_adapter", adapter)
    assert "was trained on another base" in said


def test_an_output_folder_that_holds_a_run(refused, reward_model, tiny_chat_model, data) -> None:
    said = refused("reward", "--model", tiny_chat_model, "--train_file", data / "pairs.jsonl", output=reward_model)
    assert "--output_dir" in said
    assert "--resume_from_checkpoint latest" in said


def test_all_responses_tied(refused, tiny_chat_model, tmp_path) -> None:
    prompt = [{"role": "user", "content": "Why?"}]
    tied = {"prompt": prompt, "responses": [{"text": "A."}, {"text": "B."}], "ranks": [1, 1]}
    said = refused("dpo", "--model", tiny_chat_model, "--train_file", lines(tmp_path / "tied.jsonl", tied))
    assert "none of 1 comparisons orders two responses" in said


def test_comparisons_of_one_response(refused, tiny_chat_model, tmp_path) -> None:
    alone = {"prompt": [{"role": "user", "content": "Why?"}], "responses": [{"text": "A."}], "ranks": [1]}
    said = refused("dpo", "--model", tiny_chat_model, "--train_file", lines(tmp_path / "alone.jsonl", alone))
    assert "none of 1 comparisons orders two responses (1 have fewer than two" in said
    assert "chosen and rejected" in said


def test_the_command_line_ends_with_2_too(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "rlhf.cli",
        "dpo",
        "--train_file",
        "absent.jsonl",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    done = launched(command, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "absent.jsonl" in done.stderr
