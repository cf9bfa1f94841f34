"""Campaigns: what is asked of annotators, in which order, and by which rules; their guidelines.

Settings are one JSON object in the campaign's row. What is not said has the default below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from annotation import audit
from annotation.records import AnnotationError
from annotation.tables import annotator, campaign, guideline, guideline_ack, item, member, slot

ORDERS = ("oldest", "random", "useful")
ASKED = ("off", "optional", "required")
VIEWS = ("markdown", "verbatim")
OPEN, PAUSED, CLOSED = "open", "paused", "closed"
STATES = (OPEN, PAUSED, CLOSED)
# made once: it takes longer than running it
_OPEN_WITH_MEMBERSHIP = (
    sa.select(
        campaign,
        sa.exists()
        .where(member.c.campaign_id == campaign.c.id, member.c.annotator_id == sa.bindparam("annotator_id"))
        .label("has_joined"),
    )
    .where(campaign.c.state == OPEN)
    .order_by(campaign.c.id)
)
LONGEST_GUIDELINE = 100_000


class CampaignError(AnnotationError):
    """A setting that no campaign can have, or a campaign that is not there."""


@dataclass(frozen=True)
class Aspect:
    """Something every response is rated on, from 1 to `levels`: "helpful", 5."""

    name: str
    levels: int = 5


@dataclass(frozen=True)
class CampaignSettings:
    """What a campaign asks for.

    Attributes:
        order: which item comes next: "oldest", "random", or "useful", the lowest `slot.priority` first.
        random_share: of the items given by another order, so many are drawn at random; usual 0.1 to 0.2.
        gold_share: of the items given, so many are gold ones, as long as the annotator has not had all; usual 0.05.
        gold_accuracy: an annotator whose accuracy on gold is below this, with the interval, is paused; 0 = never.
        qualification_items: gold items to judge before work; 0 = none.
        qualification_accuracy: share of them that must be right.
        members_only: whether only members get its items.
        both_bad: whether "both bad" is offered.
        strength: whether a pair's strength is asked for.
        edits: whether an annotator may write a better response.
        rationale: "off", "optional", "required".
        aspects: rated for every response.
        skip_reasons, flag_reasons: offered beside free text.
        content_warning: shown before the first item; empty = none.
        view: how texts are shown at first, "markdown" or "verbatim".
        live: whether annotators may write prompts of their own.
    """

    order: str = "oldest"
    random_share: float = 0.15
    gold_share: float = 0.0
    gold_accuracy: float = 0.0
    qualification_items: int = 0
    qualification_accuracy: float = 0.7
    members_only: bool = False
    both_bad: bool = True
    strength: bool = True
    edits: bool = True
    rationale: str = "optional"
    aspects: tuple[Aspect, ...] = ()
    skip_reasons: tuple[str, ...] = ("I cannot judge this", "The texts are the same", "I do not know this language")
    flag_reasons: tuple[str, ...] = ("Harmful content", "Personal data", "Broken prompt or response")
    content_warning: str = ""
    view: str = "markdown"
    live: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("order", ORDERS), ("rationale", ASKED), ("view", VIEWS)):
            if getattr(self, name) not in choices:
                raise CampaignError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}")
        for name in ("random_share", "gold_share", "gold_accuracy", "qualification_accuracy"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise CampaignError(f"{name} is {value!r}; give a number from 0 to 1")
        if type(self.qualification_items) is not int or not 0 <= self.qualification_items <= 100:
            raise CampaignError(f"qualification_items is {self.qualification_items!r}; give a number from 0 to 100")
        for name in ("members_only", "both_bad", "strength", "edits", "live"):
            if type(getattr(self, name)) is not bool:
                raise CampaignError(f"{name} is {getattr(self, name)!r}; use true or false")
        for name in ("skip_reasons", "flag_reasons"):
            if not all(isinstance(reason, str) and reason.strip() for reason in getattr(self, name)):
                raise CampaignError(f"{name} are {list(getattr(self, name))}; give a list of texts")
        if not isinstance(self.content_warning, str):
            raise CampaignError(f"content_warning is {self.content_warning!r}; give a text, or an empty one for none")
        names = [aspect.name for aspect in self.aspects]
        if not all(isinstance(name, str) for name in names):
            raise CampaignError(f"aspects are named {', '.join(map(repr, names))}; give texts")
        if len(set(names)) != len(names) or not all(name.strip() for name in names):
            raise CampaignError(f"aspects are named {', '.join(map(repr, names))}; give each a name of its own")
        for aspect in self.aspects:
            if type(aspect.levels) is not int or not 2 <= aspect.levels <= 10:
                raise CampaignError(f"aspect {aspect.name!r} has {aspect.levels!r} levels; give 2 to 10")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CampaignSettings:
        """Settings from JSON.

        Raises:
            CampaignError: a name is not known or a value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CampaignError(f"setting {unknown[0]!r} is not known; choose of {', '.join(sorted(known))}")
        given = dict(values)
        for name in ("aspects", "skip_reasons", "flag_reasons"):
            if name in given:
                if not isinstance(given[name], (list, tuple)):
                    raise CampaignError(f"{name} is {given[name]!r}; give a list")
                given[name] = tuple(given[name])
        if "aspects" in given:
            given["aspects"] = tuple(_aspect(aspect) for aspect in given["aspects"])
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON."""
        default = dataclasses.asdict(CampaignSettings())
        return {name: value for name, value in dataclasses.asdict(self).items() if value != default[name]}


@dataclass(frozen=True)
class Campaign:
    """A campaign as it stands. `overlap` is the number of annotators for each item."""

    id: int
    name: str
    overlap: int
    state: str
    settings: CampaignSettings


@dataclass(frozen=True)
class Guideline:
    """A version of a campaign's guidelines, counted from 1; `text` is Markdown."""

    id: int
    campaign_id: int
    version: int
    text: str


