"""Over-optimisation: PPO without a KL penalty against reward models trained on few pairs, watched by the judge.

python -m benchmarks.evidence.over_optimisation --run RUN --output_dir FOLDER

The proxy is the score that PPO raises, gold is the judge's reward on the same rollouts. The monitor is told to warn,
so that the run goes on to where it would have been without one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import sentiment
from benchmarks.evidence.frontier import ppo_command
from benchmarks.evidence.plots import curves
from benchmarks.evidence.runs import HERE, RUNS, Plan, Run, read_json, write_result
from benchmarks.evidence.sentiment_data import GROUP
from benchmarks.evidence.tables import estimate
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import ALARMS, LOG, METRICS, read_rows

MONITOR = "over_optimisation"
MEMBERS = 3
REWARD_STEPS, REWARD_BATCH = 8, 4
SMALL_REWARD = f"{RUNS}/over_optimisation/reward/model"
ARMS: dict[str, tuple[str, ...]] = {
    "single": ("--reward_model", f"{SMALL_REWARD}/member_1"),
    "minimum of 3": (
        *("--reward_model", *(f"{SMALL_REWARD}/member_{number}" for number in range(1, MEMBERS + 1))),
        *("--ensemble_rule", "min"),
    ),
}
SEEDS = (0, 1)
STEPS = 50
PARTED, KEPT = 0.05, 0.95
GOLD_PLOT, PROXY_PLOT = "evidence-gold.svg", "evidence-proxy.svg"
SETTING = """\
PPO without a KL penalty, {steps} rollouts, against reward models trained on {trained} sentences (accuracy of the mean
of {members} on {pairs} held-out pairs: {accuracy}). Gold is the judge's reward on the rollouts themselves, means over
{window} of them. The alarm of the `over_optimisation` monitor would have ended the run; here it only warns, so that
the rest can be seen."""
Line = tuple[Sequence[float], Sequence[float]]
WINDOW = 3  # rollouts to a mean, as the monitor and the kept policy take


def runs() -> list[Run]:
    """A small ensemble, then PPO against one of its members and against their minimum."""
    return [small_reward(), *(ppo_run(arm, seed) for seed in SEEDS for arm in ARMS)]


def small_reward() -> Run:
    train = (
        *("rlhf", "reward", "--model", sentiment.SFT, "--train_file", f"{sentiment.FILES}/preferences.jsonl"),
        *("--eval_file", f"{sentiment.FILES}/preferences_heldout.jsonl", "--output_dir", f"{HERE}/model"),
        *("--max_steps", str(REWARD_STEPS), "--per_device_train_batch_size", str(REWARD_BATCH)),
        *("--learning_rate", "5e-4", "--num_members", str(MEMBERS), *sentiment.PAIRS),
    )
    return Run("over_optimisation/reward", (train,), needs=("sentiment/data", "sentiment/sft"), seconds=120)


def ppo_run(arm: str, seed: int) -> Run:
    train = (
        f"EVIDENCE_JUDGE={sentiment.JUDGE}",
        *ppo_command(f"{HERE}/policy", seed, reward_model=ARMS[arm]),
        *("--value_model", "shared", "--samples_per_prompt", "4", "--max_steps", str(STEPS), "--kl_coef", "0"),
        *("--judge", "benchmarks.evidence.judge:positive"),
    )
    measure = (
        *(*sentiment.PYTHON, "benchmarks.evidence.over_optimisation", "--run", f"{HERE}/policy"),
        *("--output_dir", HERE),
    )
    return Run(
        f"over_optimisation/{arm.replace(' ', '-')}-seed{seed}",
        (train, measure),
        needs=(*sentiment.MADE, "over_optimisation/reward"),
        kind=f"over-optimisation-{arm}",
        seconds=450,
        settings={"arm": arm, "seed": seed},
    )


def section(plan: Plan, images: Path) -> str:
    """Table, plot and verdict of the runs that have finished; empty without one."""
    found = {
        (run.settings["arm"], run.settings["seed"]): result
        for run in plan.runs
        if run.experiment == "over_optimisation" and "arm" in run.settings and (result := plan.place.result(run))
    }
    if not found:
        return ""
    for plot, what, label in ((GOLD_PLOT, "gold", "judge reward"), (PROXY_PLOT, "proxy", "score of the reward model")):
        lines = {
            arm: [(result["kl"], result[what]) for (own, _), result in found.items() if own == arm]
            for arm in dict.fromkeys(arm for arm, _ in found)
        }
        curves(images / plot, smooth_lines(lines), x_label="KL from SFT, nats a response", y_label=label)
    small = read_json(plan.place.folder("over_optimisation/reward") / "model" / METRICS)["eval_accuracy"]
    return "\n\n".join(
        [
            "### Over-optimisation",
            SETTING.format(
                steps=STEPS,
                trained=REWARD_STEPS * REWARD_BATCH * GROUP,
                members=MEMBERS,
                pairs=small["n"],
                accuracy=estimate(small),
                window=WINDOW,
            ),
            f"![Judge reward over KL](images/{GOLD_PLOT}) ![Score over KL](images/{PROXY_PLOT})",
            table(found),
            verdict(found),
        ]
    )


def smooth_lines(lines: Mapping[str, Sequence[Line]]) -> dict[str, list[Line]]:
    """Each line by means over `WINDOW` rollouts."""
    return {name: [(smoothed(x), smoothed(y)) for x, y in group] for name, group in lines.items()}


def table(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    header = ["score", "seed", "gold: start", "peak", "end", "peak at KL", "peak at step", "alarm at step"]
    header += ["gold at alarm / peak", "kept / peak"]
    rows = [
        [
            *(arm, str(seed)),
            *(f"{result[name]:.2f}" for name in ("start", "peak", "end")),
            f"{result['peak_kl']:.1f}",
            str(result["peak_step"]),
            str(result["alarm_step"] or "none"),
            f"{result['at_alarm_of_peak']:.2f}" if result["alarm_step"] else "",
            f"{result['kept_of_peak']:.2f}",
        ]
        for (arm, seed), result in found.items()
    ]
    return markdown(header, rows)


def verdict(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Whether proxy and gold part, whether the kept policy is good enough, and what the minimum does to the peak."""
    parted = [result for result in found.values() if result["peak"] - result["end"] > PARTED * result["peak"]]
    kept = [result for result in found.values() if result["kept_of_peak"] >= KEPT]
    said = [
        f"Gold ends more than {PARTED:.0%} under its peak in {len(parted)} of {len(found)} runs.",
        f"The policy to go on with, the best window up to the alarm, has at least {KEPT:.0%} of the gold peak of the "
        f"whole run in {len(kept)} of {len(found)}.",
    ]
    single, minimum = ([result["peak_kl"] for (own, _), result in found.items() if own == arm] for arm in ARMS)
    if single and minimum:
        outward = min(minimum) > max(single)
        inward = max(minimum) < min(single)
        moved = "further out" if outward else "further in" if inward else "neither further out nor in"
        said.append(
            f"The peak lies at {', '.join(f'{kl:.1f}' for kl in single)} nats with one reward model and at "
            f"{', '.join(f'{kl:.1f}' for kl in minimum)} with the minimum: {moved}, by {len(minimum)} seeds."
        )
    return " ".join(said)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.over_optimisation", allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = [row for row in read_rows(arguments.run / LOG) if "objective/judge_score" in row]
    alarms = [row["step"] for row in read_rows(arguments.run / ALARMS) if row["monitor"] == MONITOR]
    result = course(rows, min(alarms, default=None))
    kept = read_json(arguments.run / METRICS).get("kept/step")
    write_result(arguments.output_dir, result | {"kept_step": kept})


