"""An endless series of passes over a list, each in an order of its own, so that a position is all that a run keeps."""

from __future__ import annotations

import torch


def shuffled_index(position: int, size: int, seed: int) -> int:
    """Which of `size` items stands at a position: every pass holds each once, in an order drawn from seed and pass."""
    number, offset = divmod(position, size)
    generator = torch.Generator().manual_seed(seed + number)
    return int(torch.randperm(size, generator=generator)[offset])
