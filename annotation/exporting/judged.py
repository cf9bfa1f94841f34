"""Items with the judgments that stand on them, read from a store batch by batch in a fixed order.

Items come in the order in which they were added, judgments of one item in the order in which they were given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from annotation import assignment
from annotation.tables import annotator, campaign, completion, item, judgment, policy, prompt
from rlhf.data.comparisons import Comparison, DataError, Message, Response

ITEMS_AT_ONCE = 500
STATES = ("paused", "closed")
KNOWN_ANSWERS = ("gold", "qualification")


@dataclass(frozen=True)
class Scope:
    """Where to read from.

    Attributes:
        campaigns: number -> name of those taken.
        without: pseudonyms whose judgments are left out.
        with_gold: take the judgments of gold and qualification items too.
    """

    campaigns: dict[int, str]
    without: tuple[str, ...] = ()
    with_gold: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """One judgment that stands; all by position of the completions, not as shown.

    Attributes:
        number: its place in the store's chain of judgments.
        role: "work", "live", "adjudication", "gold" or "qualification".
        kind: "ranking", "skip" or "flag"; the others have no ranks.
        edits: position -> the annotator's better text.
    """

    number: int
    id: str
    item_id: int
    annotator: str
    role: str
    kind: str
    ranks: tuple[int, ...]
    strength: float | None
    both_bad: bool
    aspects: dict[str, list[int]]
    rationale: str | None
    edits: dict[int, str]
    shown_order: tuple[int, ...]
    guideline_version: int | None
    active_ms: int
    app_version: str

    @property
    def is_tie(self) -> bool:
        return len(set(self.ranks)) == 1


@dataclass(frozen=True)
class JudgedItem:
    """An item with all rankings that stand on it.

    Attributes:
        comparison: prompt and responses, without ranks.
        judgments: in the order in which they were given.
    """

    id: int
    campaign: str
    comparison: Comparison
    judgments: tuple[Said, ...]

    @cached_property
    def adjudication(self) -> Said | None:
        """What an adjudicator decided; of several the last."""
        return next((said for said in reversed(self.judgments) if said.role == "adjudication"), None)

    @cached_property
    def counting(self) -> tuple[Said, ...]:
        """The judgments that count: an adjudication by itself, else all."""
        return self.judgments if self.adjudication is None else (self.adjudication,)


def scope_of(
    connection: sa.Connection, campaigns: Sequence[str], without: Sequence[str] = (), *, with_gold: bool = False
) -> Scope:
    """The scope of these campaigns, or of all.

    Raises:
        DataError: there is no such campaign, or no such annotator.
    """
    rows = connection.execute(sa.select(campaign.c.id, campaign.c.name).order_by(campaign.c.id)).all()
    names = [row.name for row in rows]
    for name in campaigns:
        if name not in names:
            have = ", ".join(names) or "none"
            raise DataError(f"campaign {name!r} is not in the store, which has {have}; name one, or leave it out")
    taken = {row.id: row.name for row in rows if not campaigns or row.name in campaigns}
    return Scope(taken, _left_out(connection, without), with_gold)


def judgments(connection: sa.Connection, scope: Scope, *, kinds: Sequence[str] = ("ranking",)) -> Iterator[list[Said]]:
    """The judgments that stand, those of one item together."""
    for item_ids in _batches(connection, scope):
        yield from _of_items(connection, scope, item_ids, kinds)


def judged_items(connection: sa.Connection, scope: Scope) -> Iterator[JudgedItem]:
    """The items on which a ranking stands."""
    for item_ids in _batches(connection, scope):
        said_of = {group[0].item_id: tuple(group) for group in _of_items(connection, scope, item_ids, ("ranking",))}
        if not said_of:
            continue
        query = (
            sa.select(item.c.id, item.c.campaign_id, item.c.source, prompt.c.messages)
            .join(prompt, prompt.c.id == item.c.prompt_id)
            .where(item.c.id.in_(list(said_of)))
            .order_by(item.c.id)
        )
        responses = _responses(connection, list(said_of))
        for row in connection.execute(query).all():
            messages = tuple(Message.from_dict(message) for message in row.messages)
            content = Comparison(messages, responses[row.id], source=row.source)
            yield JudgedItem(row.id, scope.campaigns[row.campaign_id], content, said_of[row.id])


def _left_out(connection: sa.Connection, without: Sequence[str]) -> tuple[str, ...]:
    if not without:
        return ()
    state_of = {row.id: row.state for row in connection.execute(sa.select(annotator.c.id, annotator.c.state))}
    for name in without:
        if name not in state_of and name not in STATES:
            fix = f"give pseudonyms as exports have them, or {' and '.join(STATES)}"
            raise DataError(f"without_annotators names {name!r}, who is not in the store; {fix}")
    return tuple(sorted(name for name, state in state_of.items() if name in without or state in without))


def _batches(connection: sa.Connection, scope: Scope) -> Iterator[list[int]]:
    """Numbers of all items of the scope, upwards."""
    query = sa.select(item.c.id).where(item.c.campaign_id.in_(list(scope.campaigns)))
    if not scope.with_gold:
        query = query.where(item.c.kind.not_in(KNOWN_ANSWERS))
    last = 0
    while True:
        page = query.where(item.c.id > last).order_by(item.c.id).limit(ITEMS_AT_ONCE)
        item_ids = list(connection.execute(page).scalars())
        if not item_ids:
            return
        yield item_ids
        last = item_ids[-1]


def _of_items(
    connection: sa.Connection, scope: Scope, item_ids: Sequence[int], kinds: Sequence[str]
) -> Iterator[list[Said]]:
    query = assignment.current_judgments(kinds=kinds).where(judgment.c.item_id.in_(item_ids))
    if scope.without:
        query = query.where(judgment.c.annotator_id.not_in(scope.without))
    rows = connection.execute(query.order_by(judgment.c.item_id, judgment.c.number)).all()
    said = (_said(row) for row in rows)
    wanted = (each for each in said if scope.with_gold or each.role not in KNOWN_ANSWERS)
    for _, group in groupby(wanted, key=lambda each: each.item_id):
        yield list(group)


def _said(row: Any) -> Said:
    return Said(
        number=row.number,
        id=row.id,
        item_id=row.item_id,
        annotator=row.annotator_id,
        role=row.role or "work",  # judgments of the first schema have none
        kind=row.kind,
        ranks=tuple(row.ranks or ()),
        strength=row.strength,
        both_bad=bool(row.both_bad),
        aspects=row.aspects or {},
        rationale=row.rationale,
        edits={int(place): text for place, text in sorted((row.edits or {}).items())},
        shown_order=tuple(row.shown_order),
        guideline_version=row.guideline_version,
        active_ms=row.active_ms,
        app_version=row.app_version,
    )


def _responses(connection: sa.Connection, item_ids: Sequence[int]) -> dict[int, tuple[Response, ...]]:
    query = (
        sa.select(completion, policy.c.name)
        .join(policy, policy.c.id == completion.c.policy_id, isouter=True)
        .where(completion.c.item_id.in_(item_ids))
        .order_by(completion.c.item_id, completion.c.position)
    )
    found: dict[int, list[Response]] = {}
    for row in connection.execute(query):
        seed = None if row.seed is None else int(row.seed)
        response = Response(row.text, row.name, row.sampling, seed, row.finish_reason)
        found.setdefault(row.item_id, []).append(response)
    return {item_id: tuple(responses) for item_id, responses in found.items()}
