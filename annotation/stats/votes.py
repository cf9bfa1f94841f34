"""Votes: what one annotator said of one item, and the pairs of responses that this orders.

A vote on K responses orders K (K - 1) / 2 pairs of them. Such a pair of one item is a unit: what annotators agree or
disagree on. An item of two responses is one unit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

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


@dataclass(frozen=True)
class Labels:
    """Labels of units by annotators, as codes: entry v says that `annotator[v]` gave `unit[v]` the label `label[v]`.

    Attributes:
        items: what units belong to.
        units: what is labelled.
        annotators: sorted.
        classes: what the codes in `label` stand for; sorted where they have an order.
        item_of_unit: `[units]`, index into `items`.
        unit, annotator, label: `[votes]`, indices into `units`, `annotators` and `classes`.
    """

    items: tuple[Hashable, ...]
    units: tuple[Hashable, ...]
    annotators: tuple[str, ...]
    classes: tuple[Hashable, ...]
    item_of_unit: np.ndarray
    unit: np.ndarray
    annotator: np.ndarray
    label: np.ndarray

    def counts(self) -> np.ndarray:
        """`[units, classes]`, how many said what."""
        size = len(self.units), len(self.classes)
        return np.bincount(self.unit * size[1] + self.label, minlength=size[0] * size[1]).reshape(size)


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


def labels_of(triples: Iterable[tuple[Hashable, str, Hashable]], classes: Sequence[Hashable]) -> Labels:
    """Labels from (unit, annotator, label); one annotator may label a unit several times. Each unit is an item.

    Raises:
        ValueError: a label is none of the classes.
    """
    rows = list(triples)
    units = tuple(dict.fromkeys(unit for unit, _, _ in rows))
    annotators = tuple(sorted({annotator for _, annotator, _ in rows}))
    code_of_class = {name: code for code, name in enumerate(classes)}
    for unit, _, label in rows:
        if label not in code_of_class:
            raise ValueError(f"label of {unit!r} is {label!r}; use one of {', '.join(map(repr, classes))}")
    return Labels(
        items=units,
        units=units,
        annotators=annotators,
        classes=tuple(classes),
        item_of_unit=np.arange(len(units)),
        unit=_codes([unit for unit, _, _ in rows], units),
        annotator=_codes([annotator for _, annotator, _ in rows], annotators),
        label=np.array([code_of_class[label] for _, _, label in rows], dtype=np.int64),
    )


def pair_labels(votes: Sequence[Vote]) -> Labels:
    """Every vote on every pair of an item's responses; a unit is (item, i, j) with positions i < j.

    Raises:
        ValueError: an annotator has two votes on an item, or votes on an item differ in the number of responses.
    """
    num_responses = _num_responses(votes)
    items = tuple(num_responses)
    sizes = np.array([*num_responses.values()], dtype=np.int64)
    pairs_of_item = sizes * (sizes - 1) // 2
    first_unit = np.concatenate([[0], np.cumsum(pairs_of_item)])
    annotators = tuple(sorted({vote.annotator for vote in votes}))
    item_of_vote = _codes([vote.item for vote in votes], items)
    annotator_of_vote = _codes([vote.annotator for vote in votes], annotators)
    vote_index, unit, label = [], [], []
    for size in sorted(set(num_responses.values())):
        rows = np.flatnonzero(sizes[item_of_vote] == size)
        ranks = np.array([votes[row].ranks for row in rows.tolist()])
        for number, (i, j) in enumerate(combinations(range(size), 2)):
            vote_index.append(rows)
            unit.append(first_unit[item_of_vote[rows]] + number)
            label.append(np.sign(ranks[:, i] - ranks[:, j]) + 1)
    together = _joined(vote_index)
    return Labels(
        items=items,
        units=tuple((item, i, j) for item, size in num_responses.items() for i, j in combinations(range(size), 2)),
        annotators=annotators,
        classes=PAIR_CLASSES,
        item_of_unit=np.repeat(np.arange(len(items)), pairs_of_item),
        unit=_joined(unit),
        annotator=annotator_of_vote[together],
        label=_joined(label),
    )


def strength_labels(votes: Sequence[Vote]) -> Labels:
    """The strengths given to pairs: positive for the first response, negative for the second, a tie 0.

    Votes on more than two responses, and decided votes without a strength, have none; neither have ties where no
    strengths are given at all.

    Raises:
        ValueError: as `pair_labels`.
    """
    _num_responses(votes)
    pairs = [vote for vote in votes if len(vote.ranks) == 2]
    asked = any(vote.strength is not None and vote.label != "tie" for vote in pairs)
    said = []
    for vote in pairs if asked else []:
        if vote.label == "tie" or vote.strength is not None:
            sign = {"first": 1, "tie": 0, "second": -1}[vote.label]
            said.append((vote.item, vote.annotator, float(sign * (vote.strength or 0))))
    return labels_of(said, sorted({strength for _, _, strength in said}))


def _num_responses(votes: Sequence[Vote]) -> dict[str, int]:
    """Item -> number of its responses, in the order of first appearance; raises where votes contradict each other."""
    sizes: dict[str, int] = {}
    seen = set()
    for vote in votes:
        if sizes.setdefault(vote.item, len(vote.ranks)) != len(vote.ranks):
            raise ValueError(
                f"item {vote.item!r} has votes on {sizes[vote.item]} and on {len(vote.ranks)} responses; "
                "give all votes on an item the same number of ranks"
            )
        seen.add((vote.item, vote.annotator))
    if len(seen) != len(votes):
        judged = [(vote.item, vote.annotator) for vote in votes]
        item, annotator = next(pair for pair in judged if judged.count(pair) > 1)
        raise ValueError(f"annotator {annotator!r} has several votes on item {item!r}; give only the one that stands")
    return sizes


def _codes(values: Sequence[Hashable], known: Sequence[Hashable]) -> np.ndarray:
    code = {value: index for index, value in enumerate(known)}
    return np.array([code[value] for value in values], dtype=np.int64)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.array([], dtype=np.int64)
