"""In which type sums are kept."""

from __future__ import annotations

import torch


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the shorter types, and a longer one as it is."""
    return torch.promote_types(dtype, torch.float32)
