"""A run that ends itself before its last step, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate import PartialState

STOPPED = 3  # exit status of a run that stopped itself; 2 is for input that was refused, 1 for a defect


class RunStopped(Exception):
    """Ends a run on purpose; its text says what was seen, where, and what to do.

    The trainer writes a checkpoint of the last complete step before it lets this pass, and the entry point turns it
    into one line on standard error and exit status `STOPPED`.
    """


class ScorerError(RunStopped):
    """A scorer gave no usable score; names the scorer, what it gave and the first response concerned."""


class MonitorStop(RunStopped):
    """Monitors stopped the run after a complete step.

    Args:
        message: what they saw.
        monitors: their names.
    """

    def __init__(self, message: str, monitors: Sequence[str]):
        super().__init__(message)
        self.monitors = tuple(monitors)


@contextmanager
def exit_when_stopped() -> Iterator[None]:
    """Turn a run that stops itself into one line on standard error and exit status `STOPPED`."""
    try:
        yield
    except RunStopped as stopped:
        if PartialState().is_main_process:
            hint = "" if "--resume_from_checkpoint" in str(stopped) else "; go on with --resume_from_checkpoint latest"
            print(f"\nstopped: {stopped}{hint}", file=sys.stderr)  # a progress bar may stand in the line before
        raise SystemExit(STOPPED) from stopped
