"""Cards: an item as one annotator sees it, in an order of its own that is kept from the first time."""

from __future__ import annotations

import dataclasses
from random import SystemRandom
from typing import Any

import sqlalchemy as sa

from annotation import adjudication, assignment
from annotation.campaigns import CampaignSettings
from annotation.judgments import response_texts
from annotation.records import Card, UnknownItem
from annotation.tables import campaign, item, prompt, showing, slot
from rlhf.data.comparisons import Message

# made once: it takes longer than running it
_CARD = (
    sa.select(item.c.campaign_id, campaign.c.name, campaign.c.settings, prompt.c.messages, slot.c.kind)
    .select_from(item)
    .join(campaign, campaign.c.id == item.c.campaign_id)
    .join(prompt, prompt.c.id == item.c.prompt_id)
    .join(slot, (slot.c.item_id == item.c.id) & (slot.c.annotator_id == sa.bindparam("annotator_id")), isouter=True)
    .where(item.c.id == sa.bindparam("item_id"))
)
_KEPT_ORDER = sa.select(showing.c.shown_order).where(
    showing.c.item_id == sa.bindparam("item_id"), showing.c.annotator_id == sa.bindparam("annotator_id")
)
SHOWN_KINDS = (assignment.ADJUDICATION, assignment.LIVE)  # the others all look like work


def shown_order(num_responses: int) -> list[int]:
    """A blind order: positions of the responses from left to right. No one can work it out, not even from the texts."""
    return SystemRandom().sample(range(num_responses), num_responses)


def show(
    connection: sa.Connection,
    item_id: int,
    annotator_id: str,
    until: float,
    *,
    chosen_by: str | None = None,
    probability: float | None = None,
) -> Card:
    """The card of an item that this annotator has a slot of."""
    row = connection.execute(_CARD, {"item_id": item_id, "annotator_id": annotator_id}).one()
    texts = response_texts(connection, item_id)
    order = order_for(connection, item_id, annotator_id, len(texts), chosen_by=chosen_by, probability=probability)
    decides = row.kind == assignment.ADJUDICATION
    return Card(
        item_id=str(item_id),
        campaign=row.name,
        campaign_id=row.campaign_id,
        prompt=tuple(Message.from_dict(message) for message in row.messages),
        responses=tuple(texts[place] for place in order),
        leased_until=until,
        kind=row.kind if row.kind in SHOWN_KINDS else assignment.WORK,
        settings=asked(CampaignSettings.from_dict(row.settings or {})),
        opinions=adjudication.opinions(connection, item_id, order) if decides else (),
    )


def asked(settings: CampaignSettings) -> dict[str, Any]:
    """What the page has to know of a campaign's settings."""
    return {
        **{name: getattr(settings, name) for name in ("both_bad", "strength", "edits", "rationale", "view")},
        "aspects": [dataclasses.asdict(aspect) for aspect in settings.aspects],
        "skip_reasons": list(settings.skip_reasons),
        "flag_reasons": list(settings.flag_reasons),
        "content_warning": settings.content_warning or None,
    }


def order_for(
    connection: sa.Connection,
    item_id: int,
    annotator_id: str,
    num_responses: int,
    *,
    chosen_by: str | None = None,
    probability: float | None = None,
) -> list[int]:
    """The order in which this annotator sees an item, drawn and kept the first time; and how it was chosen at last."""
    kept = kept_order(connection, item_id, annotator_id)
    chosen = {"chosen_by": chosen_by, "probability": probability}
    if kept is not None:
        if chosen_by is not None:
            own = (showing.c.item_id == item_id) & (showing.c.annotator_id == annotator_id)
            connection.execute(sa.update(showing).where(own).values(chosen))
        return kept
    order = shown_order(num_responses)
    row = {"item_id": item_id, "annotator_id": annotator_id, "shown_order": order}
    connection.execute(sa.insert(showing).values(row | chosen))
    return order


def kept_order(connection: sa.Connection, item_id: int, annotator_id: str) -> list[int] | None:
    """The order in which this annotator has seen an item; None where it was never shown to them."""
    return connection.execute(_KEPT_ORDER, {"item_id": item_id, "annotator_id": annotator_id}).scalar()


def lock(connection: sa.Connection, item_id: int) -> None:
    """Let no one else judge this item before the transaction ends.

    Raises:
        UnknownItem: there is no such item.
    """
    connection.execute(sa.select(slot.c.id).where(slot.c.item_id == item_id).order_by(slot.c.id).with_for_update())
    if connection.execute(sa.select(item.c.id).where(item.c.id == item_id)).first() is None:
        raise UnknownItem("there is no such item in this store; reload the page")
