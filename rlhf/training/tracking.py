"""Weights & Biases: a copy of what the run folder records, offline or online.

The run folder stays the record. W&B gets its rows under the same names (`objective/score`, `loss/policy`), the
resolved configuration, a table of sampled responses, and the output adapter with what it was made from. The
Trainer's own callback is not used: it renames metrics and sends all arguments.

What identifies machine or person is not collected: no host name, git remote, command line, package list, console
output, code or system metrics. The key is W&B's to read, from WANDB_API_KEY or netrc; it is never taken as an
argument or written.

W&B cannot take back a row. A resumed run goes on in the same W&B run and leaves out the rows that W&B has; a row
that comes out otherwise the second time (other settings) stands beside the old one. Rows that had not been uploaded
when a run was killed are sent when it is resumed online; offline, those of the last `FLUSH_SECONDS` are missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.training.run_folder import CONFIG, LOG, MANIFEST, SAMPLES, RunFolder, write_atomically

TRACKERS = ("none", "wandb")
IDENTITY = "tracking.json"
DEFAULT_PROJECT = "rlhf-loop"
OUTPUT_FILES = ("adapter_config.json", "adapter_model.safetensors", "*_head.safetensors")

FLUSH_SECONDS = 0.2
SECONDS_BETWEEN_TABLES = 600
TABLE_ROWS = 1000
# a server that does not answer holds a run up this long, at its start and at its end
PATIENCE = {"init_timeout": 30.0, "finish_timeout": 300.0}

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


def check_tracker(name: str) -> None:
    """Refuse what cannot track a run, before anything is loaded.

    Raises:
        ValueError: an unknown tracker, or one that is not installed.
    """
    if name not in TRACKERS:
        raise ValueError(f"report_to is {name!r}: choose {' or '.join(TRACKERS)}")
    if name == "wandb":
        found = importlib.util.find_spec("wandb")
        if found is None or found.origin is None:  # a folder `wandb` of earlier runs is no package
            raise ValueError("report_to is 'wandb', which is not installed: pip install 'rlhf-loop[wandb]'")


class WandbTracker:
    """One run in W&B, written to from the main process only.

    Whatever goes wrong with W&B is said once and ends the tracking, not the training.

    Args:
        folder: the run folder, open; rows that it holds by now count as known to W&B if W&B tracked them.
        name: shown in W&B; None takes the folder's name.
    """

    def __init__(self, folder: Path, *, name: str | None = None):
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        before = _identity(folder)
        run_id = before.get("run_id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self._table_at = time.monotonic()
        self._failed = False
        settings = {
            "config": yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")),  # without secrets
            "id": run_id,
            "job_type": self.manifest["stage"],
            "name": name or os.environ.get("WANDB_NAME") or folder.resolve().name,
            "project": before.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            "resume": "allow",
            "reinit": "create_new",
        }
        self._root = Path(os.environ.get("WANDB_DIR") or folder.resolve())
        self._run = self._start(settings)
        self._run.define_metric("*", step_metric="step")
        self._known = {_fingerprint(row) for row in self._rows_at_wandb()} if before else set()
        self.identity = {"run_id": run_id, "project": self._run.project, "entity": self._run.entity or None}
        self._write_identity()
        self.parents = self._link_parents()

    @classmethod
    def follow(cls, run: RunFolder, *, name: str | None = None) -> None:
        """Let W&B follow a run folder from here on; where W&B cannot start, the run goes on without."""
        try:
            run.tracker = cls(run.path, name=name)
        except _Disabled:
            _say("off, WANDB_MODE=disabled")
        except Exception as error:  # of W&B, its service or the network: of many types, and none worth a run
            _warn(f"this run is not tracked, W&B does not start: {error}")

    def log(self, row: Mapping[str, Any]) -> None:
        """One row as `metrics.jsonl` has it, unless W&B had it before the run was resumed."""
        if _fingerprint(row) not in self._known:
            self._attempt(lambda: self._run.log({name: _number(value) for name, value in row.items()}))

    def log_samples(self) -> None:
        """Show the newest sampled responses, now and then: every table is a file of its own."""
        if time.monotonic() - self._table_at >= SECONDS_BETWEEN_TABLES:
            self._attempt(self._log_table)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Hand over the last table, the output and the final numbers, and wait until W&B has them."""
        self._attempt(self._log_table)
        self._attempt(self._log_output)
        self._attempt(lambda: self._run.summary.update(dict(metrics)))
        self._attempt(self._run.finish)
        folders = self._unsent_folders()
        if folders:
            _say(f"upload this run with: wandb sync {shlex.join(folders)}")

    # ---- starting ---------------------------------------------------------------------------------------

    def _start(self, settings: dict[str, Any]) -> Any:
        """A run of W&B: online where a key and a server are, else offline."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # takes a second, and is not always installed

        mode = wandb.setup().settings.mode
        if mode == "disabled":
            raise _Disabled
        reason = f"its mode is {mode}"
        if mode in ("online", "run"):
            try:
                if wandb.login(prompt=False, verify=False):
                    run = self._init(wandb, settings, mode="online")
                    _say(f"online at {run.url}")
                    return run
                reason = "it has no key: set WANDB_API_KEY or call wandb login"
            except Exception as error:
                reason = f"{' '.join(str(error).split())}"
                wandb.teardown()  # a service that failed to open a run keeps its id taken
        run = self._init(wandb, settings, mode="offline")
        _say(f"recording offline in {_folder(run)} ({reason})")
        return run

    def _init(self, wandb: Any, settings: dict[str, Any], *, mode: str) -> Any:
        patience = {key: value for key, value in PATIENCE.items() if f"WANDB_{key.upper()}" not in os.environ}
        more = wandb.Settings(
            root_dir=str(self._root),
            silent=True,
            program=f"rlhf {self.manifest['stage']}",
            x_transaction_log_flush_interval=FLUSH_SECONDS,
            finish_timeout_raises=True,
            **PRIVATE,
            **patience,
        )
        return wandb.init(**settings, mode=mode, settings=more)

    def _rows_at_wandb(self) -> list[dict[str, Any]]:
        """The rows so far that need not be sent: offline those of earlier sessions, online those that arrived."""
        rows = list(_rows(self.folder / LOG))
        if self._run.settings._offline:
            return rows
        if not self._run.resumed:
            return []
        # the summary runs ahead of the rows, and tables are counted among the rows: take what both allow
        last = self._run.summary.get("step", 0)
        return [row for row in rows[: self._run.starting_step] if row.get("step", 0) <= last]

    def _link_parents(self) -> dict[str, Any]:
        """What this run was made from; parents that W&B tracked are named, and linked when online."""
        parents = {name: dict(parent) for name, parent in self.manifest["parents"].items()}
        for name, parent in parents.items():
            artifact = _identity(Path(parent["path"])).get("artifact")
            if artifact is None:
                continue
            parent["artifact"] = artifact
            if not self._run.settings._offline:  # offline it raises
                try:
                    self._run.use_artifact(artifact)
                except Exception as error:  # not uploaded, say: the metadata names it all the same
                    _warn(f"the {name}'s artifact {artifact} is not linked: {' '.join(str(error).split())}")
        return parents

    def _write_identity(self) -> None:
        write_atomically(self.folder / IDENTITY, json.dumps(self.identity, indent=1) + "\n")

    # ---- handing over -----------------------------------------------------------------------------------

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # as above
            self._failed = True
            _warn(f"W&B stopped, the run goes on without: {type(error).__name__}: {error}")

    def _log_table(self) -> None:
        import wandb

        rows = list(deque(_rows(self.folder / SAMPLES), maxlen=TABLE_ROWS))
        self._table_at = time.monotonic()
        if not rows:
            return
        columns = [name for name in rows[0] if name != "finished"]
        data = [[_text(row[name]) if name == "prompt" else row.get(name) for name in columns] for row in rows]
        with self._staging():
            self._run.log({"samples": wandb.Table(columns=columns, data=data), "step": rows[-1]["step"]})

    def _log_output(self) -> None:
        import wandb

        stage, adapter = self.manifest["stage"], self.folder / "adapter"
        output = adapter if adapter.is_dir() else self.folder  # SFT keeps its adapter beside the merged model
        name = f"{stage}-{self.identity['run_id']}"
        metadata = {"stage": stage, "parents": self.parents, "data": self.manifest["data"]}
        artifact = wandb.Artifact(name, type="model", metadata=metadata)
        with self._staging():
            for file in sorted(file for pattern in OUTPUT_FILES for file in output.glob(pattern)):
                artifact.add_file(str(file), name=file.name)
            self._run.log_artifact(artifact)
        owner = [self.identity["entity"]] if self.identity["entity"] else []
        self.identity["artifact"] = "/".join([*owner, self.identity["project"], f"{name}:latest"])
        self._write_identity()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[None]:
        """Files wait for their upload beside the run, not in the home folder."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ.setdefault("WANDB_DATA_DIR", str(_folder(self._run).parent / "data"))
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]

    def _unsent_folders(self) -> list[str]:
        """Folders of this run that wait for `wandb sync`; one without a record would make it stop."""
        here = _folder(self._run)
        if not self._run.settings._offline:  # has sent the rows of earlier sessions itself
            return [str(here)] if self._failed else []
        files = here.parent.glob(f"offline-run-*-{self.identity['run_id']}*/run-*.wandb")
        folders = {str(file.parent) for file in files if file.stat().st_size > 7}  # 7: the bare header
        return sorted(folders | {str(here)})


class _Disabled(Exception):
    """The user switched W&B off."""


def _folder(run: Any) -> Path:
    return Path(run.dir).parent


def _identity(folder: Path) -> dict[str, Any]:
    """The W&B run of a run folder, empty where there is none."""
    path = folder / IDENTITY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # cut short by a crash
                yield json.loads(line)


def _fingerprint(row: Mapping[str, Any]) -> str:
    """A row without what is otherwise in every session: clocks, and what TRL counts since the start."""
    kept = {name: value for name, value in row.items() if not _is_of_session(name)}
    return json.dumps(kept, sort_keys=True)


def _is_of_session(name: str) -> bool:
    return name.startswith("time/") or name.endswith(("_runtime", "_per_second")) or name == "num_tokens"


def _number(value: Any) -> Any:
    """Non-finite numbers, which JSON lacks, as W&B takes them."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def _text(prompt: Any) -> str:
    """The messages of a prompt as one text."""
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _say(words: str) -> None:
    print(f"wandb: {words}", flush=True)


def _warn(words: str) -> None:
    print(f"warning: {words}", file=sys.stderr, flush=True)
