"""Votes: what one annotator said of one item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Of a unit, by position: the first response is better, neither, the second.
PAIR_CLASSES = ("first", "tie", "second")


@dataclass(frozen=True)
class Vote:
    """What one annotator said of one item. Of a vote that was edited or taken back, give only what stands.

    Attributes:
        item: names the item.
        annotator: the pseudonym.
        ranks: one per response, by its position in the item, 1 = best; equal numbers tie.
        shown_order: positions of the responses from left to right: `shown_order[0]` was shown leftmost.
        strength: how much better the preferred response of a pair is, from 0; the ranks say which one. None: unsaid.
        both_bad: none of the responses is good enough.
        active_ms: time spent on it, in milliseconds; 0 where not known.
        at: when it was given, in seconds since 1970.

    Raises:
        ValueError: ranks and shown order do not fit each other, or the strength has a sign.
    """

    item: str
    annotator: str
    ranks: tuple[int, ...]
    shown_order: tuple[int, ...]
    strength: float | None = None
    both_bad: bool = False
    active_ms: int = 0
    at: float = 0.0

    def __post_init__(self) -> None:
        if len(self.ranks) < 2:
            raise ValueError(
                f"ranks are {self.ranks} for item {self.item!r}; give one for each of two or more responses"
            )
        if sorted(self.shown_order) != list(range(len(self.ranks))):
            raise ValueError(
                f"shown_order is {self.shown_order} for item {self.item!r}; "
                f"give each position from 0 to {len(self.ranks) - 1} once"
            )
        if self.strength is not None and not self.strength >= 0:
            raise ValueError(
                f"strength is {self.strength} for item {self.item!r}; give its size, the ranks say for whom"
            )

    @property
    def shown_ranks(self) -> tuple[int, ...]:
        """The ranks from left to right, as the annotator saw the responses."""
        return tuple(self.ranks[position] for position in self.shown_order)

    @property
    def label(self) -> str:
        """Of a pair: "first", "tie" or "second".

        Raises:
            ValueError: the item has more than two responses.
        """
        if len(self.ranks) != 2:
            raise ValueError(f"item {self.item!r} has {len(self.ranks)} responses; only a pair has a label")
        return label_of(self.ranks)


def label_of(ranks: Sequence[int]) -> str:
    """Of the ranks of a pair: "first", "tie" or "second"."""
    return PAIR_CLASSES[int(ranks[0] >= ranks[1]) + int(ranks[0] > ranks[1])]


def ranks_of(label: str) -> tuple[int, int]:
    """The ranks of a pair with this label."""
    return {"first": (1, 2), "tie": (1, 1), "second": (2, 1)}[label]


def middle_ranks(ranks: Sequence[int]) -> tuple[float, ...]:
    """Ranks from 1, ties with the mean of the places they take: (1, 1, 3) and (1, 1, 2) are both (1.5, 1.5, 3)."""
    return tuple(
        1 + sum(other < rank for other in ranks) + (sum(other == rank for other in ranks) - 1) / 2 for rank in ranks
    )
