"""What managers see of a campaign, as plain figures: progress, agreement, annotators, bias, ratings. No web framework.

Gold and qualification items, and what adjudicators decide, are left out of all figures of agreement, bias and ratings:
the first have a known answer, the second have seen the votes.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from annotation import audit, reliability, standing
from annotation.overview import Overview, Pace, overviews, pace_of
from annotation.reliability import Agreement, Bias, Worker
from annotation.standing import Flag, Standing
from annotation.store import Store
from annotation.tables import item, judgment

if TYPE_CHECKING:
    from annotation.stats.agreement import KappaMatrix
    from annotation.stats.estimates import Estimate
    from annotation.stats.ratings import Ratings

CACHE_SECONDS = 30.0
# of a campaign its newest judgment, and of the store how long its audit is: what changes a figure changes one of them
State = tuple[int | None, int]


@dataclass(frozen=True)
class Answers:
    """What was said: rankings, skips, flags, and (kind, reason, how often) of the latter two, the most frequent first.

    `live` are rankings of annotators' own prompts, `adjudicated` those of adjudicators.
    """

    rankings: int
    skips: int
    flags: int
    live: int
    adjudicated: int
    reasons: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Figures:
    """All of a campaign, as of `at`. `ratings` is None where no two policies met."""

    at: float
    overview: Overview
    pace: Pace
    agreement: Agreement
    workers: tuple[Worker, ...]
    bias: Bias
    answers: Answers
    ratings: Ratings | None
    kappa: KappaMatrix
    flags: tuple[Flag, ...]
    per_day: tuple[tuple[str, int], ...]
    agreement_over_time: tuple[tuple[float, Estimate], ...]


class Dashboard:
    """The figures of a store's campaigns, each looked at again after `CACHE_SECONDS`. Any thread may call.

    What takes time, the statistics of all votes, is computed again only where there is something new to compute.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time):
        self.store = store
        self.clock = clock
        self._known: dict[int, tuple[State, Figures]] = {}
        self._stale: set[int] = set()
        self._locks: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def overviews(self) -> list[Overview]:
        """All campaigns, as they are now."""
        with self.store.reading() as connection:
            return overviews(connection)

    def overview(self, campaign_id: int) -> tuple[Overview, Pace]:
        """How far a campaign is and how fast it goes on, as it is now: what is known before the votes are read.

        Raises:
            campaigns.CampaignError: there is no such campaign.
        """
        with self.store.reading() as connection:
            return _overview(connection, campaign_id, self.clock())

    def figures(self, campaign_id: int) -> Figures:
        """A campaign's figures, up to `CACHE_SECONDS` old; who asks at once waits for the same ones.

        Raises:
            campaigns.CampaignError: there is no such campaign.
        """
        with self._lock:
            own = self._locks.setdefault(campaign_id, threading.Lock())
        with own:
            known = self._known.get(campaign_id)
            now = self.clock()
            stale = campaign_id in self._stale
            if known is not None and not stale and 0 <= now - known[1].at < CACHE_SECONDS:
                return known[1]
            self._stale.discard(campaign_id)
            found = self._known[campaign_id] = look(self.store, campaign_id, now=now, known=known)
            return found[1]

    def forget(self, campaign_id: int) -> None:
        """Look again at the next call."""
        self._stale.add(campaign_id)


def look(
    store: Store, campaign_id: int, *, now: float, known: tuple[State, Figures] | None = None
) -> tuple[State, Figures]:
    """A campaign's figures as of `now`, and the state that they are of.

    Args:
        store: where the campaign is.
        campaign_id: which one.
        now: seconds since 1970.
        known: earlier figures, whose statistics are taken over where the state is the same.

    Raises:
        campaigns.CampaignError: there is no such campaign.
    """
    with store.snapshot() as connection:
        overview, pace = _overview(connection, campaign_id, now)
        state = _state(connection, campaign_id)
        if known is not None and known[0] == state:
            return state, dataclasses.replace(known[1], at=now, overview=overview, pace=pace)
        read = standing.read_standing(connection, campaign_id)
        right = standing.gold_results(connection, campaign_id)
        people = standing.people(connection)
        flags = standing.read_flags(connection, read.flags)
        lengths, policies = standing.read_responses(connection, campaign_id) if len(read.votes) else ({}, {})
    return state, Figures(
        at=now,
        overview=overview,
        pace=pace,
        agreement=reliability.agreement_of(read.votes),
        workers=reliability.workers_of(read, right, people),
        bias=reliability.bias_of(read.votes, lengths),
        answers=_answers(read),
        ratings=reliability.ratings_of(read.votes, policies, read.prompts),
        kappa=reliability.kappa_of(read.votes),
        flags=flags,
        per_day=reliability.per_day(read.planned_at),
        agreement_over_time=reliability.agreement_over_time(read.votes),
    )


def _overview(connection: sa.Connection, campaign_id: int, now: float) -> tuple[Overview, Pace]:
    (found,) = overviews(connection, campaign_id)
    return found, pace_of(connection, found, now=now)


def _state(connection: sa.Connection, campaign_id: int) -> State:
    newest = (
        sa.select(judgment.c.number)
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(judgment.c.number.desc())
        .limit(1)
    )
    return connection.execute(newest).scalar(), audit.head(connection, "audit").length


def _answers(read: Standing) -> Answers:
    def total(kind: str) -> int:
        return sum(count for (_, said), (count, _) in read.said.items() if said == kind)

    return Answers(
        rankings=total("ranking"),
        skips=total("skip"),
        flags=total("flag"),
        live=read.num_live,
        adjudicated=read.num_adjudicated,
        reasons=read.reasons,
    )
