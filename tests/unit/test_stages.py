"""Stages in processes of their own: measured, refused when they fail, never over what is there."""

from __future__ import annotations

import os
import sys

import pytest

import rlhf
from rlhf.demo import keep_earlier
from rlhf.stages import Stages, run_process, run_stage, set_aside


def test_a_stage_is_shown_run_and_measured(capfd) -> None:
    stages = Stages()
    stages.run("first", "--version")
    assert capfd.readouterr().out == f"\n== first: rlhf --version\nrlhf {rlhf.__version__}\n"
    assert 0 < stages.seconds["first"] < 60
    assert stages.peak_gb > 0.005


def test_a_failed_stage_ends_the_work_with_its_status(capfd) -> None:
    stages = Stages()
    with pytest.raises(SystemExit) as stopped:
        stages.run("second", "nonsense")
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert "unknown command 'nonsense'" in error
    assert "error: stage second ended with status 2" in error
    assert "second" in stages.seconds


def test_the_signal_that_ended_a_process_is_its_negative_status() -> None:
    finished = run_process(["sh", "-c", "kill -9 $$"])
    assert finished.status == -9


def test_a_stage_holds_the_descriptors_it_is_given() -> None:
    read, write = os.pipe()
    command = [sys.executable, "-c", f"import os; os.write({write}, b'held')"]
    try:
        assert run_process(command, held=[write]).status == 0
        assert os.read(read, 10) == b"held"
        assert run_process(command).status != 0
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tie a process to its parent")
def test_a_stage_without_its_parent_does_not_start() -> None:
    # no process has the number 0, so the stage takes its parent to be gone
    assert run_process([sys.executable, "-m", "rlhf.stages", "0", "--version"]).status == 1
    assert run_stage(["--version"]).status == 0


def test_what_is_there_is_renamed_and_never_overwritten(tmp_path) -> None:
    folder = tmp_path / "run"
    assert set_aside(folder) is None
    names = []
    for _ in range(3):
        folder.mkdir()
        (folder / "kept").write_text("x")
        os.utime(folder, (1_000_000_000, 1_000_000_000))
        aside = set_aside(folder)
        assert aside is not None
        assert (aside / "kept").read_text() == "x"
        names.append(aside.name)
    assert len(set(names)) == 3
    assert all(name.startswith("run-2001090") for name in names)


def test_the_demo_moves_an_earlier_one_aside(tmp_path, capsys) -> None:
    folder = tmp_path / "demo"
    keep_earlier(folder)
    (folder / "report.html").write_text("first")
    keep_earlier(folder)
    assert list(folder.iterdir()) == []
    assert "the earlier demo is now in" in capsys.readouterr().out
    assert [path.read_text() for path in tmp_path.glob("demo-*/report.html")] == ["first"]
