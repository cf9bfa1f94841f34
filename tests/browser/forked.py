"""Servers as forks of one process that has imported Gradio, which takes seconds of processor for each.

A fork is a process of its own, killed and stopped like any other. How long the app takes to start is measured on
processes that are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import context, forkserver, get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = "tests.browser.preloaded"


@cache
def forks() -> context.ForkServerContext:
    """The process that servers are forked from, with one thread, wherever the tests are started."""
    found = get_context("forkserver")
    found.set_forkserver_preload([PRELOADED])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return found


class Fork:
    """`python -m rlhf.cli ARGUMENTS` with its output added to a file, as `subprocess.Popen` would hold it."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]):
        self.arguments = list(arguments)
        given = (self.arguments, log, dict(environment))
        self._process = forks().Process(target=become, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """Raises:
        subprocess.TimeoutExpired: it has not ended by then.
        """
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
        return status


def become(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """What the fork runs; its end is the end of the process."""
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    assert PRELOADED in sys.modules, f"{PRELOADED} could not be imported where servers are forked from"
    os.environ.clear()
    os.environ.update(environment)
    from rlhf.cli import main

    sys.exit(main(arguments))
