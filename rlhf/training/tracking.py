"""Who follows a run beside its folder: Weights & Biases, TensorBoard, both or nobody.

The run folder stays the record; a tracker gets a copy of its rows, under the same names and steps.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from rlhf.training.run_folder import RunFolder
from rlhf.training.wandb_tracker import WandbTracker

NONE, WANDB, TENSORBOARD = "none", "wandb", "tensorboard"
TRACKERS = (NONE, WANDB, TENSORBOARD)


def check_trackers(names: Sequence[str]) -> list[str]:
    """The trackers by name, none for `none`; refuses what cannot track a run, before anything is loaded.

    Raises:
        ValueError: an unknown tracker, one that is not installed, or `none` beside another.
    """
    if isinstance(names, str):  # one, from Python
        names = [names]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"report_to is {name!r}: choose none, wandb or tensorboard, or the last two together")
        if name != NONE and not _is_installed(name):
            raise ValueError(f"report_to is {name!r}, which is not installed: pip install 'rlhf-loop[{name}]'")
    if NONE in names and len(set(names)) > 1:
        raise ValueError(f"report_to is {' '.join(names)}: none goes alone")
    return [name for name in dict.fromkeys(names) if name != NONE]


def follow(run: RunFolder, names: Sequence[str], *, run_name: str | None = None) -> None:
    """Let the trackers follow a run folder from here on; where one cannot start, the run goes on without it."""
    if WANDB in names:
        WandbTracker.follow(run, name=run_name)
    if TENSORBOARD in names:
        from rlhf.training.tensorboard_tracker import TensorBoardTracker  # its package is not always installed

        run.trackers.append(TensorBoardTracker(run.path))


def _is_installed(package: str) -> bool:
    """Whether there is such a package; a folder of this name, as earlier runs leave it, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
