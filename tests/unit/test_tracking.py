"""Which rows W&B gets, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.training import tracking, wandb_tracker
from rlhf.training.arguments import StageArguments
from rlhf.training.parser import parse
from rlhf.training.run_folder import RunFolder, hash_file
from rlhf.training.stage import plain_config
from rlhf.training.tracking import check_trackers, follow
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
        follow(run, ["wandb"], **tracking_arguments)
        assert len(run.trackers) == 1
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
    (row,) = session.tables
    assert len(row.pop("prompt_id")) == 8
    assert row == {"step": 1, "prompt": "system: Be brief.\nuser: Why?", "response": "So.", "score": 0.5}


def test_a_table_is_shown_during_the_run_when_the_last_one_is_old(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wandb_tracker, "SECONDS_BETWEEN_TABLES", 0)
    run = opened(tmp_path / "run")
    for step in (1, 2):
        run.log_samples([{"step": step, "prompt": [{"role": "user", "content": "Q"}], "response": "A", "score": 1.0}])
    (session,) = ended(run)
    assert [row["step"] for row in session.tables] == [1, 1, 2, 1, 2]


def sampled(step: int, prompt: str, response: str, score: float = 0.0) -> dict[str, Any]:
    message = {"role": "user", "content": prompt}
    return {"step": step, "prompt": [message], "response": response, "score": score, "kl": 0.5}


def test_answers_to_one_prompt_at_several_steps_stand_in_one_row(tmp_path) -> None:
    run = opened(tmp_path / "run")
    for step in (1, 2, 3, 4):
        run.log_samples(
            [sampled(step, "A", f"a{step}", step / 4), sampled(step, "A", "another"), sampled(step, "B", "b")]
        )
    run.log_samples([sampled(4, "C", "once")])
    (session,) = ended(run)
    assert [row["prompt"] for row in session.comparisons] == ["A", "B"]
    assert [session.comparisons[0][f"{when} response"] for when in ("first", "middle", "last")] == ["a1", "a3", "a4"]
    assert [session.comparisons[0][f"{when} score"] for when in ("first", "middle", "last")] == [0.25, 0.75, 1.0]
    ids = {row["prompt"]: row["prompt_id"] for row in session.tables}
    assert len(set(ids.values())) == 3


def test_a_histogram_goes_with_its_row_and_neither_comes_again_on_resume(tmp_path) -> None:
    first = opened(tmp_path / "run")
    for step in (1, 2):
        first.log_histograms(step, {"score": [0.0, 1.0, 1.0, math.nan], "kl": [math.inf]})
        first.log({"loss": 1.0, "step": step})
    ended(first)
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(1)
    for step in (2, 3):
        resumed.log_histograms(step, {"score": [0.0, float(step)]})
        resumed.log({"loss": 1.0, "step": step})
    before, after = ended(resumed)
    assert [row["step"] for row in before.histograms()] == [1, 2]
    assert [row["step"] for row in after.histograms()] == [3]
    drawn = before.histograms()[0]
    assert set(drawn) == {"step", "score"}  # what is not finite has no place
    assert drawn["score"]["_type"] == "histogram"
    assert sum(drawn["score"]["values"]) == 3
    assert (drawn["score"]["values"][0], drawn["score"]["values"][-1]) == (1, 2)
    assert [row["step"] for row in after.metric_rows()] == [3]


def test_an_alarm_is_sent_once_also_when_the_run_is_resumed(tmp_path) -> None:
    def alarm(step: int, severity: str) -> dict[str, Any]:
        return {"step": step, "monitor": "kl", "severity": severity, "message": f"KL is {step} nats", "sample": "x"}

    first = opened(tmp_path / "run")
    first.log_alarm(alarm(1, "warn"))
    first.log_alarm(alarm(2, "stop"))
    ended(first)
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(1)
    resumed.log_alarm(alarm(2, "stop"))
    resumed.log_alarm(alarm(3, "stop"))
    before, after = ended(resumed)
    assert before.alerts == [("kl at step 1", "KL is 1 nats", "WARN"), ("kl at step 2", "KL is 2 nats", "ERROR")]
    assert after.alerts == [("kl at step 3", "KL is 3 nats", "ERROR")]


def test_data_files_are_inputs_by_hash_and_their_content_stays_here(tmp_path) -> None:
    file = tmp_path / "my pairs.jsonl"
    file.write_text('{"prompt": "the secret of the data"}\n\n{"prompt": "another"}\n')
    run = RunFolder.open(tmp_path / "run", stage="dpo", config={}, parents={}, data_files=[str(file)], resume=False)
    follow(run, ["wandb"])
    (session,) = ended(run)
    artifact = session.artifacts[f"my_pairs-{hash_file(file)[:12]}"]
    assert artifact.type == "dataset"
    assert artifact.use_after_commit  # an input of the run, not an output
    assert json.loads(artifact.metadata) == {"name": "my pairs.jsonl", "sha256": hash_file(file), "rows": 2}
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.ref, entry.local_path) == ("my pairs.jsonl", f"sha256:{hash_file(file)}", "")
    assert not session.artifacts[f"dpo-{session.run_id}"].use_after_commit
    for path in (path for path in (tmp_path / "run" / "wandb").rglob("*") if path.is_file()):
        assert b"secret of the data" not in path.read_bytes(), path


def test_wandb_dir_and_names_are_the_users_to_choose(tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    run = opened(tmp_path / "run", run_name="a name")
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
    follow(run, ["wandb"])
    assert run.trackers == []
    assert "WANDB_MODE=disabled" in capsys.readouterr().out
    assert not (tmp_path / "run" / "wandb").exists()
    wandb.teardown()


@pytest.mark.parametrize("name", ["all", "mlflow", "wandbb", ""])
def test_unknown_trackers_are_refused_by_name(name) -> None:
    with pytest.raises(ValueError, match=f"report_to is '{name}': choose none, wandb or tensorboard"):
        check_trackers(["wandb", name])


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused_with_what_installs_it(name, monkeypatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=re.escape(f"not installed: pip install 'rlhf-loop[{name}]'")):
        check_trackers([name])
    assert check_trackers(["none"]) == []


def test_none_goes_alone_and_a_tracker_named_twice_follows_once() -> None:
    with pytest.raises(ValueError, match="none goes alone"):
        check_trackers(["none", "wandb"])
    assert check_trackers(["none"]) == []
    assert check_trackers(["tensorboard", "wandb", "tensorboard"]) == ["tensorboard", "wandb"]


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


@pytest.mark.parametrize("names", [["none"], ["wandb"], ["wandb", "tensorboard"]])
def test_the_trackers_are_kept_in_the_config_and_from_the_trainer(names, tmp_path) -> None:
    args = parse(StageArguments, ["--output_dir", str(tmp_path / "run"), "--report_to", *names])
    assert args.report_to == []
    assert plain_config(args)["report_to"] == names
