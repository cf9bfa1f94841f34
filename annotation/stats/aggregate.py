"""One label per item from several annotators' votes, by a choice that has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from annotation.stats.dawid_skene import fit_dawid_skene
from annotation.stats.table import Votes, VoteTable, pair_labels
from annotation.stats.votes import PAIR_CLASSES, Vote, middle_ranks, ranks_of

METHODS = ("majority", "dawid_skene", "every_vote")
SPLITS = ("tie", "none")
# Probabilities nearer than this do not say which label it is: the position of a response must not decide.
SAME_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Aggregate:
    """What holds for an item.

    Attributes:
        item: names it.
        ranks: one per response, 1 = best, equal numbers tie; None where the votes do not settle it.
        share: of the item's votes, how many say the same; of a ranking, the mean over its pairs. Where a pair is
            not settled, how many give the most frequent answer.
        probability: of the ranks, or of what came nearest, by Dawid-Skene (of a ranking, the mean over its pairs);
            None elsewhere.
        annotators: whose votes are in it.
    """

    item: str
    ranks: tuple[int, ...] | None
    share: float
    probability: float | None
    annotators: tuple[str, ...]


def aggregate(
    votes: Votes,
    method: str = "majority",
    *,
    when_split: str = "tie",
    threshold: float = 0.5,
    smoothing: float = 1.0,
) -> list[Aggregate]:
    """Labels of items, in the order in which their votes came first.

    Args:
        votes: what annotators said.
        method: "majority", the most frequent label of a pair (rankings are ordered by their mean ranks);
            "dawid_skene", the most probable label, each annotator weighed by how they err (rankings are ordered by how
            many others each response probably beats); "every_vote", each vote as it is, with the share of the item's
            votes that say the same.
        when_split: what a pair is, by majority, whose most frequent labels are equally frequent: "tie", or "none".
        threshold: how probable a label must be, by Dawid-Skene; the others are None, as are two equally probable ones.
        smoothing: as in `fit_dawid_skene`.

    Raises:
        ValueError: there is no such method or such a `when_split`, or votes contradict each other.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; use one of {', '.join(METHODS)}")
    if when_split not in SPLITS:
        raise ValueError(f"when_split is {when_split!r}; use one of {', '.join(SPLITS)}")
    if not len(votes):
        return []
    labels = pair_labels(votes)
    records = votes.records() if isinstance(votes, VoteTable) else votes
    by_item: dict[str, list[Vote]] = {}
    for vote in records:
        by_item.setdefault(vote.item, []).append(vote)
    if method == "every_vote":
        return [_as_is(vote, by_item[vote.item]) for vote in records]
    if method == "majority":
        return [_by_majority(of_item, when_split) for of_item in by_item.values()]
    posterior = fit_dawid_skene(labels, smoothing=smoothing).posterior
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels.item_of_unit))])
    return [
        _by_posterior(by_item[str(name)], posterior[starts[index] : starts[index + 1]], threshold)
        for index, name in enumerate(labels.items)
    ]


def _as_is(vote: Vote, of_item: Sequence[Vote]) -> Aggregate:
    ranks = _dense(vote.ranks)
    return Aggregate(vote.item, ranks, _share(of_item, ranks), None, (vote.annotator,))


def _by_majority(of_item: Sequence[Vote], when_split: str) -> Aggregate:
    ranks: tuple[int, ...] | None
    if len(of_item[0].ranks) == 2:
        frequency = Counter(vote.label for vote in of_item)
        most = max(frequency.values())
        leading = [label for label, count in frequency.items() if count == most]
        if len(leading) > 1 and when_split == "none":
            return Aggregate(of_item[0].item, None, most / len(of_item), None, _annotators(of_item))
        ranks = ranks_of(leading[0] if len(leading) == 1 else "tie")
    else:
        # in halves, so that equal sums are equal
        twice = np.sum([2 * np.array(middle_ranks(vote.ranks)) for vote in of_item], axis=0)
        ranks = _dense(twice.astype(int).tolist())
    return Aggregate(of_item[0].item, ranks, _share(of_item, ranks), None, _annotators(of_item))


def _by_posterior(of_item: Sequence[Vote], posterior: np.ndarray, threshold: float) -> Aggregate:
    """From the probabilities `[pairs, classes]` of the item's pairs."""
    size = len(of_item[0].ranks)
    pairs = list(combinations(range(size), 2))
    ordered = np.sort(posterior, axis=1)
    open_pairs = ordered[:, -1] - ordered[:, -2] < SAME_PROBABILITY
    likeliest = posterior.argmax(axis=1)
    if size == 2:
        ranks: tuple[int, ...] = ranks_of(PAIR_CLASSES[likeliest[0]])
    else:
        wins = [0] * size
        for (i, j), label, is_open in zip(pairs, likeliest, open_pairs, strict=True):
            wins[i] += 1 if is_open else 2 - int(label)
            wins[j] += 1 if is_open else int(label)
        ranks = _dense([-won for won in wins])
    said = [_order(ranks, pair) + 1 for pair in pairs]
    of_said = np.where(open_pairs, ordered[:, -1], posterior[np.arange(len(pairs)), said])
    probability = float(of_said.mean())
    settled = probability >= threshold and not (size == 2 and open_pairs[0])
    share = _share(of_item, ranks)
    if not settled and size == 2:
        share = max(Counter(vote.label for vote in of_item).values()) / len(of_item)
    return Aggregate(of_item[0].item, ranks if settled else None, share, probability, _annotators(of_item))


def _share(of_item: Sequence[Vote], ranks: Sequence[int]) -> float:
    """Share of the votes on an item's pairs that say of a pair what the ranks say."""
    pairs = list(combinations(range(len(ranks)), 2))
    same = sum(_order(vote.ranks, pair) == _order(ranks, pair) for vote in of_item for pair in pairs)
    return same / (len(of_item) * len(pairs))


def _order(ranks: Sequence[int], pair: tuple[int, int]) -> int:
    difference = ranks[pair[0]] - ranks[pair[1]]
    return (difference > 0) - (difference < 0)


def _dense(values: Sequence[int]) -> tuple[int, ...]:
    """Ranks 1, 2, ... of values, the smallest first, equal values tie."""
    place = {value: rank for rank, value in enumerate(sorted(set(values)), start=1)}
    return tuple(place[value] for value in values)


def _annotators(of_item: Sequence[Vote]) -> tuple[str, ...]:
    return tuple(vote.annotator for vote in of_item)
