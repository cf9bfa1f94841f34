"""Items drawn at random, and the probability with which one of them is given.

To draw evenly, all items would have to be counted each time, which takes long where there are hundreds of thousands.
Each slot has a number from [0, 1) that puts it somewhere on a circle (`slot.shuffle`). A draw begins anywhere on that
circle, takes the next `WINDOW` items, and one of these evenly. So an item is drawn with the probability

    (its number - that of the item WINDOW places before it) / WINDOW

Where there are no more than `WINDOW` items all have the same; where there are more, nearly the same (a seventh more
or less), and each is known exactly.
"""

from __future__ import annotations

from random import Random

import sqlalchemy as sa

from annotation.assignment import Place
from annotation.tables import slot

WINDOW = 50
EARLIER = slot.alias("earlier")


def choose(
    connection: sa.Connection, waiting: sa.Select, first: Place, share: float, random: Random
) -> tuple[Place, bool, float]:
    """One of the items that wait: the first one, or in a share of all cases one at random.

    Args:
        connection: of a transaction that writes.
        waiting: open slots of items that an annotator may be given.
        first: the first of them in the campaign's order, locked.
        share: > 0, how often one is drawn.
        random: draws.

    Returns:
        The slot, whether it was drawn, and the probability with which its item was to be chosen in either way.
    """
    places = _one_for_each_item(waiting)
    drawn = draw(connection, places, random) if random.random() < share else None
    # on PostgreSQL somebody else may be about to take it
    is_drawn = drawn is not None and _is_locked(connection, drawn)
    chosen = drawn if drawn is not None and is_drawn else first
    as_first = 1.0 - share if chosen.item_id == first.item_id else 0.0
    return chosen, is_drawn, as_first + share * chance(connection, places, chosen)


def draw(connection: sa.Connection, places: sa.Select, random: Random) -> Place | None:
    """One of these places at random; None where there is none."""
    start = random.random()
    found = _along(connection, places, slot.c.shuffle >= start, slot.c.shuffle < start, WINDOW)
    return random.choice(found) if found else None


def chance(connection: sa.Connection, places: sa.Select, place: Place) -> float:
    """The probability with which `draw` takes this one of the places."""
    here, number = slot.c.shuffle == place.shuffle, slot.c.id
    before = (slot.c.shuffle <= place.shuffle) & (~here | (number < place.slot_id))
    after = (slot.c.shuffle >= place.shuffle) & (~here | (number > place.slot_id))
    found = _along(connection, places, before, after, WINDOW, backwards=True)
    if len(found) < WINDOW:
        return 1.0 / (len(found) + 1)
    return (place.shuffle - found[-1].shuffle) % 1.0 / WINDOW


def _one_for_each_item(waiting: sa.Select) -> sa.Select:
    """The first open slot of each item: a draw is of items, however many judgments they lack."""
    earlier = sa.exists().where(
        EARLIER.c.item_id == slot.c.item_id,
        *(EARLIER.c.kind == slot.c.kind, EARLIER.c.state == slot.c.state, EARLIER.c.id < slot.c.id),
    )
    return waiting.where(~earlier)


def _along(
    connection: sa.Connection,
    places: sa.Select,
    near: sa.ColumnElement[bool],
    far: sa.ColumnElement[bool],
    count: int,
    *,
    backwards: bool = False,
) -> list[Place]:
    """So many places along the circle: up to its end, and on from its other end."""
    order = (slot.c.shuffle.desc(), slot.c.id.desc()) if backwards else (slot.c.shuffle, slot.c.id)
    found: list[Place] = []
    for part in (near, far):
        if len(found) < count:
            rows = connection.execute(places.where(part).order_by(*order).limit(count - len(found)))
            found.extend(Place(*row) for row in rows)
    return found


def _is_locked(connection: sa.Connection, place: Place) -> bool:
    still_open = sa.select(slot.c.id).where(slot.c.id == place.slot_id, slot.c.state == "open")
    return connection.execute(still_open.with_for_update(skip_locked=True)).first() is not None
