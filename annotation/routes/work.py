"""The REST interface of an annotator's work: what the judge page goes through, and scripts may."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annotation.diff import words_diff
from annotation.records import Annotator, Card, Gate, HistoryRow, Judgment, Said
from annotation.rendering import render
from annotation.routes.access import Adjudicating, Service, SignedIn
from annotation.service import AnnotationService
from annotation.stats.estimates import share

MAX_ITEMS = 100  # named in one request
MAX_RESPONSES = 64
MAX_TEXT = 200_000

router = APIRouter()

Client = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$", description="the browser tab's id")]
ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
RequestId = Annotated[
    str,
    Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", description="a UUID; resending is harmless"),
]
Ratings = Annotated[list[Annotated[int, Field(ge=1, le=MAX_RESPONSES)]], Field(max_length=MAX_RESPONSES)]
Place = Annotated[str, Field(pattern=r"^[0-9]{1,2}$", description="of a response as shown, counted from 0")]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    client: Client


class NextRequest(Body):
    exclude: Annotated[list[ItemId], Field(max_length=MAX_ITEMS)] = []


class JudgmentRequest(Body):
    id: RequestId
    item_id: ItemId
    kind: str
    ranks: Ratings | None = None
    strength: float | None = None
    both_bad: bool = False
    aspects: dict[Annotated[str, Field(max_length=200)], Ratings] = {}
    rationale: Text | None = None
    edits: dict[Place, Text] = {}
    reason: Annotated[str, Field(max_length=2000)] | None = None
    active_ms: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class UndoRequest(Body):
    id: RequestId


class LeasesRequest(Body):
    item_ids: Annotated[list[ItemId], Field(max_length=MAX_ITEMS)]


class ReleaseRequest(Body):
    pass


class AcceptRequest(Body):
    campaign_id: Annotated[int, Field(ge=1, le=2**53)]
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]


class OpenRequest(Body):
    item_id: ItemId


class DiffRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    old: Text
    new: Text


@router.post("/next")
def next_card(body: NextRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    given = service.next_card(annotator.id, body.client, exclude=body.exclude)
    return {"card": shown(given.card), "gate": _gate(given.gate), **state(service, annotator)}


@router.post("/judgments", status_code=201)
def submit(body: JudgmentRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    said = Said(
        kind=body.kind,
        ranks=None if body.ranks is None else tuple(body.ranks),
        strength=body.strength,
        both_bad=body.both_bad,
        aspects={name: tuple(ratings) for name, ratings in body.aspects.items()},
        rationale=body.rationale,
        edits={int(place): text for place, text in body.edits.items()},
        reason=body.reason,
    )
    saved = service.submit(annotator.id, Judgment(body.id, body.item_id, said, body.active_ms))
    return {"saved": asdict(saved), **state(service, annotator)}


@router.post("/undo")
def undo(body: UndoRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    undone = service.undo(annotator.id, body.client, body.id)
    answer = None if undone is None else {"card": shown(undone.card), "previous": as_json(undone.previous)}
    return {"undone": answer, **state(service, annotator)}


@router.get("/progress")
def progress(annotator: SignedIn, service: Service) -> dict[str, Any]:
    return state(service, annotator)


@router.post("/leases")
def renew(body: LeasesRequest, annotator: SignedIn, service: Service) -> dict[str, list[str]]:
    return {"held": service.renew(annotator.id, body.client, body.item_ids)}


async def _release_body(request: Request) -> ReleaseRequest:
    """`navigator.sendBeacon` sends its JSON as plain text."""
    try:
        return ReleaseRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


@router.post("/release", status_code=204)
def release(body: Annotated[ReleaseRequest, Depends(_release_body)], annotator: SignedIn, service: Service) -> Response:
    service.release(annotator.id, body.client)
    return Response(status_code=204)


@router.post("/guidelines/accept", status_code=204)
def accept_guideline(body: AcceptRequest, annotator: SignedIn, service: Service) -> Response:
    service.accept_guideline(annotator.id, body.campaign_id, body.version)
    return Response(status_code=204)


@router.get("/history")
def history(
    annotator: SignedIn,
    service: Service,
    before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    rows = service.history(annotator.id, before=before, limit=limit + 1)
    return {"rows": [_history_row(row) for row in rows[:limit]], "more": len(rows) > limit}


@router.post("/history/open")
def open_again(body: OpenRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    opened = service.open_again(annotator.id, body.client, body.item_id)
    return {"card": shown(opened.card), "previous": as_json(opened.previous)}


@router.get("/work")
def own_work(annotator: SignedIn, service: Service) -> dict[str, Any]:
    now = service.clock()
    times = service.own_times(annotator.id)
    gold = service.own_gold(annotator.id)
    right = share(gold.right, gold.n)
    seconds = [active_ms / 1000 for _, kind, active_ms in times if kind == "ranking"]
    midnight = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
    return {
        "today": sum(at >= midnight and kind == "ranking" for at, kind, _ in times),
        "total": len(seconds),
        "skipped": sum(kind == "skip" for _, kind, _ in times),
        "flagged": sum(kind == "flag" for _, kind, _ in times),
        "active_seconds": sum(seconds),
        "per_hour": 3600 * len(seconds) / sum(seconds) if sum(seconds) else None,
        "gold": {"n": gold.n, "right": gold.right, "low": right.low, "high": right.high} if gold.n else None,
        "campaigns": [
            {
                "campaign_id": found.id,
                "campaign": found.name,
                "guideline": None if text is None else {"version": text.version, "html": render(text.text)},
            }
            for found, text in service.own_campaigns(annotator.id)
        ],
    }


@router.post("/diff")
def diff(body: DiffRequest, annotator: SignedIn) -> dict[str, Any]:
    return {"parts": [[kind, text] for kind, text in words_diff(body.old, body.new)]}


@router.post("/adjudication/next")
def next_adjudication(body: NextRequest, annotator: Adjudicating, service: Service) -> dict[str, Any]:
    card, waiting = service.next_adjudication(annotator.id, body.client, exclude=body.exclude)
    return {"card": shown(card), "waiting": waiting}


def shown(card: Card | None) -> dict[str, Any] | None:
    """A card as the page reads it: texts verbatim, and as HTML that the page may put in as it is."""
    if card is None:
        return None
    html = {
        "prompt": [render(message.content) for message in card.prompt],
        "responses": [render(text) for text in card.responses],
    }
    return asdict(card) | {"html": html}


def as_json(said: Said) -> dict[str, Any]:
    """What was said; places of edits are digits, as JSON has them."""
    return asdict(said) | {"edits": {str(place): text for place, text in said.edits.items()}}


def state(service: AnnotationService, annotator: Annotator) -> dict[str, Any]:
    """What goes with every answer."""
    who = {name: getattr(annotator, name) for name in ("id", "name", "role", "has_password")}
    return {"progress": asdict(service.progress(annotator.id)), "annotator": who}


def _gate(gate: Gate | None) -> dict[str, Any] | None:
    if gate is None:
        return None
    told = {name: value for name, value in asdict(gate).items() if value is not None and name != "text"}
    return told if gate.text is None else told | {"html": render(gate.text)}


def _history_row(row: HistoryRow) -> dict[str, Any]:
    said = as_json(row.said)
    told = {name: said[name] for name in ("kind", "ranks", "strength", "both_bad", "rationale", "reason")}
    names = ("number", "item_id", "campaign", "at", "revision", "active_ms", "prompt")
    return {name: getattr(row, name) for name in names} | told | {"edited": sorted(row.said.edits)}
