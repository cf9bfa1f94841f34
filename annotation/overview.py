"""How far campaigns are and how fast they go on, as counted by the database: no judgment is read for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from annotation import assignment, campaigns
from annotation.campaigns import Campaign
from annotation.stats.bias import time_left
from annotation.tables import item, judgment, slot

HOUR = 3600.0
PACE_HOURS = 24.0
KNOWN_ANSWERS = (assignment.GOLD, assignment.QUALIFICATION)


@dataclass(frozen=True)
class Overview:
    """How far a campaign is. `judgments` are rankings of the planned ones, `needed` how many are planned."""

    campaign: Campaign
    items: int
    items_done: int
    judgments: int
    needed: int
    gold: int
    qualification: int


@dataclass(frozen=True)
class Pace:
    """How fast judgments come in, and when the rest will be done: none where no pace can be told, as `note` says.

    Attributes:
        last_hour: judgments of it.
        per_hour: as in the last 24 hours; None before the first one is an hour old.
        hours_left, done_at: at that pace; `done_at` in seconds since 1970.
    """

    last_hour: int
    per_hour: float | None
    hours_left: float | None
    done_at: float | None
    note: str


def overviews(connection: sa.Connection, campaign_id: int | None = None) -> list[Overview]:
    """How far all campaigns are, or one.

    Raises:
        campaigns.CampaignError: there is no such campaign.
    """
    found = campaigns.all_campaigns(connection) if campaign_id is None else [campaigns.find(connection, campaign_id)]
    places = (
        sa.select(slot.c.campaign_id, slot.c.state, sa.func.count())
        .where(slot.c.kind == assignment.WORK)
        .group_by(slot.c.campaign_id, slot.c.state)
    )
    unfinished = (
        sa.select(slot.c.campaign_id, sa.func.count(sa.distinct(slot.c.item_id)))
        .where(slot.c.kind == assignment.WORK, slot.c.state.in_(("open", "leased")))
        .group_by(slot.c.campaign_id)
    )
    kinds = sa.select(item.c.campaign_id, item.c.kind, sa.func.count()).group_by(item.c.campaign_id, item.c.kind)
    if campaign_id is not None:
        places = places.where(slot.c.campaign_id == campaign_id)
        unfinished = unfinished.where(slot.c.campaign_id == campaign_id)
        kinds = kinds.where(item.c.campaign_id == campaign_id)
    counted: Counter[tuple[int, str]] = Counter()
    for query in (places, kinds):
        counted.update({(number, name): count for number, name, count in connection.execute(query)})
    still_open = {row[0]: row[1] for row in connection.execute(unfinished)}
    return [
        Overview(
            campaign=each,
            items=counted[each.id, assignment.WORK],
            items_done=counted[each.id, assignment.WORK] - still_open.get(each.id, 0),
            judgments=counted[each.id, "judged"],
            needed=sum(counted[each.id, state] for state in ("open", "leased", "judged")),
            gold=counted[each.id, assignment.GOLD],
            qualification=counted[each.id, assignment.QUALIFICATION],
        )
        for each in found
    ]


def pace_of(connection: sa.Connection, overview: Overview, *, now: float) -> Pace:
    """How fast the planned rankings of a campaign come in."""
    since = now - PACE_HOURS * HOUR
    role = sa.func.coalesce(judgment.c.role, assignment.WORK)
    planned = (
        assignment.current_judgments(kinds=("ranking",))
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id == overview.campaign.id, item.c.kind.not_in(KNOWN_ANSWERS))
        .where(role.not_in((assignment.ADJUDICATION, assignment.LIVE)), judgment.c.created_at <= now)
    )
    at = judgment.c.created_at
    counts = (sa.func.min(at), sa.func.count(), sa.func.count().filter(at > now - HOUR))
    earliest, lately, last_hour = connection.execute(planned.with_only_columns(*counts).where(at >= since)).one()
    before = connection.execute(planned.with_only_columns(at).where(at < since).limit(1)).scalar()
    left = time_left(
        *(earliest if before is None else before, lately, overview.needed - overview.judgments),
        now=now,
        hours=PACE_HOURS,
    )
    return Pace(last_hour, left.votes_per_hour, left.hours, left.at, left.note)
