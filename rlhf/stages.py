"""Stages of a longer work: each is an `rlhf` command in a process of its own, shown as a user would type it.

A process ends with the one that started it, also when that one is killed: two stages never write to one folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf import cli

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


@dataclass(frozen=True)
class Finished:
    """How a stage's process ended.

    Attributes:
        status: its exit status; negative for the signal that ended it.
        seconds: wall-clock time.
        peak_gb: its largest resident memory, in gigabytes (10^9 bytes); Linux counts what its parent held when it
            started it, so that it is never below that.
    """

    status: int
    seconds: float
    peak_gb: float


@dataclass
class Stages:
    """Runs commands one after the other and measures each.

    Attributes:
        seconds: wall-clock seconds by stage.
        peak_gb: largest resident memory of any stage's process, in gigabytes (10^9 bytes).
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_gb: float = 0.0

    def run(self, name: str, *command: str) -> None:
        """Run `rlhf COMMAND ...` and show its progress.

        Raises:
            SystemExit: the command failed; with its exit status.
        """
        print(f"\n== {name}: rlhf {' '.join(command)}", flush=True)
        finished = run_stage(command)
        self.seconds[name] = finished.seconds
        self.peak_gb = max(self.peak_gb, finished.peak_gb)
        refuse_failure(name, finished)


def run_stage(command: Sequence[str], *, held: Sequence[int] = ()) -> Finished:
    """Run `rlhf COMMAND ...` to its end.

    `held` are file descriptors that the stage keeps open, such as that of a lock.
    """
    return run_process([sys.executable, "-m", "rlhf.stages", str(os.getpid()), *command], held=held)


def run_process(command: Sequence[str], *, held: Sequence[int] = ()) -> Finished:
    """Run a command to its end and measure it; an interrupt reaches it first and is then raised here."""
    started = time.perf_counter()
    process = subprocess.Popen(command, pass_fds=held)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()  # the terminal has sent the interrupt to it as well
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # collected here, so that Popen does not wait for it
    return Finished(process.returncode, time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9)


def refuse_failure(name: str, finished: Finished) -> None:
    """Raise SystemExit with the stage's status unless it is 0."""
    if finished.status == 0:
        return
    print(f"error: stage {name} ended with status {finished.status}; what it said is above", file=sys.stderr)
    raise SystemExit(finished.status if finished.status > 0 else 1)


def set_aside(folder: Path) -> Path | None:
    """Rename a folder by its time, so that nothing is overwritten; the new name, or None where there is none."""
    if not folder.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    aside, number = folder.with_name(f"{folder.name}-{stamp}"), 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}-{stamp}-{number}")
    folder.rename(aside)
    return aside


def main(argv: Sequence[str]) -> int | None:
    """One stage: `python -m rlhf.stages PARENT COMMAND ...`, ending when the process PARENT does."""
    parent, *command = argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != int(parent):  # gone before the line above
            return 1
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
