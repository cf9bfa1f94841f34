"""The benchmarks run, on the tiny model, and compare like with like."""

from __future__ import annotations

import json
import sys

import pytest

from tests.end_to_end.launching import launched


def test_reward_training_beside_trl(reward_model, data, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--ours", str(reward_model)]
    done = launched([*command, "--eval_file", str(data / "pairs.jsonl"), "--output_dir", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    accuracy = result["accuracy"]["pairs"]
    trained = json.loads((reward_model / "metrics.json").read_text())["eval_accuracy"]
    assert accuracy["ours"] == trained
    assert accuracy["trl"]["n"] == accuracy["difference"]["n"] == 24
    assert accuracy["difference"]["value"] == pytest.approx(accuracy["ours"]["value"] - accuracy["trl"]["value"])
    assert result["settings"]["max_steps"] == 4
    assert result["settings"]["learning_rate"] == 1e-3
    assert result["training_seconds"]["trl"] > 0
    assert result["peak_gb"]["trl"] > 0.1
    assert "| pairs | difference |" in done.stdout
    losses = [row["loss"] for row in json.loads((tmp_path / "out" / "trl.json").read_text())["log"] if "loss" in row]
    assert len(losses) == 4


def test_one_of_ours_or_config_is_needed(data, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--eval_file", str(data / "pairs.jsonl")]
    refused = launched([*command, "--output_dir", str(tmp_path / "out")], check=False)
    assert refused.returncode == 2
    assert "give --ours, or --config and --model" in refused.stderr
