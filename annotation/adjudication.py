"""Adjudication: items whose annotators disagree get one judgment more, by somebody who sees what was said.

Which items these are is kept in a table, and looked at again for one item whenever its judgments or places change: what
it costs to find the next one depends on how many wait, not on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from annotation import assignment
from annotation.records import Opinion
from annotation.tables import disagreement, judgment, slot

# made once: it takes longer than running it
_NO_MORE = sa.delete(disagreement).where(disagreement.c.item_id == sa.bindparam("item_id"))
_PLACES = sa.select(slot.c.kind, slot.c.state).where(slot.c.item_id == sa.bindparam("item_id"))


def update(connection: sa.Connection, item_id: int) -> None:
    """Keep whether an item waits for a decision, in the transaction that changed its judgments or places.

    It waits when all its places for work are judged, its annotators differ in what is best, and nobody has decided.
    """
    connection.execute(_NO_MORE, {"item_id": item_id})
    if _is_full(connection, item_id) and _differ_in_the_best(connection, item_id):
        connection.execute(sa.insert(disagreement).values(item_id=item_id))


def disagreements(connection: sa.Connection) -> list[int]:
    """The items that wait for a decision, in the order they were added."""
    return list(connection.execute(sa.select(disagreement.c.item_id).order_by(disagreement.c.item_id)).scalars())


def num_waiting(connection: sa.Connection, annotator_id: str, *, now: float) -> int:
    """How many items this adjudicator may decide."""
    waiting = _waiting_for(annotator_id, now).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one())


def next_item(connection: sa.Connection, annotator_id: str, exclude: Sequence[int], *, now: float) -> int | None:
    """The first item that this adjudicator may decide, but for those excluded; None without one."""
    waiting = _waiting_for(annotator_id, now).where(disagreement.c.item_id.not_in(exclude))
    return connection.execute(waiting.order_by(disagreement.c.item_id).limit(1)).scalar()


def opinions(connection: sa.Connection, item_id: int, order: Sequence[int]) -> tuple[Opinion, ...]:
    """What annotators said of an item, in the order shown to the adjudicator; letters are those of the responses."""
    return tuple(
        Opinion(
            who=number,
            ranks=tuple(row.ranks[place] for place in order),
            strength=row.strength,
            both_bad=bool(row.both_bad),
            rationale=row.rationale,
        )
        for number, row in enumerate(_rankings(connection, item_id), start=1)
    )


def _waiting_for(annotator_id: str, now: float) -> sa.Select:
    """Items that wait, without those that this adjudicator judged, and those that another one has on the screen."""
    of_item = slot.c.item_id == disagreement.c.item_id
    own = sa.exists().where(of_item, slot.c.annotator_id == annotator_id)
    leased = (slot.c.kind == assignment.ADJUDICATION) & (slot.c.state == "leased") & (slot.c.leased_until > now)
    return sa.select(disagreement.c.item_id).where(~own, ~sa.exists().where(of_item, leased))


def _is_full(connection: sa.Connection, item_id: int) -> bool:
    """Whether all places for work are judged, and none for a decision is. Items with a known answer have neither."""
    places = [tuple(row) for row in connection.execute(_PLACES, {"item_id": item_id})]
    work = [state == "judged" for kind, state in places if kind == assignment.WORK]
    return bool(work) and all(work) and (assignment.ADJUDICATION, "judged") not in places


def _differ_in_the_best(connection: sa.Connection, item_id: int) -> bool:
    """Of a pair that is any difference; of a ranking, that not all have the same responses on top."""
    tops = {
        tuple(place for place, rank in enumerate(row.ranks) if rank == min(row.ranks))
        for row in _rankings(connection, item_id)
    }
    return len(tops) > 1


def _rankings(connection: sa.Connection, item_id: int) -> Sequence[sa.Row]:
    """The rankings of annotators that stand, in the order they were given."""
    work = sa.func.coalesce(judgment.c.role, assignment.WORK) == assignment.WORK
    current = assignment.current_judgments(kinds=("ranking",)).where(judgment.c.item_id == item_id, work)
    return connection.execute(current.order_by(judgment.c.number)).all()
