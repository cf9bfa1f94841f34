"""Which monitors there are, their limits and reactions, and how settings change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from rlhf.training.monitors import LimitMonitor, Monitor, MonitorSet, OverOptimisation, Reaction, Shows, Watch

MODES = ("default", "stop", "warn", "off")

WATCHES = (
    Watch(
        name="kl_target",
        metric="objective/kl",
        side="above",
        limit=2.0,
        updates=2,
        meaning="the policy leaves the reference faster than the KL weight can follow",
        fix="lower --learning_rate or --kl_horizon, or start with a larger --kl_coef",
        shows=Shows("kl"),
    ),
    Watch(
        name="kl_budget",
        metric="objective/kl",
        side="above",
        limit=1.0,
        updates=1,
        meaning="the run has spent its KL budget",
        fix="take the policy as it is, or raise --kl_budget",
        shows=Shows("kl"),
    ),
    Watch(
        name="kl_per_token",
        metric="objective/kl_per_token",
        side="above",
        limit=3.0,
        updates=2,
        meaning="the policy is another distribution than the reference",
        fix="lower --learning_rate, or raise --kl_coef",
        shows=Shows("kl"),
    ),
    Watch(
        name="kl_negative",
        metric="objective/kl",
        side="below",
        limit=-1.0,
        updates=1,
        meaning="no policy has negative KL on its own samples, so these come from another distribution",
        fix="check that the sampler and the trainer share weights, temperature and template",
        shows=Shows("kl", highest=False),
    ),
    Watch(
        name="ratio",
        metric="policy/max_ratio",
        side="above",
        limit=10.0,
        updates=1,
        meaning="one update moved the policy too far to trust its loss",
        fix="lower --learning_rate, or take fewer --num_ppo_epochs",
        shows=Shows("kl"),
    ),
    Watch(
        name="entropy",
        metric="objective/entropy",
        side="below",
        limit=0.2,
        updates=1,
        of_start=True,
        meaning="the policy says almost one thing only, and no longer explores",
        fix="lower --learning_rate, or raise --kl_coef",
        shows=Shows("entropy", highest=False),
    ),
    Watch(
        name="eos",
        metric="objective/eos_rate",
        side="below",
        limit=0.5,
        updates=3,
        of_start=True,
        meaning="responses no longer end by themselves",
        fix="raise --missing_eos_penalty or --max_new_tokens, and see whether the scorer favours length",
        shows=Shows("length"),
    ),
    Watch(
        name="length",
        metric="objective/response_length",
        side="above",
        limit=1.5,
        updates=3,
        of_start=True,
        meaning="responses grow",
        fix="see in the samples whether the added text is worth its score, and in reward/length_correlation whether "
        "the scorer pays for length",
        shows=Shows("length"),
    ),
    Watch(
        name="repetition",
        metric="objective/distinct_2",
        side="below",
        limit=0.6,
        updates=3,
        of_start=True,
        meaning="responses repeat their own word pairs",
        fix="see whether the scorer pays for repetition; raise --kl_coef",
        shows=Shows("distinct_2", highest=False),
    ),
    Watch(
        name="duplicates",
        metric="objective/distinct_responses",
        side="below",
        limit=0.5,
        updates=3,
        of_start=True,
        meaning="many responses of a rollout are the same text",
        fix="see whether the scorer pays for one phrase; raise --kl_coef",
        shows=Shows("copies"),
    ),
    Watch(
        name="length_correlation",
        metric="reward/length_correlation",
        side="above",
        limit=0.7,
        updates=5,
        meaning="the score is mostly the length",
        fix="train the reward model on pairs with balanced lengths, or take a length penalty into the score",
        shows=Shows("score"),
    ),
    Watch(
        name="explained_variance",
        metric="value/explained_variance",
        side="below",
        limit=-0.1,
        updates=10,
        warm_up=10,
        meaning="the value model predicts returns worse than their mean would, so advantages are noise",
        fix="warm the value model up, lower --learning_rate, or take an estimator without a value model",
        shows=Shows("value_error"),
    ),
    Watch(
        name="sampler_gap",
        metric="policy/sampler_gap",
        side="above",
        limit=0.01,
        updates=3,
        meaning="the sampler and the trainer disagree about the probability of a token",
        fix="check that they share weights, precision, temperature and template",
        shows=Shows("sampler_gap"),
    ),
)
# Standard errors by which a judge must have fallen. The best of many windows is a lucky one: where judge and score both
# stand still for 200 rollouts, 3 would alarm in four of ten runs, and 4 does in one of forty (simulated).
JUDGE_ERRORS = 4.0
ROUNDED_GAP = 0.05  # of the sampler, in bfloat16: rounding alone makes .006 to .012 with SmolLM2-135M
LIMITS = {**{watch.name: watch.limit for watch in WATCHES}, OverOptimisation.name: JUDGE_ERRORS}
STOPS_BY_DEFAULT = ("kl_target", "kl_budget", "kl_negative", "ratio", OverOptimisation.name)


def build_monitors(
    mode: str,
    *,
    reactions: Sequence[str] = (),
    limits: Sequence[str] = (),
    kl_target: float | None = None,
    kl_budget: float | None = None,
    dtype: str = "float32",
) -> MonitorSet:
    """The monitors of a run.

    Args:
        mode: `default` reacts as the table in docs/monitors.md says; `stop`, `warn` and `off` are for all monitors.
        reactions: `name=stop`, `name=warn` or `name=off`, which win over the mode.
        limits: `name=number` in place of a default limit.
        kl_target: sequence KL in nats that the run holds; without it `kl_target` is not there.
        kl_budget: sequence KL in nats that the run may spend; without it `kl_budget` is not there.
        dtype: of the frozen weights; the sampler is further from the trainer where they are rounded.

    Raises:
        ValueError: no such mode, monitor, reaction or number.
    """
    rounded = {"sampler_gap": ROUNDED_GAP} if dtype == "bfloat16" else {}
    chosen = LIMITS | rounded | read_limits(limits)
    reads = {"kl_target": kl_target, "kl_budget": kl_budget}
    monitors: list[Monitor] = []
    for watch in WATCHES:
        nats = reads.get(watch.name, 1.0)
        if nats is not None:
            monitors.append(LimitMonitor(replace(watch, limit=chosen[watch.name] * nats)))
    monitors.append(OverOptimisation(chosen[OverOptimisation.name]))
    return MonitorSet(monitors, read_reactions(mode, reactions))


def read_reactions(mode: str, settings: Sequence[str]) -> dict[str, Reaction]:
    """How a run reacts to each monitor.

    Raises:
        ValueError: no such mode, monitor or reaction.
    """
    if mode not in MODES:
        raise ValueError(f"monitors is {mode!r}: choose {', '.join(MODES)}")
    found: dict[str, Reaction] = {}
    for name in LIMITS:
        found[name] = "stop" if name in STOPS_BY_DEFAULT else "warn"
        for reaction in get_args(Reaction):
            if mode == reaction:
                found[name] = reaction
    for setting in settings:
        name, text = _split("monitor_reactions", setting)
        matching = [reaction for reaction in get_args(Reaction) if reaction == text]
        if not matching:
            raise ValueError(f"monitor_reactions has {setting!r}: choose {name}=stop, {name}=warn or {name}=off")
        found[name] = matching[0]
    return found


def read_limits(settings: Sequence[str]) -> dict[str, float]:
    """The limits that are set, by monitor.

    Raises:
        ValueError: no such monitor, or no number.
    """
    found = {}
    for setting in settings:
        name, text = _split("monitor_limits", setting)
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise ValueError(f"monitor_limits has {setting!r}: give a number, such as {name}={LIMITS[name]:g}")
    return found


def _split(field: str, setting: str) -> tuple[str, str]:
    name, equals, text = setting.partition("=")
    if not equals or name not in LIMITS:
        raise ValueError(f"{field} has {setting!r}: write name=value, with one of {', '.join(LIMITS)}")
    return name, text.strip()
