"""Of the ways to run a training step, the one that costs least time and fits into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rlhf.engine.memory import ModelShape, RunShape, memory_parts

RUNTIME_BYTES = 2e9  # of a GPU: CUDA context, communication buffers and what the allocator cannot use


def choose(
    model: ModelShape,
    wanted: RunShape,
    room: float,
    *,
    checkpointing: Sequence[bool] = (False, True),
    merged_copy: Sequence[bool] = (True, False),
    micro_batch_tokens: Sequence[int] = (),
) -> tuple[RunShape, bool]:
    """The first run that fits, of those that cost least time first; the smallest of all where none does.

    First fewer tokens a pass, then rollouts from unmerged weights, then activations computed again.

    Args:
        model: its shape.
        wanted: the run; what is chosen here is replaced.
        room: bytes of one process.
        checkpointing, merged_copy, micro_batch_tokens: what may be chosen, cheapest first; of one value that is
            settled, one. Without `micro_batch_tokens` those of `budgets`.

    Returns:
        The run, and whether it fits.
    """
    run = wanted
    for checkpoints in checkpointing:
        for merged in merged_copy if wanted.stage == "ppo" else (False,):
            for tokens in micro_batch_tokens or budgets(wanted):
                run = dataclasses.replace(
                    wanted, checkpointing=checkpoints, merged_copy=merged, micro_batch_tokens=tokens
                )
                if planned_bytes(model, run) <= room:
                    return run, True
    return run, False


def budgets(run: RunShape) -> list[int]:
    """Tokens of a pass to try: the whole batch (0), then powers of two, until a pass holds the longest group alone.

    Powers of two, so that a little less free memory seldom means another choice.
    """
    largest = (run.whole_tokens - 1).bit_length() - 1  # the largest power below the whole
    smallest = run.group_tokens.bit_length() - 1
    return [0, *(1 << power for power in range(largest, smallest - 1, -1))]


def planned_bytes(model: ModelShape, run: RunShape) -> float:
    """Peak bytes of one process."""
    return sum(memory_parts(model, run).values())
