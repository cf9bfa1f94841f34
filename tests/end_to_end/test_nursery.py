"""What starts the commands of the other tests answers for each command, and for that command alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.end_to_end.launching import ENVIRONMENT, ROOT, launched
from tests.end_to_end.nursery import Nursery


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery(ROOT, ENVIRONMENT)
    yield nursery
    nursery.close()


def test_a_fork_has_status_output_folder_and_environment_of_its_own(nursery, tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "import os, sys\nprint(os.getcwd(), os.environ['RLHF_TOLD'], sys.argv[1:])\nprint('no', file=sys.stderr)\n"
        "sys.exit(7)\n"
    )
    told = ENVIRONMENT | {"RLHF_TOLD": "yes"}
    assert nursery.takes(told)
    assert not nursery.takes(ENVIRONMENT | {"HF_HOME": "elsewhere"})
    done = nursery.run(["-m", "own", "a b"], cwd=tmp_path, environment=told, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{tmp_path} yes ['a b']\n", "no\n")


def test_a_command_that_takes_too_long_is_killed_and_the_next_one_is_answered(nursery, tmp_path) -> None:
    (tmp_path / "waits.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    (tmp_path / "ends.py").write_text("print('ended')\n")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        nursery.run(["-m", "waits"], cwd=tmp_path, environment=ENVIRONMENT, timeout=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(caught.value.stdout), 0)
    for _ in range(3):
        assert nursery.run(["-m", "ends"], cwd=tmp_path, environment=ENVIRONMENT, timeout=60).stdout == "ended\n"


def test_a_command_says_the_same_as_in_a_process_that_was_started() -> None:
    command = [sys.executable, "-m", "rlhf.cli", "dpo", "--train_file", "absent.jsonl", "--output_dir", "absent"]
    forked = launched(command, check=False)
    started = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert forked.returncode == started.returncode == 2
    assert forked.stderr == started.stderr
