"""Runs of the evidence: a few commands in a folder of their own, with what they cost and what came out.

A run is known by a key: its commands, the data files they name, and the keys of the runs it builds on. A run that is
finished under its key is skipped, one that was killed is started again, and one whose key has changed is set aside.
What a run has found can be recorded in a few small files, so that on another machine it need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.training.run_folder import hash_file, write_atomically

ROOT = Path(__file__).resolve().parents[2]
STATE = "run.json"
RESULT = "result.json"
RESPONSES = "responses.jsonl"  # what a policy said, with its rewards
LIMIT_SECONDS = 480
RUNS, DATA, HERE, STEPS = "${runs}", "${data}", "${here}", "${steps}"
WAITING, FINISHED, FAILED = "waiting", "finished", "failed"


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: `experiment/run`, its folder below the folder of all runs.
        commands: command lines, `rlhf ...` or `python -m ...`. `${here}` is the run's folder, `${runs}` the folder of
            all runs, `${data}` that of the data, and `${steps}` the number of steps that another run has measured.
        needs: names of the runs whose files it reads; they stand before it in the list.
        kind: runs of one kind take about as long as each other.
        seconds: what it is expected to take until one of its kind has been measured.
        settings: what sets it apart from the others of its experiment, such as method, weight and seed.
        steps_from: the run whose result holds `steps`.
        records: files, besides state and result, that the report reads.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    kind: str = ""
    seconds: float = 120.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps_from: str | None = None
    records: tuple[str, ...] = ()

    @property
    def experiment(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Place:
    """Where runs are kept and data is read from; `recorded` holds what runs of other machines have found."""

    runs: Path
    data: Path
    recorded: Path | None = None

    def folder(self, run: Run | str) -> Path:
        return self.runs / (run if isinstance(run, str) else run.name)

    def found(self, run: Run | str) -> Path:
        """Where what a run has found is read: its folder, or what is recorded of it where it was not finished here."""
        folder = self.folder(run)
        if self.recorded is None or read_json(folder / STATE).get("status") == FINISHED:
            return folder
        recorded = self.recorded / folder.relative_to(self.runs)
        return recorded if (recorded / STATE).is_file() else folder

    def command(self, run: Run, command: Sequence[str]) -> list[str]:
        """A command line with its places filled in.

        Raises:
            ValueError: the number of steps has not been measured.
        """
        places = {RUNS: str(self.runs), DATA: str(self.data), HERE: str(self.folder(run))}
        if STEPS in command:
            places[STEPS] = str(self.measured_steps(run))
        return [_replaced(part, places) for part in command]

    def measured_steps(self, run: Run) -> int:
        result = read_json(self.found(run.steps_from or "") / RESULT)
        if "steps" not in result:
            raise ValueError(f"run {run.name} takes its steps from {run.steps_from}, which has measured none: run it")
        return int(result["steps"])

    def state(self, run: Run) -> dict[str, Any]:
        """What is known of a run; empty when it was never started."""
        return read_json(self.found(run) / STATE)

    def result(self, run: Run) -> dict[str, Any]:
        """What a run has measured; empty without a finished run."""
        if self.state(run).get("status") != FINISHED:
            return {}
        return read_json(self.found(run) / RESULT)


@dataclass
class Plan:
    """Runs in order, each after those it needs.

    Raises:
        ValueError: a name comes twice, or a run needs one that does not stand before it.
    """

    runs: list[Run]
    place: Place

    def __post_init__(self) -> None:
        names: set[str] = set()
        for run in self.runs:
            if run.name in names:
                raise ValueError(f"two runs are named {run.name}: rename one")
            missing = [name for name in (*run.needs, *filter(None, [run.steps_from])) if name not in names]
            if missing:
                raise ValueError(f"run {run.name} needs {missing[0]}, which does not stand before it")
            names.add(run.name)

    @cached_property
    def by_name(self) -> dict[str, Run]:
        return {run.name: run for run in self.runs}

    @cached_property
    def keys(self) -> dict[str, str]:
        """What decides each run's result, as one hash."""
        keys: dict[str, str] = {}
        files: dict[str, str] = {}
        for run in self.runs:
            parts = [part for command in run.commands for part in command]
            data = [_data_hash(part, self.place.data, files) for part in parts if part.startswith(f"{DATA}/")]
            before = [keys[name] for name in (*run.needs, *filter(None, [run.steps_from]))]
            content = json.dumps([run.commands, data, before])
            keys[run.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
        return keys

    def status(self, run: Run) -> str:
        """finished, failed or waiting, under the run's key."""
        state = self.place.state(run)
        if state.get("key") != self.keys[run.name] or state.get("status") not in (FINISHED, FAILED):
            return WAITING
        return str(state["status"])

    def with_needs(self, experiments: Iterable[str]) -> list[Run]:
        """The runs of these experiments and all they build on, in order.

        Raises:
            ValueError: there is no such experiment.
        """
        known = dict.fromkeys(run.experiment for run in self.runs)
        wanted = list(experiments) or list(known)
        for name in wanted:
            if name not in known:
                raise ValueError(f"experiment {name!r} is not known: choose {', '.join(known)}")
        needed: set[str] = set()
        for run in reversed(self.runs):
            if run.experiment in wanted or run.name in needed:
                needed |= {run.name, *run.needs, *filter(None, [run.steps_from])}
        return [run for run in self.runs if run.name in needed]

    def is_here(self, run: Run) -> bool:
        """Whether a run has finished on this machine, so that its files can be built on."""
        return self.status(run) == FINISHED and self.place.found(run) == self.place.folder(run)

    def to_make(self, experiments: Iterable[str]) -> set[str]:
        """Names of the runs of these experiments that have not finished, and of all they need that is not here."""
        experiments = list(experiments)
        left: set[str] = set()
        for run in reversed(self.with_needs(experiments)):
            wanted = not experiments or run.experiment in experiments
            if (run.name in left and not self.is_here(run)) or (wanted and self.status(run) != FINISHED):
                left |= {run.name, *run.needs, *filter(None, [run.steps_from])}
        return {name for name in left if not self.is_here(self.by_name[name])}

    def expected_seconds(self, run: Run) -> float:
        """The mean of the finished runs of its kind, or what the run says."""
        finished = [
            float(self.place.state(other)["seconds"])
            for other in self.runs
            if other.kind == run.kind and self.status(other) == FINISHED
        ]
        return sum(finished) / len(finished) if finished and run.kind else run.seconds


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    write_atomically(folder / STATE, json.dumps(state, indent=2) + "\n")


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """What a run has measured, for the report."""
    write_atomically(folder / RESULT, json.dumps(result, indent=2) + "\n")


def data_folder() -> Path:
    """Where the real data is: `RLHF_REAL_DATA`, or `shared/data` beside the repository."""
    return Path(os.environ.get("RLHF_REAL_DATA") or ROOT.parent / "shared" / "data").absolute()


def record(plan: Plan, folder: Path) -> int:
    """Copy what finished runs have found: state, result, and what else the report reads; the number of runs.

    Of responses only prompt and reward are kept, margins are rounded to four digits, and places are left open.
    """
    count = 0
    for run in plan.runs:
        if plan.status(run) != FINISHED:
            continue
        source, target = plan.place.found(run), folder / run.name
        for name in (STATE, RESULT, *run.records):
            if (source / name).is_file() and source != target:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                text = _small(source / name).replace(str(plan.place.runs), RUNS)
                write_atomically(target / name, text.replace(str(plan.place.data), DATA))
        count += 1
    return count


def _small(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.name == STATE:
        state = {name: value for name, value in json.loads(text).items() if name != "commands"}
        return json.dumps(state, indent=2) + "\n"
    if file.suffix != ".jsonl":
        return text
    rows = [json.loads(line) for line in text.splitlines()]
    kept = [{name: _rounded(row[name]) for name in ("prompt_id", "reward", "margins") if name in row} for row in rows]
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in kept)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no file."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _replaced(part: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        part = part.replace(name, value)
    return part


def _data_hash(part: str, data: Path, known: dict[str, str]) -> str:
    """The hash of a data file, computed once; the name alone of a folder or of a file that is not there."""
    path = Path(part.replace(DATA, str(data)))
    if part not in known:
        known[part] = hash_file(path) if path.is_file() else part
    return known[part]
