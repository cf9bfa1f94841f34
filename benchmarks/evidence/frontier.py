"""The sentiment frontier: judge reward against KL, for PPO at three KL weights and DPO at three betas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import sentiment
from benchmarks.evidence.judge import MAX_NEW_TOKENS
from benchmarks.evidence.plots import Points, scatter
from benchmarks.evidence.runs import HERE, RESPONSES, Plan, Run
from benchmarks.evidence.tables import estimate
from rlhf.evaluation.measured import estimate_of
from rlhf.evaluation.metrics import Estimate, bootstrap_mean
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import read_rows

PPO_WEIGHTS = (0.1, 0.2, 0.4)
DPO_BETAS = (0.05, 0.15, 0.3)
SEEDS = (0, 1, 2)
PPO_STEPS = 16
LEAST_LEAD, MOST_KL = 0.25, 10.0
PLOT = "evidence-frontier.svg"
# Rafailov et al. 2023 (arXiv 2305.18290), figure 2, IMDb: (KL, reward), read off the figure, +-.02.
PUBLISHED_POINTS = {"DPO": ((2.0, 0.90), (3.0, 0.95)), "PPO": ((2.0, 0.57), (5.0, 0.73), (7.7, 0.85))}
PUBLISHED = (
    "Published on IMDb (DPO paper, figure 2, GPT-2 large, read off the figure, +-.02): DPO .90 at 2 nats and .95 at 3; "
    "PPO .57 at 2, .73 at 5 and .85 at 7.7. Data, model, length and judge differ, and there the judge itself ranked "
    "DPO's pairs, where here a reward model trained on other sentences does."
)
SETTING = """\
Prompts are openings of film reviews, responses their next 24 tokens. The reward model is trained on half A of the
labelled sentences, the judge on half B and on the model before SFT; its reward is P(positive) of the response alone.
The judge is right on {accuracy} of the sentences that nobody was trained on, a bag of words on {words:.3f}; the judge's
expected calibration error is {error:.3f}. SFT has a judge reward of {reward}, over {count} responses to prompts that no
stage has seen. DPO learns from SFT's own samples, ranked by the reward model that PPO is trained against."""


@dataclass(frozen=True)
class Point:
    """One run on the frontier; `lead` is its judge reward less SFT's, paired by prompt."""

    method: str
    weight: float
    seed: int
    reward: Estimate
    lead: Estimate
    kl: Estimate
    distinct_bigrams: float
    seconds: float


def runs() -> list[Run]:
    """Seed by seed, so that what has finished at any time is a whole picture with fewer seeds."""
    listed = []
    for seed in SEEDS:
        listed += [ppo_run(weight, seed) for weight in PPO_WEIGHTS]
        listed += [dpo_run(beta, seed) for beta in DPO_BETAS]
    return listed


def ppo_run(kl_coef: float, seed: int) -> Run:
    train = (
        *ppo_command(f"{HERE}/policy", seed),
        *("--value_model", "shared", "--samples_per_prompt", "4", "--max_steps", str(PPO_STEPS)),
        *("--kl_coef", str(kl_coef)),
    )
    return Run(
        f"frontier/ppo-{kl_coef}-seed{seed}",
        (train, sentiment.measured(f"{HERE}/policy", seed=seed + 1)),
        needs=(*sentiment.MADE, "sentiment/sft_measured"),
        kind="frontier-ppo",
        seconds=240,
        settings={"method": "PPO", "weight": kl_coef, "seed": seed},
        records=(RESPONSES,),
    )


