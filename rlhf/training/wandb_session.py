"""A session of Weights & Biases: opened online or offline, with nothing collected that names machine or person.

Not collected: host name, git remote, command line, package list, console output, code and system metrics. The key is
W&B's to read, from WANDB_API_KEY or netrc; it is never taken as an argument or written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.training.run_folder import CONFIG

IDENTITY = "tracking.json"
DEFAULT_PROJECT = "rlhf-loop"
FLUSH_SECONDS = 0.2
# a server that does not answer holds a run up this long, at its start and at its end
PATIENCE = {"init_timeout": 30.0, "finish_timeout": 300.0}
HEADER_BYTES = 7  # of a file without a record

# Overrides what W&B's environment variables and settings files say.
PRIVATE = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "label_disable": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class Disabled(Exception):
    """The user switched W&B off."""


def open_session(folder: Path, stage: str, *, name: str | None) -> Any:
    """A run of W&B for a run folder, the same one when that is resumed: online where a key and a server are.

    Raises:
        Disabled: WANDB_MODE says so.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # takes a second, and is not always installed

    before = read_identity(folder)
    about = {
        "config": yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")),  # without secrets
        "id": before.get("run_id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4),
        "job_type": stage,
        "name": name or os.environ.get("WANDB_NAME") or folder.resolve().name,
        "project": before.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        "resume": "allow",
        "reinit": "create_new",
    }
    mode = wandb.setup().settings.mode
    if mode == "disabled":
        raise Disabled
    reason = f"its mode is {mode}"
    if mode in ("online", "run"):
        try:
            if wandb.login(prompt=False, verify=False):
                run = _init(wandb, folder, about, mode="online")
                say(f"online at {run.url}")
                return run
            reason = "it has no key: set WANDB_API_KEY or call wandb login"
        except Exception as error:
            reason = f"{' '.join(str(error).split())}"
            wandb.teardown()  # a service that failed to open a run keeps its id taken
    run = _init(wandb, folder, about, mode="offline")
    say(f"recording offline in {session_folder(run)} ({reason})")
    return run


def _init(wandb: Any, folder: Path, about: Mapping[str, Any], *, mode: str) -> Any:
    patience = {key: value for key, value in PATIENCE.items() if f"WANDB_{key.upper()}" not in os.environ}
    settings = wandb.Settings(
        root_dir=str(Path(os.environ.get("WANDB_DIR") or folder.resolve())),
        silent=True,
        program=f"rlhf {about['job_type']}",
        x_transaction_log_flush_interval=FLUSH_SECONDS,
        finish_timeout_raises=True,
        **PRIVATE,
        **patience,
    )
    return wandb.init(**about, mode=mode, settings=settings)


def is_offline(run: Any) -> bool:
    """Whether a session is recorded for a later `wandb sync`."""
    return run.settings._offline


def session_folder(run: Any) -> Path:
    """Where a session's files are."""
    return Path(run.dir).parent


def read_identity(folder: Path) -> dict[str, Any]:
    """The W&B run of a run folder, empty where there is none."""
    path = folder / IDENTITY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def unsent_folders(run: Any, *, failed: bool) -> list[str]:
    """Folders of this run that wait for `wandb sync`; one without a record would make it stop."""
    here = session_folder(run)
    if not is_offline(run):  # has sent the rows of earlier sessions itself
        return [str(here)] if failed else []
    files = here.parent.glob(f"offline-run-*-{run.id}*/run-*.wandb")
    folders = {str(file.parent) for file in files if file.stat().st_size > HEADER_BYTES}
    return sorted(folders | {str(here)})


@contextlib.contextmanager
def staging(run: Any) -> Iterator[None]:
    """Files wait for their upload beside the run, not in the home folder."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ.setdefault("WANDB_DATA_DIR", str(session_folder(run).parent / "data"))
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def say(words: str) -> None:
    """Tell the user on standard output."""
    print(f"wandb: {words}", flush=True)


def warn(words: str) -> None:
    """Tell the user on standard error."""
    print(f"warning: {words}", file=sys.stderr, flush=True)
