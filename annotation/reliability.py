"""How far the votes of a campaign and those who gave them can be relied on: agreement, annotators, bias, ratings.

The statistics are imported when they are asked for: the app starts without SciPy.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from annotation import assignment
from annotation.standing import Standing

if TYPE_CHECKING:
    from annotation.stats.agreement import KappaMatrix
    from annotation.stats.estimates import Estimate
    from annotation.stats.ratings import Ratings
    from annotation.stats.table import VoteTable

QUARTER = 900  # seconds; in all time zones a day begins at a whole one
LONGEST_SERIES = 60  # points of agreement over time
# Intervals are drawn again so often; from LARGE votes on less, or a page may take minutes.
RESAMPLES, RATING_RESAMPLES = 1000, 300
LARGE, LARGE_RESAMPLES, LARGE_RATING_RESAMPLES = 20_000, 400, 100
SERIES_RESAMPLES = 200
TOLERANCE = 1e-6  # of Dawid-Skene, per vote: far below what the page shows


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree; `usual` is what people reach, as a share of equal answers."""

    alpha: Estimate
    strength_alpha: Estimate
    share: Estimate
    decided_share: Estimate
    usual: tuple[float, float]


@dataclass(frozen=True)
class Worker:
    """One annotator in one campaign.

    Attributes:
        annotator, name, state: the pseudonym, the name (none once erased), active, paused or closed.
        judgments, skips, flags: that stand, gold included.
        per_hour, median_seconds: of active time; None where no time was kept.
        gold: share of gold items that were right at first, with its interval.
        reliability: how often they are expected to be right, by Dawid-Skene; None without votes.
        left: how often the left response of a pair won.
        suspicion, reasons: from 0 to 1, and why, as `annotation.stats.annotators` says.
        last_at: their newest judgment, in seconds since 1970.
    """

    annotator: str
    name: str | None
    state: str
    judgments: int
    skips: int
    flags: int
    per_hour: float | None
    median_seconds: float | None
    gold: Estimate
    reliability: float | None
    left: Estimate
    suspicion: float | None
    reasons: tuple[str, ...]
    last_at: float


@dataclass(frozen=True)
class Bias:
    """What sways a campaign's votes beside the responses, and how often there was no decision.

    `mean_ranks` are those of the places from left to right, by number of responses, for rankings.
    """

    left: Estimate
    longer: Estimate
    ties: Estimate
    both_bad: Estimate
    mean_ranks: Mapping[int, tuple[float, ...]]


def agreement_of(votes: VoteTable) -> Agreement:
    """How far annotators agree."""
    from annotation.stats.agreement import (
        ORDINARY_AGREEMENT,
        percent_agreement,
        preference_alpha,
        strength_alpha,
    )

    resamples = LARGE_RESAMPLES if len(votes) > LARGE else RESAMPLES
    return Agreement(
        alpha=preference_alpha(votes, resamples=resamples),
        strength_alpha=strength_alpha(votes, resamples=resamples),
        share=percent_agreement(votes, resamples=resamples),
        decided_share=percent_agreement(votes, decided_only=True, resamples=resamples),
        usual=ORDINARY_AGREEMENT,
    )


def kappa_of(votes: VoteTable) -> KappaMatrix:
    """Cohen's kappa of every two annotators."""
    from annotation.stats.agreement import kappa_matrix

    return kappa_matrix(votes)


def bias_of(votes: VoteTable, lengths: Mapping[str, Sequence[int]]) -> Bias:
    """What sways votes; `lengths` are those of each item's responses, by position."""
    from annotation.stats.bias import both_bad_share, left_share, length_bias, mean_ranks_by_place, tie_share

    return Bias(
        left=left_share(votes),
        longer=length_bias(votes, lengths),
        ties=tie_share(votes),
        both_bad=both_bad_share(votes),
        mean_ranks=mean_ranks_by_place(votes),
    )


