"""A run that was killed goes on as if nothing had happened, to the last bit; nothing on disk is a pickle."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

# Dies by SIGKILL once step 5 is logged: checkpoint 3 is complete, and the log is two steps ahead of it.
KILLED_AFTER_STEP_5 = """
import importlib, os, signal, sys
from rlhf.training.run_folder import RunFolder

def log_and_die(folder, row, log=RunFolder.log):
    log(folder, row)
    if row["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.log = log_and_die
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""
MODULES = {"reward": "reward.train_reward", "dpo": "rlhf.train_dpo", "ppo": "rlhf.train_ppo", "sft": "rlhf.train_sft"}
STAGES = ("reward", "dpo", "ppo")
PICKLE_NAMES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, settings, reward_run, run_stage, environment) -> dict[str, tuple[Path, Path]]:
    """For each stage an uninterrupted run of six steps, and one that was killed after five."""
    folder = tmp_path_factory.mktemp("runs")
    arguments, killed = {}, {}
    for stage in STAGES:
        changes = {"reward_model": reward_run} if stage == "ppo" else {"lora_dropout": 0.1}
        arguments[stage] = settings(stage, max_steps=6, save_steps=3, **changes)
        command = [sys.executable, "-c", KILLED_AFTER_STEP_5, MODULES[stage], *arguments[stage]]
        killed[stage] = subprocess.Popen(
            [*command, "--output_dir", str(folder / f"{stage}-killed")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    for stage in STAGES:
        run_stage(stage, [*arguments[stage], "--output_dir", str(folder / f"{stage}-whole")])
    for stage in STAGES:
        _, errors = killed[stage].communicate(timeout=200)
        assert killed[stage].returncode == -signal.SIGKILL, errors.decode()[-2000:]
    return {stage: (folder / f"{stage}-whole", folder / f"{stage}-killed") for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_resumes_bit_by_bit(stage, runs, settings, reward_run, run_stage, logged) -> None:
    whole, killed = runs[stage]
    assert [row["step"] for row in logged(killed)] == [1, 2, 3, 4, 5]
    assert not (killed / "metrics.json").exists()
    changes = {"reward_model": reward_run} if stage == "ppo" else {"lora_dropout": 0.1}
    arguments = settings(stage, max_steps=6, save_steps=3, **changes)
    run_stage(stage, [*arguments, "--output_dir", str(killed), "--resume_from_checkpoint", "latest"])
    assert logged(killed) == logged(whole)
    assert [row["step"] for row in logged(whole)] == [1, 2, 3, 4, 5, 6]
    names = sorted(file.relative_to(whole) for file in whole.rglob("*.safetensors"))
    assert Path("checkpoint-6/optimizer.safetensors") in names
    assert Path("adapter_model.safetensors") in names
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    if stage == "ppo":
        assert (killed / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert json.loads((killed / "manifest.json").read_text())["status"] == "finished"


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    runs, tmp_path, settings, run_stage, logged, capsys
) -> None:
    whole, _ = runs["dpo"]
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damaged = run / "checkpoint-6" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    arguments = settings("dpo", max_steps=6, save_steps=3, lora_dropout=0.1)
    run_stage("dpo", [*arguments, "--output_dir", str(run), "--resume_from_checkpoint", "latest"])
    said = capsys.readouterr().err
    assert f"resuming from {run / 'checkpoint-3'}" in said
    assert f"{damaged} is missing or damaged" in said
    assert logged(run) == logged(whole)
    assert damaged.read_bytes() == (whole / "checkpoint-6" / "optimizer.safetensors").read_bytes()


def test_a_run_can_be_extended(runs, tmp_path, settings, run_stage, logged) -> None:
    whole, _ = runs["reward"]
    run = tmp_path / "run"
    short = settings("reward", max_steps=3, save_steps=3, lora_dropout=0.1)
    run_stage("reward", [*short, "--output_dir", str(run)])
    longer = settings("reward", max_steps=6, save_steps=3, lora_dropout=0.1)
    run_stage("reward", [*longer, "--output_dir", str(run), "--resume_from_checkpoint", "latest"])
    assert logged(run) == logged(whole)
    assert (run / "reward_head.safetensors").read_bytes() == (whole / "reward_head.safetensors").read_bytes()


def test_supervised_fine_tuning_resumes(tmp_path, settings, run_stage, logged) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = settings("sft", max_steps=4, save_steps=2)
    run_stage("sft", [*arguments, "--output_dir", str(whole)])
    run_stage("sft", [*settings("sft", max_steps=2, save_steps=2), "--output_dir", str(resumed)])
    run_stage("sft", [*arguments, "--output_dir", str(resumed), "--resume_from_checkpoint", "latest"])
    rows = [
        # TRL's own counter of tokens starts anew
        [{key: value for key, value in row.items() if key != "num_tokens"} for row in logged(run)]
        for run in (whole, resumed)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_run_holds_no_pickle(stage, runs) -> None:
    files = [file for file in runs[stage][0].rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        start = file.read_bytes()[:4]
        assert file.suffix not in PICKLE_NAMES, file
        # a bare pickle, and the zip archive that torch.save writes around one
        assert not (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"), file
        assert start != b"PK\x03\x04", file


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_holds_no_weights_of_the_backbone(stage, runs, tiny_chat_model) -> None:
    with safe_open(tiny_chat_model / "model.safetensors", "pt") as file:
        base_shapes = {tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    matrices = {shape for shape in base_shapes if len(shape) == 2}
    checkpoint = runs[stage][0] / "checkpoint-6"
    for path in checkpoint.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                assert tuple(file.get_slice(name).get_shape()) not in matrices, f"{path}: {name}"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert size < (tiny_chat_model / "model.safetensors").stat().st_size / 10