def all_campaigns(connection: sa.Connection) -> list[Campaign]:
    """In the order they were made."""
    return [_campaign(row) for row in connection.execute(sa.select(campaign).order_by(campaign.c.id))]


def find(connection: sa.Connection, campaign_id: int, *, lock: bool = False) -> Campaign:
    """One campaign; with `lock`, as nobody else changes it before the transaction ends.

    Raises:
        CampaignError: there is none of this number.
    """
    query = sa.select(campaign).where(campaign.c.id == campaign_id)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).first()
    if row is None:
        raise CampaignError(f"there is no campaign {campaign_id}; reload the page")
    return _campaign(row)


def by_name(connection: sa.Connection, name: str) -> Campaign:
    """One campaign by its name.

    Raises:
        CampaignError: there is none; the names that there are stand in the message.
    """
    found = {row.name: row for row in connection.execute(sa.select(campaign).order_by(campaign.c.id))}
    if name not in found:
        raise CampaignError(f"campaign {name!r} is not in the store, which has {', '.join(found) or 'none'}")
    return _campaign(found[name])


def number_of(connection: sa.Connection, item_id: int) -> int:
    """The number of an item's campaign."""
    return connection.execute(sa.select(item.c.campaign_id).where(item.c.id == item_id)).scalar_one()


def working_campaigns(connection: sa.Connection, annotator_id: str) -> list[Campaign]:
    """The open campaigns whose items this annotator may be given."""
    rows = connection.execute(_OPEN_WITH_MEMBERSHIP, {"annotator_id": annotator_id})
    found = [(_campaign(row), row.has_joined) for row in rows]
    return [each for each, has_joined in found if has_joined or not each.settings.members_only]


def change(
    connection: sa.Connection,
    campaign_id: int,
    *,
    actor_id: str | None,
    at: float,
    state: str | None = None,
    settings: CampaignSettings | None = None,
) -> Campaign:
    """Open, pause or close a campaign, or give it other settings; in the transaction of the caller, audited.

    Raises:
        CampaignError: there is no such campaign or state.
    """
    before = find(connection, campaign_id, lock=True)
    if state is not None and state not in STATES:
        raise CampaignError(f"state is {state!r}; use one of {', '.join(STATES)}")
    after = dataclasses.replace(before, state=state or before.state, settings=settings or before.settings)
    if after == before:
        return before
    values = {"state": after.state, "settings": after.settings.to_dict()}
    connection.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(values))
    if after.settings.order != before.settings.order:
        set_order(connection, campaign_id, after.settings.order)
    details = {"campaign": campaign_id, "before": {"state": before.state, "settings": before.settings.to_dict()}}
    audit.record(connection, "campaign changed", actor_id, details | {"after": values}, at=at)
    return after


def set_order(connection: sa.Connection, campaign_id: int, order: str) -> None:
    """Put a campaign's slots into an order of `ORDERS`; at random, each item is drawn when it is given."""
    usefulness = sa.select(sa.func.coalesce(item.c.usefulness, 0.0)).where(item.c.id == slot.c.item_id)
    priority = -usefulness.scalar_subquery() if order == "useful" else sa.literal(0.0)
    connection.execute(sa.update(slot).where(slot.c.campaign_id == campaign_id).values(priority=priority))


