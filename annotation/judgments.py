"""Judgments: what may be said of an item, and how it is kept: by position of the responses, not as they were shown."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from annotation import assignment, audit
from annotation.campaigns import CampaignSettings
from annotation.records import InvalidJudgment, Said, TooLong
from annotation.tables import campaign, completion, guideline, guideline_ack, item, judgment, showing
from rlhf import __version__

LONGEST_REASON = 2000
LONGEST_RATIONALE = 10_000
LONGEST_EDIT = 200_000
STRENGTHS = (1, 2, 3)


def _what_goes_before() -> sa.Select:
    """The last revision of an item by an annotator, and what is kept with the next one."""
    item_id, annotator_id = sa.bindparam("item_id", type_=sa.Integer), sa.bindparam("annotator_id", type_=sa.String)
    own = (judgment.c.item_id == item_id) & (judgment.c.annotator_id == annotator_id)
    last = sa.select(judgment.c.number).where(own).order_by(judgment.c.revision.desc()).limit(1)
    accepted = (
        sa.select(sa.func.max(guideline.c.version))
        .join(guideline_ack, guideline_ack.c.guideline_id == guideline.c.id)
        .join(item, item.c.campaign_id == guideline.c.campaign_id)
        .where(item.c.id == item_id, guideline_ack.c.annotator_id == annotator_id)
    )
    seen = (showing.c.item_id == item_id) & (showing.c.annotator_id == annotator_id)
    return sa.select(
        last.scalar_subquery().label("number"),
        sa.select(sa.func.max(judgment.c.revision)).where(own).scalar_subquery().label("revision"),
        accepted.scalar_subquery().label("guideline_version"),
        sa.select(showing.c.probability).where(seen).scalar_subquery().label("probability"),
    )


# made once: it takes longer than running it
_WHAT_GOES_BEFORE = _what_goes_before()
_BY_ID = sa.select(judgment).where(judgment.c.id == sa.bindparam("judgment_id"))
_SETTINGS = (
    sa.select(campaign.c.settings)
    .join(item, item.c.campaign_id == campaign.c.id)
    .where(item.c.id == sa.bindparam("item_id"))
)
_TEXTS = (
    sa.select(completion.c.text).where(completion.c.item_id == sa.bindparam("item_id")).order_by(completion.c.position)
)


def check(said: Said, settings: CampaignSettings, texts: Sequence[str]) -> None:
    """Refuse what does not fit the item. `texts` are its responses in the order shown.

    Raises:
        InvalidJudgment: in words, with the value and what to send instead.
        TooLong: a text is longer than is kept.
    """
    for name, text, longest in (
        ("reason", said.reason, LONGEST_REASON),
        ("rationale", said.rationale, LONGEST_RATIONALE),
        *((f"edit of response {place + 1}", text, LONGEST_EDIT) for place, text in said.edits.items()),
    ):
        if text is not None and len(text) > longest:
            raise TooLong(f"the {name} has {len(text)} characters, and {longest} is the most; shorten it")
        if text is not None and "\0" in text:
            raise InvalidJudgment(f"the {name} holds a NUL character, which databases do not keep; remove it")
    if said.kind in ("skip", "flag"):
        if said.ranks is not None or said.strength is not None or said.both_bad or said.aspects or said.edits:
            raise InvalidJudgment(f"a {said.kind} has neither ranks nor strength; leave them out")
        return
    if said.kind != "ranking":
        raise InvalidJudgment(f"kind is {said.kind!r}; use ranking, skip or flag")
    if said.reason is not None:
        raise InvalidJudgment("a ranking has no reason; leave it out, or send a rationale")
    _check_ranks(said, len(texts))
    _check_asked(said, settings, texts)


def _check_ranks(said: Said, num_responses: int) -> None:
    ranks = said.ranks or ()
    if len(ranks) != num_responses or not all(type(rank) is int and 1 <= rank <= num_responses for rank in ranks):
        raise InvalidJudgment(f"ranks are {list(ranks)}; give {num_responses} whole numbers from 1 to {num_responses}")
    if said.strength is None:
        return
    if num_responses != 2 or ranks[0] == ranks[1]:
        raise InvalidJudgment("only the preferred one of a pair has a strength; leave it out")
    if said.strength not in STRENGTHS:
        raise InvalidJudgment(f"strength is {said.strength!r}; use 1, 2 or 3, or leave it out")


def _check_asked(said: Said, settings: CampaignSettings, texts: Sequence[str]) -> None:
    if said.both_bad and not settings.both_bad:
        raise InvalidJudgment("this campaign does not ask whether both are bad; leave both_bad out")
    if settings.rationale == "required" and not (said.rationale or "").strip():
        raise InvalidJudgment("this campaign asks why: write a rationale")
    if settings.rationale == "off" and said.rationale is not None:
        raise InvalidJudgment("this campaign asks for no rationale; leave it out")
    if said.edits and not settings.edits:
        raise InvalidJudgment("this campaign asks for no better texts; leave edits out")
    for place, text in said.edits.items():
        if not 0 <= place < len(texts):
            raise InvalidJudgment(f"an edit is of response {place + 1} of {len(texts)}; name one that is there")
        if not text.strip() or text == texts[place]:
            raise InvalidJudgment(f"the edit of response {place + 1} is empty or the same; leave it out")
    asked = {aspect.name: aspect.levels for aspect in settings.aspects}
    if set(said.aspects) != set(asked):
        names = ", ".join(asked) or "none"
        raise InvalidJudgment(f"aspects are {', '.join(said.aspects) or 'none'}; rate {names}")
    for name, ratings in said.aspects.items():
        good = all(type(rating) is int and 1 <= rating <= asked[name] for rating in ratings)
        if len(ratings) != len(texts) or not good:
            raise InvalidJudgment(f"{name} is {list(ratings)}; give {len(texts)} whole numbers from 1 to {asked[name]}")


def by_position(said: Said, order: Sequence[int]) -> dict[str, Any]:
    """The columns of a judgment, from what was said in the order shown; `order[place]` is a position."""

    def moved(values: Sequence[int]) -> list[int]:
        return [values[order.index(position)] for position in range(len(order))]

    return {
        "kind": said.kind,
        "ranks": None if said.ranks is None else moved(said.ranks),
        "strength": said.strength,
        "both_bad": said.both_bad if said.kind == "ranking" else None,
        "aspects": {name: moved(ratings) for name, ratings in said.aspects.items()} or None,
        "rationale": said.rationale,
        "edits": {str(order[place]): text for place, text in sorted(said.edits.items())} or None,
        "reason": said.reason,
    }


def as_shown(row: Any) -> Said:
    """What a row of the table says, in the order in which it was shown."""
    order = row.shown_order
    return Said(
        kind=row.kind,
        ranks=None if row.ranks is None else tuple(row.ranks[position] for position in order),
        strength=row.strength,
        both_bad=bool(row.both_bad),
        aspects={name: tuple(ratings[position] for position in order) for name, ratings in (row.aspects or {}).items()},
        rationale=row.rationale,
        edits={order.index(int(position)): text for position, text in (row.edits or {}).items()},
        reason=row.reason,
    )


def check_id(judgment_id: str) -> None:
    """Refuse an id that could not be a UUID or the like.

    Raises:
        InvalidJudgment: it is short, long, or not plain ASCII.
    """
    if not 8 <= len(judgment_id) <= 64 or not judgment_id.isascii() or not judgment_id.isprintable():
        raise InvalidJudgment("id must be 8 to 64 ASCII characters; a UUID is one")


def check_same(before: Any, annotator_id: str, item_id: int, said: Said) -> None:
    """Refuse an id that was used for something else; the same judgment again is fine.

    Raises:
        InvalidJudgment: the id is taken.
    """
    if (before.annotator_id, before.item_id) != (annotator_id, item_id) or as_shown(before) != said:
        raise InvalidJudgment(f"id {before.id} was used for another judgment; send a new one")


def append(
    connection: sa.Connection, judgment_id: str, item_id: int, annotator_id: str, told: Mapping[str, Any], *, at: float
) -> int:
    """Add a judgment to the chain of this annotator and item; its revision."""
    before = connection.execute(_WHAT_GOES_BEFORE, {"item_id": item_id, "annotator_id": annotator_id}).one()
    revision: int = (before.revision or 0) + 1
    row = {
        "id": judgment_id,
        "item_id": item_id,
        "annotator_id": annotator_id,
        "revision": revision,
        "supersedes": before.number,
        "app_version": __version__,
        "created_at": at,
        "guideline_version": before.guideline_version,
        "probability": before.probability,
    }
    audit.add_judgment(connection, row | dict(told))
    return revision


def id_of_restored(undo_id: str) -> str:
    """The id of the copy that stands again after an undo."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, undo_id))


