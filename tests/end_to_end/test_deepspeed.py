"""Reward, DPO and PPO with two processes under DeepSpeed: the losses of one process, on real partitions."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.end_to_end.launching import ROOT, launched, logged

pytestmark = pytest.mark.deepspeed
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")

ACCELERATE = ROOT / "configs" / "accelerate"
SCRIPTS = {"reward": "reward/train_reward.py", "dpo": "rlhf/train_dpo.py", "ppo": "rlhf/train_ppo.py"}
STORED_ROLLOUT = Path(__file__).with_name("ppo_stored_rollout.py")
HEADS = {"reward": ["reward_head.safetensors"], "dpo": [], "ppo": ["value/value_head.safetensors"]}
MAX_STEPS = 4


@pytest.fixture(scope="module")
def zero3_tiny(tmp_path_factory) -> Path:
    """`zero3_cpu.yaml` with a persistence threshold of 0: DeepSpeed leaves small weights whole otherwise."""
    folder = tmp_path_factory.mktemp("accelerate")
    deepspeed = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    (folder / "deepspeed.json").write_text(json.dumps(deepspeed))
    config = yaml.safe_load((ACCELERATE / "zero3_cpu.yaml").read_text())
    del config["mixed_precision"]  # accelerate takes it from one of the two files only
    config["deepspeed_config"] = {
        "deepspeed_config_file": str(folder / "deepspeed.json"),
        "zero3_init_flag": config["deepspeed_config"]["zero3_init_flag"],
    }
    (folder / "zero3.yaml").write_text(yaml.safe_dump(config))
    return folder / "zero3.yaml"


@pytest.fixture(scope="module")
def launch(tmp_path_factory) -> Callable[..., None]:
    """`launch(config, *command)`: two real processes, started from a folder that is not the repository."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def start(config: Path, *command: object) -> None:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        launched([*launcher, *map(str, command)], cwd=elsewhere)

    return start