def ppo_command(output: str, seed: int) -> tuple[str, ...]:
    """What all PPO runs on sentiment have in common: 64 responses of 24 tokens to a rollout, two epochs."""
    return (
        *("rlhf", "ppo", "--model", sentiment.SFT, "--reward_model", sentiment.REWARD),
        *("--prompt_file", f"{sentiment.FILES}/prompts_train.jsonl", "--output_dir", output),
        *("--max_new_tokens", str(MAX_NEW_TOKENS), "--missing_eos_penalty", "0", "--learning_rate", "1e-3"),
        *("--per_device_train_batch_size", "8", "--num_mini_batches", "2", "--num_ppo_epochs", "2"),
        *("--monitors", "warn", "--seed", str(seed), *sentiment.LENGTHS, *sentiment.UNSAVED),
    )


def dpo_run(beta: float, seed: int) -> Run:
    train = (
        *("rlhf", "dpo", "--model", sentiment.SFT, "--train_file", sentiment.RANKINGS),
        *("--output_dir", f"{HERE}/policy", "--beta", str(beta), "--learning_rate", "3e-4"),
        *("--per_device_train_batch_size", "8", "--max_steps", "60", "--seed", str(seed)),
        *(*sentiment.LENGTHS, *sentiment.UNSAVED),
    )
    return Run(
        f"frontier/dpo-{beta}-seed{seed}",
        (train, sentiment.measured(f"{HERE}/policy", seed=seed + 1)),
        needs=(*sentiment.MADE, "sentiment/rankings", "sentiment/sft_measured"),
        kind="frontier-dpo",
        seconds=180,
        settings={"method": "DPO", "weight": beta, "seed": seed},
        records=(RESPONSES,),
    )


# ---- what it shows ----------------------------------------------------------------------------------------


def section(plan: Plan, images: Path) -> str:
    """Table, plot and verdict of the runs that have finished; empty without one."""
    points = [found for run in plan.runs if run.experiment == "frontier" and (found := point(plan, run))]
    base = plan.place.result(plan.by_name["sentiment/sft_measured"])
    if not points or not base:
        return ""
    draw(images / PLOT, points, base)
    judge = plan.place.result(plan.by_name["sentiment/judge"])
    return "\n\n".join(
        [
            "### Sentiment frontier",
            SETTING.format(
                accuracy=estimate(judge["accuracy"]),
                words=judge["accuracy_of_bag_of_words"]["value"],
                error=judge["calibration_error"],
                reward=estimate(base["reward"]),
                count=base["num_responses"],
            ),
            f"![Judge reward against KL](images/{PLOT})",
            table(points),
            "\n".join(verdict(points, method) for method in ("PPO", "DPO")),
            dominance(points),
            PUBLISHED,
        ]
    )


def point(plan: Plan, run: Run) -> Point | None:
    """A finished run's reward, its lead over SFT paired by prompt, and its KL."""
    found = plan.place.result(run)
    if not found:
        return None
    base = by_prompt(plan.place.found("sentiment/sft_measured") / RESPONSES)
    ours = by_prompt(plan.place.found(run) / RESPONSES)
    leads = [value - base[prompt] for prompt, value in ours.items()]
    return Point(
        method=run.settings["method"],
        weight=run.settings["weight"],
        seed=run.settings["seed"],
        reward=estimate_of(found["reward"]),
        lead=bootstrap_mean(leads),
        kl=estimate_of(found["kl"]),
        distinct_bigrams=found["distinct_bigrams"],
        seconds=plan.place.state(run)["seconds"],
    )


def by_prompt(file: Path) -> dict[str, float]:
    """Mean judge reward of each prompt's responses."""
    rewards: dict[str, list[float]] = {}
    for row in read_rows(file):
        rewards.setdefault(row["prompt_id"], []).append(row["reward"])
    return {prompt: sum(values) / len(values) for prompt, values in rewards.items()}


