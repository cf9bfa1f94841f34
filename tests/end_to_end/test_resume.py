"""A run that was stopped and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.end_to_end.launching import ENVIRONMENT, ROOT, logged

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle")
# of heads, of random states, and what DPO remembers of its reference
OUR_TENSORS = ("scale", "shift", "cpu", "cuda", "keys", "starts", "sums")


@pytest.mark.parametrize("stage", ["reward", "dpo", "ppo"])
def test_killed_and_resumed_equals_uninterrupted_to_the_byte(stage, stage_arguments, tmp_path, rlhf) -> None:
    arguments = [*stage_arguments(stage), "--per_device_train_batch_size", "2", "--save_steps", "3", "--max_steps", "6"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rlhf(stage, *arguments, "--output_dir", whole)
    kill_after_checkpoint(stage, [*arguments, "--output_dir", str(broken)], broken / "checkpoint-3")
    rlhf(stage, *arguments, "--output_dir", broken, "--resume_from_checkpoint", "latest")

    assert len(logged(whole)) == 6
    assert logged(whole) == logged(broken)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert any(path.name == "optimizer.safetensors" for path in files)
    for file in files:
        if file.parts[0] != "checkpoint-3":
            assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    assert_no_pickle_and_no_backbone(whole)


def kill_after_checkpoint(stage: str, arguments: list[str], checkpoint: Path) -> None:
    """Run a stage and kill it without warning once the checkpoint has its name."""
    command = [sys.executable, "-m", "rlhf.cli", stage, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists(), "the run ended before its first checkpoint"
    later = checkpoint.with_name("checkpoint-6")
    if later.exists():  # the machine was faster than the signal: take back what came after
        later.rename(checkpoint.parent / ".lost")
        (checkpoint.parent / "metrics.json").unlink(missing_ok=True)


def assert_no_pickle_and_no_backbone(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.suffix not in PICKLED, path
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    is_ours = "lora_" in name or "linear." in name or name in OUR_TENSORS
                    assert is_ours, f"{path} holds {name}"


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(stage_arguments, tmp_path, rlhf) -> None:
    run = tmp_path / "run"
    arguments = [*stage_arguments("dpo"), "--per_device_train_batch_size", "2", "--save_steps", "2"]
    rlhf("dpo", *arguments, "--max_steps", 4, "--output_dir", run)
    damaged = run / "checkpoint-4" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = rlhf("dpo", *arguments, "--max_steps", 5, "--output_dir", run, "--resume_from_checkpoint", "latest")
    assert "checkpoint-4" in done.stdout + done.stderr
    assert [row["step"] for row in logged(run)] == [1, 2, 3, 4, 5]


def test_sft_resumes(tiny_chat_model, data, tmp_path, rlhf) -> None:
    arguments = ["--model", tiny_chat_model, "--dtype", "float32", "--train_file", data / "demonstrations.jsonl"]
    arguments += ["--per_device_train_batch_size", 2, "--save_steps", 2, "--lora_r", 4]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rlhf("sft", *arguments, "--max_steps", 4, "--output_dir", whole)
    rlhf("sft", *arguments, "--max_steps", 2, "--output_dir", broken)
    rlhf("sft", *arguments, "--max_steps", 4, "--output_dir", broken, "--resume_from_checkpoint", "latest")
    assert [row["loss"] for row in logged(whole)] == [row["loss"] for row in logged(broken)]
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
