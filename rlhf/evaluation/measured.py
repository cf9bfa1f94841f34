"""The numbers in a run's `metrics.json`, one by one, as tables show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.metrics import Estimate

# Metrics that are shares with one half as what guessing gets: these are drawn.
SHARES = ("accuracy", "eval_accuracy", "win_rate", "win_rate_by_reward_model")
LEFT_OUT = ("truncation",)


@dataclass(frozen=True)
class Measured:
    """One number of a step: where it stands in its metrics, and the number with its interval, if it has one."""

    step: str
    path: tuple[str, ...]
    value: Estimate | float | int | str

    @property
    def name(self) -> str:
        return ": ".join(self.path)

    def cells(self) -> list[str]:
        """Step, name, value, interval and number of what was measured, as words of a table."""
        if isinstance(self.value, Estimate):
            interval = "" if math.isnan(self.value.low) else f"{self.value.low:.3f} to {self.value.high:.3f}"
            return [self.step, self.name, f"{self.value.value:.3f}", interval, str(self.value.n)]
        shown = f"{self.value:.3f}" if isinstance(self.value, float) else str(self.value)
        return [self.step, self.name, shown, "", ""]


def measured(step: str, metrics: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Measured]:
    """The numbers in a step's metrics, nested ones by their path."""
    for name, value in metrics.items():
        here = (*path, name)
        if here[0] in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}:
            yield Measured(step, here, estimate_of(value))
        elif isinstance(value, Mapping):
            yield from measured(step, value, here)
        elif isinstance(value, str | int | float):
            yield Measured(step, here, value)


def estimate_of(row: Mapping[str, Any]) -> Estimate:
    """The estimate that `Estimate.to_dict` wrote."""
    value, low, high = (math.nan if row[key] is None else float(row[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, row["n"])
