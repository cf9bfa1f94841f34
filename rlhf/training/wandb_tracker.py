"""Weights & Biases: a copy of what the run folder records, offline or online.

Rows go out under the names of `metrics.jsonl` (`objective/score`, `loss/policy`), so that W&B groups its panels by
what stands before the stroke; the few names without one (`loss`, `learning_rate`) share its first group. The
Trainer's own callback is not used: it renames metrics and sends all arguments.

W&B cannot take back a row. A resumed run goes on in the same W&B run and leaves out the rows that W&B has; a row
that comes out otherwise the second time (other settings) stands beside the old one. Rows that had not been uploaded
when a run was killed are sent when it is resumed online; offline, those of the last `FLUSH_SECONDS` are missing.

Tables are whole each time. W&B's incremental ones count their parts by what the server knows, which an offline run
does not, and show the last hundred.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.evaluation.sample_history import histories, prompt_text
from rlhf.training.run_folder import ALARMS, LOG, MANIFEST, SAMPLES, RunFolder, read_rows, write_atomically
from rlhf.training.wandb_lineage import link_parents, log_output, record_data
from rlhf.training.wandb_session import (
    IDENTITY,
    Disabled,
    is_offline,
    open_session,
    read_identity,
    say,
    staging,
    unsent_folders,
    warn,
)

SECONDS_BETWEEN_TABLES = 600
TABLE_ROWS = 1000
TABLE_PROMPTS = 200  # of the table that sets steps side by side
LEVELS = {"info": "INFO", "warn": "WARN", "warning": "WARN"}  # every other severity is an ERROR
TITLE_LENGTH = 63


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
        before = read_identity(folder)
        self._table_at = time.monotonic()
        self._failed = False
        self._run = open_session(folder, self.manifest["stage"], name=name)
        self._run.define_metric("step", hidden=True)  # the x axis of all others, and no chart of its own
        self._run.define_metric("*", step_metric="step")
        self._known = {_fingerprint(row) for row in self._rows_at_wandb()} if before else set()
        self._known_alarms = {_alarm_id(alarm) for alarm in read_rows(folder / ALARMS)} if before else set()
        self._histograms: dict[int, Mapping[str, Any]] = {}
        self.identity = {"run_id": self._run.id, "project": self._run.project, "entity": self._run.entity or None}
        self._write_identity()
        self.parents = link_parents(self._run, self.manifest["parents"])
        if not before:
            record_data(self._run, self.manifest["data"])

    @classmethod
    def follow(cls, run: RunFolder, *, name: str | None = None) -> None:
        """Let W&B follow a run folder from here on; where W&B cannot start, the run goes on without."""
        try:
            run.trackers.append(cls(run.path, name=name))
        except Disabled:
            say("off, WANDB_MODE=disabled")
        except Exception as error:  # of W&B, its service or the network: of many types, and none worth a run
            warn(f"this run is not tracked, W&B does not start: {error}")

    def log(self, row: Mapping[str, Any]) -> None:
        """One row as `metrics.jsonl` has it, with its step's histograms, unless W&B had it before a resume."""
        histograms = self._histograms.pop(row.get("step", 0), {})
        if _fingerprint(row) not in self._known:
            self._attempt(lambda: self._run.log({**_numbers(row), **_drawn(histograms)}))

    def log_histograms(self, row: Mapping[str, Any]) -> None:
        """Keep the values of a step until its row comes: both are one row of W&B, which counts them when it resumes."""
        self._histograms[row["step"]] = row

    def log_alarm(self, alarm: Mapping[str, Any]) -> None:
        """Send an alert, once for each alarm of a monitor at a step, also over resumes."""
        if _alarm_id(alarm) not in self._known_alarms:
            self._known_alarms.add(_alarm_id(alarm))
            title = f"{alarm.get('monitor', 'alarm')} at step {alarm.get('step')}"[:TITLE_LENGTH]
            level = LEVELS.get(str(alarm.get("severity")).lower(), "ERROR")
            self._attempt(lambda: self._run.alert(title, str(alarm.get("message", "")), level))

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the newest sampled responses, now and then: every table is a file of its own."""
        if time.monotonic() - self._table_at >= SECONDS_BETWEEN_TABLES:
            self._attempt(self._log_tables)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Hand over the last tables, the output and the final numbers, and wait until W&B has them."""
        self._attempt(self._log_tables)
        self._attempt(self._log_output)
        self._attempt(lambda: self._run.summary.update(dict(metrics)))
        self._attempt(self._run.finish)
        folders = unsent_folders(self._run, failed=self._failed)
        if folders:
            say(f"upload this run with: wandb sync {shlex.join(folders)}")

    def _rows_at_wandb(self) -> list[dict[str, Any]]:
        """The rows so far that need not be sent: offline those of earlier sessions, online those that arrived."""
        rows = list(read_rows(self.folder / LOG))
        if is_offline(self._run):
            return rows
        if not self._run.resumed:
            return []
        # the summary runs ahead of the rows, and tables are counted among the rows: take what both allow
        last = self._run.summary.get("step", 0)
        return [row for row in rows[: self._run.starting_step] if row.get("step", 0) <= last]

    def _write_identity(self) -> None:
        write_atomically(self.folder / IDENTITY, json.dumps(self.identity, indent=1) + "\n")

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # as above
            self._failed = True
            warn(f"W&B stopped, the run goes on without: {type(error).__name__}: {error}")

    def _log_tables(self) -> None:
        import wandb

        self._table_at = time.monotonic()
        newest = list(deque(read_rows(self.folder / SAMPLES), maxlen=TABLE_ROWS))
        if not newest:
            return
        tables = {"samples": _sample_table(newest)}
        sides = _steps_side_by_side(self.folder)
        if sides is not None:
            tables["samples_by_prompt"] = sides
        with staging(self._run):
            shown = {name: wandb.Table(columns=columns, data=data) for name, (columns, data) in tables.items()}
            self._run.log({**shown, "step": newest[-1]["step"]})

    def _log_output(self) -> None:
        stage, data = self.manifest["stage"], self.manifest["data"]
        self.identity["artifact"] = log_output(self._run, self.folder, stage, parents=self.parents, data=data)
        self._write_identity()


