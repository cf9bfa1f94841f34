"""Runs what is left of a plan, one command after the other, and keeps one summary for each experiment."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import rlhf
from benchmarks.evidence.runs import FAILED, FINISHED, LIMIT_SECONDS, STATE, Place, Plan, Run, read_json, write_state
from rlhf.stages import Finished, run_process, run_stage, set_aside
from rlhf.training.run_folder import write_atomically

SUMMARY = "summary.json"
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


def run_plan(plan: Plan, experiments: Sequence[str], lock: int) -> list[str]:
    """Run what is not finished of these experiments and what they need; every command holds the descriptor `lock`.

    A run that fails does not stop those that do not need it. Returns the names of the runs that failed or could not
    be started.
    """
    runs = plan.with_needs(experiments)
    to_make = plan.to_make(experiments)
    lacking: list[str] = []
    for number, run in enumerate(runs, start=1):
        if run.name not in to_make:
            continue
        missing = [name for name in run.needs if not plan.is_here(plan.by_name[name])]
        if missing:
            print(f"\n== {run.name} is left out: it needs {missing[0]}, which has not finished", flush=True)
            lacking.append(run.name)
            continue
        left = [other for other in runs[number - 1 :] if other.name in to_make]
        print(f"\n== run {number} of {len(runs)}, {run.name}: {remaining(plan, left)}", flush=True)
        if not run_one(plan, run, lock):
            lacking.append(run.name)
        write_summary(plan, run.experiment)
    for experiment in dict.fromkeys(run.experiment for run in runs):
        write_summary(plan, experiment)
    return lacking


def run_one(plan: Plan, run: Run, lock: int) -> bool:
    """Run all commands of one run; whether they went well."""
    folder = plan.place.folder(run)
    commands = [plan.place.command(run, command) for command in run.commands]
    make_room(plan, run)
    folder.mkdir(parents=True)
    state: dict[str, Any] = {
        "key": plan.keys[run.name],
        "status": "started",
        "version": rlhf.__version__,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "settings": dict(run.settings),
        "commands": [],
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "peak_gb": 0.0,
    }
    write_state(folder, state)
    for arguments in commands:
        print(f"{shlex.join(arguments)}", flush=True)
        before = _cpu_seconds()
        finished = run_command(arguments, lock)
        state["commands"].append(shlex.join(arguments))
        state["seconds"] = round(state["seconds"] + finished.seconds, 1)
        state["cpu_seconds"] = round(state["cpu_seconds"] + _cpu_seconds() - before, 1)
        state["peak_gb"] = round(max(state["peak_gb"], finished.peak_gb), 3)
        if finished.status != 0:
            write_state(folder, state | {"status": FAILED, "exit_status": finished.status})
            print(f"{run.name} FAILED with exit status {finished.status}; what it said is above", flush=True)
            return False
    write_state(folder, state | {"status": FINISHED})
    over = f", OVER the limit of {LIMIT_SECONDS} s" if state["seconds"] > LIMIT_SECONDS else ""
    print(f"{run.name}: {state['seconds']:.0f} s{over}, {state['cpu_seconds']:.0f} s of processor", flush=True)
    return True


def run_command(arguments: Sequence[str], lock: int) -> Finished:
    """Run `[NAME=VALUE ...] rlhf ...` or `... python ...` in a process of its own, with these variables set."""
    assignments = list(takewhile(ASSIGNMENT.fullmatch, arguments))
    program, *rest = arguments[len(assignments) :]
    before = dict(os.environ)
    os.environ.update({name: value for name, _, value in (part.partition("=") for part in assignments)})
    try:
        if program == "rlhf":
            return run_stage(rest, held=[lock])
        assert program == "python", program
        return run_process([sys.executable, *rest], held=[lock])
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_room(plan: Plan, run: Run) -> None:
    """Clear the run's folder: what finished under other settings is renamed, what never finished is deleted.

    Raises:
        ValueError: the folder holds something that no run has made.
    """
    folder = plan.place.folder(run)
    if not folder.exists():
        return
    state = read_json(folder / STATE)
    if not state:
        raise ValueError(f"{folder} is there and {STATE} is not: it was not made here; choose another --runs")
    if state.get("status") == FINISHED:
        print(f"{run.name} was made from other settings or data; its old folder is now {set_aside(folder)}")
    else:
        shutil.rmtree(folder)


def write_summary(plan: Plan, experiment: str) -> None:
    """`summary.json` of an experiment: settings, cost and result of each of its runs."""
    place = plan.place
    rows = {
        run.name: _row(place, run) | {"status": plan.status(run)} for run in plan.runs if run.experiment == experiment
    }
    summary = {
        "experiment": experiment,
        "finished": sum(row["status"] == FINISHED for row in rows.values()),
        "runs": rows,
        "seconds": round(sum(row.get("seconds", 0.0) for row in rows.values()), 1),
        "over_limit": [name for name, row in rows.items() if row.get("seconds", 0.0) > LIMIT_SECONDS],
    }
    folder = place.folder(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


def remaining(plan: Plan, runs: Sequence[Run]) -> str:
    """How long the first of these runs and all of them will take, as far as it is known."""
    left = [plan.expected_seconds(run) for run in runs]
    minutes = round(sum(left) / 60)
    return f"about {left[0]:.0f} s; with the {len(left) - 1} after it about {minutes // 60} h {minutes % 60:02d} min"


def _row(place: Place, run: Run) -> dict[str, Any]:
    state = {name: value for name, value in place.state(run).items() if name not in ("key", "status", "settings")}
    return {"settings": dict(run.settings), **state, "result": place.result(run)}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
