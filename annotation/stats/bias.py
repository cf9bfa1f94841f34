"""What sways votes beside the responses, and how fast they come: position, length, ties, pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from annotation.stats.estimates import Estimate, share
from annotation.stats.remarks import remark
from annotation.stats.table import Votes, middle_of, table_of

HOUR = 3600.0


@dataclass(frozen=True)
class Pace:
    """How fast votes were given, by the time that was spent on them; votes without a time are left out.

    Attributes:
        votes: those with a time.
        median_seconds: for one item; None without votes.
        items_per_hour: in an hour of work on items; None without votes.
    """

    votes: int
    median_seconds: float | None
    items_per_hour: float | None


@dataclass(frozen=True)
class TimeLeft:
    """When the rest will be done if votes keep coming as in the last hours.

    Attributes:
        votes_per_hour: of all annotators together, by the clock on the wall; None before an hour of it has passed.
        hours: None where no vote came in lately, or none longer ago than an hour.
        at: when, in seconds since 1970; None as `hours`.
        note: in words why there is none; empty where there is.
    """

    votes_per_hour: float | None
    hours: float | None
    at: float | None
    note: str = ""


def left_share(votes: Votes, *, confidence: float = 0.95) -> Estimate:
    """How often the left response won, among votes on pairs that were no tie. One half is no bias. n counts votes."""
    table = table_of(votes)
    lead = (table.shown_ranks[:, 1] - table.shown_ranks[:, 0])[table.size == 2]
    return share(int((lead > 0).sum()), int((lead != 0).sum()), confidence=confidence)


def mean_ranks_by_place(votes: Votes) -> dict[int, tuple[float, ...]]:
    """Number of responses K -> mean rank of what was shown at each place from left to right, for rankings (K > 2).

    Ties get the mean of the ranks they share: without bias every place has (K + 1) / 2.
    """
    table = table_of(votes)
    return {
        size: tuple(middle_of(table.shown_ranks[rows, :size]).mean(axis=0).tolist())
        for size, rows in table.by_size()
        if size > 2
    }


def length_bias(votes: Votes, lengths: Mapping[str, Sequence[int]], *, confidence: float = 0.95) -> Estimate:
    """How often the longer response won, among pairs of unlike length that were no tie. n counts items.

    Each item counts once, with the share of its votes: those who judge the same two texts are no independent trials.

    Args:
        lengths: item -> length of each response's text, by position.

    Raises:
        ValueError: an item has no lengths, or another number of them than of ranks.
    """
    table = table_of(votes)
    won, decided = (np.zeros(len(table.items)) for _ in range(2))
    for size, rows in table.by_size():
        found, place = np.unique(table.item[rows], return_inverse=True)
        names = [table.items[code] for code in found.tolist()]
        for name in names:
            if len(lengths.get(name, ())) != size:
                raise ValueError(
                    f"item {name!r} has {len(lengths.get(name, ()))} lengths for {size} responses; give one for each"
                )
        long = np.array([lengths[name] for name in names])[place]
        ranks = table.ranks[rows]
        for i, j in combinations(range(size), 2):
            longer, better = np.sign(long[:, i] - long[:, j]), np.sign(ranks[:, j] - ranks[:, i])
            np.add.at(decided, table.item[rows], (longer != 0) & (better != 0))
            np.add.at(won, table.item[rows], (longer != 0) & (longer == better))
    known = decided > 0
    return share(math.fsum(won[known] / decided[known]), int(known.sum()), confidence=confidence)


def tie_share(votes: Votes, *, confidence: float = 0.95) -> Estimate:
    """How often two responses were tied; of a ranking, the share of its pairs. n counts votes."""
    table = table_of(votes)
    tied = np.zeros(len(table))
    for size, rows in table.by_size():
        pairs = list(combinations(range(size), 2))
        ranks = table.ranks[rows]
        tied[rows] = sum(ranks[:, i] == ranks[:, j] for i, j in pairs) / len(pairs)
    return share(math.fsum(tied), len(table), confidence=confidence)


def both_bad_share(votes: Votes, *, confidence: float = 0.95) -> Estimate:
    """How often no response was good enough. n counts votes."""
    table = table_of(votes)
    return share(int(table.both_bad.sum()), len(table), confidence=confidence)


def pace(votes: Votes) -> Pace:
    """How fast these votes were given."""
    table = table_of(votes)
    seconds = table.active_ms[table.active_ms > 0] / 1000
    if not len(seconds):
        return Pace(0, None, None)
    return Pace(len(seconds), float(np.median(seconds)), len(seconds) * HOUR / math.fsum(seconds))


def pace_by_annotator(votes: Votes) -> dict[str, Pace]:
    """Annotator (sorted) -> how fast their votes were given."""
    return {annotator: pace(own) for annotator, own in table_of(votes).by_annotator.items()}


def time_left(first: float | None, lately: int, remaining: int, *, now: float, hours: float = 24.0) -> TimeLeft:
    """When `remaining` more votes will be in, at the pace of the last hours, nights and pauses included.

    Args:
        first: when the first vote came in, in seconds since 1970; the pace is of the time since then where that is
            shorter. None where there is none.
        lately: votes of the last `hours`.
        remaining: votes that are still wanted.
        now: seconds since 1970.
        hours: how far back to look.
    """
    first = now if first is None else first
    begin = max(first, now - hours * HOUR)
    if begin == first and begin > now - hours * HOUR:
        lately -= 1  # the clock starts with the first vote
    passed = (now - begin) / HOUR
    # what came in a few minutes says nothing of hours
    votes_per_hour = lately / passed if passed >= 1 else None
    if remaining <= 0:
        return TimeLeft(votes_per_hour, 0.0, now)
    if lately <= 0:
        return TimeLeft(votes_per_hour, None, None, remark("no_pace", hours=hours))
    if votes_per_hour is None:
        return TimeLeft(None, None, None, remark("young"))
    left = remaining / votes_per_hour
    return TimeLeft(votes_per_hour, left, now + left * HOUR)