def course(rows: Sequence[Mapping[str, Any]], alarm: int | None) -> dict[str, Any]:
    """What proxy and gold did over a run, with the peak of gold and where it stood at the alarm.

    Means are over `WINDOW` rollouts, since one alone is noisy; the rollout of a step samples the policy before the
    step's update. `kept_of_peak` is the gold of the policy to go on with, that of the best window up to the alarm,
    over the peak of the whole run; `gained` in place of `of` takes both from the start of the run.
    """
    gold = smoothed([row["objective/judge_score"] for row in rows])
    steps = [row["step"] for row in rows][WINDOW - 1 :]
    peak = max(range(len(gold)), key=gold.__getitem__)
    until = [value for step, value in zip(steps, gold, strict=True) if alarm is None or step <= alarm] or gold[:1]
    return {
        "steps": [row["step"] for row in rows],
        "proxy": [row["objective/score"] for row in rows],
        "gold": [row["objective/judge_score"] for row in rows],
        "kl": [row["objective/kl"] for row in rows],
        "start": gold[0],
        "peak": gold[peak],
        "peak_step": steps[peak] - WINDOW // 2,
        "peak_kl": smoothed([row["objective/kl"] for row in rows])[peak],
        "end": gold[-1],
        "alarm_step": alarm,
        "at_alarm": until[-1],
        "at_alarm_of_peak": until[-1] / gold[peak],
        "kept_of_peak": max(until) / gold[peak],
        "kept_gained_of_peak": (max(until) - gold[0]) / (gold[peak] - gold[0]) if peak else 1.0,
    }


def smoothed(values: Sequence[float]) -> list[float]:
    """Means of `WINDOW` values in a row.

    Raises:
        ValueError: there are fewer.
    """
    if len(values) < WINDOW:
        raise ValueError(f"{len(values)} rollouts were judged: at least {WINDOW} are needed")
    return [sum(values[end - WINDOW : end]) / WINDOW for end in range(WINDOW, len(values) + 1)]


if __name__ == "__main__":
    main()
