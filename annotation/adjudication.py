"""Adjudication: items whose annotators disagree get one judgment more, by somebody who sees what was said."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from annotation import assignment
from annotation.records import Opinion
from annotation.tables import slot


def disagreements(connection: sa.Connection) -> list[int]:
    """Items, in the order they were added, that have all their judgments, differ in what is best, and are not decided.

    Of a pair that is any difference; of a ranking, that not all have the same responses on top.
    """
    current = assignment.current_judgments(kinds=("ranking",)).subquery()
    unfinished = sa.exists().where(
        slot.c.item_id == current.c.item_id, slot.c.kind == assignment.WORK, slot.c.state != "judged"
    )
    decided = sa.exists().where(
        slot.c.item_id == current.c.item_id, slot.c.kind == assignment.ADJUDICATION, slot.c.state == "judged"
    )
    work = sa.func.coalesce(current.c.role, assignment.WORK) == assignment.WORK
    texts = sa.cast(current.c.ranks, sa.Text)
    candidates = (
        sa.select(current.c.item_id)
        .where(work, ~unfinished, ~decided)
        .group_by(current.c.item_id)
        .having(sa.func.count() > 1, sa.func.count(sa.distinct(texts)) > 1)
    )
    query = sa.select(current.c.item_id, current.c.ranks).where(work, current.c.item_id.in_(candidates))
    best: dict[int, set[tuple[int, ...]]] = {}
    for row in connection.execute(query.order_by(current.c.item_id)):
        top = tuple(place for place, rank in enumerate(row.ranks) if rank == min(row.ranks))
        best.setdefault(row.item_id, set()).add(top)
    return [item_id for item_id, tops in best.items() if len(tops) > 1]


def next_item(
    connection: sa.Connection, annotator_id: str, exclude: Sequence[int], *, now: float
) -> tuple[int | None, int]:
    """The first item that this adjudicator may decide, and how many there are.

    Items that they judged themselves, and those that another adjudicator has on the screen, are left out.
    """
    own = sa.select(slot.c.item_id).where(slot.c.annotator_id == annotator_id)
    busy = sa.select(slot.c.item_id).where(
        slot.c.kind == assignment.ADJUDICATION, slot.c.state == "leased", slot.c.leased_until > now
    )
    left_out = set(connection.execute(own.union(busy)).scalars())
    waiting = [item_id for item_id in disagreements(connection) if item_id not in left_out]
    return next((item_id for item_id in waiting if item_id not in exclude), None), len(waiting)


def opinions(connection: sa.Connection, item_id: int, order: Sequence[int]) -> tuple[Opinion, ...]:
    """What annotators said of an item, in the order shown to the adjudicator, under letters."""
    current = assignment.current_judgments(kinds=("ranking",)).subquery()
    work = sa.func.coalesce(current.c.role, assignment.WORK) == assignment.WORK
    query = sa.select(current).where(current.c.item_id == item_id, work).order_by(current.c.number)
    return tuple(
        Opinion(
            who=chr(ord("A") + number % 26),
            ranks=tuple(row.ranks[place] for place in order),
            strength=row.strength,
            both_bad=bool(row.both_bad),
            rationale=row.rationale,
        )
        for number, row in enumerate(connection.execute(query))
    )
