"""Which rows W&B gets, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf.training import tracking
from rlhf.training.arguments import StageArguments
from rlhf.training.parser import parse
from rlhf.training.run_folder import RunFolder
from rlhf.training.stage import plain_config
from rlhf.training.tracking import WandbTracker, check_tracker
from tests.end_to_end.wandb_record import Recorded, sessions


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path) -> None:
    """W&B offline, with nothing of the machine's own settings."""
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def opened(path: Path, *, resume: bool = False, tracked: bool = True, **tracking_arguments: Any) -> RunFolder:
    parent = path.parent / "base"
    parent.mkdir(exist_ok=True)
    (parent / "config.json").write_text("{}")
    parents = {"backbone": str(parent)}
    run = RunFolder.open(path, stage="dpo", config={"beta": 0.1}, parents=parents, data_files=[], resume=resume)
    if tracked:
        WandbTracker.follow(run, **tracking_arguments)
        assert run.tracker is not None
    return run


def ended(run: RunFolder) -> list[Recorded]:
    run.finish({"steps": 1})
    import wandb

    wandb.teardown()  # the file is whole when the service has ended
    return sessions(run.path / "wandb")


def test_numbers_arrive_exactly_and_non_finite_ones_as_numbers(tmp_path) -> None:
    run = opened(tmp_path / "run")
    run.log({"loss": 0.1 + 0.2, "big": math.inf, "none": math.nan, "step": 1})
    (session,) = ended(run)
    (row,) = session.metric_rows()
    assert row["loss"] == 0.30000000000000004
    assert row["big"] == math.inf
    assert math.isnan(row["none"])
    assert row["step"] == 1


def test_rows_that_come_again_are_left_out_and_those_that_differ_are_not(tmp_path) -> None:
    first = opened(tmp_path / "run")
    for step in (1, 2, 3):
        first.log({"loss": 1.0 / step, "time/update": 0.5, "step": step})
    ended(first)
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(1)
    resumed.log({"loss": 0.5, "time/update": 0.7, "step": 2})  # as before but for the clock
    resumed.log({"loss": 0.25, "time/update": 0.7, "step": 3})  # another course
    before, after = ended(resumed)
    assert after.run_id == before.run_id
    assert [row["step"] for row in before.metric_rows()] == [1, 2, 3]
    assert [(row["step"], row["loss"]) for row in after.metric_rows()] == [(3, 0.25)]


def test_a_run_that_began_without_wandb_brings_its_rows_when_it_is_resumed_with_it(tmp_path) -> None:
    first = opened(tmp_path / "run", tracked=False)
    for step in (1, 2, 3):
        first.log({"loss": 1.0, "step": step})
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(2)
    resumed.log({"loss": 2.0, "step": 3})
    (session,) = ended(resumed)
    assert [(row["step"], row["loss"]) for row in session.metric_rows()] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_messages_of_a_prompt_become_one_text(tmp_path) -> None:
    run = opened(tmp_path / "run")
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
    run.log_samples([{"step": 1, "prompt": [system, user], "response": "So.", "score": 0.5, "finished": True}])
    (session,) = ended(run)
    assert session.tables == [{"step": 1, "prompt": "system: Be brief.\nuser: Why?", "response": "So.", "score": 0.5}]


def test_a_table_is_shown_during_the_run_when_the_last_one_is_old(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_TABLES", 0)
    run = opened(tmp_path / "run")
    for step in (1, 2):
        run.log_samples([{"step": step, "prompt": [{"role": "user", "content": "Q"}], "response": "A", "score": 1.0}])
    (session,) = ended(run)
    assert [row["step"] for row in session.tables] == [1, 1, 2, 1, 2]


def test_wandb_dir_and_names_are_the_users_to_choose(tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    run = opened(tmp_path / "run", name="a name")
    assert ended(run) == []
    (session,) = sessions(tmp_path / "elsewhere" / "wandb")
    assert session.run_id == "chosen"
    identity = json.loads((tmp_path / "run" / "tracking.json").read_text())
    assert identity == {"run_id": "chosen", "project": "mine", "entity": None, "artifact": "mine/dpo-chosen:latest"}


def test_wandb_switched_off_leaves_the_run_alone(tmp_path, monkeypatch, capsys) -> None:
    import wandb

    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = opened(tmp_path / "run", tracked=False)
    WandbTracker.follow(run)
    assert run.tracker is None
    assert "WANDB_MODE=disabled" in capsys.readouterr().out
    assert not (tmp_path / "run" / "wandb").exists()
    wandb.teardown()


@pytest.mark.parametrize("name", ["all", "tensorboard", "wandbb", ""])
def test_unknown_trackers_are_refused_by_name(name) -> None:
    with pytest.raises(ValueError, match=f"report_to is '{name}': choose none or wandb"):
        check_tracker(name)


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    with pytest.raises(SystemExit) as exit_info:
        parse(StageArguments, [*argv, "--output_dir", str(tmp_path / "run")])
    assert exit_info.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_an_unknown_tracker_ends_with_2(capsys, tmp_path) -> None:
    assert "report_to is 'mlflow'" in refusal(["--report_to", "mlflow"], capsys, tmp_path)


@pytest.mark.parametrize("name", ["hub_token", "wandb_api_key", "api_key"])
def test_keys_are_refused_on_the_command_line_and_in_files_and_are_not_repeated(name, capsys, tmp_path) -> None:
    said = refusal([f"--{name}", "hf_canary"], capsys, tmp_path)
    (tmp_path / "config.yaml").write_text(f"{name}: hf_canary\n")
    said += refusal(["--config", str(tmp_path / "config.yaml")], capsys, tmp_path)
    assert said.count(name) >= 2
    assert "hf_canary" not in said


@pytest.mark.parametrize("name", ["none", "wandb"])
def test_the_tracker_is_kept_in_the_config_and_from_the_trainer(name, tmp_path) -> None:
    args = parse(StageArguments, ["--output_dir", str(tmp_path / "run"), "--report_to", name])
    assert args.report_to == []
    assert plain_config(args)["report_to"] == name