def add_member(connection: sa.Connection, campaign_id: int, annotator_id: str, *, at: float) -> None:
    """Let an annotator work on a campaign that is for members only; twice is once."""
    own = (member.c.campaign_id == campaign_id) & (member.c.annotator_id == annotator_id)
    if connection.execute(sa.select(member).where(own)).first() is None:
        values = {"campaign_id": campaign_id, "annotator_id": annotator_id, "added_at": at}
        connection.execute(sa.insert(member).values(values))


# ---- guidelines -------------------------------------------------------------------------------------------


def newest_guideline(connection: sa.Connection, campaign_id: int) -> Guideline | None:
    """The guidelines that are to be accepted now; None where there are none."""
    query = sa.select(guideline).where(guideline.c.campaign_id == campaign_id).order_by(guideline.c.version.desc())
    row = connection.execute(query.limit(1)).first()
    return None if row is None else Guideline(row.id, row.campaign_id, row.version, row.text)


def write_guideline(
    connection: sa.Connection, campaign_id: int, text: str, *, actor_id: str | None, at: float
) -> Guideline:
    """Add a version, which everybody has to accept before the next item. The same text again adds none.

    Raises:
        CampaignError: there is no such campaign, or the text is blank or too long.
    """
    find(connection, campaign_id)
    if not text.strip() or len(text) > LONGEST_GUIDELINE or "\0" in text:
        raise CampaignError(f"guidelines have 1 to {LONGEST_GUIDELINE} characters and no NUL, not {len(text)}")
    # one at a time: two would get the same number
    connection.execute(sa.select(campaign.c.id).where(campaign.c.id == campaign_id).with_for_update())
    before = newest_guideline(connection, campaign_id)
    if before is not None and before.text == text:
        return before
    version = 1 if before is None else before.version + 1
    values = {"campaign_id": campaign_id, "version": version, "text": text, "created_by": actor_id, "created_at": at}
    number = connection.execute(sa.insert(guideline).values(values).returning(guideline.c.id)).scalar_one()
    audit.record(connection, "guidelines written", actor_id, {"campaign": campaign_id, "version": version}, at=at)
    return Guideline(number, campaign_id, version, text)


def accept_guideline(
    connection: sa.Connection, campaign_id: int, version: int, annotator_id: str, *, at: float
) -> None:
    """Keep that an annotator has accepted a version; twice is once.

    Raises:
        CampaignError: there is no such version.
    """
    query = sa.select(guideline.c.id).where(guideline.c.campaign_id == campaign_id, guideline.c.version == version)
    number = connection.execute(query).scalar()
    if number is None:
        raise CampaignError(f"campaign {campaign_id} has no guidelines {version}; reload the page")
    if not _has_accepted(connection, number, annotator_id):
        values = {"guideline_id": number, "annotator_id": annotator_id, "at": at}
        connection.execute(sa.insert(guideline_ack).values(values))


def guideline_to_accept(connection: sa.Connection, campaign_id: int, annotator_id: str) -> Guideline | None:
    """The guidelines that stand before an annotator's work; None where the newest are accepted, or there are none."""
    newest = newest_guideline(connection, campaign_id)
    if newest is None or _has_accepted(connection, newest.id, annotator_id):
        return None
    return newest


def _has_accepted(connection: sa.Connection, guideline_id: int, annotator_id: str) -> bool:
    own = (guideline_ack.c.guideline_id == guideline_id) & (guideline_ack.c.annotator_id == annotator_id)
    return connection.execute(sa.select(guideline_ack).where(own)).first() is not None


def state_of(connection: sa.Connection, annotator_id: str) -> str:
    """active, paused or closed; an annotator who is not known is active."""
    found = connection.execute(sa.select(annotator.c.state).where(annotator.c.id == annotator_id)).scalar()
    return found or "active"


def _campaign(row: sa.Row) -> Campaign:
    return Campaign(row.id, row.name, row.overlap, row.state, CampaignSettings.from_dict(row.settings or {}))


def _aspect(values: Any) -> Aspect:
    if isinstance(values, str):
        return Aspect(values)
    if not isinstance(values, Mapping) or "name" not in values or not set(values) <= {"name", "levels"}:
        raise CampaignError(f"an aspect is {values!r}; give its name, or name and levels")
    return Aspect(values["name"], values.get("levels", 5))
