"""The folder of one run: what was asked for, from what it was made, and what was measured on the way."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import yaml

import rlhf

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CONFIG = "config.yaml"
LOG = "metrics.jsonl"
SAMPLES = "samples.jsonl"
ALARMS = "alarms.jsonl"
HISTOGRAMS = "histograms.jsonl"
METRICS = "metrics.json"

PACKAGES = (
    "accelerate",
    "datasets",
    "deepspeed",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "wandb",
)
# What decides which weights a checkpoint holds.
ADAPTER_SETTINGS = (
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "lora_last_layers",
    "value_model",
    "reference",
    "reference_update_steps",
)
SECRET_NAMES = ("token", "hub_token", "push_to_hub_token")
SECRET_ENDINGS = ("api_key", "password", "secret")


class Tracker(Protocol):
    """Follows a run: hears of all that the run folder has, and when a run is resumed of all that stands once more."""

    def log(self, row: Mapping[str, Any]) -> None:
        """A row of `metrics.jsonl`, as JSON has it."""

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """New rows of `samples.jsonl`."""

    def log_alarm(self, alarm: Mapping[str, Any]) -> None:
        """A row of `alarms.jsonl`."""

    def log_histograms(self, row: Mapping[str, Any]) -> None:
        """A row of `histograms.jsonl`: a step, and lists of numbers; comes before the metrics of its step."""

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """The run has ended; these are its final numbers."""


@dataclass
class RunFolder:
    """A run's folder: `config.yaml`, `manifest.json`, `metrics.jsonl` and, at the end, `metrics.json`.

    In a distributed run only the main process opens one. Its `trackers` follow it.
    """

    path: Path
    trackers: list[Tracker] = field(default_factory=list, compare=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        parents: Mapping[str, str],
        data_files: Sequence[str],
        resume: bool,
    ) -> RunFolder:
        """Start a run in a new folder, or go on with one.

        `config` is written resolved and without secrets, so that `--config` reads it again. `parents` are the
        model folders that the run starts from, by role, and `data_files` its data; both are recorded with
        their hashes, computed before anything is written.

        Raises FileExistsError when a new run would mix with what is there, FileNotFoundError when there is no
        run to resume, ValueError when the run to resume was of another stage or on other data.
        """
        folder = cls(Path(path))
        if not resume:
            folder._refuse_occupied()
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "stage": stage,
            "status": "running",
            "created": _now(),
            "code": _code_version(),
            "packages": _package_versions(),
            "python": platform.python_version(),
            "data": {str(file): hash_file(file) for file in data_files},
            "parents": {name: {"path": str(parent), "sha256": hash_model(parent)} for name, parent in parents.items()},
        }
        if resume:
            manifest["created"] = folder._resumed(manifest)["created"]
            folder._refuse_other_adapters(config)
            manifest["resumed"] = _now()
        folder.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
        write_atomically(folder.path / CONFIG, text)
        folder._write_manifest(manifest)
        return folder

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl`: floats exactly, non-finite ones as "nan", "inf", "-inf"."""
        row = _finite(row)
        self._append(LOG, [row])
        for tracker in self.trackers:
            tracker.log(row)

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append sampled responses to `samples.jsonl`: step, prompt as messages, response, score and more."""
        rows = [_finite(row) for row in rows]
        self._append(SAMPLES, rows)
        for tracker in self.trackers:
            tracker.log_samples(rows)

    def log_alarm(self, alarm: Mapping[str, Any]) -> None:
        """Append what a monitor saw to `alarms.jsonl`: step, monitor, severity, message and more."""
        alarm = _finite(alarm)
        self._append(ALARMS, [alarm])
        for tracker in self.trackers:
            tracker.log_alarm(alarm)

    def log_histograms(self, step: int, values: Mapping[str, Iterable[float]]) -> None:
        """Append the values of every response of a rollout to `histograms.jsonl`, by name.

        They are kept to six digits, enough to draw them. Log them before the metrics of their step.
        """
        kept = {name: [float(f"{float(number):.6g}") for number in numbers] for name, numbers in values.items()}
        row = _finite({"step": step, **kept})
        self._append(HISTOGRAMS, [row])
        for tracker in self.trackers:
            tracker.log_histograms(row)

    def rewind(self, step: int) -> None:
        """Drop the logged rows after `step`, and a last line cut short by a crash, before a resumed run."""
        for log in (self.path / name for name in (LOG, SAMPLES, ALARMS, HISTOGRAMS)):
            if log.exists():
                lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
                write_atomically(log, "".join(f"{line}\n" for line in lines if _is_up_to(line, step)))
        for tracker in self.trackers:
            self._tell_again(tracker)

    def _tell_again(self, tracker: Tracker) -> None:
        for row in read_rows(self.path / HISTOGRAMS):
            tracker.log_histograms(row)
        for row in read_rows(self.path / LOG):
            tracker.log(row)
        for row in read_rows(self.path / ALARMS):
            tracker.log_alarm(row)
        for row in read_rows(self.path / SAMPLES):
            tracker.log_samples([row])

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the final `metrics.json` and mark the run as finished, or as stopped where `stopped_by` names what."""
        write_atomically(self.path / METRICS, _json(_finite(metrics)))
        status = "stopped" if metrics.get("stopped_by") else "finished"
        self._write_manifest(self._read_manifest() | {"status": status, "finished": _now()})
        for tracker in self.trackers:
            tracker.finish(_finite(metrics))

    def _append(self, log: str, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        with (self.path / log).open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _refuse_occupied(self) -> None:
        fix = "choose another --output_dir"
        if (self.path / MANIFEST).exists():
            raise FileExistsError(
                f"{self.path} already holds a run; {fix}, or go on with it: --resume_from_checkpoint latest"
            )
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; {fix}")
        if self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(f"{self.path} is not empty; {fix}, or empty it")

    def _resumed(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest on disk, checked to be of the same stage, data and parents as `manifest`."""
        if not (self.path / MANIFEST).exists():
            raise FileNotFoundError(
                f"{self.path} holds no run to resume; leave out --resume_from_checkpoint to start one there"
            )
        before = self._read_manifest()
        if before["stage"] != manifest["stage"]:
            raise ValueError(
                f"{self.path} holds a run of stage {before['stage']!r}, not {manifest['stage']!r}; "
                "choose another --output_dir"
            )
        if list(before["data"].values()) != list(manifest["data"].values()):
            raise ValueError(
                f"the data of the run in {self.path} has changed since it started "
                f"({', '.join(before['data'])}); restore it, or start a new run in another --output_dir"
            )
        for name, parent in manifest["parents"].items():
            if before["parents"].get(name, {}).get("sha256") != parent["sha256"]:
                raise ValueError(
                    f"the {name} of the run in {self.path} was another one when it started "
                    f"({before['parents'].get(name)}); restore it, or start a new run in another --output_dir"
                )
        return before

    def _refuse_other_adapters(self, config: Mapping[str, Any]) -> None:
        """Raise ValueError when the saved adapters would not fit those that `config` asks for."""
        before = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        for name in ADAPTER_SETTINGS:
            if name in before and name in config and before[name] != config[name]:
                raise ValueError(
                    f"the run in {self.path} has {name} {before[name]!r}, not {config[name]!r}: its checkpoints do not "
                    "fit; leave it as it was, or start a new run in another --output_dir"
                )

    def _read_manifest(self) -> dict[str, Any]:
        path = self.path / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); choose another --output_dir") from error
        if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"{path} has not schema_version {SCHEMA_VERSION}; choose another --output_dir")
        return manifest

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        write_atomically(self.path / MANIFEST, _json(manifest))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log, none where there is no such file; lines that a crash cut short are left out."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_model(folder: str | Path) -> str:
    """SHA-256 over names and contents of a model's configuration and safetensors files, in hexadecimal.

    Tokenizer and training state do not count. Raises ValueError when the folder holds no such file.
    """
    folder = Path(folder)
    names = ("config.json", "adapter_config.json")
    files = [file for file in folder.glob("*") if file.name in names or file.suffix == ".safetensors"]
    if not files:
        raise ValueError(f"{folder} holds no model: no config.json, adapter_config.json or *.safetensors")
    lines = (f"{hash_file(file)}  {file.name}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_up_to(line: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and row.get("step", step) <= step


def _finite(value: Any) -> Any:
    """`value` as JSON takes it: numbers of numpy and torch as Python's, non-finite ones as strings."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if not isinstance(value, str | int | float | None):
        value = value.item()
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """`value` as safe YAML takes it, entries that hold secrets left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not _is_secret(str(key))}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str | bool | int | float | None):
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def _is_secret(name: str) -> bool:
    return name.lower() in SECRET_NAMES or name.lower().endswith(SECRET_ENDINGS)


def _code_version() -> dict[str, Any]:
    """Version of this package, and the commit when it runs from its own repository."""
    code: dict[str, Any] = {"version": rlhf.__version__}
    root = Path(rlhf.__file__).parent.parent
    if not (root / ".git").exists():
        return code
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    if commit is not None and status is not None:
        code |= {"git_commit": commit, "git_dirty": bool(status)}
    return code


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, None where git is missing, fails or hangs."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old one or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
