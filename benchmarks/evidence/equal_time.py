"""Estimators, value models and samples per prompt at equal wall time, on the sentiment prompts.

Each arm first runs a few steps, and its step is taken to last what the fastest half of them did: other work on the
machine only ever adds. Then every arm trains for as many steps as fit into the same time, whatever they are worth.

python -m benchmarks.evidence.equal_time --run RUN --seconds 150 --output_dir FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import sentiment
from benchmarks.evidence.frontier import ppo_command
from benchmarks.evidence.runs import HERE, STEPS, Plan, Run, write_result
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import LOG, read_rows

TRAINING_SECONDS = 150
CALIBRATION_STEPS = 6
KL_COEF = "0.2"
SEEDS = (0, 1, 2)
PHASES = ("time/rollout", "time/scoring", "time/update")
# All arms have 64 responses to a rollout and four optimiser steps on it.
ARMS: dict[str, tuple[str, ...]] = {
    "GAE, adapter value": ("--advantage_estimator", "gae", "--value_model", "adapter", "--samples_per_prompt", "4"),
    "GAE, shared value": ("--advantage_estimator", "gae", "--value_model", "shared", "--samples_per_prompt", "4"),
    "RLOO": ("--advantage_estimator", "rloo", "--samples_per_prompt", "4"),
    "GRPO": ("--advantage_estimator", "grpo", "--samples_per_prompt", "4"),
    "GAE, shared value, K=1": (
        *("--advantage_estimator", "gae", "--value_model", "shared", "--samples_per_prompt", "1"),
        *("--gradient_accumulation_steps", "4"),
    ),
}

QUESTIONS = (
    ("GAE, adapter value", "GAE, shared value"),
    ("GAE, shared value", "RLOO"),
    ("GAE, shared value", "GRPO"),
    ("GAE, shared value", "GAE, shared value, K=1"),
)
SETTING = """\
PPO on the sentiment prompts with a KL weight of {kl_coef}; every arm has 64 responses to a rollout and four optimiser
steps on it. An arm's step is measured first, on {steps} steps, as the mean of the faster half, since other work only
adds; then each arm trains for as many steps as fit into {seconds} s. The objective is what PPO maximises, score less
weight times KL, on the test prompts."""


def runs() -> list[Run]:
    """A calibration for each arm, then the arms seed by seed."""
    calibrations = [calibration(arm) for arm in ARMS]
    return [*calibrations, *(arm_run(arm, seed) for seed in SEEDS for arm in ARMS)]


def calibration(arm: str) -> Run:
    train = (*ppo_command(f"{HERE}/policy", 0), *ARMS[arm], "--kl_coef", KL_COEF, "--max_steps", str(CALIBRATION_STEPS))
    measure = (
        *(*sentiment.PYTHON, "benchmarks.evidence.equal_time", "--run", f"{HERE}/policy"),
        *("--seconds", str(TRAINING_SECONDS), "--output_dir", HERE),
    )
    return Run(
        f"equal_time/calibration-{folder_name(arm)}",
        (train, measure),
        needs=("sentiment/data", "sentiment/sft", "sentiment/reward"),
        kind="equal-time-calibration",
        seconds=90,
        settings={"arm": arm},
    )


def arm_run(arm: str, seed: int) -> Run:
    train = (*ppo_command(f"{HERE}/policy", seed), *ARMS[arm], "--kl_coef", KL_COEF, "--max_steps", STEPS)
    return Run(
        f"equal_time/{folder_name(arm)}-seed{seed}",
        (train, sentiment.measured(f"{HERE}/policy", seed=seed + 1)),
        needs=(*sentiment.MADE, "sentiment/sft_measured"),
        kind="equal-time",
        seconds=270,
        settings={"arm": arm, "seed": seed},
        steps_from=f"equal_time/calibration-{folder_name(arm)}",
    )


def folder_name(arm: str) -> str:
    return arm.lower().replace(",", "").replace("=", "").replace(" ", "-")


def section(plan: Plan, images: Path) -> str:
    """Table of the arms that have finished; empty without one. There is no plot: `images` stays as it is."""
    found: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    for run in plan.runs:
        result = plan.place.result(run)
        if run.experiment == "equal_time" and "seed" in run.settings and result:
            found.setdefault(run.settings["arm"], []).append((run, result))
    if not found:
        return ""
    header = [
        "arm",
        "steps",
        "seconds a step",
        "judge reward, by seed",
        "mean",
        "KL, nats",
        "objective, by seed",
        "mean",
    ]
    rows = []
    for arm, group in found.items():
        calibrated = plan.place.result(plan.by_name[f"equal_time/calibration-{folder_name(arm)}"])
        rewards = [result["reward"]["value"] for _, result in group]
        objectives = [objective(result) for _, result in group]
        rows.append(
            [
                *(arm, str(calibrated["steps"]), f"{calibrated['step_seconds']:.1f}"),
                *(", ".join(f"{reward:.2f}" for reward in rewards), f"{mean(rewards):.3f}"),
                ", ".join(f"{result['kl']['value']:.1f}" for _, result in group),
                *(", ".join(f"{value:.2f}" for value in objectives), f"{mean(objectives):.2f}"),
            ]
        )
    verdicts = [text for ours, theirs in QUESTIONS if (text := verdict(found, ours, theirs))]
    setting = SETTING.format(seconds=TRAINING_SECONDS, steps=CALIBRATION_STEPS, kl_coef=KL_COEF)
    return "\n\n".join(["### At equal wall time", setting, markdown(header, rows), "\n".join(verdicts)])


def objective(result: Mapping[str, Any]) -> float:
    """What PPO maximises, on the test prompts: score less `KL_COEF` times the KL."""
    return float(result["score"]["value"] - float(KL_COEF) * result["kl"]["value"])


def verdict(found: Mapping[str, Sequence[tuple[Run, Mapping[str, Any]]]], ours: str, theirs: str) -> str:
    """One arm's objective less another's, seed by seed."""
    seeds = {
        arm: {run.settings["seed"]: objective(result) for run, result in found.get(arm, [])} for arm in (ours, theirs)
    }
    leads = [seeds[ours][seed] - seeds[theirs][seed] for seed in sorted(seeds[ours].keys() & seeds[theirs].keys())]
    if not leads:
        return ""
    shown = ", ".join(f"{lead:+.2f}" for lead in leads)
    ahead = ours if min(leads) > 0 else theirs if max(leads) < 0 else None
    clear = "one seed only" if len(leads) == 1 else f"{ahead} is ahead in all" if ahead else "no verdict"
    return f"- {ours} against {theirs}: objective {shown}, {clear}."


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(argv: Sequence[str] | None = None) -> None:
    """Write how many steps of a run fit into the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.equal_time", allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    seconds = step_seconds(arguments.run)
    write_result(
        arguments.output_dir,
        {"step_seconds": seconds, "steps": steps_that_fit(seconds, arguments.seconds), "seconds": arguments.seconds},
    )


def step_seconds(run: Path) -> float:
    """What a step of a run takes: the mean of the faster half of its steps, the first left out."""
    rows = [row for row in read_rows(run / LOG) if PHASES[0] in row]
    steps = sorted(sum(row[phase] for phase in PHASES) for row in rows[1:])
    if not steps:
        raise ValueError(f"{run} has no second step to measure: run more steps")
    fastest = steps[: (len(steps) + 1) // 2]
    return sum(fastest) / len(fastest)


def steps_that_fit(step: float, seconds: float) -> int:
    """Whole steps in the time, at least one."""
    return max(1, round(seconds / step))


if __name__ == "__main__":
    main()
