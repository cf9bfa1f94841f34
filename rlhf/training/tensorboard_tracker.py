"""TensorBoard: event files in a run's folder `tensorboard`, a copy of what the run folder records.

They are written anew when a run is resumed, from what the run folder then holds, so that no row stands twice. Each
event is on the disk when `log` returns. The records are made by torch and TensorBoard; their own `SummaryWriter` is
not used, since it puts the machine's name into the name of its file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, scalar, text

from rlhf.evaluation.sample_history import prompt_text

FOLDER = "tensorboard"
VERSION = "brain.Event:2"  # of the format; readers look for it in the first record
HISTOGRAM_BINS = 64


class TensorBoardTracker:
    """The event file of a run, written to from the main process only.

    Args:
        folder: the run folder; events that an earlier session left there go when this one has its first.
    """

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER
        self._earlier = sorted(self.folder.glob("events.out.tfevents.*"))
        self._file: Path | None = None
        self._sampled_step: int | None = None
        self._sampled = 0

    def log(self, row: Mapping[str, Any]) -> None:
        """Numbers under their names; words and nested values have no place in TensorBoard."""
        numbers = {name: value for name, value in row.items() if name != "step" and _is_number(value)}
        self._write(row.get("step", 0), *(scalar(name, float(value)) for name, value in numbers.items()))

    def log_histograms(self, row: Mapping[str, Any]) -> None:
        """Values that are not finite have no place in a histogram."""
        for name in (name for name in row if name != "step"):
            values = np.array([value for value in row[name] if _is_number(value)], dtype=float)
            values = values[np.isfinite(values)]
            if values.size:
                edges = np.histogram_bin_edges(values, bins=HISTOGRAM_BINS)
                self._write(row["step"], histogram(f"histograms/{name}", values, edges))

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Responses as text, the n-th of a step under `samples/n`, so that its slider goes through the steps."""
        for row in rows:
            step = row.get("step", 0)
            self._sampled = self._sampled + 1 if step == self._sampled_step else 1
            self._sampled_step = step
            self._write(step, text(f"samples/{self._sampled}", _markdown(row)))

    def log_alarm(self, alarm: Mapping[str, Any]) -> None:
        """What a monitor saw, as text."""
        words = f"**{alarm.get('severity', 'alarm')}** {_quoted(str(alarm.get('message', '')))}"
        self._write(alarm.get("step", 0), text(f"alarms/{alarm.get('monitor', 'monitor')}", words))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Nothing is left to write: final numbers are in the last rows and in `metrics.json`."""

    def _write(self, step: int, *summaries: Summary) -> None:
        values = [value for summary in summaries for value in summary.value]
        if not values:
            return
        self._record(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))

    def _record(self, event: Event) -> None:
        if self._file is None:
            self._file = self._start()
        with self._file.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())

    def _start(self) -> Path:
        """A new file in place of those of earlier sessions, which are emptied."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(file.suffix[1:]) for file in self._earlier if file.suffix[1:].isdigit()), default=0)
        self._file = self.folder / f"events.out.tfevents.{number:06d}"
        self._record(Event(wall_time=time.time(), file_version=VERSION))
        if self._earlier:  # an open server then forgets what it has read
            self._record(Event(wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
        for file in self._earlier:
            file.write_bytes(b"")  # deleted, it would hold up a server that reads it
        return self._file


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or value in ("nan", "inf", "-inf")


def _markdown(row: Mapping[str, Any]) -> str:
    """A sampled row as TensorBoard shows text: as Markdown, with what a model wrote as code, which cannot act."""
    noted = {name: value for name, value in row.items() if name not in ("step", "prompt", "response", "finished")}
    notes = ", ".join(f"{name} {value:.4g}" for name, value in noted.items() if _is_plain(value))
    return f"{notes}\n\n{_quoted(prompt_text(row['prompt']))}\n\n{_quoted(str(row['response']))}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _quoted(words: str) -> str:
    """A Markdown block of code: every line indented, so that none ends it."""
    return "\n\n" + "\n".join(f"    {line}" for line in words.splitlines() or [""])
