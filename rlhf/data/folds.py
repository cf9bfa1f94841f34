"""Parts of a data set by prompt, for cross-validation: the same prompt always falls into the same part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rlhf.data.records import Comparison
from rlhf.data.wording import wording


def fold_of(key: str, num_folds: int) -> int:
    """Which of `num_folds` parts a text falls into, from 0: by its SHA-256, so by nothing but the text."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % num_folds


def held_out_fold(
    comparisons: Sequence[Comparison], num_folds: int, fold: int
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons outside one fold and those in it, each in the order given.

    Comparisons whose conversations begin with the same message of a user, whatever its case and punctuation, are in one
    fold: data sets cut one conversation at several turns, and what is learned of one cut would be known of the next.

    Raises:
        ValueError: one of the two parts is empty.
    """
    inside = [fold_of(wording(_first_question(comparison)), num_folds) == fold for comparison in comparisons]
    kept = [comparison for comparison, held in zip(comparisons, inside, strict=True) if not held]
    held_out = [comparison for comparison, held in zip(comparisons, inside, strict=True) if held]
    if not kept or not held_out:
        raise ValueError(
            f"fold {fold} of {num_folds} holds {len(held_out)} of {len(comparisons)} comparisons, which leaves none "
            f"for {'measurement' if kept else 'training'}; take fewer folds or another fold"
        )
    return kept, held_out


def _first_question(comparison: Comparison) -> str:
    return next(message.content for message in comparison.prompt if message.role == "user")
