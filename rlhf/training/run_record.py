"""What a run folder holds, read back: of a finished run, a stopped one, or one that is still going."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlhf.training.run_folder import (
    ALARMS,
    CONFIG,
    HISTOGRAMS,
    LOG,
    MANIFEST,
    METRICS,
    SAMPLES,
    SCHEMA_VERSION,
    read_rows,
)

Row = Mapping[str, Any]
MOST_GENERATIONS = 8  # of parents that are followed


@dataclass(frozen=True)
class Ancestor:
    """What a run was made from: a data file, a model, or another run with ancestors of its own.

    Attributes:
        role: backbone, reward_model, data and so on.
        path: as the run recorded it.
        sha256: of its content, when the run started.
        stage: of the run that is there now; None where there is none.
        ancestors: what that run was made from.
    """

    role: str
    path: str
    sha256: str
    stage: str | None = None
    ancestors: tuple[Ancestor, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run folder's content. Logs and final metrics are empty where the run has not come so far."""

    path: Path
    manifest: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    histograms: tuple[Row, ...] = ()
    alarms: tuple[Row, ...] = ()
    samples: tuple[Row, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return str(self.manifest.get("stage", "run"))

    @property
    def last_step(self) -> int:
        return max((row.get("step", 0) for row in self.rows), default=0)

    @property
    def status(self) -> str:
        """In words: finished, stopped by a monitor, or not finished, which a killed run is as well."""
        if self.manifest.get("status") == "finished":
            return "finished"
        stops = [alarm for alarm in self.alarms if alarm.get("severity") == "stop"]
        if stops and stops[-1].get("step", 0) >= self.last_step:  # else the run was resumed and went on
            return f"stopped at step {stops[-1].get('step')} by the monitor {stops[-1].get('monitor')}"
        return "not finished"

    @property
    def seconds(self) -> float | None:
        """From its start, or its last resume, to its end."""
        started = self.manifest.get("resumed") or self.manifest.get("created")
        ended = self.manifest.get("finished")
        if not started or not ended:
            return None
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()

    def metric_names(self) -> list[str]:
        """The numbers in the rows, in the order of their first appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [
            name for name in names if name != "step" and any(number(row.get(name)) is not None for row in self.rows)
        ]

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric; nan where it was not finite."""
        found = [(row["step"], number(row[name])) for row in self.rows if name in row and "step" in row]
        known = [(step, value) for step, value in found if value is not None]
        return [step for step, _ in known], [value for _, value in known]


def read_run(path: str | Path) -> RunRecord:
    """Everything in a run folder.

    Raises:
        ValueError: there is no run, or its manifest or config cannot be read.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{path} holds no run: there is no {MANIFEST}; name the --output_dir of a stage")
    manifest = _mapping(path / MANIFEST)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{path / MANIFEST} has not schema_version {SCHEMA_VERSION}: it is of another version")
    logs = {name: tuple(read_rows(path / name)) for name in (LOG, HISTOGRAMS, ALARMS)}
    needed = {"step", "prompt", "response"}
    return RunRecord(
        path=path,
        manifest=manifest,
        config=_mapping(path / CONFIG),
        rows=logs[LOG],
        histograms=logs[HISTOGRAMS],
        alarms=logs[ALARMS],
        samples=tuple(row for row in read_rows(path / SAMPLES) if needed <= row.keys()),
        metrics=_mapping(path / METRICS),
    )


def ancestors(manifest: Mapping[str, Any], *, generations: int = MOST_GENERATIONS) -> tuple[Ancestor, ...]:
    """Data and parents of a run, parents followed through the runs that lie where it found them.

    A path that leads nowhere now ends there. Hashes are those of the time; that a folder still holds what it held
    is not checked.
    """
    data = [Ancestor("data", path, sha256) for path, sha256 in manifest.get("data", {}).items()]
    return (*data, *_parents(manifest, generations))


def _parents(manifest: Mapping[str, Any], generations: int) -> Iterator[Ancestor]:
    for role, parent in manifest.get("parents", {}).items():
        path, made_by = Path(parent["path"]), {}
        if generations > 0 and (path / MANIFEST).is_file():
            made_by = _mapping(path / MANIFEST)
        further = ancestors(made_by, generations=generations - 1)
        yield Ancestor(role, parent["path"], parent["sha256"], made_by.get("stage"), further)


def number(value: Any) -> float | None:
    """A logged number, with "nan" and "inf" as JSON has them; None for anything else."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        return None
    return float(value)


def _mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON or YAML file, empty where there is none."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} cannot be read: it holds no mapping")
    return found
