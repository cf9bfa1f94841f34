"""`rlhf doctor`: each planted fault is refused by its name with a fix, and a clean set passes without a warning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf import doctor
from rlhf.training.checks.findings import FATAL, FINDINGS
from tests.end_to_end.doctor_plants import MILDER, PLANTS, Place, clean_pairs


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
        *("memory_low", "disk_low"),
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


def test_the_command_refuses_from_the_command_line(rlhf, tmp_path: Path) -> None:
    pairs = [{"prompt": f"What is {n}?", "chosen": f"{n}.", "rejected": "No."} for n in range(4)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    done = rlhf("doctor", "--train_file", file, "--eval_file", file, check=False)
    assert done.returncode == 2
    assert "fatal   leakage: 4 of 4 rows" in done.stdout
