"""Run the evidence, or write what has been found into the docs: `python -m benchmarks.evidence --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import equal_time, frontier, over_optimisation, reward_models, sentiment, small
from benchmarks.evidence.report import write_report
from benchmarks.evidence.runner import run_plan
from benchmarks.evidence.runs import FINISHED, ROOT, Place, Plan, data_folder, record
from rlhf.recipe import hold
from rlhf.training.parser import exit_on_error

MODULES = (sentiment, frontier, small, over_optimisation, equal_time, reward_models)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left, or list it, or write the report; 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", allow_abbrev=False, description=__doc__.splitlines()[0]
    )
    parser.add_argument("experiments", nargs="*", help="frontier, over_optimisation, equal_time, reward_models; all")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evidence", help="folder of all runs")
    recorded_help = "folder of recorded findings: a run of the same key that it holds is not made again"
    parser.add_argument("--recorded", type=Path, help=recorded_help)
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="copy findings there, and run nothing")
    parser.add_argument("--list", action="store_true", help="say what is finished and what is left, and run nothing")
    parser.add_argument("--report", action="store_true", help="write tables and plots of what has finished into docs")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of results.md and images/")
    arguments = parser.parse_args(argv)
    with exit_on_error():
        plan = Plan(
            [run for module in MODULES for run in module.runs()],
            Place(arguments.runs.absolute(), data_folder(), arguments.recorded and arguments.recorded.absolute()),
        )
        if arguments.record:
            print(f"{record(plan, arguments.record.absolute())} runs are recorded in {arguments.record}")
            return 0
        if arguments.list:
            print(listing(plan, arguments.experiments))
            return 0
        if arguments.report:
            print(write_report(plan, arguments.docs))
            return 0
        if not plan.place.data.is_dir():
            raise ValueError(f"{plan.place.data} is not there: set RLHF_REAL_DATA to the folder of the real data")
        arguments.runs.mkdir(parents=True, exist_ok=True)
        lock = hold(arguments.runs)
    with lock, exit_on_error():
        lacking = run_plan(plan, arguments.experiments, lock.fileno())
    print(f"\nwithout a result: {', '.join(lacking)}" if lacking else "\nall runs have finished")
    return 1 if lacking else 0


def listing(plan: Plan, experiments: Sequence[str]) -> str:
    """One line for each run: its state, and what it took or is expected to take."""
    lines = []
    left = 0.0
    to_make = plan.to_make(experiments)
    for run in plan.with_needs(experiments):
        status = plan.status(run)
        seconds = plan.place.state(run)["seconds"] if status == FINISHED else plan.expected_seconds(run)
        left += seconds if run.name in to_make else 0.0
        lines.append(f"{status:<10}{seconds:>6.0f} s  {run.name}")
    return "\n".join([*lines, f"left: about {left / 3600:.1f} hours"])


if __name__ == "__main__":
    sys.exit(main())
