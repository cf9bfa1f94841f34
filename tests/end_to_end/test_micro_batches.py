"""Two processes whose batches do not fit into one pass learn what one process learns from whole batches."""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.launching import ENVIRONMENT, ROOT, launched, logged

ACCELERATE = ROOT / "configs" / "accelerate"
SCRIPTS = {"reward": "reward/train_reward.py", "dpo": "rlhf/train_dpo.py", "ppo": "rlhf/train_ppo.py"}
NAMES = ("loss", "loss/policy", "loss/value", "grad_norm")


@pytest.mark.parametrize(
    ("stage", "deepspeed"),
    [
        ("reward", None),
        pytest.param("ppo", None, marks=pytest.mark.slow),
        pytest.param("dpo", "zero3_cpu.yaml", marks=[pytest.mark.deepspeed, pytest.mark.slow]),
        pytest.param("ppo", "zero2_cpu.yaml", marks=pytest.mark.deepspeed),
    ],
)
def test_split_batches_of_two_processes_teach_the_same(stage, deepspeed, stage_arguments, tmp_path, rlhf) -> None:
    if deepspeed:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    common = [*stage_arguments(stage), "--gradient_accumulation_steps", "2", "--save_strategy", "no"]
    # dropout is drawn anew in each pass; without it the passes do not show
    common += ["--max_steps", "2", "--lora_dropout", "0"]
    rlhf(stage, *common, "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "alone")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # accelerate takes plain processes on CPUs for processes that know nothing of each other unless it is told
    use = {} if deepspeed else {"ACCELERATE_USE_CPU": "true"}
    if deepspeed:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / deepspeed)]
    # two prompts in a batch of each process, of which some need two passes and some need one
    budget = "80" if stage == "ppo" else "110"
    split = [
        "--per_device_train_batch_size",
        "2",
        "--micro_batch_tokens",
        budget,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    launched([*launcher, str(ROOT / SCRIPTS[stage]), *common, *split], env=ENVIRONMENT | use)

    rows, expected = logged(tmp_path / "run"), logged(tmp_path / "alone")
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [1, 2]
    for row, reference in zip(rows, expected, strict=True):
        for name in NAMES:
            if name in reference:
                smallest = 1e-6 if name == "loss/policy" else 0.0
                assert row[name] == pytest.approx(reference[name], rel=1e-4, abs=smallest), (row["step"], name)


def test_processes_that_accelerate_does_not_know_of_are_refused(tmp_path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(ROOT / SCRIPTS["dpo"]), "--output_dir", str(tmp_path / "run")]
    done = launched(command, check=False)
    assert done.returncode != 0
    assert "error: accelerate takes these 2 processes for single ones" in done.stderr
    assert "accelerate launch --cpu" in done.stderr
    assert not (tmp_path / "run").exists()
