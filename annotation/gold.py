"""Gold items: a manager knows the answer, an annotator sees an item like any other.

What counts is the first answer: a later one may have been helped, also where the first was taken back at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import sqlalchemy as sa

from annotation import assignment
from annotation.campaigns import Campaign, CampaignSettings
from annotation.records import GoldScore
from annotation.stats.estimates import share
from annotation.tables import item, judgment, slot

FEWEST_TO_PAUSE = 8  # gold answers before a machine may pause anybody
TOLD_AT_A_TIME = 8


@dataclass(frozen=True)
class Qualification:
    """How far an annotator is with the items before work: `items` are all of them, `left` those still to judge."""

    items: tuple[int, ...]
    left: tuple[int, ...]
    score: GoldScore

    @property
    def accuracy(self) -> float:
        return self.score.right / self.score.n if self.score.n else 0.0


def is_right(gold: Sequence[int], ranks: Sequence[int]) -> bool:
    """Whether an answer orders as gold does what gold orders; where gold ties all, whether it ties all too."""
    strict = [(a, b) for a, b in combinations(range(len(gold)), 2) if gold[a] != gold[b]]
    if not strict:
        return len(set(ranks)) == 1
    return all((gold[a] < gold[b]) == (ranks[a] < ranks[b]) and ranks[a] != ranks[b] for a, b in strict)


def results(connection: sa.Connection, annotator_id: str, *, campaign_id: int | None = None) -> dict[int, bool]:
    """Gold and qualification items that this annotator has answered -> whether that was right."""
    query = (
        sa.select(judgment.c.item_id, judgment.c.ranks, item.c.gold)
        .join(item, item.c.id == judgment.c.item_id)
        .where(judgment.c.annotator_id == annotator_id, judgment.c.kind == "ranking")
        .where(item.c.kind.in_((assignment.GOLD, assignment.QUALIFICATION)))
        .order_by(judgment.c.number)
    )
    if campaign_id is not None:
        query = query.where(item.c.campaign_id == campaign_id)
    found: dict[int, bool] = {}
    for row in connection.execute(query):
        found.setdefault(row.item_id, is_right(row.gold, row.ranks))
    return found


def score(connection: sa.Connection, annotator_id: str, *, campaign_id: int | None = None) -> GoldScore:
    """How an annotator does on gold, qualification included."""
    found = results(connection, annotator_id, campaign_id=campaign_id)
    return GoldScore(len(found), sum(found.values()))


def told_score(connection: sa.Connection, annotator_id: str) -> GoldScore:
    """How an annotator does on gold, as they are told: of the first 8 answers, 16, 24, ...

    Told after each, it would say which item was gold and what its answer is.
    """
    found = list(results(connection, annotator_id).values())
    told = found[: len(found) - len(found) % TOLD_AT_A_TIME]
    return GoldScore(len(told), sum(told))


def qualification(connection: sa.Connection, campaign: Campaign, annotator_id: str) -> Qualification:
    """How far an annotator is with a campaign's qualification."""
    query = sa.select(item.c.id).where(
        item.c.campaign_id == campaign.id, item.c.kind == assignment.QUALIFICATION, item.c.gold.is_not(None)
    )
    limit = campaign.settings.qualification_items
    items = tuple(connection.execute(query.order_by(item.c.id).limit(limit)).scalars()) if limit else ()
    done = results(connection, annotator_id, campaign_id=campaign.id) if items else {}
    answers = [done[item_id] for item_id in items if item_id in done]
    left = tuple(item_id for item_id in items if item_id not in done)
    return Qualification(items, left, GoldScore(len(answers), sum(answers)))


def left(
    connection: sa.Connection, campaign_id: int, annotator_id: str, exclude: Sequence[int], *, now: float
) -> list[int]:
    """The gold items that this annotator neither holds nor has answered."""
    run_out = (slot.c.state == "leased") & (slot.c.leased_until <= now)
    theirs = sa.exists().where(slot.c.item_id == item.c.id, slot.c.annotator_id == annotator_id, ~run_out)
    answered = sa.exists().where(judgment.c.item_id == item.c.id, judgment.c.annotator_id == annotator_id)
    query = sa.select(item.c.id).where(
        *(item.c.campaign_id == campaign_id, item.c.kind == assignment.GOLD, item.c.gold.is_not(None)),
        *(~theirs, ~answered, item.c.id.not_in(exclude)),
    )
    return list(connection.execute(query.order_by(item.c.id)).scalars())


def is_used(settings: CampaignSettings) -> bool:
    """Whether items with a known answer are given."""
    return settings.gold_share > 0 or settings.qualification_items > 0


def num_ahead(connection: sa.Connection, campaign: Campaign, annotator_id: str) -> int:
    """How many items with a known answer a campaign may give, without those that this annotator's answers stand on.

    The first answer moves one from here to what was answered, as it does with work: their sum tells nothing.
    """
    settings = campaign.settings
    of_campaign = sa.select(item.c.id).where(item.c.campaign_id == campaign.id, item.c.gold.is_not(None))
    chosen = []
    if settings.gold_share > 0:
        chosen.append(of_campaign.where(item.c.kind == assignment.GOLD))
    if settings.qualification_items > 0:
        first = of_campaign.where(item.c.kind == assignment.QUALIFICATION).order_by(item.c.id)
        chosen.append(first.limit(settings.qualification_items))
    ahead = 0
    for query in chosen:
        items = query.subquery()
        answered = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id)
        answered = answered.where(judgment.c.item_id.in_(sa.select(items.c.id)))
        for counted, sign in ((sa.select(items), 1), (answered, -1)):
            found = sa.select(sa.func.count()).select_from(counted.subquery())
            ahead += sign * int(connection.execute(found).scalar_one())
    return ahead


def falls_short(found: GoldScore, least: float) -> bool:
    """Whether an accuracy is below what is asked for by more than chance explains."""
    high = share(found.right, found.n).high
    return found.n >= FEWEST_TO_PAUSE and high is not None and high < least
