"""Items with the judgments that stand on them, read from a store batch by batch in a fixed order.

Items come in the order in which they were added, judgments of one item in the order in which they were given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from annotation import assignment
from annotation.tables import annotator, campaign, completion, item, judgment, policy, prompt
from rlhf.data.comparisons import Comparison, DataError, Message, Response

ITEMS_AT_ONCE = 500
STATES = ("paused", "closed")
KNOWN_ANSWERS = ("gold", "qualification")
ROLE = sa.func.coalesce(judgment.c.role, "work")  # judgments of the first schema have none
# as texts, each of which is read once
RANKS, SHOWN_ORDER = sa.cast(judgment.c.ranks, sa.Text), sa.cast(judgment.c.shown_order, sa.Text)


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
    """One ranking that stands; all by position of the completions, not as shown.

    Attributes:
        number: its place in the store's chain of judgments.
        role: "work", "live", "adjudication", "gold" or "qualification".
        edits: position -> the annotator's better text.
    """

    number: int
    id: str
    item_id: int
    annotator: str
    role: str
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


def judged_items(connection: sa.Connection, scope: Scope) -> Iterator[JudgedItem]:
    """The items on which a ranking stands."""
    for item_ids in _batches(connection, scope):
        said_of = _rankings(connection, scope, item_ids)
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


def standing(scope: Scope, *columns: sa.ColumnElement[Any], kinds: Sequence[str] = ("ranking",)) -> sa.Select:
    """These columns of the judgments of a scope that stand."""
    query = (
        assignment.current_judgments(kinds=kinds)
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id.in_(list(scope.campaigns)))
        .with_only_columns(*columns)
    )
    if scope.without:
        query = query.where(judgment.c.annotator_id.not_in(scope.without))
    if not scope.with_gold:
        query = query.where(item.c.kind.not_in(KNOWN_ANSWERS), ROLE.not_in(KNOWN_ANSWERS))
    return query


def _rankings(connection: sa.Connection, scope: Scope, item_ids: Sequence[int]) -> dict[int, tuple[Said, ...]]:
    query = standing(
        scope,
        *(judgment.c.number, judgment.c.id, judgment.c.item_id, judgment.c.annotator_id, ROLE, RANKS),
        *(judgment.c.strength, judgment.c.both_bad, judgment.c.aspects, judgment.c.rationale, judgment.c.edits),
        *(SHOWN_ORDER, judgment.c.guideline_version, judgment.c.active_ms, judgment.c.app_version),
    ).where(judgment.c.item_id.in_(item_ids))
    rows = connection.execute(query.order_by(judgment.c.item_id, judgment.c.number))
    said = (_said(*row) for row in rows)
    return {item_id: tuple(group) for item_id, group in groupby(said, key=lambda each: each.item_id)}


def _said(
    number: int,
    judgment_id: str,
    item_id: int,
    annotator_id: str,
    role: str,
    ranks: str,
    strength: float | None,
    both_bad: bool | None,
    aspects: dict[str, list[int]] | None,
    rationale: str | None,
    edits: dict[str, str] | None,
    shown_order: str,
    guideline_version: int | None,
    active_ms: int,
    app_version: str,
) -> Said:
    return Said(
        number=number,
        id=judgment_id,
        item_id=item_id,
        annotator=annotator_id,
        role=role,
        ranks=numbers(ranks),
        strength=strength,
        both_bad=bool(both_bad),
        aspects=aspects or {},
        rationale=rationale,
        edits={int(place): text for place, text in sorted(edits.items())} if edits else {},
        shown_order=numbers(shown_order),
        guideline_version=guideline_version,
        active_ms=active_ms,
        app_version=app_version,
    )


@lru_cache(maxsize=10_000)
def numbers(text: str) -> tuple[int, ...]:
    """A list of numbers in JSON; there are many rows of few such lists."""
    return tuple(json.loads(text))


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
