"""Pairs that annotators ordered, with the margins that scorers give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rlhf.algorithms.ensemble import ensemble_score
from rlhf.data.comparisons import Comparison

TOTAL = "all"
MODEL = "reward model"
MEMBER = "member"
MINIMUM = "minimum"
MEAN_LESS_DEVIATION = "mean less deviation"
ENSEMBLE_RULES: dict[str, dict[str, Any]] = {
    MODEL: {"rule": "mean"},
    MINIMUM: {"rule": "min"},
    MEAN_LESS_DEVIATION: {"penalty": 1.0},
}

Scores = Sequence[Sequence[float]]  # [comparisons][responses]


@dataclass(frozen=True)
class JudgedPairs:
    """The strictly ordered pairs of one set, with each scorer's margins, chosen minus rejected.

    Attributes:
        name: of the set.
        owners: `[pairs]` the comparison of each.
        pairs: `[pairs]` (chosen, rejected) indices of its responses.
        margins: scorer -> `[pairs]`.
    """

    name: str
    owners: list[Comparison]
    pairs: list[tuple[int, int]]
    margins: dict[str, list[float]]

    @cached_property
    def prompt_ids(self) -> list[str]:
        """`[pairs]`, the groups of every interval."""
        return [owner.prompt_id for owner in self.owners]

    @property
    def members(self) -> dict[str, list[float]]:
        """The margins of an ensemble's members; empty where there is one reward model."""
        return {name: margins for name, margins in self.margins.items() if name.startswith(f"{MEMBER} ")}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each pair, with every scorer's margin."""
        return [
            {
                "file": self.name,
                "id": owner.id,
                "prompt_id": owner.prompt_id,
                "chosen": chosen,
                "rejected": rejected,
                "margins": {name: margins[index] for name, margins in self.margins.items()},
            }
            for index, (owner, (chosen, rejected)) in enumerate(zip(self.owners, self.pairs, strict=True))
        ]


def judge_pairs(name: str, comparisons: Sequence[Comparison], scores: Mapping[str, Scores]) -> JudgedPairs:
    """The pairs of these comparisons and the margins by which the scores of each scorer order them."""
    owners = [comparison for comparison in comparisons for _ in comparison.pairs()]
    pairs = [pair for comparison in comparisons for pair in comparison.pairs()]
    margins = {
        scorer: [
            row[chosen] - row[rejected]
            for comparison, row in zip(comparisons, given, strict=True)
            for chosen, rejected in comparison.pairs()
        ]
        for scorer, given in scores.items()
    }
    return JudgedPairs(name, owners, pairs, margins)


def pooled(judged: Sequence[JudgedPairs]) -> JudgedPairs:
    """The pairs of all sets as one, in their order."""
    return JudgedPairs(
        TOTAL,
        [owner for pairs in judged for owner in pairs.owners],
        [pair for pairs in judged for pair in pairs.pairs],
        {name: [margin for pairs in judged for margin in pairs.margins[name]] for name in judged[0].margins},
    )


def scores_by_name(members: Sequence[Scores]) -> dict[str, Scores]:
    """The score of a reward model; of an ensemble the mean of its members, minimum, mean less deviation, and each.

    Args:
        members: `[members][comparisons][responses]`.
    """
    if len(members) == 1:
        return {MODEL: members[0]}
    stacked = [torch.tensor(rows, dtype=torch.float64) for rows in zip(*members, strict=True)]
    combined: dict[str, Scores] = {
        name: [ensemble_score(scores, **rule)[0].tolist() for scores in stacked]
        for name, rule in ENSEMBLE_RULES.items()
    }
    return combined | {f"{MEMBER} {number}": scores for number, scores in enumerate(members, start=1)}


def ordered(comparisons: Sequence[Comparison], origin: str) -> list[Comparison]:
    """The comparisons that order two responses and count.

    Raises:
        ValueError: none does.
    """
    found = [comparison for comparison in comparisons if comparison.weight and comparison.pairs()]
    if not found:
        alone = sum(len(comparison.responses) < 2 for comparison in comparisons)
        raise ValueError(
            f"{origin}: no comparison orders two responses ({len(comparisons)} read, {alone} of them with fewer than "
            "two); rank them first"
        )
    return found