def workers_of(read: Standing, right: Mapping[str, Sequence[bool]], people: Mapping[str, Any]) -> tuple[Worker, ...]:
    """Everybody of whom something stands, the most suspicious first.

    Args:
        read: what stands.
        right: annotator -> whether each gold item was right at first.
        people: annotator -> what has their `name` and `state`.
    """
    from annotation.stats.annotators import suspicions
    from annotation.stats.bias import left_share, pace_by_annotator
    from annotation.stats.dawid_skene import fit_dawid_skene
    from annotation.stats.estimates import share
    from annotation.stats.table import pair_labels

    paces = pace_by_annotator(read.with_gold)
    reliability: dict[str, float] = {}
    if len(read.votes):
        fit = fit_dawid_skene(pair_labels(read.votes), tolerance=TOLERANCE)
        reliability = dict(zip(fit.annotators, map(float, fit.reliability), strict=True))
    left = {who: left_share(own) for who, own in read.votes.by_annotator.items()}
    suspected = {found.annotator: found for found in suspicions(read.with_gold, read.gold)}
    workers = []
    for who in sorted({who for who, _ in read.said}):
        counts = {kind: read.said.get((who, kind), (0, 0.0)) for kind in assignment.ANSWERS}
        pace, suspicion, answers = paces.get(who), suspected.get(who), right.get(who, ())
        workers.append(
            Worker(
                annotator=who,
                name=people[who].name,
                state=people[who].state,
                judgments=counts["ranking"][0],
                skips=counts["skip"][0],
                flags=counts["flag"][0],
                per_hour=None if pace is None else pace.items_per_hour,
                median_seconds=None if pace is None else pace.median_seconds,
                gold=share(sum(answers), len(answers)),
                reliability=reliability.get(who),
                left=left.get(who, share(0, 0)),
                suspicion=None if suspicion is None else suspicion.score,
                reasons=() if suspicion is None else tuple(suspicion.reasons),
                last_at=max(at for _, at in counts.values()),
            )
        )
    return tuple(sorted(workers, key=lambda worker: (-(worker.suspicion or 0.0), worker.annotator)))


def ratings_of(votes: VoteTable, policies: Mapping[str, Sequence[str]], prompts: Mapping[str, str]) -> Ratings | None:
    """Ratings of the policies behind the responses; None where no two met."""
    from annotation.stats.ratings import rate_policies

    differ = np.array([len(set(policies.get(name, ()))) > 1 for name in votes.items], dtype=np.bool_)
    rated = votes.where(differ[votes.item])
    if not len(rated):
        return None
    resamples = LARGE_RATING_RESAMPLES if len(rated) > LARGE else RATING_RESAMPLES
    return rate_policies(rated, policies, prompts=prompts, resamples=resamples)


def per_day(times: np.ndarray) -> tuple[tuple[str, int], ...]:
    """(date, how many of these times) from the first day to the last one without gaps, by this machine's clock."""
    counts: Counter[int] = Counter()
    quarters, numbers = np.unique(times // QUARTER, return_counts=True)
    for quarter, count in zip(quarters.tolist(), numbers.tolist(), strict=True):
        counts[_day(quarter * QUARTER)] += count
    if not counts:
        return ()
    return tuple((date.fromordinal(day).isoformat(), counts[day]) for day in range(min(counts), max(counts) + 1))


def agreement_over_time(votes: VoteTable) -> tuple[tuple[float, Estimate], ...]:
    """(begin of a day, percent agreement on the items that got their last vote on it), days without such ones left out.

    Of more than `LONGEST_SERIES` days, stretches of several days.
    """
    from annotation.stats.agreement import percent_agreement

    quarter = votes.at // QUARTER
    last = np.full(len(votes.items), -np.inf)
    np.maximum.at(last, votes.item, quarter)
    shared = np.bincount(votes.item, minlength=len(votes.items)) > 1
    if not shared.any():
        return ()
    quarters, place = np.unique(last[shared], return_inverse=True)
    days = np.array([_day(each * QUARTER) for each in quarters.tolist()])
    first = int(days.min())
    width = math.ceil((int(days.max()) - first + 1) / LONGEST_SERIES)
    stretch = np.full(len(votes.items), -1)
    stretch[shared] = (days[place] - first) // width
    of_vote = stretch[votes.item]
    return tuple(
        (
            _midnight(first + number * width),
            percent_agreement(votes.where(of_vote == number), resamples=SERIES_RESAMPLES),
        )
        for number in np.unique(stretch[shared]).tolist()
    )


def _day(at: float) -> int:
    """The day of a time by this machine's clock, counted from the year 1."""
    return date(*time.localtime(at)[:3]).toordinal()


def _midnight(day: int) -> float:
    return time.mktime((*date.fromordinal(day).timetuple()[:3], 0, 0, 0, 0, 0, -1))
