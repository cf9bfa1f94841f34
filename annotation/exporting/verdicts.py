"""What holds for an item: every vote by itself, or one verdict from all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from annotation.exporting.judged import JudgedItem, Said
from annotation.exporting.options import Options

if TYPE_CHECKING:
    from annotation.stats.aggregate import Aggregate
    from annotation.stats.table import VoteTable
    from annotation.stats.votes import Vote

ITEMS_AT_ONCE = 500


@dataclass(frozen=True)
class Verdict:
    """One ranking of an item's responses that goes out.

    Attributes:
        ranks: one per response, 1 is the best, equal numbers tie.
        strength: by how much the better one of a pair leads: the mean of those who said so and agree with the ranks.
        both_bad: none of the responses is good enough: said by more than half.
        votes: what it was drawn from: all judgments that count on the item, with "every" too.
        annotators: whose verdict it is.
        probability: of the ranks, by Dawid-Skene; None elsewhere.
    """

    ranks: tuple[int, ...]
    strength: float | None
    both_bad: bool
    votes: tuple[Said, ...]
    annotators: tuple[str, ...]
    probability: float | None = None

    @property
    def is_tie(self) -> bool:
        return len(set(self.ranks)) == 1

    def pairs(self) -> list[tuple[int, int]]:
        """Positions (chosen, rejected) of every two responses of which one is ranked better."""
        places = range(len(self.ranks))
        return [(one, other) for one in places for other in places if self.ranks[one] < self.ranks[other]]

    def vote_share(self, chosen: int, rejected: int) -> float:
        """Share of the votes that rank the first of two responses before the other, a tie counting one half."""
        ahead = sum(said.ranks[chosen] < said.ranks[rejected] for said in self.votes)
        level = sum(said.ranks[chosen] == said.ranks[rejected] for said in self.votes)
        return (ahead + level / 2) / len(self.votes)


def decided(
    items: Iterable[JudgedItem], options: Options, posterior: Mapping[int, Aggregate], left_out: Counter[str]
) -> Iterator[tuple[JudgedItem, list[Verdict]]]:
    """Every item with its verdicts, none where the votes do not settle it.

    Args:
        items: in any order, which is kept.
        options: names the aggregation.
        posterior: by item, what Dawid-Skene says of it (`posterior_of`); empty for the other aggregations.
        left_out: counts the items without a verdict, by the reason.
    """
    waiting = iter(items)
    while batch := list(islice(waiting, ITEMS_AT_ONCE)):
        open_items = [each for each in batch if each.adjudication is None]
        found = _majorities(open_items, options) if options.aggregation == "majority" else posterior
        for each in batch:
            yield each, _verdicts(each, options.aggregation, found, left_out)


def posterior_of(votes: VoteTable, options: Options) -> dict[int, Aggregate]:
    """By item, the most probable ranks given all votes of all annotators."""
    from annotation.stats.aggregate import aggregate

    assert options.threshold is not None
    found = aggregate(votes, "dawid_skene", threshold=options.threshold)
    return {int(each.item): each for each in found}


def vote_of(said: Said) -> Vote:
    """A judgment as the statistics read it."""
    from annotation.stats.votes import Vote

    return Vote(str(said.item_id), said.annotator, said.ranks, said.shown_order, said.strength, said.both_bad)


def _majorities(items: list[JudgedItem], options: Options) -> dict[int, Aggregate]:
    from annotation.stats.aggregate import aggregate

    votes = [vote_of(said) for each in items for said in each.counting]
    when_split = "tie" if options.when_split == "tie" else "none"
    return {int(each.item): each for each in aggregate(votes, "majority", when_split=when_split)}


def _verdicts(
    judged: JudgedItem, aggregation: str, found: Mapping[int, Aggregate], left_out: Counter[str]
) -> list[Verdict]:
    votes = judged.counting
    if aggregation == "every" or judged.adjudication is not None:
        return [Verdict(said.ranks, said.strength, said.both_bad, votes, (said.annotator,)) for said in votes]
    if aggregation == "adjudicated":
        left_out["items that no adjudicator decided"] += 1
        return []
    of_all = found[judged.id]
    if of_all.ranks is None:
        reason = "is split" if aggregation == "majority" else "is less probable than the threshold"
        left_out[f"items whose verdict {reason}"] += 1
        return []
    agreeing = [said.strength for said in votes if said.ranks == of_all.ranks and said.strength is not None]
    return [
        Verdict(
            ranks=of_all.ranks,
            strength=sum(agreeing) / len(agreeing) if agreeing else None,
            both_bad=sum(said.both_bad for said in votes) > len(votes) / 2,
            votes=votes,
            annotators=tuple(said.annotator for said in votes),
            probability=of_all.probability,
        )
    ]
