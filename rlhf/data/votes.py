"""What several annotators said of the same responses, as shares of votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rlhf.data.records import Comparison


@dataclass(frozen=True)
class Votes:
    """One prompt with its responses, and how they were judged.

    Attributes:
        comparison: the first judgment, for prompt, responses and source.
        preferred: (i, j) -> share of the judgments, by weight, that rank i before j, a tie counting one half; for
            every two responses once, with the share at least one half.
        mean_ranks: one per response, the mean of its ranks by weight; 1 is the best.
        strength: mean of the strengths that were given, None where none was.
        weight: mean of the judgments' weights.
    """

    comparison: Comparison
    preferred: dict[tuple[int, int], float]
    mean_ranks: tuple[float, ...]
    strength: float | None
    weight: float


def votes_of(judgments: Sequence[Comparison]) -> Votes:
    """The votes in judgments of the same responses; judgments without ranks or of weight 0 do not vote.

    Raises:
        ValueError: nothing votes, or the responses differ.
    """
    first = judgments[0]
    if any(judgment.id != first.id for judgment in judgments):
        raise ValueError("judgments are of different responses: merge those with one id")
    voting = [(judgment, judgment.ranks) for judgment in judgments if judgment.ranks is not None and judgment.weight]
    if not voting:
        raise ValueError(f"none of {len(judgments)} judgments of comparison {first.id} ranks its responses")
    total = sum(judgment.weight for judgment, _ in voting)
    preferred = {}
    for i, j in combinations(range(len(first.responses)), 2):
        share = sum(judgment.weight * _preference(ranks[i], ranks[j]) for judgment, ranks in voting) / total
        preferred[(i, j) if share >= 0.5 else (j, i)] = max(share, 1 - share)
    strengths = [judgment.strength for judgment, _ in voting if judgment.strength is not None]
    return Votes(
        comparison=first,
        preferred=preferred,
        mean_ranks=tuple(
            sum(judgment.weight * ranks[k] for judgment, ranks in voting) / total for k in range(len(first.responses))
        ),
        strength=sum(strengths) / len(strengths) if strengths else None,
        weight=total / len(voting),
    )


def merged(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Judgments of the same responses to the same prompt together, in the order of their first appearance.

    The responses of all are put in the order that the first judgment has them in: rows of chosen and rejected have
    them in another order where annotators disagree.
    """
    by_content: dict[tuple[str, tuple[str, ...]], list[Comparison]] = {}
    for comparison in comparisons:
        texts = tuple(sorted(response.text for response in comparison.responses))
        together = by_content.setdefault((comparison.prompt_id, texts), [])
        together.append(_in_order_of(together[0], comparison) if together else comparison)
    return list(by_content.values())


def _in_order_of(first: Comparison, comparison: Comparison) -> Comparison:
    """The comparison with its responses in another's order; equal texts keep theirs among each other."""
    if comparison.id == first.id:
        return comparison
    places: dict[str, list[int]] = {}
    for index, response in enumerate(comparison.responses):
        places.setdefault(response.text, []).append(index)
    order = [places[response.text].pop(0) for response in first.responses]
    ranks = comparison.ranks
    return replace(
        comparison,
        responses=tuple(comparison.responses[index] for index in order),
        ranks=None if ranks is None else tuple(ranks[index] for index in order),
    )


def _preference(rank: int, other: int) -> float:
    return 0.5 if rank == other else float(rank < other)
