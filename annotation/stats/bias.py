"""What sways votes beside the responses, and how fast they come: position, length, ties, pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from annotation.stats.estimates import Estimate, share
from annotation.stats.votes import Vote, middle_ranks

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
        votes_per_hour: of all annotators together, by the clock on the wall.
        hours: None where no vote came in lately.
        at: when, in seconds since 1970; None as `hours`.
        note: in words why there is none; empty where there is.
    """

    votes_per_hour: float
    hours: float | None
    at: float | None
    note: str = ""


def left_share(votes: Sequence[Vote], *, confidence: float = 0.95) -> Estimate:
    """How often the left response won, among votes on pairs that were no tie. One half is no bias. n counts votes."""
    decided = [vote for vote in votes if len(vote.ranks) == 2 and vote.label != "tie"]
    left = sum(vote.shown_ranks[0] < vote.shown_ranks[1] for vote in decided)
    return share(left, len(decided), confidence=confidence)


def mean_ranks_by_place(votes: Sequence[Vote]) -> dict[int, tuple[float, ...]]:
    """Number of responses K -> mean rank of what was shown at each place from left to right, for rankings (K > 2).

    Ties get the mean of the ranks they share: without bias every place has (K + 1) / 2.
    """
    by_size: dict[int, list[tuple[float, ...]]] = {}
    for vote in votes:
        if len(vote.ranks) > 2:
            by_size.setdefault(len(vote.ranks), []).append(middle_ranks(vote.shown_ranks))
    return {size: tuple(np.mean(by_size[size], axis=0).tolist()) for size in sorted(by_size)}


def length_bias(votes: Sequence[Vote], lengths: Mapping[str, Sequence[int]], *, confidence: float = 0.95) -> Estimate:
    """How often the longer response won, among pairs of unlike length that were no tie. n counts items.

    Each item counts once, with the share of its votes: those who judge the same two texts are no independent trials.

    Args:
        lengths: item -> length of each response's text, by position.

    Raises:
        ValueError: an item has no lengths, or another number of them than of ranks.
    """
    by_item: dict[str, list[bool]] = {}
    for vote in votes:
        if len(lengths.get(vote.item, ())) != len(vote.ranks):
            raise ValueError(
                f"item {vote.item!r} has {len(lengths.get(vote.item, ()))} lengths for {len(vote.ranks)} responses; "
                "give one for each"
            )
        of_item = lengths[vote.item]
        for i, j in combinations(range(len(vote.ranks)), 2):
            if of_item[i] != of_item[j] and vote.ranks[i] != vote.ranks[j]:
                by_item.setdefault(vote.item, []).append((of_item[i] > of_item[j]) == (vote.ranks[i] < vote.ranks[j]))
    return share(math.fsum(sum(won) / len(won) for won in by_item.values()), len(by_item), confidence=confidence)


def tie_share(votes: Sequence[Vote], *, confidence: float = 0.95) -> Estimate:
    """How often two responses were tied; of a ranking, the share of its pairs. n counts votes."""
    tied = []
    for vote in votes:
        pairs = list(combinations(vote.ranks, 2))
        tied.append(sum(i == j for i, j in pairs) / len(pairs))
    return share(math.fsum(tied), len(tied), confidence=confidence)


def both_bad_share(votes: Sequence[Vote], *, confidence: float = 0.95) -> Estimate:
    """How often no response was good enough. n counts votes."""
    return share(sum(vote.both_bad for vote in votes), len(votes), confidence=confidence)


def pace(votes: Sequence[Vote]) -> Pace:
    """How fast these votes were given."""
    seconds = [vote.active_ms / 1000 for vote in votes if vote.active_ms > 0]
    if not seconds:
        return Pace(0, None, None)
    return Pace(len(seconds), median(seconds), len(seconds) * HOUR / math.fsum(seconds))


def pace_by_annotator(votes: Sequence[Vote]) -> dict[str, Pace]:
    """Annotator (sorted) -> how fast their votes were given."""
    by_annotator: dict[str, list[Vote]] = {}
    for vote in votes:
        by_annotator.setdefault(vote.annotator, []).append(vote)
    return {annotator: pace(by_annotator[annotator]) for annotator in sorted(by_annotator)}


def pace_over_time(votes: Sequence[Vote], *, every: float = HOUR) -> list[tuple[float, Pace]]:
    """(begin, pace) of each stretch of `every` seconds, from the first vote's to the last one's without gaps."""
    by_stretch: dict[int, list[Vote]] = {}
    for vote in votes:
        by_stretch.setdefault(math.floor(vote.at / every), []).append(vote)
    if not by_stretch:
        return []
    stretches = range(min(by_stretch), max(by_stretch) + 1)
    return [(stretch * every, pace(by_stretch.get(stretch, []))) for stretch in stretches]


def time_left(votes: Sequence[Vote], remaining: int, *, now: float, hours: float = 24.0) -> TimeLeft:
    """When `remaining` more votes will be in.

    Args:
        votes: those that came in; the pace is that of the last `hours`, nights and pauses included, or of the time
            since the first vote where that is shorter.
        remaining: votes that are still wanted.
        now: seconds since 1970.
        hours: how far back to look.
    """
    first = min((vote.at for vote in votes), default=now)
    begin = max(first, now - hours * HOUR)
    lately = sum(begin <= vote.at <= now for vote in votes)
    if begin == first and begin > now - hours * HOUR:
        lately -= 1  # the clock starts with the first vote
    passed = (now - begin) / HOUR
    votes_per_hour = lately / passed if passed > 0 else 0.0
    if remaining <= 0:
        return TimeLeft(votes_per_hour, 0.0, now)
    if lately <= 0 or passed <= 0:
        return TimeLeft(0.0, None, None, f"no pace yet: no two votes in the last {hours:g} hours")
    left = remaining / votes_per_hour
    return TimeLeft(votes_per_hour, left, now + left * HOUR)
