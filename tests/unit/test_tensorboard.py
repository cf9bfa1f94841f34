"""What TensorBoard's own reader finds in a run's event files."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import markdown
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.training.run_folder import RunFolder
from rlhf.training.tracking import follow


def opened(path: Path, *, resume: bool = False, names: tuple[str, ...] = ("tensorboard",)) -> RunFolder:
    run = RunFolder.open(path, stage="ppo", config={}, parents={}, data_files=[], resume=resume)
    follow(run, names)
    return run


def step_of(run: RunFolder, step: int, score: float) -> None:
    run.log_histograms(step, {"score": [score, score + 1, math.nan]})
    run.log({"objective/score": score, "note": "words", "step": step})
    prompt = [{"role": "user", "content": "Why?"}]
    rows = [{"step": step, "prompt": prompt, "response": f"answer {step}", "score": score, "finished": True}]
    run.log_samples([*rows, *rows])
    run.log_alarm({"step": step, "monitor": "kl", "severity": "warn", "message": f"seen at {step}"})


def read(run: RunFolder) -> EventAccumulator:
    """All of it: by default TensorBoard shows a sample of what is many."""
    everything = dict.fromkeys(("scalars", "tensors", "histograms"), 0)
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance=everything)
    events.Reload()
    return events


def scalars(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def texts(events: EventAccumulator, name: str) -> dict[int, str]:
    found = events.Tensors(f"{name}/text_summary")
    return {event.step: event.tensor_proto.string_val[0].decode() for event in found}


def test_rows_histograms_samples_and_alarms_are_read_back(tmp_path) -> None:
    run = opened(tmp_path / "run")
    step_of(run, 1, 0.25)
    step_of(run, 2, 0.5)
    events = read(run)
    assert scalars(events, "objective/score") == [(1, 0.25), (2, 0.5)]
    assert events.Tags()["scalars"] == ["objective/score"]  # words are no number
    (first, second) = events.Histograms("histograms/score")
    assert (first.step, first.histogram_value.num) == (1, 2)  # without the NaN
    assert (second.histogram_value.min, second.histogram_value.max) == (0.5, 1.5)
    assert texts(events, "alarms/kl")[2].split() == ["**warn**", "seen", "at", "2"]
    for place in ("samples/1", "samples/2"):
        shown = texts(events, place)
        assert set(shown) == {1, 2}
        assert shown[1] == "score 0.25\n\n\n\n    Why?\n\n\n\n    answer 1"


def test_non_finite_numbers_are_shown_as_such(tmp_path) -> None:
    run = opened(tmp_path / "run")
    run.log({"loss": math.nan, "big": math.inf, "step": 1})
    events = read(run)
    assert math.isnan(events.Scalars("loss")[0].value)
    assert events.Scalars("big")[0].value == math.inf


def test_after_a_resume_no_row_stands_twice_and_none_that_was_given_up(tmp_path) -> None:
    first = opened(tmp_path / "run")
    for step in (1, 2, 3):
        step_of(first, step, 1.0)
    resumed = opened(tmp_path / "run", resume=True)
    assert scalars(read(resumed), "objective/score") == [(1, 1.0), (2, 1.0), (3, 1.0)]  # until it goes on
    resumed.rewind(1)
    step_of(resumed, 2, 2.0)
    events = read(resumed)
    assert scalars(events, "objective/score") == [(1, 1.0), (2, 2.0)]
    assert [event.step for event in events.Histograms("histograms/score")] == [1, 2]
    assert set(texts(events, "samples/2")) == set(texts(events, "alarms/kl")) == {1, 2}
    assert [file.stat().st_size > 0 for file in sorted((tmp_path / "run" / "tensorboard").iterdir())] == [False, True]


def test_a_server_that_is_open_forgets_what_a_resumed_run_has_given_up(tmp_path) -> None:
    first = opened(tmp_path / "run")
    for step in (1, 2, 3):
        step_of(first, step, 1.0)
    events = read(first)
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(1)
    step_of(resumed, 2, 2.0)
    events.Reload()
    assert scalars(events, "objective/score") == [(1, 1.0), (2, 2.0)]


def test_a_run_that_began_without_tensorboard_brings_its_rows_when_it_is_resumed_with_it(tmp_path) -> None:
    first = opened(tmp_path / "run", names=())
    step_of(first, 1, 1.0)
    assert not (tmp_path / "run" / "tensorboard").exists()
    resumed = opened(tmp_path / "run", resume=True)
    resumed.rewind(1)
    assert scalars(read(resumed), "objective/score") == [(1, 1.0)]


def test_an_event_is_on_the_disk_when_log_returns_and_nothing_names_the_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "canary-host")
    run = opened(tmp_path / "run")
    step_of(run, 1, 1.0)
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert file.name == "events.out.tfevents.000001"
    assert b"canary-host" not in file.read_bytes()
    assert scalars(read(run), "objective/score") == [(1, 1.0)]


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "    \n\n# head\n![x](http://x)", "```\nend"])
def test_what_a_model_wrote_is_shown_as_code(tmp_path, hostile: str) -> None:
    run = opened(tmp_path / "run")
    prompt = [{"role": "user", "content": "Q"}]
    run.log_samples([{"step": 1, "prompt": prompt, "response": hostile, "score": 1.0}])
    html = markdown.markdown(texts(read(run), "samples/1")[1])  # as TensorBoard renders it, before it cleans it
    assert "<img" not in html
    assert "<h1>" not in html
    assert "<script" not in html
