"""Who works on which item: slots with leases.

An item has as many slots as it is to get judgments, and an annotator holds at most one of them. A slot is open,
leased to one browser tab of one annotator until a time, or judged. Who takes one has locked it, so two never get the
same; functions here run in a transaction of the caller. Gold and qualification items are for everybody,
and adjudication is a judgment more: their slots are made when somebody is given one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from annotation.tables import item, judgment, slot

WORK, GOLD, QUALIFICATION, ADJUDICATION, LIVE = "work", "gold", "qualification", "adjudication", "live"
ANSWERS = ("ranking", "skip", "flag")  # the kinds of judgment that are not an undo
# made once: it takes longer than most queries
LATER, OTHER = judgment.alias("later"), slot.alias("other")
_NOW = sa.bindparam("now", type_=sa.Float)
_HELD = (
    sa.select(slot.c.id, slot.c.item_id)
    .where(slot.c.annotator_id == sa.bindparam("annotator_id"), slot.c.state == "leased")
    .where(slot.c.kind.in_(sa.bindparam("kinds", expanding=True)))
    .where(
        ((slot.c.client == sa.bindparam("client")) & (slot.c.leased_until > _NOW))
        | ((slot.c.kind == LIVE) & (slot.c.leased_until <= _NOW))  # left behind by another tab
    )
    .where(slot.c.item_id.not_in(sa.bindparam("exclude", expanding=True)))
    .order_by(slot.c.id)
    .limit(1)
)


@dataclass(frozen=True)
class Place:
    """A slot that somebody may have: where it stands in the campaign's order, and where by chance."""

    slot_id: int
    item_id: int
    state: str
    priority: float
    shuffle: float


def current_judgments(*, kinds: Sequence[str] = ANSWERS) -> sa.Select:
    """Judgments that no later revision has replaced, of the given kinds."""
    replaced = sa.exists().where(LATER.c.supersedes == judgment.c.number)
    return sa.select(judgment).where(judgment.c.kind.in_(kinds), ~replaced)


def free(now: float | sa.BindParameter[float]) -> sa.ColumnElement[bool]:
    """Slots that anyone may have: open, or with a lease that has run out."""
    return (slot.c.state == "open") | ((slot.c.state == "leased") & (slot.c.leased_until <= now))


_PLACES_OF_ITEM = (
    sa.select(slot.c.id, slot.c.annotator_id, slot.c.state, slot.c.kind, free(_NOW).label("free"))
    .where(slot.c.item_id == sa.bindparam("item_id"))
    .order_by(slot.c.id)
    .with_for_update()
)


def count_items(connection: sa.Connection, campaign_id: int, *, now: float) -> tuple[int, int, int]:
    """How many items of a campaign are work, have all their judgments, and have a slot that anyone may have."""

    def having(*conditions: sa.ColumnElement[bool]) -> int:
        # item by item along an index: to count items among the slots, all of these would be sorted
        theirs = sa.exists().where(slot.c.item_id == item.c.id, slot.c.kind == WORK, *conditions)
        query = sa.select(sa.func.count()).select_from(item).where(item.c.campaign_id == campaign_id, theirs)
        return int(connection.execute(query).scalar_one())

    total = having()
    return total, total - having(slot.c.state != "judged"), having(free(now))


def num_waiting_for_others(connection: sa.Connection, annotator_id: str, campaign_ids: Sequence[int]) -> int:
    """How many items an annotator has judged of which others have not judged all places yet."""
    is_open = (OTHER.c.item_id == slot.c.item_id) & (OTHER.c.kind == WORK) & (OTHER.c.state != "judged")
    own = (slot.c.annotator_id == annotator_id) & (slot.c.state == "judged") & (slot.c.kind == WORK)
    query = sa.select(sa.func.count()).select_from(slot).join(item, item.c.id == slot.c.item_id)
    query = query.where(own, item.c.campaign_id.in_(campaign_ids), sa.exists().where(is_open))
    return int(connection.execute(query).scalar_one())


def held_item(
    connection: sa.Connection,
    annotator_id: str,
    client: str,
    exclude: Sequence[int],
    *,
    kinds: Sequence[str],
    now: float,
    until: float,
) -> int | None:
    """The item that this tab already holds, its lease renewed; None when it holds none but those excluded.

    A live item is its author's alone: one whose lease has run out goes to any tab of theirs.
    """
    given = {"annotator_id": annotator_id, "client": client, "kinds": kinds, "exclude": exclude, "now": now}
    row = connection.execute(_HELD, given).first()
    if row is None:
        return None
    connection.execute(sa.update(slot).where(slot.c.id == row.id).values(leased_until=until, client=client))
    return row.item_id


def places_for(campaign_id: int, annotator_id: str, exclude: Sequence[int]) -> sa.Select:
    """Slots of a campaign's items that this annotator has neither judged nor holds, free or not, as `Place` has them.

    Items in `exclude` are left out: the tab has judged them and what it said is still on its way.
    """
    holds = sa.exists().where(
        OTHER.c.item_id == slot.c.item_id, OTHER.c.annotator_id == annotator_id, OTHER.c.id != slot.c.id
    )
    own = (judgment.c.item_id == slot.c.item_id) & (judgment.c.annotator_id == annotator_id)
    judged = current_judgments().with_only_columns(judgment.c.number).where(own).exists()
    return (
        sa.select(slot.c.id, slot.c.item_id, slot.c.state, slot.c.priority, slot.c.shuffle)
        .where(slot.c.campaign_id == campaign_id, slot.c.kind == WORK)
        .where(~holds, ~judged, slot.c.item_id.not_in(exclude))
    )


