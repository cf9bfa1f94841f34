"""`rlhf doctor`: each planted fault is refused by its name with a fix, and a clean set passes without a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward import train_reward
from rlhf import doctor, train_dpo, train_ppo, train_sft
from rlhf.training.checks.findings import FATAL, FINDINGS
from tests.end_to_end.doctor_plants import MILDER, PLANTS, PROMPT, TURNS, Place, changed_weights, clean_pairs


@pytest.fixture
def place(tiny_chat_model, reward_model, tmp_path) -> Place:
    return Place(tiny_chat_model, reward_model, tmp_path)


@pytest.fixture
def examined(tmp_path, capsys) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs the command in this process; its exit status, its findings as JSON by name, and what it printed."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        file = tmp_path / "findings" / "doctor.json"
        status = doctor.main([*map(str, arguments), "--dtype", "float32", "--json", str(file)])
        said = json.loads(file.read_text())
        assert said["schema_version"] == 1
        return status, {finding["name"]: finding for finding in said["findings"]}, capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_refused_by_name(name: str, place: Place, examined) -> None:
    arguments = PLANTS[name](place)
    status, findings, said = examined(*arguments)
    assert status == 2
    assert findings[name]["severity"] == FATAL
    assert findings[name]["fix"]
    assert f"fatal   {name}: " in said
    assert f"fix: {findings[name]['fix']}" in said


@pytest.mark.parametrize("name", MILDER)
def test_what_need_not_stop_a_run_is_said_and_passes(name: str, place: Place, examined) -> None:
    severity, plant = MILDER[name]
    status, findings, said = examined(*plant(place))
    assert status == 0
    assert findings[name]["severity"] == severity
    assert f"{severity:<8}{name}: " in said


def test_every_finding_is_planted_by_a_test() -> None:
    """Here, or in tests/unit/test_checks_of_passes.py and test_checks_of_machines.py."""
    elsewhere = {
        *("ratio_not_one", "first_kl_not_zero", "decoding_gap", "scores_depend_on_batch", "scores_depend_on_padding"),
        *("memory_low", "disk_low", "dtype_slow"),
    }
    assert len(PLANTS) > 20
    assert set(PLANTS) | set(MILDER) | elsewhere == set(FINDINGS)


def test_a_clean_set_passes_without_a_word(place: Place, examined) -> None:
    rows = clean_pairs(60)
    status, findings, said = examined(
        *("--policy", place.model, "--reward_model", place.reward_run, place.reward(place.model)),
        *("--train_file", place.rows("train", *rows[:40]), "--eval_file", place.rows("eval", *rows[40:])),
        *("--prompt_file", place.rows("prompts", *rows[:40]), "--output_dir", place.folder / "run"),
    )
    assert (status, findings) == (0, {})
    assert "not checked" not in said
    assert not (place.folder / "run").exists()


def test_a_clean_classifier_of_the_hub_passes(place: Place, examined) -> None:
    status, findings, _ = examined("--policy", place.model, "--reward_model", place.classifier())
    assert (status, findings) == (0, {})


def test_a_reward_model_on_a_policy_that_cannot_be_loaded_is_not_tried(place: Place, examined) -> None:
    policy = place.policy()
    (policy / "model.safetensors").rename(policy / "pytorch_model.bin")
    status, findings, said = examined("--policy", policy, "--reward_model", place.reward(policy))
    assert status == 2
    assert "no_safetensors" in findings
    assert "passes of the reward_model (its backbone is the policy's)" in said


def test_members_of_an_ensemble_share_one_backbone(place: Place, examined, monkeypatch) -> None:
    ensemble, loads, load = place.folder / "ensemble", [], doctor.Backbone.load
    first = place.reward(place.model)
    for number in (1, 2):
        shutil.copytree(first, ensemble / f"member_{number}")
    monkeypatch.setattr(doctor.Backbone, "load", lambda *args, **named: loads.append(args) or load(*args, **named))
    status, findings, _ = examined("--reward_model", ensemble)
    assert (status, findings, len(loads)) == (0, {}, 1)


def test_what_is_allowed_by_name_passes_and_is_still_said(place: Place, examined) -> None:
    arguments = PLANTS["leakage"](place)
    status, findings, said = examined(*arguments, "--allow", "leakage")
    assert status == 0
    assert findings["leakage"]["allowed"]
    assert "leakage (allowed)" in said


def test_what_is_not_named_is_not_checked_and_that_is_said(examined) -> None:
    status, findings, said = examined()
    assert (status, findings) == (0, {})
    for name in ("policy", "reward_model", "train_file", "eval_file", "prompt_file", "output_dir"):
        assert f"--{name}" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allow", "leakge"], ["leakge", "did you mean leakage"]),
        (["--policy", "no-such-model"], ["no-such-model"]),
        (["--train_file", "absent.jsonl"], ["absent.jsonl"]),
        (["--reward_model", "{model}"], ["neither a run of rlhf reward nor a sequence classifier"]),
        (["--policy", "{reward}"], ["a reward model", "--reward_model"]),
        (["--dtype", "float16"], ["float16", "bfloat16"]),
    ],
    ids=["unknown-name", "no-model", "no-file", "no-reward-model", "reward-model-as-policy", "dtype"],
)
def test_what_cannot_be_read_is_an_error(arguments, words, place: Place, capsys) -> None:
    named = [word.format(model=place.model, reward=place.reward_run) for word in arguments]
    with pytest.raises(SystemExit) as exit_info:
        doctor.main(named)
    assert exit_info.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert all(word in said for word in words)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_every_stage_refuses_what_the_doctor_would_before_its_folder_exists(stage: str, place: Place, capsys) -> None:
    small = ["--dtype", "float32", "--lora_r", "4", "--max_steps", "1", "--output_dir", str(place.folder / "run")]
    rows = clean_pairs(30)
    train = place.rows("train", *rows)
    if stage == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
        files = ["--train_file", place.rows("train", *rows), "--eval_file", place.rows("eval", *rows[:9])]
        main, name = train_sft.main, "leakage"
    elif stage == "ppo":
        base = place.policy(template=TURNS + PROMPT)
        files = ["--prompt_file", train, "--reward_model", place.reward(base)]
        main, name = train_ppo.main, "reward_template_differs"
    else:
        files = ["--train_file", train, "--eval_file", place.rows("eval", *rows[:9])]
        main, name = {"reward": train_reward.main, "dpo": train_dpo.main}[stage], "leakage"
    with pytest.raises(SystemExit) as exit_info:
        main(["--model", str(place.model), *map(str, files), *small])
    assert exit_info.value.code == 2
    said = capsys.readouterr().err
    assert f"error: refused before the run; --allow NAME lets it pass: {name}\n" in said
    assert "fix: " in said
    assert not (place.folder / "run").exists()


def test_a_resumed_run_does_not_look_at_its_data_again(place: Place, capsys) -> None:
    """Here it gets past what would refuse it, to the run that is not there."""
    rows, out = clean_pairs(30), place.folder / "run"
    files = ["--train_file", place.rows("train", *rows), "--eval_file", place.rows("eval", *rows[:9])]
    small = ["--dtype", "float32", "--lora_r", "4", "--max_steps", "1", "--resume_from_checkpoint", "latest"]
    with pytest.raises(SystemExit):
        train_dpo.main(["--model", str(place.model), *map(str, files), *small, "--output_dir", str(out)])
    said = capsys.readouterr().err
    assert f"error: {out} holds no intact checkpoint to resume from" in said
    assert "refused" not in said


def test_ppo_tries_the_model_that_it_has_loaded(place: Place, capsys) -> None:
    broken = changed_weights(place.policy(), lambda weight: weight * float("nan"))
    files = ["--prompt_file", place.rows("prompts", *clean_pairs(4)), "--output_dir", place.folder / "run"]
    scorer = ["--scorer", "tests.end_to_end.doctor_plants:brevity", "--dtype", "float32"]
    with pytest.raises(SystemExit) as exit_info:
        train_ppo.main(["--model", str(broken), *map(str, files), *scorer])
    assert exit_info.value.code == 2
    assert "outputs_not_finite" in capsys.readouterr().err
    assert not (place.folder / "run").exists()


def test_the_command_refuses_from_the_command_line(rlhf, tmp_path: Path) -> None:
    pairs = [{"prompt": f"What is {n}?", "chosen": f"{n}.", "rejected": "No."} for n in range(4)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    done = rlhf("doctor", "--train_file", file, "--eval_file", file, check=False)
    assert done.returncode == 2
    assert "fatal   leakage: 4 of 4 rows" in done.stdout
