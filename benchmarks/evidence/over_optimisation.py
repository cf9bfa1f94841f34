"""Over-optimisation: PPO without a KL penalty against reward models trained on few pairs, watched by gold.

python -m benchmarks.evidence.over_optimisation --run RUN --output_dir FOLDER

The proxy is the score that PPO raises; gold is `benchmarks.evidence.gold`, on the same rollouts. The monitor is told to
warn, so that the run goes on to where it would have been without one; the kept policy and the last one are measured on
prompts that no stage has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import sentiment
from benchmarks.evidence.frontier import ppo_command
from benchmarks.evidence.gold import OTHERS, PLACE
from benchmarks.evidence.plots import curves
from benchmarks.evidence.runs import HERE, RUNS, Plan, Run, read_json, write_result
from benchmarks.evidence.sentiment_data import FEW, GROUP
from benchmarks.evidence.tables import estimate
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import ALARMS, LOG, METRICS, read_rows

MONITOR = "over_optimisation"
MEMBERS = 3
REWARD_EPOCHS = 3
SMALL_REWARD = f"{RUNS}/over_optimisation/reward/model"
ARMS: dict[str, tuple[str, ...]] = {
    "single": ("--reward_model", f"{SMALL_REWARD}/member_1"),
    "minimum of 3": (
        *("--reward_model", *(f"{SMALL_REWARD}/member_{number}" for number in range(1, MEMBERS + 1))),
        *("--ensemble_rule", "min"),
    ),
}
SEEDS = (0, 1)
STEPS = 26
POLICIES = {"kept": "", "last": "/last"}  # by their folders in the run's
LEARNING_RATE = "5e-4"
PARTED, KEPT = 0.05, 0.95
PLOT = "evidence-over-optimisation.svg"
SETTING = """\
PPO without a KL penalty, {steps} rollouts, against reward models trained on {trained} sentences for {epochs} epochs
(accuracy on {pairs} held-out pairs: {accuracy} by the mean of {members}). Gold is P(positive) by the judge times the
probability that a reader who knows the SFT model finds the response's own opening among {openings}: the reward models
know nothing of the opening. Curves are means over {window} rollouts, measured on the rollouts themselves. The
`over_optimisation` monitor would have ended a run at its alarm; here it warns, so that the rest can be seen. Kept and
last policy are measured on test prompts."""
WINDOW = 3  # rollouts to a mean, as the monitor and the kept policy take


def runs() -> list[Run]:
    """Small reward models, then PPO against one of them and against their minimum, and both its policies measured."""
    listed = [small_reward(), measuring("over_optimisation/sft", sentiment.SFT, needs=())]
    for seed in SEEDS:
        for arm in ARMS:
            run = ppo_run(arm, seed)
            listed += [run, *(policy_run(run, policy) for policy in POLICIES)]
    return listed


def small_reward() -> Run:
    train = (
        *("rlhf", "reward", "--model", sentiment.SFT, "--train_file", f"{sentiment.FILES}/preferences_few.jsonl"),
        *("--eval_file", f"{sentiment.FILES}/preferences_heldout.jsonl", "--output_dir", f"{HERE}/model"),
        *("--num_train_epochs", str(REWARD_EPOCHS), "--per_device_train_batch_size", "8"),
        *("--learning_rate", "5e-4", "--num_members", str(MEMBERS), *sentiment.PAIRS),
    )
    return Run(
        "over_optimisation/reward",
        (train,),
        needs=("sentiment/data", "sentiment/sft"),
        seconds=200,
        records=(f"model/{METRICS}",),
    )


def ppo_run(arm: str, seed: int) -> Run:
    train = (
        f"{PLACE}={RUNS}/sentiment",
        *ppo_command(f"{HERE}/policy", seed, reward_model=ARMS[arm], learning_rate=LEARNING_RATE),
        *("--value_model", "shared", "--samples_per_prompt", "4", "--max_steps", str(STEPS), "--kl_coef", "0"),
        *("--judge", "benchmarks.evidence.gold:gold"),
    )
    follow = (
        *(*sentiment.PYTHON, "benchmarks.evidence.over_optimisation", "--run", f"{HERE}/policy"),
        *("--output_dir", HERE),
    )
    return Run(
        f"over_optimisation/{arm.replace(' ', '-')}-seed{seed}",
        (train, follow),
        needs=(*sentiment.MADE, "over_optimisation/reward"),
        kind=f"over-optimisation-{arm}",
        seconds=420,
        settings={"arm": arm, "seed": seed},
    )


def policy_run(run: Run, policy: str) -> Run:
    """The kept or the last policy of a run on test prompts."""
    model = f"{RUNS}/{run.name}/policy{POLICIES[policy]}"
    settings = {"policy": policy, **run.settings}
    return measuring(f"{run.name}-{policy}", model, needs=(run.name,), settings=settings)


def measuring(name: str, model: str, *, needs: tuple[str, ...], settings: Mapping[str, Any] | None = None) -> Run:
    sample = (*sentiment.measured(model, seed=1, output=f"{HERE}/measured"), "--max_prompts", "120")
    judge = (
        f"{PLACE}={RUNS}/sentiment",
        *(*sentiment.PYTHON, "benchmarks.evidence.gold", "--measured", f"{HERE}/measured", "--output_dir", HERE),
    )
    needed = (*sentiment.MADE, *needs)
    return Run(name, (sample, judge), needed, kind="over-optimisation-measured", seconds=90, settings=settings or {})


# ---- what it shows ----------------------------------------------------------------------------------------


def section(plan: Plan, images: Path) -> str:
    """Table, plot and verdict of the runs that have finished; empty without one."""
    found = {
        (run.settings["arm"], run.settings["seed"]): result
        for run in plan.runs
        if run.experiment == "over_optimisation"
        and "seed" in run.settings
        and "policy" not in run.settings
        and (result := plan.place.result(run))
    }
    if not found:
        return ""
    draw(images / PLOT, found)
    small = read_json(plan.place.found("over_optimisation/reward") / "model" / METRICS)["eval_accuracy"]
    setting = SETTING.format(
        steps=STEPS,
        trained=FEW * GROUP,
        epochs=REWARD_EPOCHS,
        members=MEMBERS,
        window=WINDOW,
        pairs=small["n"],
        accuracy=estimate(small),
        openings=OTHERS + 1,
    )
    return "\n\n".join(
        [
            "### Over-optimisation",
            setting,
            f"![Score and gold over KL](images/{PLOT})",
            table(plan, found),
            verdict(found),
            *([held_out] if (held_out := verdict_held_out(plan, found)) else []),
        ]
    )


Found = Mapping[tuple[str, int], Mapping[str, Any]]  # (arm, seed) -> `course` of the run


def draw(path: Path, found: Found) -> None:
    """Proxy and gold over KL, side by side."""
    arms = dict.fromkeys(arm for arm, _ in found)
    panels = {
        label: {
            arm: [(smoothed(result["kl"]), smoothed(result[what])) for (own, _), result in found.items() if own == arm]
            for arm in arms
        }
        for what, label in (("proxy", "score of the reward model"), ("gold", "gold"))
    }
    curves(path, panels, x_label="KL from SFT, nats a response")


def table(plan: Plan, found: Found) -> str:
    header = ["score", "seed", "gold: start", "peak", "end", "peak at KL", "peak, alarm at step"]
    header += ["gold at alarm / peak", "kept / peak", "test prompts: SFT", "kept", "last"]
    sft = plan.place.result(plan.by_name["over_optimisation/sft"])
    rows = []
    for (arm, seed), result in found.items():
        measured = [policy_result(plan, arm, seed, policy) for policy in POLICIES]
        rows.append(
            [
                *(arm, str(seed)),
                *(f"{result[name]:.2f}" for name in ("start", "peak", "end")),
                f"{result['peak_kl']:.1f}",
                f"{result['peak_step']}, {result['alarm_step'] or 'none'}",
                f"{result['at_alarm_of_peak']:.2f}" if result["alarm_step"] else "",
                f"{result['kept_of_peak']:.2f}",
                *(estimate(value["gold"], digits=2) if value else "" for value in (sft, *measured)),
            ]
        )
    return markdown(header, rows)


def policy_result(plan: Plan, arm: str, seed: int, policy: str) -> dict[str, Any]:
    return plan.place.result(plan.by_name[f"{ppo_run(arm, seed).name}-{policy}"])


def verdict(found: Found) -> str:
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
        outward, inward = min(minimum) > max(single), max(minimum) < min(single)
        moved = "further out" if outward else "further in" if inward else "neither further out nor further in"
        said.append(
            f"The peak lies at {', '.join(f'{kl:.1f}' for kl in single)} nats with one reward model and at "
            f"{', '.join(f'{kl:.1f}' for kl in minimum)} with the minimum of {MEMBERS}: {moved}."
        )
    return " ".join(said)


def verdict_held_out(plan: Plan, found: Found) -> str:
    """In how many runs the kept policy has more gold than the last one on test prompts."""
    pairs = [[policy_result(plan, *key, policy) for policy in POLICIES] for key in found]
    finished = [(kept["gold"]["value"], last["gold"]["value"]) for kept, last in pairs if kept and last]
    better = sum(kept > last for kept, last in finished)
    return (
        f"On test prompts the kept policy has more gold than the last in {better} of {len(finished)} runs."
        if finished
        else ""
    )


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