def waiting(places: sa.Select) -> sa.Select:
    """Those that are open."""
    return places.where(slot.c.state == "open")


def first_place(
    connection: sa.Connection, places: sa.Select, *, now: float, after: tuple[float, int] | None = None
) -> Place | None:
    """The first open place in the campaign's order, else one whose lease has run out; locked. None without one.

    What others have locked is passed by, since a place they do not take comes free in a moment. Before it is said that
    nothing is left, they are waited for.

    Args:
        connection: of a transaction that writes.
        places: those that somebody may have.
        now: the time.
        after: priority and number of a slot up to which nothing is open to them; a hint, the rest is looked through
            afterwards.
    """
    run_out = places.where(slot.c.state == "leased", slot.c.leased_until <= now).order_by(slot.c.leased_until)
    in_order = waiting(places).order_by(slot.c.priority, slot.c.id)
    # each query along an index: one with OR would sort all open slots first
    queries = [in_order, run_out]
    if after is not None:
        queries.insert(0, in_order.where(sa.tuple_(slot.c.priority, slot.c.id) > sa.tuple_(*after)))
    locks = connection.dialect.name != "sqlite"  # there one transaction writes at a time
    for passes_by, query in [(True, query) for query in queries] + [(False, in_order), (False, run_out)] * locks:
        row = connection.execute(query.limit(1).with_for_update(skip_locked=passes_by)).first()
        if row is not None:
            return Place(*row)
    return None


def take(connection: sa.Connection, place: Place, annotator_id: str, client: str, *, until: float) -> None:
    """Lease a place that is locked.

    Raises:
        sqlalchemy.exc.IntegrityError: another tab of the same annotator took a slot of this item just now.
    """
    values = {"state": "leased", "annotator_id": annotator_id, "client": client, "leased_until": until}
    connection.execute(sa.update(slot).where(slot.c.id == place.slot_id).values(values))


def lease_extra(
    connection: sa.Connection, item_id: int, kind: str, annotator_id: str, client: str, *, now: float, until: float
) -> None:
    """Lease a slot of an item that has one for everybody who is given it: one left or given back, or a new one.

    Raises:
        sqlalchemy.exc.IntegrityError: this annotator holds a slot of the item, or another one was made just now.
    """
    values = {"state": "leased", "annotator_id": annotator_id, "client": client, "leased_until": until}
    # their own first: nobody has two
    own_first = sa.case((slot.c.annotator_id == annotator_id, 0), else_=1)
    left = sa.select(slot.c.id).where(slot.c.item_id == item_id, slot.c.kind == kind, free(now)).order_by(own_first)
    first = left.limit(1).with_for_update(skip_locked=True)
    taken = sa.update(slot).where(slot.c.id == first.scalar_subquery()).values(values)
    if connection.execute(taken.returning(slot.c.id)).first() is not None:
        return
    last = sa.select(sa.func.coalesce(sa.func.max(slot.c.number), 0)).where(slot.c.item_id == item_id)
    number = connection.execute(last).scalar_one() + 1
    campaign_id = connection.execute(sa.select(item.c.campaign_id).where(item.c.id == item_id)).scalar_one()
    row = {"item_id": item_id, "number": number, "campaign_id": campaign_id, "kind": kind} | values
    connection.execute(sa.insert(slot).values(row))


def hold(
    connection: sa.Connection, item_id: int, annotator_id: str, *, now: float, client: str | None, until: float | None
) -> str | None:
    """Give this annotator a slot of one item: the one they have, else a free one. Its kind, or None when all are taken.

    With `client` and `until` the slot is leased, without them it is judged.
    """
    rows = connection.execute(_PLACES_OF_ITEM, {"item_id": item_id, "now": now}).all()
    own = [row for row in rows if row.annotator_id == annotator_id]
    # one that is open first: whoever is late may still come
    free_ones = sorted(rows, key=lambda row: row.state != "open")
    usable = own or [row for row in free_ones if row.free and row.kind != ADJUDICATION]
    if not usable:
        return None
    state = "judged" if until is None else "leased"
    values = {"state": state, "annotator_id": annotator_id, "client": client, "leased_until": until}
    connection.execute(sa.update(slot).where(slot.c.id == usable[0].id).values(values))
    return usable[0].kind


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


def give_back_all(connection: sa.Connection, annotator_id: str) -> None:
    """Open all that an annotator has leased, whatever the tab."""
    leased = (slot.c.annotator_id == annotator_id) & (slot.c.state == "leased")
    connection.execute(
        sa.update(slot).where(leased).values(state="open", annotator_id=None, client=None, leased_until=None)
    )


def renew(
    connection: sa.Connection, annotator_id: str, client: str, item_ids: Sequence[int], *, until: float
) -> list[int]:
    """Put off the end of a tab's leases; the items that it still holds, also those it held too long without asking.

    What this annotator has judged stays theirs to judge anew.
    """
    own = (slot.c.annotator_id == annotator_id) & slot.c.item_id.in_(item_ids)
    leased = sa.update(slot).where(own, slot.c.client == client, slot.c.state == "leased")
    held = connection.execute(leased.values(leased_until=until).returning(slot.c.item_id)).scalars().all()
    judged = connection.execute(sa.select(slot.c.item_id).where(own, slot.c.state == "judged")).scalars().all()
    return sorted({*held, *judged})
