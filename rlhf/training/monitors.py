"""Monitors of a PPO run: each watches one number of every rollout and says when a known failure shows in it.

Rollouts are small, 16 to 64 responses, and their means noisy. So a monitor speaks only when several rollouts in a
row are beyond its limit and their mean is beyond it by `STANDARD_ERRORS` standard errors, those of the start
included where the limit is relative to it. All processes feed the same reduced numbers, so they all agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

# The start is the mean of this many first rollouts: one alone is too noisy to compare a whole run with.
START_ROLLOUTS = 3
# Rollouts for which a monitor keeps quiet after an alarm.
COOL_DOWN = 20
STANDARD_ERRORS = 2.0

Reaction = Literal["stop", "warn", "off"]
SampleRow = Mapping[str, Any]


@dataclass(frozen=True)
class RolloutSummary:
    """The numbers of one rollout over all processes, equal in each of them.

    Attributes:
        step: the step that the rollout belongs to, counted from 1 as in `metrics.jsonl`.
        means: by metric name; what was not measured is absent.
        errors: standard errors of those means that are over prompts.
    """

    step: int
    means: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shows:
    """Which sample shows what a monitor saw: the one with the highest (or lowest) value of `key`."""

    key: str
    highest: bool = True

    def choose(self, rows: Sequence[SampleRow]) -> SampleRow | None:
        """The sample, or None where there is none with that key."""
        rows = [row for row in rows if not math.isnan(row.get(self.key, math.nan))]
        return (max if self.highest else min)(rows, key=lambda row: row[self.key]) if rows else None


@dataclass(frozen=True)
class Alarm:
    """What a monitor saw, in a sentence and in numbers, and the sample that shows it."""

    step: int
    monitor: str
    severity: Reaction
    message: str
    value: float
    limit: float
    start: float | None
    sample: SampleRow | None = None


@dataclass(frozen=True)
class Finding:
    """What a monitor saw, before it is known how the run reacts."""

    message: str
    value: float
    limit: float
    start: float | None


class Monitor(Protocol):
    """Looks at every rollout's numbers; its state is plain JSON, so that a resumed run alarms at the same steps."""

    @property
    def name(self) -> str:
        """What settings and alarms call it."""

    @property
    def shows(self) -> Shows:
        """Which sample shows what it saw."""

    def observe(self, summary: RolloutSummary) -> Finding | None:
        """Take in one rollout; a finding if it is time to speak."""

    def state(self) -> dict[str, Any]:
        """All that decides later alarms."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""


@dataclass(frozen=True)
class Watch:
    """One number with a limit.

    Attributes:
        name: what settings and alarms call it.
        metric: the number's name in the summary.
        side: on which side of the limit the failure is.
        limit: in the number's own unit, or as a multiple of its start.
        of_start: whether the limit is a multiple of the start.
        updates: how many rollouts in a row must be beyond it.
        warm_up: rollouts at the start of the run that do not count.
        meaning: what has probably happened.
        fix: what to do.
        shows: which sample shows it.
    """

    name: str
    metric: str
    side: Literal["above", "below"]
    limit: float
    updates: int
    meaning: str
    fix: str
    shows: Shows
    of_start: bool = False
    warm_up: int = 0


@dataclass
class LimitState:
    """What a `LimitMonitor` remembers: values with standard errors, of the start and of the last rollouts."""

    num_seen: int = 0
    start: list[tuple[float, float]] = field(default_factory=list)
    recent: list[tuple[float, float]] = field(default_factory=list)
    quiet_until: int = 0


class LimitMonitor:
    """Speaks when a number stays beyond a limit."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self._state = LimitState()

    @property
    def name(self) -> str:
        return self.watch.name

    @property
    def shows(self) -> Shows:
        return self.watch.shows

    def observe(self, summary: RolloutSummary) -> Finding | None:
        watch, state = self.watch, self._state
        value = summary.means.get(watch.metric, math.nan)
        if math.isnan(value):
            return None
        seen = (value, summary.errors.get(watch.metric, math.nan))
        state.num_seen += 1
        if watch.of_start and len(state.start) < START_ROLLOUTS:
            state.start.append(seen)
            return None
        if state.num_seen <= watch.warm_up:
            return None
        state.recent = [*state.recent, seen][-watch.updates :]
        if len(state.recent) < watch.updates or summary.step < state.quiet_until or not self._is_beyond():
            return None
        state.quiet_until = summary.step + COOL_DOWN
        return self._finding()

    def _limit(self) -> float:
        return self.watch.limit * mean_of(self._state.start) if self.watch.of_start else self.watch.limit

    def _is_beyond(self) -> bool:
        limit, recent = self._limit(), self._state.recent
        sign = 1 if self.watch.side == "above" else -1
        if not all(sign * (value - limit) > 0 for value, _ in recent):
            return False
        error = error_of(recent)
        if self.watch.of_start:
            error = math.hypot(error, self.watch.limit * error_of(self._state.start))
        return sign * (mean_of(recent) - limit) > STANDARD_ERRORS * error

    def _finding(self) -> Finding:
        watch, value, limit = self.watch, mean_of(self._state.recent), self._limit()
        start = mean_of(self._state.start) if watch.of_start else None
        rollouts = "in the last rollout" if watch.updates == 1 else f"in the last {watch.updates} rollouts"
        against = f"{watch.limit:g} times its start of {start:.4g}" if watch.of_start else f"the limit of {limit:.4g}"
        message = f"{watch.metric} is {value:.4g} {rollouts}, {watch.side} {against}: {watch.meaning}; {watch.fix}"
        return Finding(message, value, limit, start)

    def state(self) -> dict[str, Any]:
        return asdict(self._state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        pairs = {name: [(value, error) for value, error in state[name]] for name in ("start", "recent")}
        self._state = LimitState(num_seen=state["num_seen"], quiet_until=state["quiet_until"], **pairs)


@dataclass(frozen=True)
class JudgedWindow:
    """Judge and score over some rollouts in a row, with their standard errors."""

    judge: float
    judge_error: float
    score: float

    @classmethod
    def of(cls, rollouts: Sequence[tuple[float, float, float]]) -> JudgedWindow:
        """The window of rollouts given as (judge, its error, score)."""
        judges = [(judge, error) for judge, error, _ in rollouts]
        return cls(mean_of(judges), error_of(judges), sum(score for *_, score in rollouts) / len(rollouts))


@dataclass
class OverOptimisation:
    """Speaks when a held-out judge has fallen from its best while the score has not (Gao et al., 2210.10760).

    The best is the window of three rollouts with the highest mean judge score; the last three are held against it.
    The fall must be of `limit` standard errors of the difference and a tenth of what the judge had gained.
    """

    limit: float
    name: str = "over_optimisation"
    shows: Shows = Shows("score_over_judge")
    rollouts: list[tuple[float, float, float]] = field(default_factory=list)
    start: JudgedWindow | None = None
    best: JudgedWindow | None = None
    quiet_until: int = 0

    def observe(self, summary: RolloutSummary) -> Finding | None:
        judge, score = (summary.means.get(f"objective/{name}", math.nan) for name in ("judge_score", "score"))
        if math.isnan(judge) or math.isnan(score):
            return None
        error = summary.errors.get("objective/judge_score", math.nan)
        self.rollouts = [*self.rollouts, (judge, error, score)][-3:]
        if len(self.rollouts) < 3:
            return None
        now = JudgedWindow.of(self.rollouts)
        self.start = self.start or now
        if self.best is None or now.judge > self.best.judge:
            self.best = now
        fall = self.best.judge - now.judge
        needed = self.limit * math.hypot(now.judge_error, self.best.judge_error)
        is_small = fall <= max(needed, 0.1 * (self.best.judge - self.start.judge))
        if is_small or now.score < self.best.score or summary.step < self.quiet_until:
            return None
        self.quiet_until = summary.step + COOL_DOWN
        return Finding(self._message(now, fall), now.judge, self.best.judge - needed, self.start.judge)

    def _message(self, now: JudgedWindow, fall: float) -> str:
        assert self.best is not None
        return (
            f"objective/judge_score is {now.judge:.4g} in the last 3 rollouts, {fall:.4g} under its best of "
            f"{self.best.judge:.4g}, while objective/score went from {self.best.score:.4g} to {now.score:.4g}: the "
            "policy now exploits the scorer; keep the best policy, or start again with a larger --kl_coef, an "
            "ensemble of reward models or a better one"
        )

    def state(self) -> dict[str, Any]:
        return {name: asdict(self)[name] for name in ("rollouts", "start", "best", "quiet_until")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.rollouts = [(judge, error, score) for judge, error, score in state["rollouts"]]
        self.start, self.best = (state[name] and JudgedWindow(**state[name]) for name in ("start", "best"))
        self.quiet_until = state["quiet_until"]


class MonitorSet:
    """All monitors of a run, and how it reacts to each."""

    def __init__(self, monitors: Sequence[Monitor], reactions: Mapping[str, Reaction]):
        self.monitors, self.reactions = list(monitors), dict(reactions)

    def observe(self, summary: RolloutSummary, rows: Callable[[], Sequence[SampleRow]]) -> list[Alarm]:
        """Feed all monitors, also those that are off, and return the alarms.

        Args:
            summary: the rollout's numbers.
            rows: gives the rollout's samples of this process; called only on an alarm.
        """
        alarms = []
        for monitor in self.monitors:
            finding, reaction = monitor.observe(summary), self.reactions[monitor.name]
            if finding is not None and reaction != "off":
                sample = monitor.shows.choose(rows())
                alarms.append(Alarm(summary.step, monitor.name, reaction, **asdict(finding), sample=sample))
        return alarms

    def state(self) -> dict[str, Any]:
        return {monitor.name: monitor.state() for monitor in self.monitors}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; a monitor that was not there then starts anew."""
        for monitor in self.monitors:
            if monitor.name in state:
                monitor.load_state(state[monitor.name])


def mean_of(measured: Sequence[tuple[float, float]]) -> float:
    """Mean of values given with their standard errors."""
    return sum(value for value, _ in measured) / len(measured)


def error_of(measured: Sequence[tuple[float, float]]) -> float:
    """Standard error of the mean of values with standard errors; where one is NaN, from the values' own spread."""
    errors = [error for _, error in measured]
    if not any(math.isnan(error) for error in errors):
        return math.hypot(*errors) / len(errors)
    if len(measured) < 2:
        return 0.0
    mean = mean_of(measured)
    return math.hypot(*(value - mean for value, _ in measured)) / math.sqrt(len(measured) * (len(measured) - 1))
