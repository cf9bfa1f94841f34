"""How the members of an ensemble come to differ: each weighs the same comparisons in its own way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from rlhf.engine.packing import Group


def bootstrap_weights(groups: Sequence[Group], num_members: int, seed: int) -> torch.Tensor:
    """Weights of comparisons in the Bayesian bootstrap (Rubin 1981): exponential, with mean 1 and deviation 1.

    The members of an ensemble are computed in one pass over one row of tokens, so at every step all of them see the
    same comparisons; other weights are to each of them what another order and another sample of the data would be.
    Drawing with replacement gives counts of the same mean and deviation (in one pass over a stream, Poisson's: Oza and
    Russell 2001), but computes a third of the comparisons for nothing and can leave a small set empty.

    The first member weighs all alike: it is the model that is trained alone. A weight follows from the seed, the member
    and the tokens, so it is the same in every epoch, process and resumed run, in whatever order the data comes. Rows
    of equal tokens share a weight: several judgments of one comparison are one unit of what is sampled.

    Args:
        groups: tokens of the comparisons.
        num_members: of the ensemble.
        seed: of the run.

    Returns:
        `[members, groups]`.
    """
    weights = torch.ones(num_members, len(groups))
    for column, group in enumerate(groups):
        tokens = _digest(";".join(",".join(map(str, ids)) for ids in (group.prompt_ids, *group.response_ids)))
        for row in range(1, num_members):
            number = int.from_bytes(bytes.fromhex(_digest(f"{seed} {row} {tokens}"))[:7])  # 56 bits
            weights[row, column] = -math.log((number + 0.5) / 2**56)
    return weights


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
