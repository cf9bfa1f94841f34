"""What a measurement says: a promise, the figure, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlhf.recipe_report import markdown


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        promise: in a few words.
        database: sqlite, postgresql, or "" where it makes no difference.
        found: the figure in words.
        kept: whether the promise holds; None where it could not be tried, and `found` says why.
        details: numbers behind it.
        seconds: how long the measurement took.
    """

    promise: str
    database: str
    found: str
    kept: bool | None
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(figures: Sequence[Figure]) -> str:
    """As Markdown."""
    said = {True: "kept", False: "NOT kept", None: "not tried"}
    rows = [[f.promise, f.database or "-", f.found, said[f.kept], f"{f.seconds:.0f}"] for f in figures]
    return markdown(["promise", "database", "found", "", "seconds"], rows)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {"p50_ms": float("nan"), "p95_ms": float("nan")}

    def at(share: float) -> float:
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return {"p50_ms": at(0.5), "p95_ms": at(0.95)}
