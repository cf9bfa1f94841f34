"""Numbers as the docs show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def estimate(row: Mapping[str, Any], *, digits: int = 3) -> str:
    """An estimate as `Estimate.to_dict` wrote it: value and interval."""
    if row["low"] is None:
        return f"{row['value']:.{digits}f}"
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