def table(points: Sequence[Point]) -> str:
    header = ["method", "weight", "judge reward, by seed", "lead over SFT", "KL, nats", "distinct bigrams", "seconds"]
    rows = []
    for method, weight in dict.fromkeys((point.method, point.weight) for point in points):
        group = [point for point in points if (point.method, point.weight) == (method, weight)]
        rows.append(
            [
                f"{method}, {'kl_coef' if method == 'PPO' else 'beta'}",
                f"{weight:g}",
                ", ".join(f"{point.reward.value:.2f}" for point in group),
                ", ".join(f"{point.lead.value:.2f} [{point.lead.low:.2f}, {point.lead.high:.2f}]" for point in group),
                ", ".join(f"{point.kl.value:.1f}" for point in group),
                ", ".join(f"{point.distinct_bigrams:.2f}" for point in group),
                ", ".join(f"{point.seconds:.0f}" for point in group),
            ]
        )
    return markdown(header, rows)


def verdict(points: Sequence[Point], method: str) -> str:
    """In how many seeds a method reaches the lead that is asked for under the KL that is allowed."""
    seeds = sorted({point.seed for point in points if point.method == method})
    reached = {
        point.seed: point.weight
        for point in points
        if point.method == method and point.lead.value >= LEAST_LEAD and point.kl.value < MOST_KL
    }
    good = [seed for seed in seeds if seed in reached]
    asked = f"leads SFT by at least {LEAST_LEAD} at a KL under {MOST_KL:g} nats"
    return f"- {method} {asked} in {len(good)} of {len(seeds)} seeds."


def dominance(points: Sequence[Point]) -> str:
    """PPO's reward less DPO's at equal KL, by linear interpolation between a seed's runs where both have been."""
    lines = {
        (method, seed): sorted((p.kl.value, p.reward.value) for p in points if (p.method, p.seed) == (method, seed))
        for method in ("PPO", "DPO")
        for seed in {point.seed for point in points}
    }
    seeds = sorted({seed for _, seed in lines if all(len(lines[method, seed]) > 1 for method in ("PPO", "DPO"))})
    if not seeds:
        return "Which of the two dominates takes two weights of each in one seed."
    low = max(lines[method, seed][0][0] for method in ("PPO", "DPO") for seed in seeds)
    high = min(lines[method, seed][-1][0] for method in ("PPO", "DPO") for seed in seeds)
    if low >= high:
        return f"The KL ranges of PPO and DPO do not overlap in all seeds ({low:.1f} to {high:.1f} nats): no verdict."
    parts, signs = [], set()
    for kl in (low, (low + high) / 2, high):
        leads = [at(lines["PPO", seed], kl) - at(lines["DPO", seed], kl) for seed in seeds]
        parts.append(f"{sum(leads) / len(leads):+.2f} ({min(leads):+.2f} to {max(leads):+.2f}) at {kl:.1f} nats")
        signs |= {lead > 0 for lead in leads}
    winner = "neither dominates" if len(signs) > 1 else "PPO dominates" if signs == {True} else "DPO dominates"
    return (
        f"At equal KL, PPO's judge reward less DPO's, mean and range over {len(seeds)} seeds, is {', '.join(parts)}: "
        f"{winner} where both have been."
    )


def at(line: Sequence[tuple[float, float]], x: float) -> float:
    """The line's height at x, between its points."""
    return float(np.interp(x, [a for a, _ in line], [b for _, b in line]))


def draw(path: Path, points: Sequence[Point], base: Mapping[str, Any]) -> None:
    groups = {"SFT": Points([0.0], [base["reward"]["value"]], [0.0], [0.0])}
    for method in ("PPO", "DPO"):
        own = [point for point in points if point.method == method]
        groups[f"{method}, here"] = Points(
            [point.kl.value for point in own],
            [point.reward.value for point in own],
            [point.reward.value - point.reward.low for point in own],
            [point.reward.high - point.reward.value for point in own],
        )
    for method, figures in PUBLISHED_POINTS.items():
        groups[f"{method}, published"] = Points(
            [kl for kl, _ in figures], [reward for _, reward in figures], hollow=True
        )
    scatter(path, groups, x_label="KL from SFT, nats a response", y_label="judge reward, P(positive)")