@pytest.fixture(scope="module")
def arguments(stage_arguments) -> Callable[[str, int], list[str]]:
    """`arguments(stage, processes)`: of a run with the same global batch for any number of processes."""

    def extend(stage: str, processes: int) -> list[str]:
        batch = ["--per_device_train_batch_size", str(2 // processes), "--gradient_accumulation_steps", "2"]
        steps = ["--max_steps", str(MAX_STEPS), "--save_steps", "2", "--lora_dropout", "0"]
        return [*stage_arguments(stage), *batch, *steps]

    return extend


@pytest.fixture(scope="module")
def alone(tmp_path_factory, arguments, rlhf) -> Callable[[str], Path]:
    """`alone(stage)`: the run of one process without DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")

    def run(stage: str) -> Path:
        if not (folder / stage).exists():
            rlhf(stage, *arguments(stage, 1), "--output_dir", folder / stage)
        return folder / stage

    return run


@pytest.fixture(scope="module")
def together(tmp_path_factory, arguments, launch, zero3_tiny) -> Callable[[str, int], Path]:
    """`together(stage, zero_stage)`: the run of two processes under DeepSpeed."""
    folder = tmp_path_factory.mktemp("together")

    def run(stage: str, zero_stage: int) -> Path:
        run_folder = folder / f"{stage}-{zero_stage}"
        if not run_folder.exists():
            # DPO takes the file as it is shipped, which leaves the smallest weights whole
            zero3 = ACCELERATE / "zero3_cpu.yaml" if stage == "dpo" else zero3_tiny
            config = ACCELERATE / "zero2_cpu.yaml" if zero_stage == 2 else zero3
            launch(config, ROOT / SCRIPTS[stage], *arguments(stage, 2), "--output_dir", run_folder)
        return run_folder

    return run


def assert_same_losses(rows: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [*range(1, MAX_STEPS + 1)]
    for row, reference in zip(rows, expected, strict=True):
        for name in ("loss", "loss/policy", "loss/value", "grad_norm"):
            if name in reference:
                # the policy loss is a mean of terms around 1 that cancel to 1e-3: compared to the terms, not to it
                smallest = 1e-6 if name == "loss/policy" else 0.0
                assert row[name] == pytest.approx(reference[name], rel=tolerance, abs=smallest), (row["step"], name)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "zero_stage"),
    [
        pytest.param("reward", 2, marks=SLOW),
        pytest.param("reward", 3, marks=SLOW),
        pytest.param("dpo", 2, marks=SLOW),
        ("dpo", 3),
        pytest.param("ppo", 2, marks=SLOW),
        ("ppo", 3),
    ],
)
def test_two_processes_learn_what_one_does(stage, zero_stage, alone, together, tiny_chat_model) -> None:
    run = together(stage, zero_stage)
    expected = alone(stage)
    assert_same_losses(logged(run), logged(expected))
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"

    for name in ["adapter_model.safetensors", *HEADS[stage]]:
        found, wanted = load_file(run / name), load_file(expected / name)
        assert found.keys() == wanted.keys()
        assert all(found[key].shape == wanted[key].shape for key in wanted)
    model = AutoModelForCausalLM.from_pretrained(tiny_chat_model)
    adapted = PeftModel.from_pretrained(model, run)
    loaded = {name: p for name, p in adapted.named_parameters() if "lora_B" in name}
    assert len(loaded) == 14
    assert any(parameter.abs().max() > 0 for parameter in loaded.values())

    # what is trained, and not the tied embeddings, which are most of the backbone
    size = sum(file.stat().st_size for file in (run / f"checkpoint-{MAX_STEPS}").rglob("*") if file.is_file())
    assert size < (tiny_chat_model / "model.safetensors").stat().st_size / 5


@pytest.mark.parametrize(("stage", "zero_stage"), [pytest.param("reward", 2, marks=SLOW), ("ppo", 3)])
def test_two_processes_resume(stage, zero_stage, together, arguments, launch, zero3_tiny, tmp_path) -> None:
    whole = together(stage, zero_stage)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / f"checkpoint-{MAX_STEPS}")
    config = ACCELERATE / "zero2_cpu.yaml" if zero_stage == 2 else zero3_tiny
    command = [ROOT / SCRIPTS[stage], *arguments(stage, 2), "--output_dir", run]
    launch(config, *command, "--resume_from_checkpoint", "latest")
    assert_same_losses(logged(run), logged(whole), tolerance=1e-5)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["resumed"]
    assert manifest["status"] == "finished"


def test_a_judge_under_zero3_scores_every_rollout_and_the_policy_it_likes_best_is_kept(
    arguments, launch, zero3_tiny, reward_model, tmp_path
) -> None:
    judge, run = tmp_path / "judge", tmp_path / "run"
    shutil.copytree(reward_model, judge)
    saving = ["--save_steps", "1", "--save_total_limit", "4", "--judge_model", judge]
    launch(zero3_tiny, ROOT / SCRIPTS["ppo"], *arguments("ppo", 2), *saving, "--output_dir", run)
    rows = logged(run)
    for row in rows:  # it has the weights of the reward model
        assert row["objective/judge_score"] == pytest.approx(row["objective/score"], abs=1e-4)
    kept = json.loads((run / "metrics.json").read_text())["kept/step"]
    first, second, third, fourth = (row["objective/judge_score"] for row in rows)
    marks = {1: first / 4 + second / 2 + third / 4, 2: second / 4 + third / 2 + fourth / 4}
    assert kept == max(marks, key=lambda step: marks[step])
    policy, expected = (load_file(folder / "adapter_model.safetensors") for folder in (run, run / f"checkpoint-{kept}"))
    assert all(tensor.equal(policy[name]) for name, tensor in expected.items())
    assert (run / "last" / "value" / "value_head.safetensors").is_file()


@pytest.fixture(scope="module")
def stored_rollout(tmp_path_factory) -> Path:
    """Sixteen prompts with two responses each, with numbers as a rollout gives them."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(100, 40_000) for _ in range(length)]

    rows = []
    for _ in range(16):
        responses = [tokens(draw.randint(2, 9)) for _ in range(2)]
        logprobs = [[draw.gauss(-10.8, 0.2) for _ in response] for response in responses]
        rows.append(
            {
                "prompt_ids": tokens(draw.randint(3, 12)),
                "response_ids": responses,
                "finished": [draw.random() < 0.5 for _ in responses],
                "scores": [draw.gauss(0, 1) for _ in responses],
                "old_logprobs": logprobs,
                "ref_logprobs": [[value + draw.gauss(0, 0.1) for value in row] for row in logprobs],
                "old_values": [[draw.gauss(0, 0.5) for _ in response] for response in responses],
            }
        )
    file = tmp_path_factory.mktemp("rollout") / "rollout.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture(scope="module")
def learned_alone(tmp_path_factory, stored_rollout, arguments) -> dict[str, Any]:
    """What one process without DeepSpeed learns from the stored rollout."""
    folder = tmp_path_factory.mktemp("stored")
    options = [*arguments("ppo", 1), "--save_strategy", "no", "--output_dir", str(folder / "run")]
    launched([sys.executable, str(STORED_ROLLOUT), str(stored_rollout), str(folder / "result.json"), *options])
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("zero_stage", [pytest.param(2, marks=SLOW), 3])
def test_a_stored_rollout_teaches_two_processes_the_same(
    zero_stage, stored_rollout, learned_alone, arguments, launch, zero3_tiny, tmp_path
) -> None:
    config = ACCELERATE / "zero2_cpu.yaml" if zero_stage == 2 else zero3_tiny
    options = [*arguments("ppo", 2), "--save_strategy", "no", "--output_dir", tmp_path / "run"]
    launch(config, STORED_ROLLOUT, stored_rollout, tmp_path / "result.json", *options)
    found = json.loads((tmp_path / "result.json").read_text())
    assert_same_losses(found["rows"], learned_alone["rows"])
    assert max(row["policy/clip_fraction"] for row in found["rows"]) > 0
    share = found["weights_held"] / learned_alone["weights_held"]
    assert share == 1 if zero_stage == 2 else share == pytest.approx(0.5, abs=0.01)


@SLOW
def test_an_ensemble_learns_under_zero3_what_it_learns_in_one_process(
    arguments, launch, zero3_tiny, rlhf, tmp_path
) -> None:
    members = ["--num_members", "2", "--max_grad_norm", "100"]  # DeepSpeed clips all members together
    rlhf("reward", *arguments("reward", 1), *members, "--output_dir", tmp_path / "alone")
    script = ROOT / SCRIPTS["reward"]
    launch(zero3_tiny, script, *arguments("reward", 2), *members, "--output_dir", tmp_path / "together")
    assert_same_losses(logged(tmp_path / "together"), logged(tmp_path / "alone"))
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        expected = load_file(tmp_path / "alone" / "member_2" / name)
        for key, tensor in load_file(tmp_path / "together" / "member_2" / name).items():
            assert tensor.allclose(expected[key], atol=1e-4), key
