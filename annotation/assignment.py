"""Who works on which item: slots with leases.

An item has as many slots as it is to get judgments, and an annotator holds at most one of them. A slot is open,
leased to one browser tab of one annotator until a time, or judged. Every claim is one UPDATE of one slot, so two
never get the same; functions here run in a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from annotation.tables import judgment, slot


def current_judgments(*, kinds: Sequence[str] = ("ranking", "skip")) -> sa.Select:
    """Judgments that no later revision has replaced, of the given kinds."""
    later = judgment.alias("later")
    replaced = sa.exists().where(later.c.supersedes == judgment.c.number)
    return sa.select(judgment).where(judgment.c.kind.in_(kinds), ~replaced)


def free(now: float) -> sa.ColumnElement[bool]:
    """Slots that anyone may have: open, or with a lease that has run out."""
    return (slot.c.state == "open") | ((slot.c.state == "leased") & (slot.c.leased_until <= now))


def held_item(
    connection: sa.Connection, annotator_id: str, client: str, exclude: Sequence[int], *, now: float, until: float
) -> int | None:
    """The item that this tab already holds, its lease renewed; None when it holds none but those excluded."""
    mine = (slot.c.annotator_id == annotator_id) & (slot.c.client == client) & (slot.c.state == "leased")
    query = sa.select(slot.c.id, slot.c.item_id).where(mine, slot.c.leased_until > now, slot.c.item_id.not_in(exclude))
    row = connection.execute(query.order_by(slot.c.id).limit(1)).first()
    if row is None:
        return None
    connection.execute(sa.update(slot).where(slot.c.id == row.id).values(leased_until=until))
    return row.item_id


def claim(
    connection: sa.Connection, annotator_id: str, client: str, exclude: Sequence[int], *, now: float, until: float
) -> int | None:
    """Lease the first free slot of an item that this annotator has neither judged nor holds; its item, or None.

    Items in `exclude` are left out: the tab has judged them and what it said is still on its way.

    Raises:
        sqlalchemy.exc.IntegrityError: another tab of the same annotator claimed a slot of this item just now.
    """
    other = slot.alias("other")
    holds = sa.exists().where(
        other.c.item_id == slot.c.item_id, other.c.annotator_id == annotator_id, other.c.id != slot.c.id
    )
    current = current_judgments().where(judgment.c.annotator_id == annotator_id).subquery()
    judged = sa.exists().where(current.c.item_id == slot.c.item_id)
    theirs = sa.select(slot.c.id).where(~holds, ~judged, slot.c.item_id.not_in(exclude)).limit(1)
    run_out = (slot.c.state == "leased") & (slot.c.leased_until <= now)
    # two queries, each along an index: one with OR would sort all open slots first
    for first in (
        theirs.where(slot.c.state == "open").order_by(slot.c.id),
        theirs.where(run_out).order_by(slot.c.leased_until),
    ):
        taken = (
            sa.update(slot)
            .where(slot.c.id == first.with_for_update(skip_locked=True).scalar_subquery())
            .values(state="leased", annotator_id=annotator_id, client=client, leased_until=until)
            .returning(slot.c.item_id)
        )
        item_id = connection.execute(taken).scalar()
        if item_id is not None:
            return item_id
    return None


def hold(
    connection: sa.Connection, item_id: int, annotator_id: str, *, now: float, client: str | None, until: float | None
) -> bool:
    """Give this annotator a slot of one item: the one they have, else a free one. False when all are taken.

    With `client` and `until` the slot is leased, without them it is judged.
    """
    rows = connection.execute(
        sa.select(slot.c.id, slot.c.annotator_id, slot.c.state, free(now).label("free"))
        .where(slot.c.item_id == item_id)
        .order_by(slot.c.id)
        .with_for_update()
    ).all()
    own = [row.id for row in rows if row.annotator_id == annotator_id]
    # one that is open first: whoever is late may still come
    usable = own or [row.id for row in sorted(rows, key=lambda row: row.state != "open") if row.free]
    if not usable:
        return False
    state = "judged" if until is None else "leased"
    values = {"state": state, "annotator_id": annotator_id, "client": client, "leased_until": until}
    connection.execute(sa.update(slot).where(slot.c.id == usable[0]).values(values))
    return True


def give_back(
    connection: sa.Connection, annotator_id: str, *, item_id: int | None = None, client: str | None = None
) -> None:
    """Open the slot that this annotator has of one item, or all that one of their tabs has leased."""
    opened = sa.update(slot).values(state="open", annotator_id=None, client=None, leased_until=None)
    opened = opened.where(slot.c.annotator_id == annotator_id)
    if item_id is not None:
        opened = opened.where(slot.c.item_id == item_id)
    if client is not None:
        opened = opened.where(slot.c.client == client, slot.c.state == "leased")
    connection.execute(opened)


def renew(
    connection: sa.Connection, annotator_id: str, client: str, item_ids: Sequence[int], *, until: float
) -> list[int]:
    """Put off the end of a tab's leases; the items that it still holds, also those it held too long without asking."""
    query = (
        sa.update(slot)
        .where(slot.c.annotator_id == annotator_id, slot.c.client == client, slot.c.state == "leased")
        .where(slot.c.item_id.in_(item_ids))
        .values(leased_until=until)
        .returning(slot.c.item_id)
    )
    return sorted(connection.execute(query).scalars())
