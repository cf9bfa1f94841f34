"""A run that ends itself before its last step, and why."""

from __future__ import annotations

STOPPED = 3  # exit status of a run that stopped itself; 2 is for input that was refused, 1 for a defect


class RunStopped(Exception):
    """Ends a run on purpose; its text says what was seen, where, and what to do.

    The trainer writes a checkpoint of the last complete step before it lets this pass, and the entry point turns it
    into one line on standard error and exit status `STOPPED`.
    """


class ScorerError(RunStopped):
    """A scorer gave no usable score; names the scorer, what it gave and the first response concerned."""
