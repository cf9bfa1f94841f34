"""Votes as columns: what the statistics compute on, in a few array operations for any number of votes.

A vote on K responses orders K (K - 1) / 2 pairs of them. Such a pair of one item is a unit: what annotators agree or
disagree on. An item of two responses is one unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from annotation.stats.labels import Labels, codes
from annotation.stats.votes import PAIR_CLASSES, Vote


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Many votes, each as `Vote` says. Rows are votes, and columns of `ranks` and `shown` places of responses.

    Attributes:
        items, annotators: what `item` and `annotator` are indices of; some may have no vote here.
        item, annotator: `[votes]`.
        ranks: `[votes, most]`, by position in the item; 0 behind the last response.
        shown: `[votes, most]`, positions from left to right; -1 behind the last response.
        strength: `[votes]`, NaN where it was not said.
        both_bad, active_ms, at: `[votes]`.

    Raises:
        ValueError: as `Vote`.
    """

    items: tuple[str, ...]
    annotators: tuple[str, ...]
    item: np.ndarray
    annotator: np.ndarray
    ranks: np.ndarray
    shown: np.ndarray
    strength: np.ndarray
    both_bad: np.ndarray
    active_ms: np.ndarray
    at: np.ndarray

    def __post_init__(self) -> None:
        most = self.shown.shape[1]
        wanted = np.maximum(np.arange(most) - (most - self.size)[:, None], -1)
        wrong = (np.sort(self.shown, axis=1) != wanted).any(axis=1) | (self.size < 2) | (self.strength < 0)
        for row in np.flatnonzero(wrong)[:1].tolist():
            self.vote(row)

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def size(self) -> np.ndarray:
        """`[votes]`, how many responses were judged."""
        return (self.shown >= 0).sum(axis=1)

    @cached_property
    def shown_ranks(self) -> np.ndarray:
        """`[votes, most]`, the ranks from left to right; 0 behind the last response."""
        return np.take_along_axis(self.ranks, np.maximum(self.shown, 0), axis=1) * (self.shown >= 0)

    @cached_property
    def pairs(self) -> Labels:
        """Every vote on every pair of an item's responses; see `pair_labels`."""
        return _pair_labels(self)

    def vote(self, row: int) -> Vote:
        """One row as a record."""
        size = int(self.size[row])
        strength = float(self.strength[row])
        return Vote(
            *(self.items[self.item[row]], self.annotators[self.annotator[row]]),
            *(tuple(self.ranks[row, :size].tolist()), tuple(self.shown[row, :size].tolist())),
            strength=None if np.isnan(strength) else strength,
            both_bad=bool(self.both_bad[row]),
            active_ms=int(self.active_ms[row]),
            at=float(self.at[row]),
        )

    def records(self) -> list[Vote]:
        """All rows as records."""
        return [self.vote(row) for row in range(len(self))]

    def where(self, rows: np.ndarray) -> VoteTable:
        """Some votes, by a mask or by their places."""
        columns = ("item", "annotator", "ranks", "shown", "strength", "both_bad", "active_ms", "at")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def by_size(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of responses, places of the votes on as many)."""
        for size in np.unique(self.size).tolist():
            yield size, np.flatnonzero(self.size == size)

    @cached_property
    def by_annotator(self) -> dict[str, VoteTable]:
        """Annotator (sorted, only those with votes) -> their votes, in the order in which they stand here."""
        order = np.argsort(self.annotator, kind="stable")
        present, begins = np.unique(self.annotator[order], return_index=True)
        parts = np.split(order, begins[1:]) if len(present) else []
        found = {self.annotators[code]: self.where(rows) for code, rows in zip(present.tolist(), parts, strict=True)}
        return dict(sorted(found.items()))


Votes = Sequence[Vote] | VoteTable


def table_of(votes: Votes) -> VoteTable:
    """Votes as columns; items in the order of their first votes, annotators sorted."""
    if isinstance(votes, VoteTable):
        return votes
    items = tuple(dict.fromkeys(vote.item for vote in votes))
    annotators = tuple(sorted({vote.annotator for vote in votes}))
    most = max((len(vote.ranks) for vote in votes), default=2)
    return VoteTable(
        items=items,
        annotators=annotators,
        item=codes([vote.item for vote in votes], items),
        annotator=codes([vote.annotator for vote in votes], annotators),
        ranks=padded((vote.ranks for vote in votes), most, 0),
        shown=padded((vote.shown_order for vote in votes), most, -1),
        strength=np.array([np.nan if vote.strength is None else vote.strength for vote in votes], dtype=np.float64),
        both_bad=np.array([vote.both_bad for vote in votes], dtype=np.bool_),
        active_ms=np.array([vote.active_ms for vote in votes], dtype=np.int64),
        at=np.array([vote.at for vote in votes], dtype=np.float64),
    )


def middle_of(ranks: np.ndarray) -> np.ndarray:
    """`middle_ranks` of each row `[votes, K]`."""
    lower, equal = (compare(ranks[:, None, :], ranks[:, :, None]).sum(axis=2) for compare in (np.less, np.equal))
    return 1 + lower + (equal - 1) / 2


def pair_labels(votes: Votes) -> Labels:
    """Every vote on every pair of an item's responses; a unit is (item, i, j) with positions i < j.

    Raises:
        ValueError: an annotator has two votes on an item, or votes on an item differ in the number of responses.
    """
    return table_of(votes).pairs


def strength_labels(votes: Votes) -> Labels:
    """The strengths given to pairs: positive for the first response, negative for the second, a tie 0.

    Votes on more than two responses, and decided votes without a strength, have none; neither have ties where no
    strengths are given at all.

    Raises:
        ValueError: as `pair_labels`.
    """
    table = table_of(votes)
    _check(table)
    lead = np.sign(table.ranks[:, 1] - table.ranks[:, 0])  # 1 where the first response is better
    is_pair, said = table.size == 2, ~np.isnan(table.strength)
    asked = bool((is_pair & said & (lead != 0)).any())
    given = table.where(is_pair & (said | (lead == 0)) if asked else np.zeros(len(table), dtype=np.bool_))
    lead = np.sign(given.ranks[:, 1] - given.ranks[:, 0])
    values = np.where(lead == 0, 0.0, lead * given.strength)
    classes, label = np.unique(values, return_inverse=True)
    items, item = _present(given.items, given.item)
    annotators, annotator = _present(given.annotators, given.annotator)
    return Labels(
        items=items,
        units=items,
        annotators=annotators,
        classes=tuple(classes.tolist()),
        item_of_unit=np.arange(len(items)),
        unit=item,
        annotator=annotator,
        label=label,
    )


def _pair_labels(table: VoteTable) -> Labels:
    _check(table)
    items, item = _present(table.items, table.item)
    annotators, annotator = _present(table.annotators, table.annotator)
    sizes = np.zeros(len(items), dtype=np.int64)
    sizes[item] = table.size
    pairs_of_item = sizes * (sizes - 1) // 2
    first_unit = np.concatenate([[0], np.cumsum(pairs_of_item)])
    pairs_of_size = {size: list(combinations(range(size), 2)) for size in np.unique(sizes).tolist()}
    vote, unit, label = [], [], []
    for size, rows in table.by_size():
        ranks = table.ranks[rows]
        for number, (i, j) in enumerate(pairs_of_size[size]):
            vote.append(rows)
            unit.append(first_unit[item[rows]] + number)
            label.append(np.sign(ranks[:, i] - ranks[:, j]) + 1)
    return Labels(
        items=items,
        units=tuple(
            (name, i, j) for name, size in zip(items, sizes.tolist(), strict=True) for i, j in pairs_of_size[size]
        ),
        annotators=annotators,
        classes=PAIR_CLASSES,
        item_of_unit=np.repeat(np.arange(len(items)), pairs_of_item),
        unit=_joined(unit),
        annotator=annotator[_joined(vote)],
        label=_joined(label),
    )


def _check(table: VoteTable) -> None:
    """Raises where votes contradict each other."""
    _, first, item = np.unique(table.item, return_index=True, return_inverse=True)
    of_first = table.size[first][item]
    for row in np.flatnonzero(table.size != of_first)[:1].tolist():
        raise ValueError(
            f"item {table.items[table.item[row]]!r} has votes on {of_first[row]} and on {table.size[row]} responses; "
            "give all votes on an item the same number of ranks"
        )
    both = table.item * max(len(table.annotators), 1) + table.annotator
    _, place, count = np.unique(both, return_inverse=True, return_counts=True)
    for row in np.flatnonzero(count[place] > 1)[:1].tolist():
        item_name, annotator = table.items[table.item[row]], table.annotators[table.annotator[row]]
        raise ValueError(
            f"annotator {annotator!r} has several votes on item {item_name!r}; give only the one that stands"
        )


def _present(names: tuple[str, ...], index: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The names that occur, and indices into them."""
    found, place = np.unique(index, return_inverse=True)
    if len(found) == len(names):
        return names, index
    return tuple(names[code] for code in found.tolist()), place


def padded(rows: Iterable[Sequence[int]], columns: int, padding: int) -> np.ndarray:
    """Rows of whole numbers, the shorter ones filled up."""
    filled = [[*row, *(padding,) * (columns - len(row))] for row in rows]
    return np.array(filled, dtype=np.int64).reshape(-1, columns)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.array([], dtype=np.int64)
