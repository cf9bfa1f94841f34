"""Over-optimisation: PPO without a KL penalty against reward models that know half of what counts, watched by gold.

python -m benchmarks.evidence.over_optimisation --run RUN --measured FOLDER --output_dir FOLDER

The proxy is the score that PPO raises; gold is `benchmarks.evidence.gold`, on the same rollouts. The monitor is told to
warn, so that the run goes on to where it would have been without one; the kept policy and the last one are measured on
prompts that no stage has seen. A seed draws the rankings, the reward models and the rollouts anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import small
from benchmarks.evidence.gold import PLACE
from benchmarks.evidence.plots import curves
from benchmarks.evidence.runs import HERE, RESULT, RUNS, Plan, Run, read_json, write_result
from benchmarks.evidence.small_data import OTHERS
from benchmarks.evidence.tables import estimate, over_seeds
from rlhf.recipe_report import markdown
from rlhf.training.kept_policy import Judged, KeptPolicy
from rlhf.training.run_folder import ALARMS, LOG, METRICS, read_rows

MONITOR = "over_optimisation"
MEMBERS = 3
SINGLE, MINIMUM = "single", "minimum of 3"
ARMS = (SINGLE, MINIMUM)
SEEDS = tuple(range(3))
STEPS = 50
LEARNING_RATE = "5e-4"
POLICIES = ("kept", "last")
KEPT = 0.95
PLOT = "evidence-over-optimisation.svg"
WINDOW = 3  # rollouts to a mean, as the monitor and the kept policy take

Course = Mapping[str, Any]  # of one run, as `course` gives it
Found = Mapping[tuple[str, int], Course]  # (arm, seed) -> its course


def runs() -> list[Run]:
    """Seed by seed: reward models, then PPO against one of them and against their minimum."""
    return [run for seed in SEEDS for run in (reward_run(seed), *(ppo_run(arm, seed) for arm in ARMS))]


def reward_run(seed: int) -> Run:
    return Run(
        f"over_optimisation/reward-seed{seed}",
        (small.reward_command(seed + 1, "--num_members", str(MEMBERS), "--seed", str(seed)),),
        needs=small.MADE,
        kind="over-optimisation-reward",
        seconds=40,
        records=(f"model/{METRICS}",),
    )


def ppo_run(arm: str, seed: int) -> Run:
    members = [f"{RUNS}/over_optimisation/reward-seed{seed}/model/member_{number}" for number in range(1, MEMBERS + 1)]
    scores = (members[0],) if arm == SINGLE else (*members, "--ensemble_rule", "min")
    settings = ("--value_model", "shared", "--samples_per_prompt", "8", "--max_steps", str(STEPS), "--kl_coef", "0")
    judged = ("--learning_rate", LEARNING_RATE, "--judge", "benchmarks.evidence.gold:gold")
    train = (f"{PLACE}={small.SMALL}", *small.ppo_command(seed, scores, *settings, *judged))
    measure = small.measured(f"{HERE}/policy", f"{HERE}/policy/last", reward_model=members[0])
    follow = (
        *(*small.PYTHON, "benchmarks.evidence.over_optimisation", "--run", f"{HERE}/policy"),
        *("--measured", HERE, "--output_dir", HERE),
    )
    return Run(
        f"over_optimisation/{arm.replace(' ', '-')}-seed{seed}",
        (train, measure, follow),
        needs=(*small.MADE, f"over_optimisation/reward-seed{seed}"),
        kind="over-optimisation",
        seconds=110,
        settings={"arm": arm, "seed": seed},
    )


# ---- what a run did ---------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.over_optimisation", allow_abbrev=False)
    for name in ("run", "measured", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = [row for row in read_rows(arguments.run / LOG) if "objective/judge_score" in row]
    alarms = [row["step"] for row in read_rows(arguments.run / ALARMS) if row["monitor"] == MONITOR]
    policies = read_json(arguments.measured / RESULT)["policies"]
    found = course(rows, min(alarms, default=None))
    kept = read_json(arguments.run / METRICS)["kept/step"]
    measured = dict(zip(POLICIES, policies, strict=True))
    write_result(arguments.output_dir, found | {"kept_step": kept, "measured": measured})


def course(rows: Sequence[Mapping[str, Any]], alarm: int | None) -> dict[str, Any]:
    """What proxy and gold did over a run, with the peak of gold and where it stood at the alarm.

    Means are over `WINDOW` rollouts, since one alone is noisy; the rollout of a step samples the policy before the
    step's update. `kept_of_peak` is the gold of the best window up to the alarm over the peak of the whole run, and
    `kept_step_at_alarm` the policy that the run would have kept had it stopped there.
    """
    series = {
        name: [float(row[f"objective/{key}"]) for row in rows]
        for name, key in (("proxy", "score"), ("gold", "judge_score"), ("kl", "kl"))
    }
    gold, kl = smoothed(series["gold"]), smoothed(series["kl"])
    steps = [row["step"] for row in rows]
    ends = steps[WINDOW - 1 :]
    peak = max(range(len(gold)), key=gold.__getitem__)
    until = [value for step, value in zip(ends, gold, strict=True) if alarm is None or step <= alarm] or gold[:1]
    kept = KeptPolicy()
    for step, judge_score, score in zip(steps, series["gold"], series["proxy"], strict=True):
        if alarm is None or step <= alarm:
            kept.observe(Judged(step - 1, judge_score, score), {})
    return {
        "steps": steps,
        **{name: [float(f"{value:.5g}") for value in values] for name, values in series.items()},
        "start": gold[0],
        "peak": gold[peak],
        "peak_step": ends[peak] - WINDOW // 2,
        "peak_kl": kl[peak],
        "end": gold[-1],
        "alarm_step": alarm,
        "at_alarm_of_peak": until[-1] / gold[peak],
        "kept_of_peak": max(until) / gold[peak],
        "kept_step_at_alarm": kept.best.step if kept.best else None,
    }


def smoothed(values: Sequence[float]) -> list[float]:
    """Means of `WINDOW` values in a row.

    Raises:
        ValueError: there are fewer.
    """
    if len(values) < WINDOW:
        raise ValueError(f"{len(values)} rollouts were judged: at least {WINDOW} are needed")
    return [sum(values[end - WINDOW : end]) / WINDOW for end in range(WINDOW, len(values) + 1)]


# ---- what it shows ----------------------------------------------------------------------------------------

SETTING = """\
PPO without a KL penalty, {steps} rollouts of 128 responses, on a language model of {weights:.1f} million weights
that was trained from nothing on sentences of film reviews (`benchmarks/evidence/small_model.py`; perplexity of a token
{perplexity:.0f} on held-out sentences). A prompt is the first words of a sentence. Gold is P(positive) by a bag of
words from all labelled sentences (accuracy {accuracy} on held-out ones) times the probability that a reader who knows
the language model finds the response's own opening among {openings}. The reward models are trained on rankings by
P(positive) alone of 4 of the language model's responses to {rankings} prompts: they know nothing of the opening.
Accuracy on held-out rankings by seed, mean of {members} reward models: {trained}. Settings were tuned on other rankings
of the same kind and another seed. A seed draws rankings, reward models and rollouts anew. Curves are means over
{window} rollouts, measured on the rollouts themselves. The `over_optimisation` monitor would have ended a run at its
alarm; here it warns, so that the rest can be seen. Kept and last policy are measured on {prompts} test prompts."""


def section(plan: Plan, images: Path) -> str:
    """Table, plot and verdict of the runs that have finished; empty without one."""
    found: dict[tuple[str, int], Course] = {
        (run.settings["arm"], run.settings["seed"]): result
        for run in plan.runs
        if run.experiment == "over_optimisation" and run.settings and (result := plan.place.result(run))
    }
    if not found:
        return ""
    draw(images / PLOT, found)
    return "\n\n".join(
        [
            "### Over-optimisation",
            setting(plan, found),
            f"![Score and gold over KL](images/{PLOT})",
            table(plan, found),
            verdict(found),
        ]
    )


def setting(plan: Plan, found: Found) -> str:
    """How the runs were made."""
    model, ranked = (plan.place.result(plan.by_name[f"small/{name}"]) for name in ("model", "ranked"))
    folders = [plan.place.found(f"over_optimisation/reward-seed{seed}") for seed in sorted({own for _, own in found})]
    accuracies = [read_json(folder / "model" / METRICS)["eval_accuracy"]["value"] for folder in folders]
    return SETTING.format(
        steps=STEPS,
        weights=model["num_weights"] / 1e6,
        perplexity=model["held_out_perplexity"],
        accuracy=estimate(ranked["accuracy"]),
        openings=OTHERS + 1,
        rankings=small.RANKINGS,
        members=MEMBERS,
        trained=", ".join(f"{value:.2f}" for value in accuracies),
        window=WINDOW,
        prompts=next(iter(found.values()))["measured"]["kept"]["num_responses"],
    )


def draw(path: Path, found: Found) -> None:
    """Proxy and gold over KL, side by side."""
    panels = {
        label: {
            arm: [(smoothed(run["kl"]), smoothed(run[what])) for (own, _), run in found.items() if own == arm]
            for arm in dict.fromkeys(arm for arm, _ in found)
        }
        for what, label in (("proxy", "score of the reward model"), ("gold", "gold"))
    }
    curves(path, panels, x_label="KL from the language model, nats a response")


def table(plan: Plan, found: Found) -> str:
    header = ["score", "seed", "gold: start", "peak", "end", "peak at KL", "peak, alarm at step"]
    header += ["kept / peak", "test prompts: start", "kept", "last"]
    start = plan.place.result(plan.by_name["small/measured"])
    rows = [
        [
            *(arm, str(seed)),
            *(f"{run[name]:.2f}" for name in ("start", "peak", "end")),
            f"{run['peak_kl']:.1f}",
            f"{run['peak_step']}, {run['alarm_step'] or 'none'}",
            f"{run['kept_of_peak']:.2f}",
            estimate(start["policies"][0]["gold"], digits=2) if start else "",
            *(estimate(run["measured"][policy]["gold"], digits=2) for policy in POLICIES),
        ]
        for (arm, seed), run in found.items()
    ]
    return markdown(header, rows)


def verdict(found: Found) -> str:
    """Whether proxy and gold part, whether the policy to go on with is good enough, and what the minimum does."""
    runs = list(found.values())
    kept = sum(run["kept_of_peak"] >= KEPT for run in runs)
    same = sum(run["kept_step_at_alarm"] == run["kept_step"] for run in runs)
    lines = [
        f"{arm}: gold ends under its peak by {over(of_arm, fall)} of it; the score gains {over(of_arm, gain)}."
        for arm in ARMS
        if (of_arm := [run for (own, _), run in found.items() if own == arm])
    ]
    lines += [
        f"The monitor alarms in {sum(bool(run['alarm_step']) for run in runs)} of {len(runs)} runs. The policy that a "
        f"run keeps when it stops there has at least {KEPT:.0%} of the gold peak of the whole run in {kept} of "
        f"{len(runs)}; in {same} it is the policy that the whole run keeps, which the test prompts measure.",
        f"On test prompts the kept policy has {over(runs, lambda run: tested(run, 'kept') - tested(run, 'last'))} more "
        "gold than the last.",
    ]
    pairs = [
        (found[SINGLE, seed], found[MINIMUM, seed]) for seed in SEEDS if {(arm, seed) for arm in ARMS} <= set(found)
    ]
    if pairs:
        out = over_seeds([minimum["peak_kl"] - single["peak_kl"] for single, minimum in pairs])
        lines.append(
            f"The minimum of {MEMBERS} less one reward model, paired over {len(pairs)} seeds: the gold peak lies "
            f"{estimate(out, digits=1, sign='+')} nats further out, which is {moved(out)}; the peak itself is "
            f"{lead(pairs, lambda run: run['peak'])}, and on test prompts the kept policy has "
            f"{lead(pairs, lambda run: tested(run, 'kept'))} gold and the last "
            f"{lead(pairs, lambda run: tested(run, 'last'))}."
        )
    return "\n".join(f"- {line}" for line in [*lines, "Intervals of these lines are over seeds."])


def fall(run: Course) -> float:
    return float((run["peak"] - run["end"]) / run["peak"])


def gain(run: Course) -> float:
    proxy = smoothed(run["proxy"])
    return proxy[-1] - proxy[0]


def tested(run: Course, policy: str) -> float:
    return float(run["measured"][policy]["gold"]["value"])


def over(runs: Sequence[Course], number: Callable[[Course], float]) -> str:
    return estimate(over_seeds([number(run) for run in runs]), digits=2)


def lead(pairs: Sequence[tuple[Course, Course]], number: Callable[[Course], float]) -> str:
    """The second run's number less the first's."""
    return estimate(over_seeds([number(second) - number(first) for first, second in pairs]), digits=3, sign="+")


def moved(out: Mapping[str, Any]) -> str:
    """What an interval of a shift says."""
    if out["low"] is None or out["low"] <= 0 <= out["high"]:
        return "no verdict"
    return "outward" if out["low"] > 0 else "inward"


if __name__ == "__main__":
    main()