Table = tuple[list[str], list[list[Any]]]


def _sample_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every response with its step; the prompt's id groups what was said to one prompt."""
    others = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("finished", "prompt")
    ]
    columns = ["step", "prompt_id", "prompt", *(name for name in others if name != "step")]
    cells = [{**row, "prompt": prompt_text(row["prompt"]), "prompt_id": _prompt_id(row["prompt"])} for row in rows]
    return columns, [[_cell(row.get(name)) for name in columns] for row in cells]


def _steps_side_by_side(folder: Path) -> Table | None:
    """Prompts that were answered at several steps: the first, a middle and the last answer in a row."""
    compared = histories(read_rows(folder / SAMPLES), most_prompts=TABLE_PROMPTS)
    if not compared:
        return None
    names = ("step", "response", "score", "kl")
    columns = ["prompt", *(f"{when} {name}" for when in ("first", "middle", "last") for name in names)]
    data = []
    for history in compared:
        first, *middle, last = history.rows
        shown = [first, middle[0] if middle else {}, last]
        data.append([history.prompt, *(_cell(row.get(name)) for row in shown for name in names)])
    return columns, data


def _drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    """Histograms of a step's values; those that are not finite have no place in one."""
    import wandb

    finite = {
        name: [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
        for name, values in row.items()
        if name != "step"
    }
    return {f"histograms/{name}": wandb.Histogram(values) for name, values in finite.items() if values}


def _fingerprint(row: Mapping[str, Any]) -> str:
    """A row without what is otherwise in every session: clocks, and what TRL counts since the start."""
    kept = {name: value for name, value in row.items() if not _is_of_session(name)}
    return json.dumps(kept, sort_keys=True)


def _is_of_session(name: str) -> bool:
    return name.startswith("time/") or name.endswith(("_runtime", "_per_second")) or name == "num_tokens"


def _alarm_id(alarm: Mapping[str, Any]) -> tuple[Any, Any]:
    return alarm.get("step"), alarm.get("monitor")


def _prompt_id(prompt: Any) -> str:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:8]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Non-finite numbers, which JSON lacks, as W&B takes them."""
    return {name: float(value) if value in ("nan", "inf", "-inf") else value for name, value in row.items()}


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value, ensure_ascii=False)
