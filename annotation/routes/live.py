"""The REST interface of live prompts, and the stream in which their answers are seen to grow."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from annotation.live import MOST_MESSAGES, UNFINISHED, LivePrompts, LiveView, TooManyWaiting
from annotation.routes.access import Service, SignedIn
from annotation.routes.work import Body, RequestId, Text, shown
from annotation.store import StoreUnavailable

MOST_STREAMS = 100  # open at once
POLL_SECONDS = 0.25
QUIET_SECONDS = 10.0  # after which a comment shows that the stream is alive
STREAM_SECONDS = 300.0  # after which it ends; the browser asks again, and shows its session again
POLLING_THREADS = 4  # for all streams together, so that they leave the others to the handlers

router = APIRouter()


class Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: Text


class AskRequest(Body):
    id: RequestId
    campaign_id: Annotated[int, Field(ge=1, le=2**53)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES)]


class CancelRequest(Body):
    pass


class Streams:
    """The streams that are open: one for each tab, and a bounded number of them. Used in the event loop alone."""

    def __init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(POLLING_THREADS)
        self._current: dict[tuple[str, str], object] = {}

    def check_room(self, tab: tuple[str, str]) -> None:
        """Refuse one more than may be open.

        Raises:
            HTTPException: 503.
        """
        if tab not in self._current and len(self._current) >= MOST_STREAMS:
            detail = f"{MOST_STREAMS} streams are open, which is the most; ask for the state every second instead"
            raise HTTPException(503, detail, {"Retry-After": "5"})

    def open(self, tab: tuple[str, str]) -> Callable[[], bool]:
        """Begin a tab's stream, which ends the one it had; the answer tells whether it is still the tab's."""
        mine = self._current[tab] = object()
        return lambda: self._current.get(tab) is mine

    def close(self, tab: tuple[str, str]) -> None:
        self._current.pop(tab, None)


def _live(service: Service) -> LivePrompts:
    return LivePrompts(service.store, clock=service.clock)


async def _streams(request: Request) -> Streams:
    state = request.app.state
    if not hasattr(state, "live_streams"):
        state.live_streams = Streams()
    return state.live_streams


Live = Annotated[LivePrompts, Depends(_live)]


@router.get("/live")
def offered(annotator: SignedIn, live: Live) -> dict[str, Any]:
    campaigns, worker = live.campaigns(annotator.id)
    return {"campaigns": [asdict(found) for found in campaigns], "worker": worker}


@router.post("/live", status_code=201)
def ask(body: AskRequest, annotator: SignedIn, live: Live) -> dict[str, str]:
    messages = [turn.model_dump() for turn in body.messages]
    try:
        state = live.ask(annotator.id, body.client, body.id, body.campaign_id, messages)
    except TooManyWaiting as error:
        raise HTTPException(429, str(error), {"Retry-After": "5"}) from None
    return {"id": body.id, "state": state}


@router.get("/live/{request_id}")
def look(request_id: RequestId, annotator: SignedIn, live: Live) -> dict[str, Any]:
    return _told(live.look(annotator.id, request_id))


@router.post("/live/{request_id}/cancel")
def cancel(request_id: RequestId, body: CancelRequest, annotator: SignedIn, live: Live) -> dict[str, str]:
    return {"id": request_id, "state": live.cancel(annotator.id, request_id)}


@router.get(
    "/live/{request_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(
    request_id: RequestId,
    request: Request,
    annotator: SignedIn,
    live: Live,
    streams: Annotated[Streams, Depends(_streams)],
) -> StreamingResponse:
    """Server-Sent Events: what `GET live/{id}` says, each time it has changed, until it is over."""
    find = partial(live.tab_of, annotator.id, request_id)
    tab = (annotator.id, await anyio.to_thread.run_sync(find, limiter=streams.limiter))
    streams.check_room(tab)

    async def follow() -> AsyncIterator[str]:
        is_current = streams.open(tab)
        try:
            look = partial(live.look, annotator.id, request_id)
            async for event in _changes(look, streams.limiter):
                if not is_current() or await request.is_disconnected():
                    return
                if event:
                    yield event
        finally:
            if is_current():
                streams.close(tab)

    return StreamingResponse(follow(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _changes(look: Callable[[], LiveView], limiter: anyio.CapacityLimiter) -> AsyncIterator[str]:
    """An event where something has changed, a comment where nothing has for long, else nothing: one every poll."""
    last, said_at = "", time.monotonic()
    ends_at = said_at + STREAM_SECONDS
    while time.monotonic() < ends_at:
        try:
            view = await anyio.to_thread.run_sync(look, limiter=limiter)
        except StoreUnavailable:
            yield ""  # busy; the next look may do
        else:
            told = json.dumps(await anyio.to_thread.run_sync(_told, view, limiter=limiter))
            quiet = time.monotonic() - said_at > QUIET_SECONDS
            event = f"data: {told}\n\n" if told != last else ": alive\n\n" if quiet else ""
            if event:
                said_at = time.monotonic()
            last = told
            yield event
            if view.state not in UNFINISHED:
                return
        await anyio.sleep(POLL_SECONDS)


def _told(view: LiveView) -> dict[str, Any]:
    return asdict(view) | {"card": shown(view.card)}