def restore(connection: sa.Connection, before: sa.Row, judgment_id: str) -> None:
    """Add a copy of a judgment to the end of its chain, so that it stands again, with the time when it was made."""
    own = (judgment.c.item_id == before.item_id) & (judgment.c.annotator_id == before.annotator_id)
    query = sa.select(judgment.c.number, judgment.c.revision).where(own).order_by(judgment.c.revision.desc())
    last = connection.execute(query.limit(1)).one()
    row = {name: value for name, value in before._mapping.items() if name not in ("number", "hash")}
    row |= {"id": judgment_id, "revision": last.revision + 1, "supersedes": last.number}
    audit.add_judgment(connection, row)


def by_id(connection: sa.Connection, judgment_id: str) -> sa.Row | None:
    """The judgment that the browser named so."""
    return connection.execute(_BY_ID, {"judgment_id": judgment_id}).first()


def by_number(connection: sa.Connection, number: int | None) -> sa.Row | None:
    return connection.execute(sa.select(judgment).where(judgment.c.number == number)).first()


def newest(connection: sa.Connection, annotator_id: str) -> sa.Row | None:
    """This annotator's newest judgment that stands."""
    query = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id)
    # by time: one that stands again has a number of its own and the time when it was made
    return connection.execute(query.order_by(judgment.c.created_at.desc(), judgment.c.number.desc()).limit(1)).first()


def standing(connection: sa.Connection, item_id: int, annotator_id: str) -> sa.Row | None:
    """The judgment of this annotator that stands on this item."""
    current = assignment.current_judgments().where(judgment.c.item_id == item_id)
    return connection.execute(current.where(judgment.c.annotator_id == annotator_id)).first()


def context(connection: sa.Connection, item_id: int, order: Sequence[int]) -> tuple[CampaignSettings, list[str]]:
    """The settings of an item's campaign, and its responses in the order shown."""
    settings = CampaignSettings.from_dict(connection.execute(_SETTINGS, {"item_id": item_id}).scalar_one() or {})
    texts = response_texts(connection, item_id)
    return settings, [texts[position] for position in order]


def response_texts(connection: sa.Connection, item_id: int) -> Sequence[str]:
    """The responses of an item by their position."""
    return connection.execute(_TEXTS, {"item_id": item_id}).scalars().all()
