"""A recipe from end to end on the tiny model: whole, killed and gone on with, and refused when something changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.launching import ENVIRONMENT, ROOT, logged

RECIPE = """
title: Tiny
steps:
  - {name: reward, command: reward, config: reward.yaml}
  - {name: dpo, command: dpo, config: dpo.yaml}
  - name: accuracy
    command: evaluate-reward
    config: accuracy.yaml
    inputs: {reward_model: "${runs}/reward"}
"""


@pytest.fixture
def recipe(tiny_chat_model: Path, data: Path, tmp_path: Path) -> Path:
    """A folder with a recipe of three steps, its data named by TINY_DATA."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    own_data = tmp_path / "data"
    own_data.mkdir()
    (own_data / "pairs.jsonl").write_bytes((data / "pairs.jsonl").read_bytes())
    pairs = "${TINY_DATA}/pairs.jsonl"
    stage = {"model": str(tiny_chat_model), "dtype": "float32", "lora_r": 4, "train_file": pairs, "save_steps": 3}
    stage |= {"learning_rate": 1e-3, "per_device_train_batch_size": 2}
    (folder / "reward.yaml").write_text(yaml.safe_dump(stage | {"max_steps": 3}))
    (folder / "dpo.yaml").write_text(yaml.safe_dump(stage | {"max_steps": 9, "lora_dropout": 0.1}))
    (folder / "accuracy.yaml").write_text(yaml.safe_dump({"eval_file": pairs, "baseline_train_file": pairs}))
    return folder


def command(recipe: Path, runs: Path) -> list[str]:
    return [sys.executable, "-m", "rlhf.cli", "recipe", str(recipe), "--output_dir", str(runs)]


def run(recipe: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"TINY_DATA": str(recipe.parent / "data")}
    return subprocess.run(command(recipe, runs), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


def kill_when_there(recipe: Path, runs: Path, sign: Path) -> int:
    """Start a recipe, kill it without warning when `sign` is there, and give the process id of its stage."""
    environment = ENVIRONMENT | {"TINY_DATA": str(recipe.parent / "data")}
    process = subprocess.Popen(
        command(recipe, runs), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "the recipe ended before its sign"
    stage = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return stage


def weights(runs: Path) -> dict[str, bytes]:
    files = [file for step in ("reward", "dpo") for file in (runs / step).glob("*.safetensors")]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the stage's process in /proc")
def test_killed_in_the_second_step_and_run_again_it_ends_as_if_it_had_not_been(recipe, tmp_path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run(recipe, whole)
    assert done.returncode == 0, done.stderr[-3000:]
    stage = kill_when_there(recipe, broken, broken / "dpo" / "checkpoint-3")
    reward_before = {file: file.stat().st_mtime_ns for file in sorted((broken / "reward").rglob("*"))}
    again = run(recipe, broken)

    assert again.returncode == 0, again.stderr[-3000:]
    assert not Path(f"/proc/{stage}").exists(), "the killed recipe's stage lived on"
    assert "step 1 of 3, reward: finished before" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in sorted((broken / "reward").rglob("*"))} == reward_before
    assert f"step 2 of 3, dpo: rlhf dpo --config {recipe}/dpo.yaml --output_dir {broken}/dpo" in again.stdout
    assert "--resume_from_checkpoint latest" in again.stdout
    assert logged(broken / "dpo") == logged(whole / "dpo")
    assert len(weights(whole)) == 3
    assert weights(broken) == weights(whole)
    numbers = [json.loads((runs / "summary.json").read_text()) for runs in (whole, broken)]
    assert [step["attempts"] for step in numbers[1]["steps"].values()] == [1, 2, 1]
    for name in ("reward", "dpo", "accuracy"):
        assert numbers[0]["steps"][name]["metrics"] == numbers[1]["steps"][name]["metrics"]
        assert numbers[0]["steps"][name]["seconds"] > 0
        assert numbers[0]["steps"][name]["peak_gb"] > 0.1
    table = (whole / "summary.md").read_text()
    assert "| accuracy | accuracy: pairs: longer wins | " in table
    assert "<svg" in (whole / "report.html").read_text()

    # and now that it is finished: nothing is repeated, and what has changed since is refused
    assert run(recipe, whole).stdout.count("finished before") == 3
    dpo = recipe / "dpo.yaml"
    unchanged = dpo.read_text()
    dpo.write_text(unchanged.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    refused = run(recipe, whole)
    assert refused.returncode == 2
    assert "step dpo" in refused.stderr
    assert "learning_rate was 0.001 and is 0.002" in refused.stderr
    dpo.write_text(unchanged)
    pairs = recipe.parent / "data" / "pairs.jsonl"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[1:]))
    refused = run(recipe, whole)
    assert refused.returncode == 2
    assert "train_file was" in refused.stderr


@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the stage's process in /proc")
def test_a_step_without_a_checkpoint_is_set_aside_and_started_anew(recipe, tmp_path) -> None:
    runs = tmp_path / "runs"
    kill_when_there(recipe, runs, runs / "reward" / "manifest.json")
    (recipe / "recipe.yaml").write_text(RECIPE.split("  - {name: dpo")[0])
    done = run(recipe, runs)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reward was interrupted before it could be resumed" in done.stdout
    aside = [folder for folder in runs.iterdir() if folder.name.startswith("reward-")]
    assert len(aside) == 1
    assert json.loads((aside[0] / "manifest.json").read_text())["status"] == "running"
    assert json.loads((runs / "reward" / "manifest.json").read_text())["status"] == "finished"


def test_what_is_missing_is_found_before_the_first_step(recipe, tmp_path) -> None:
    (recipe.parent / "data" / "pairs.jsonl").unlink()
    refused = run(recipe, tmp_path / "runs")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {recipe}/recipe.yaml: step reward: train_file is ")
    assert not (tmp_path / "runs").exists()
