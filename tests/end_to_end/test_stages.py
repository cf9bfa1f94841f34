"""What a finished run leaves behind, and PPO with a scorer of the user's own."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from rlhf.training.run_folder import hash_file, hash_model
from tests.end_to_end.launching import logged

SCORER = """
def shortness(prompts, responses):
    assert prompts[0][-1]["role"] == "user"
    return [-len(response) / 100 for response in responses]
"""

FAILING_SCORER = """
import pathlib

calls = []


def once_broken(prompts, responses):
    calls.append(len(responses))
    broken = len(calls) == 2 and not pathlib.Path("mended").exists()
    return [float("nan") if broken else len(response) / 50 for response in responses]
"""

SMALL = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 2, "--learning_rate", "1e-3"]


def test_a_reward_run_says_where_it_comes_from_and_how_good_it_is(reward_model, tiny_chat_model, data) -> None:
    manifest = json.loads((reward_model / "manifest.json").read_text())
    assert manifest["stage"] == "reward"
    assert manifest["status"] == "finished"
    assert manifest["parents"]["backbone"]["sha256"] == hash_model(tiny_chat_model)
    assert manifest["data"][str(data / "pairs.jsonl")] == hash_file(data / "pairs.jsonl")
    assert manifest["packages"]["torch"]
    assert yaml.safe_load((reward_model / "config.yaml").read_text())["lora_r"] == 4
    accuracy = json.loads((reward_model / "metrics.json").read_text())["eval_accuracy"]
    assert set(accuracy) == {"value", "low", "high", "n"}
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert accuracy["n"] == 24
    assert {"adapter_config.json", "adapter_model.safetensors", "reward_head.safetensors"} <= {
        path.name for path in reward_model.iterdir()
    }
    assert [row["step"] for row in logged(reward_model)] == [1, 2, 3, 4]


def test_dpo_starts_at_ln_2(tiny_chat_model, data, tmp_path, rlhf) -> None:
    files = ["--train_file", data / "pairs.jsonl", "--eval_file", data / "held_out.jsonl"]
    small = ["--model", tiny_chat_model, *SMALL]
    rlhf("dpo", *small, *files, "--output_dir", tmp_path / "dpo")
    rows = logged(tmp_path / "dpo")
    assert abs(rows[0]["loss"] - 0.69314718) < 1e-6
    assert rows[1]["loss"] < rows[0]["loss"]
    assert json.loads((tmp_path / "dpo" / "metrics.json").read_text())["eval_accuracy"]["n"] == 24


def test_dpo_learns_the_same_with_activation_checkpointing(tiny_chat_model, data, tmp_path, rlhf) -> None:
    small = ["--model", tiny_chat_model, *SMALL]
    files = ["--train_file", data / "pairs.jsonl"]
    rlhf("dpo", *small, *files, "--output_dir", tmp_path / "kept")
    rlhf("dpo", *small, *files, "--activation_checkpointing", "true", "--output_dir", tmp_path / "again")
    name = "adapter_model.safetensors"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_ppo_against_a_function_of_the_users_own(tiny_chat_model, data, tmp_path, rlhf) -> None:
    (tmp_path / "my_rewards.py").write_text(SCORER)
    small = ["--model", tiny_chat_model, *SMALL]
    rollouts = ["--max_new_tokens", 8, "--samples_per_prompt", 2, "--kl_target", 3, "--whiten_rewards", "true"]
    files = ["--prompt_file", data / "prompts.jsonl", "--output_dir", tmp_path / "ppo"]
    rlhf("ppo", *small, *rollouts, *files, "--scorer", "my_rewards:shortness", cwd=tmp_path)
    first, second = logged(tmp_path / "ppo")
    assert first["objective/kl"] == 0
    assert first["policy/first_ratio_error"] == 0
    assert first["policy/first_approx_kl"] == 0
    assert first["objective/score"] < 0
    assert second["objective/kl_coef"] < first["objective/kl_coef"]  # KL 0 is below its target
    samples = [json.loads(line) for line in (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert {"step", "prompt", "response", "score", "kl", "finished"} == set(samples[0])
    assert (tmp_path / "ppo" / "value" / "value_head.safetensors").is_file()


def test_ppo_against_an_ensemble_logs_how_far_its_members_are_apart(
    tiny_chat_model, reward_model, data, tmp_path, rlhf
) -> None:
    second = shutil.copytree(reward_model, tmp_path / "second")
    head = load_file(second / "reward_head.safetensors")
    save_file({**head, "shift": head["shift"] + 1.0}, second / "reward_head.safetensors")
    files = ["--prompt_file", data / "prompts.jsonl", "--output_dir", tmp_path / "ppo"]
    ensemble = ["--reward_model", reward_model, second, "--ensemble_penalty", 0.5, "--max_new_tokens", 4]
    rlhf("ppo", "--model", tiny_chat_model, *SMALL, *files, *ensemble)
    # the second says 1 more of every response: half of that is the deviation
    assert [row["objective/score_std"] for row in logged(tmp_path / "ppo")] == pytest.approx([0.5, 0.5], abs=1e-6)
    parents = json.loads((tmp_path / "ppo" / "manifest.json").read_text())["parents"]
    assert set(parents) == {"backbone", f"reward_model_{reward_model.name}", "reward_model_second"}


def test_a_scorer_that_gives_nan_stops_the_run_where_it_can_go_on(tiny_chat_model, data, tmp_path, rlhf) -> None:
    (tmp_path / "my_rewards.py").write_text(FAILING_SCORER)
    arguments = ["--model", tiny_chat_model, *SMALL, "--max_new_tokens", 4, "--advantage_estimator", "reinforce_pp"]
    arguments += ["--prompt_file", data / "prompts.jsonl", "--scorer", "my_rewards:once_broken"]
    demonstrations = ["--ptx_file", data / "demonstrations.jsonl", "--ptx_coef", 0.1]
    stopped = rlhf("ppo", *arguments, *demonstrations, "--output_dir", tmp_path / "ppo", cwd=tmp_path, check=False)
    assert stopped.returncode == 3
    assert "Traceback" not in stopped.stderr
    (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("stopped: ")]
    assert "scorer once_broken gave nan" in line
    assert "--resume_from_checkpoint latest" in line
    assert (tmp_path / "ppo" / "checkpoint-1").is_dir()
    (tmp_path / "mended").touch()
    resume = ["--output_dir", tmp_path / "ppo", "--resume_from_checkpoint", "latest"]
    rlhf("ppo", *arguments, *demonstrations, *resume, cwd=tmp_path)
    rows = logged(tmp_path / "ppo")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["loss/ptx"] > 0 for row in rows)
    assert not (tmp_path / "ppo" / "value").exists()


def test_a_policy_on_the_last_layer_is_trained_against_a_reward_model_on_all(
    tiny_chat_model, reward_model, data, tmp_path, rlhf
) -> None:
    common = ["--model", tiny_chat_model, *SMALL, "--max_new_tokens", 6, "--prompt_file", data / "prompts.jsonl"]
    first, second = tmp_path / "first", tmp_path / "second"
    rlhf("ppo", *common, "--reward_model", reward_model, "--lora_last_layers", 1, "--output_dir", first)
    assert logged(first)[0]["policy/first_ratio_error"] == 0
    assert all(".layers.1." in name for name in load_file(first / "adapter_model.safetensors"))
    rlhf("ppo", *common, "--reward_model", reward_model, "--policy_adapter", first, "--output_dir", second)
    assert yaml.safe_load((second / "config.yaml").read_text())["lora_last_layers"] == 1


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_adapters_on_more_layers_than_there_are_are_refused_before_anything_is_written(
    tiny_chat_model, data, tmp_path, rlhf, stage
) -> None:
    file = data / ("demonstrations.jsonl" if stage == "sft" else "pairs.jsonl")
    flags = [
        "--model",
        tiny_chat_model,
        "--train_file",
        file,
        "--lora_last_layers",
        3,
        "--output_dir",
        tmp_path / "run",
    ]
    done = rlhf(stage, *flags, check=False)
    assert done.returncode == 2
    assert "lora_last_layers is 3: the model has 2 layers; choose at most that" in done.stderr
    assert not (tmp_path / "run").exists()


def test_ppo_without_a_value_model_goes_on_from_an_earlier_policy(
    tiny_chat_model, reward_model, data, tmp_path, rlhf
) -> None:
    (tmp_path / "my_rewards.py").write_text(SCORER)
    common = ["--model", tiny_chat_model, *SMALL, "--max_new_tokens", 6, "--samples_per_prompt", 2]
    common += ["--prompt_file", data / "prompts.jsonl"]
    first, second = tmp_path / "first", tmp_path / "second"
    clips = ["--clip_range_high", 0.28, "--dual_clip", 3, "--entropy_coef", 0.001, "--target_approx_kl", 0.05]
    rloo = ["--advantage_estimator", "rloo", "--scorer", "short=my_rewards:shortness", "--output_dir", first]
    rlhf("ppo", *common, *rloo, *clips, cwd=tmp_path)
    assert not (first / "value").exists()
    assert logged(first)[0]["policy/first_ratio_error"] == 0

    scores = ["--reward_model", reward_model, "--scorer", "short=my_rewards:shortness", "--scorer_weights", 3]
    reference = ["--policy_adapter", first, "--reference", "start", "--reference_update_steps", 1]
    grpo = ["--advantage_estimator", "grpo", "--loss_average", "constant", "--grpo_scale", "none"]
    grpo += ["--kl_in", "loss", "--kl_estimator", "k3"]
    # the rank of the earlier policy is taken, whatever is said
    rlhf("ppo", *common, *scores, *reference, *grpo, "--lora_r", 8, "--output_dir", second, cwd=tmp_path)
    rows = logged(second)
    assert [row["objective/kl"] for row in rows] == [0, 0]
    for row in rows:
        assert row["objective/score"] == pytest.approx(row["score/reward_model"] + 3 * row["score/short"], abs=1e-5)
    assert yaml.safe_load((second / "config.yaml").read_text())["lora_r"] == 4
    parents = json.loads((second / "manifest.json").read_text())["parents"]
    assert parents["policy_adapter"]["sha256"] == hash_model(first)
    assert (
        load_file(second / "reference" / "adapter_model.safetensors").keys()
        == load_file(first / "adapter_model.safetensors").keys()
    )
