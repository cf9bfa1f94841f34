"""Numbers as the docs show them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def estimate(row: Mapping[str, Any], *, digits: int = 3, sign: str = "") -> str:
    """An estimate as `Estimate.to_dict` wrote it: value and interval; `sign` is `+` to show it also where positive."""
    form = f"{sign}.{digits}f"
    if row["low"] is None:
        return f"{row['value']:{form}}"
    return f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """The mean of one number a seed with Student's 95 % interval; without one where there is one seed."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"value": mean, "low": None, "high": None, "n": 1}
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"value": mean, "low": mean - half, "high": mean + half, "n": len(values)}
