"""Estimators, value models and samples per prompt at equal wall time, on the small language model.

Each arm first runs a few steps, and its step is taken to last what the fastest half of them did: other work on the
machine only ever adds. Then every arm trains for as many steps as fit into the same time, whatever they are worth.

python -m benchmarks.evidence.equal_time --run RUN --seconds 30 --output_dir FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import small
from benchmarks.evidence.runs import HERE, STEPS, Plan, Run, write_result
from benchmarks.evidence.tables import estimate, over_seeds
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import LOG, read_rows

TRAINING_SECONDS = 30
CALIBRATION_STEPS = 20
KL_COEF = "0.1"
LEARNING_RATE = "1e-3"
SEEDS = tuple(range(5))
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
PPO on the language model and the gold of the experiment before, against a reward model trained on {rankings} rankings,
with a KL weight of {kl_coef}; every arm has 64 responses to a rollout and four optimiser steps on it. An arm's step is
measured first, on {steps} steps, as the mean of the faster half, since other work only adds; then each arm trains for
as many steps as fit into {seconds} s. The objective is what PPO maximises, score less weight times KL, on {prompts}
test prompts. Intervals are over seeds."""


def runs() -> list[Run]:
    """A calibration for each arm, then the arms seed by seed."""
    calibrations = [calibration(arm) for arm in ARMS]
    return [*calibrations, *(arm_run(arm, seed) for seed in SEEDS for arm in ARMS)]


def calibration(arm: str) -> Run:
    measure = (
        *(*small.PYTHON, "benchmarks.evidence.equal_time", "--run", f"{HERE}/policy"),
        *("--seconds", str(TRAINING_SECONDS), "--output_dir", HERE),
    )
    return Run(
        f"equal_time/calibration-{folder_name(arm)}",
        (train_command(arm, 0, str(CALIBRATION_STEPS)), measure),
        needs=(*small.MADE, "small/reward"),
        kind="equal-time-calibration",
        seconds=35,
        settings={"arm": arm},
    )


def arm_run(arm: str, seed: int) -> Run:
    return Run(
        f"equal_time/{folder_name(arm)}-seed{seed}",
        (train_command(arm, seed, STEPS), small.measured(f"{HERE}/policy", reward_model=small.REWARD)),
        needs=(*small.MADE, "small/reward"),
        kind="equal-time",
        seconds=65,
        settings={"arm": arm, "seed": seed},
        steps_from=f"equal_time/calibration-{folder_name(arm)}",
    )


def train_command(arm: str, seed: int, steps: str) -> tuple[str, ...]:
    settings = ("--kl_coef", KL_COEF, "--learning_rate", LEARNING_RATE, "--max_steps", steps)
    return small.ppo_command(seed, (small.REWARD,), *ARMS[arm], *settings)


def folder_name(arm: str) -> str:
    return arm.lower().replace(",", "").replace("=", "").replace(" ", "-")


Found = Mapping[str, Mapping[int, Mapping[str, Any]]]  # arm -> seed -> what its policy came to


def section(plan: Plan, images: Path) -> str:
    """Table of the arms that have finished; empty without one. There is no plot: `images` stays as it is."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in plan.runs:
        result = plan.place.result(run)
        if run.experiment == "equal_time" and "seed" in run.settings and result:
            found.setdefault(run.settings["arm"], {})[run.settings["seed"]] = result["policies"][0]
    if not found:
        return ""
    policy = next(iter(next(iter(found.values())).values()))
    setting = SETTING.format(
        rankings=small.RANKINGS,
        kl_coef=KL_COEF,
        steps=CALIBRATION_STEPS,
        seconds=TRAINING_SECONDS,
        prompts=policy["num_responses"],
    )
    verdicts = [text for ours, theirs in QUESTIONS if (text := verdict(found, ours, theirs))]
    return "\n\n".join(["### At equal wall time", setting, table(plan, found), "\n".join(verdicts)])


def table(plan: Plan, found: Found) -> str:
    header = ["arm", "steps", "seconds a step", "objective, by seed", "mean", "score", "KL, nats", "gold"]
    rows = []
    for arm, by_seed in found.items():
        calibrated = plan.place.result(plan.by_name[f"equal_time/calibration-{folder_name(arm)}"])
        policies = list(by_seed.values())
        objectives = [objective(policy) for policy in policies]
        rows.append(
            [
                *(arm, str(calibrated["steps"]), f"{calibrated['step_seconds']:.2f}"),
                *(", ".join(f"{value:.2f}" for value in objectives), estimate(over_seeds(objectives), digits=2)),
                *(f"{mean([policy[name]['value'] for policy in policies]):.2f}" for name in ("score", "kl", "gold")),
            ]
        )
    return markdown(header, rows)


def objective(policy: Mapping[str, Any]) -> float:
    """What PPO maximises, on the test prompts: score less `KL_COEF` times the KL."""
    return float(policy["score"]["value"] - float(KL_COEF) * policy["kl"]["value"])


def verdict(found: Found, ours: str, theirs: str) -> str:
    """One arm's objective less another's, paired by seed."""
    seeds = sorted(found.get(ours, {}).keys() & found.get(theirs, {}).keys())
    if not seeds:
        return ""
    lead = over_seeds([objective(found[ours][seed]) - objective(found[theirs][seed]) for seed in seeds])
    clear = lead["low"] is not None and not lead["low"] <= 0 <= lead["high"]
    ahead = f"{ours if lead['value'] > 0 else theirs} is ahead" if clear else "no verdict"
    shown = estimate(lead, digits=2, sign="+")
    return f"- {ours} less {theirs}: objective {shown}, paired over {len(seeds)} seeds: {ahead}."


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
