"""Live prompts: an annotator writes one, the policies of a worker answer, and the answers become an item to judge.

    waiting ── a worker takes it ──> running ──> done        an item, or words why there is none
       │                                ├──────> failed      words
       └─────────── cancel ─────────────┴──────> cancelled

This is the annotator's side, and what both sides share; `annotation.worker` has the worker's. The two meet in the
store alone, so the app needs no torch, and a worker may run anywhere the database can be reached from.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from annotation import campaigns
from annotation.assignment import LIVE
from annotation.cards import show
from annotation.importing import has_a_choice
from annotation.records import AnnotationError, Card, TooLong, UnknownItem
from annotation.store import Store
from annotation.tables import (
    annotator,
    completion,
    item,
    live_answer,
    live_request,
    live_worker,
    prompt,
    showing,
    slot,
)
from rlhf.data.comparisons import Comparison, DataError, Message, Response

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
UNFINISHED = (WAITING, RUNNING)
MOST_WAITING = 3  # requests of one annotator that are not finished
MOST_WAITING_IN_ALL = 100
LONGEST_PROMPT = 50_000  # characters of all messages
MOST_MESSAGES = 100
PATIENCE_SECONDS = 3600.0  # after which a request that no worker took is given up
WORKER_SECONDS = 20.0  # after which a worker that was not heard of counts as gone
ITEM_LEASE_SECONDS = 600.0

NOBODY_CAME = "no worker took it within an hour: start one with `rlhf annotate worker`, and ask again"
TOO_FEW_TEXTS = "fewer than two policies answered with any text, so there is nothing to judge; ask something else"
ALL_THE_SAME = "all policies gave the same answer, so there is nothing to judge; ask something else"
KNOWN_ALREADY = "the campaign has this very prompt with these very answers already; ask something else"


class InvalidPrompt(AnnotationError):
    """A prompt that cannot be asked."""


class UnknownRequest(UnknownItem):
    """There is no such request of this annotator."""


class TooManyWaiting(AnnotationError):
    """More requests than one annotator, or all together, may have at once."""


@dataclass(frozen=True)
class LiveCampaign:
    """A campaign in which annotators may write prompts. `policies` answer each; 0 while no worker is running."""

    campaign_id: int
    campaign: str
    policies: int


@dataclass(frozen=True)
class LiveText:
    """What there is of one answer."""

    text: str
    done: bool


@dataclass(frozen=True)
class LiveView:
    """A request as its annotator sees it.

    Attributes:
        id: chosen by the browser.
        state: waiting, running, done, failed or cancelled.
        position: its place in the queue from 1; None when it does not wait.
        answers: in blind order, the one of the card; none before a worker has taken it.
        error: words: why it failed, why a finished one has no card, what is slow. None where all is well.
        card: of the item that was made of it, as long as it is leased to the annotator.
        worker: whether any worker is running.
    """

    id: str
    state: str
    position: int | None
    answers: tuple[LiveText, ...]
    error: str | None
    card: Card | None
    worker: bool


class LivePrompts:
    """What annotators do with live prompts. Holds no state of its own.

    Args:
        store: where everything is kept.
        clock: seconds since 1970; workers go by the same time.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time):
        self.store = store
        self.clock = clock

    def campaigns(self, annotator_id: str) -> tuple[list[LiveCampaign], bool]:
        """The campaigns this annotator may ask in, and whether a worker is running."""
        with self.store.reading() as connection:
            policies = _policies_running(connection, self.clock())
            open_ones = [
                found for found in campaigns.working_campaigns(connection, annotator_id) if found.settings.live
            ]
        return [LiveCampaign(found.id, found.name, policies) for found in open_ones], policies > 0

    def ask(
        self, annotator_id: str, client: str, request_id: str, campaign_id: int, messages: Sequence[Mapping[str, Any]]
    ) -> str:
        """Queue a prompt; its state. Sent again with the same id it changes nothing.

        Args:
            annotator_id: who asks.
            client: the tab that gets the item.
            request_id: chosen by the browser, a UUID.
            campaign_id: where the item goes.
            messages: the conversation, `role` and `content` each; the last is the user's.

        Raises:
            InvalidPrompt: the prompt or the campaign cannot be used, or the id was used for something else.
            TooLong: the conversation is.
            TooManyWaiting: too many are waiting already.
        """
        rows = [message.to_dict() for message in _checked(messages)]

        def queue(connection: sa.Connection) -> str:
            # one at a time: two would both be the last that is allowed
            own = sa.select(annotator.c.id).where(annotator.c.id == annotator_id)
            connection.execute(own.with_for_update(key_share=True))
            known = connection.execute(sa.select(live_request).where(live_request.c.id == request_id)).first()
            if known is not None:
                if (known.annotator_id, known.campaign_id, known.messages) != (annotator_id, campaign_id, rows):
                    raise InvalidPrompt(f"id {request_id} was used for another prompt; send a new one")
                return known.state
            now = self.clock()
            _check_campaign(connection, annotator_id, campaign_id)
            give_up_old_ones(connection, now)
            _check_room(connection, annotator_id)
            row = {"id": request_id, "campaign_id": campaign_id, "annotator_id": annotator_id, "client": client}
            row |= {"messages": rows, "state": WAITING, "created_at": now}
            connection.execute(sa.insert(live_request).values(row))
            return WAITING

        return self.store.write(queue)

    def look(self, annotator_id: str, request_id: str) -> LiveView:
        """How far a request is.

        Raises:
            UnknownRequest: this annotator has no such request.
        """
        with self.store.reading() as connection:
            request = _own(connection, annotator_id, request_id)
            return LiveView(
                id=request.id,
                state=request.state,
                position=_position(connection, request),
                answers=_answers_as_shown(connection, request),
                error=request.error,
                card=_card(connection, request),
                worker=_policies_running(connection, self.clock()) > 0,
            )

    def tab_of(self, annotator_id: str, request_id: str) -> str:
        """The browser tab that asked.

        Raises:
            UnknownRequest: this annotator has no such request.
        """
        with self.store.reading() as connection:
            return _own(connection, annotator_id, request_id).client

    def cancel(self, annotator_id: str, request_id: str) -> str:
        """Stop a request that is not finished; the state it then has. The worker stops when it next writes.

        Raises:
            UnknownRequest: this annotator has no such request.
        """

        def stop(connection: sa.Connection) -> str:
            _own(connection, annotator_id, request_id)
            own = (live_request.c.id == request_id) & live_request.c.state.in_(UNFINISHED)
            values = {"state": CANCELLED, "finished_at": self.clock(), "leased_until": None, "error": None}
            connection.execute(sa.update(live_request).where(own).values(values))
            return _own(connection, annotator_id, request_id).state

        return self.store.write(stop)


def blind_order(seeds: Sequence[str], annotator_id: str) -> list[int]:
    """Positions of the answers from left to right, before there is an item to draw an order for.

    The seeds are drawn by the worker and never shown: who asks cannot work the order out.
    """
    drawn = f"{':'.join(seeds)}:{annotator_id}"
    return sorted(range(len(seeds)), key=lambda place: hashlib.sha256(f"{drawn}:{place}".encode()).digest())


def give_up_old_ones(connection: sa.Connection, now: float) -> None:
    """Let requests fail that waited too long for a worker; nobody looks at them any more."""
    late = (live_request.c.state == WAITING) & (live_request.c.created_at <= now - PATIENCE_SECONDS)
    values = {"state": FAILED, "error": NOBODY_CAME, "finished_at": now}
    connection.execute(sa.update(live_request).where(late).values(values))


def make_item(
    connection: sa.Connection, request: sa.Row, responses: Sequence[tuple[int, Response]], *, now: float
) -> tuple[int | None, str | None]:
    """Turn the answers to a request into an item that is leased to its annotator; or say why there is none.

    Args:
        connection: of a transaction that writes.
        request: the row of `live_request`.
        responses: for each position the policy's number and what it answered, with its seed.
        now: the time.

    Returns:
        The item's number and None, or None and words.
    """
    kept = [place for place, (_, response) in enumerate(responses) if response.text.strip()]
    if len(kept) < 2:
        return None, TOO_FEW_TEXTS
    answered = [responses[place] for place in kept]
    messages = tuple(Message.from_dict(message) for message in request.messages)
    comparison = Comparison(messages, tuple(response for _, response in answered), source="live")
    if not has_a_choice(comparison):
        return None, ALL_THE_SAME
    same = (item.c.campaign_id == request.campaign_id) & (item.c.comparison_id == comparison.id)
    if connection.execute(sa.select(item.c.id).where(same)).first() is not None:
        return None, KNOWN_ALREADY
    if connection.execute(sa.select(prompt.c.id).where(prompt.c.id == comparison.prompt_id)).first() is None:
        connection.execute(sa.insert(prompt).values(id=comparison.prompt_id, messages=request.messages))
    row = {"campaign_id": request.campaign_id, "prompt_id": comparison.prompt_id, "comparison_id": comparison.id}
    row |= {"source": comparison.source, "created_at": now, "kind": LIVE}
    item_id = connection.execute(sa.insert(item).values(row).returning(item.c.id)).scalar_one()
    completions = [
        {
            "item_id": item_id,
            "position": place,
            "text": response.text,
            "policy_id": policy_id,
            "sampling": dict(response.sampling),
            "seed": str(response.seed),
            "finish_reason": response.finish_reason,
        }
        for place, (policy_id, response) in enumerate(answered)
    ]
    connection.execute(sa.insert(completion), completions)
    leased = {"state": "leased", "annotator_id": request.annotator_id, "client": request.client}
    leased |= {"leased_until": now + ITEM_LEASE_SECONDS, "campaign_id": request.campaign_id, "kind": LIVE}
    connection.execute(sa.insert(slot).values(item_id=item_id, number=1, **leased))
    # as it was seen to grow, without the answers that had no text
    order = blind_order([str(response.seed) for _, response in responses], request.annotator_id)
    shown = [kept.index(place) for place in order if place in kept]
    seen = {"item_id": item_id, "annotator_id": request.annotator_id, "shown_order": shown, "chosen_by": "own"}
    connection.execute(sa.insert(showing).values(seen))
    return item_id, None


def _checked(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    if len(messages) > MOST_MESSAGES:
        raise InvalidPrompt(f"the conversation has {len(messages)} messages; at most {MOST_MESSAGES} are taken")
    try:
        found = Comparison(tuple(Message.from_dict(message) for message in messages)).prompt
    except DataError as error:
        raise InvalidPrompt(str(error)) from None
    length = sum(len(message.content) for message in found)
    if length > LONGEST_PROMPT:
        raise TooLong(f"the conversation has {length} characters, at most {LONGEST_PROMPT} are taken; shorten it")
    if any("\0" in message.content for message in found):
        raise InvalidPrompt("the prompt holds a NUL character, which databases do not keep; remove it")
    return found


def _check_campaign(connection: sa.Connection, annotator_id: str, campaign_id: int) -> None:
    if campaigns.state_of(connection, annotator_id) != "active":
        raise InvalidPrompt("your work is paused: ask a manager")
    working = {found.id: found for found in campaigns.working_campaigns(connection, annotator_id)}
    if campaign_id not in working or not working[campaign_id].settings.live:
        raise InvalidPrompt(f"campaign {campaign_id} takes no prompts of yours; choose one of those offered")
    if campaigns.guideline_to_accept(connection, campaign_id, annotator_id) is not None:
        raise InvalidPrompt(f"read and accept the guidelines of {working[campaign_id].name!r} first")


def _check_room(connection: sa.Connection, annotator_id: str) -> None:
    unfinished = sa.select(sa.func.count()).where(live_request.c.state.in_(UNFINISHED))
    own = connection.execute(unfinished.where(live_request.c.annotator_id == annotator_id)).scalar_one()
    if own >= MOST_WAITING:
        raise TooManyWaiting(f"{own} prompts of yours are not answered yet; wait for one of them, or cancel it")
    if connection.execute(unfinished).scalar_one() >= MOST_WAITING_IN_ALL:
        raise TooManyWaiting(f"{MOST_WAITING_IN_ALL} prompts are waiting for answers; try again later")


def _own(connection: sa.Connection, annotator_id: str, request_id: str) -> sa.Row:
    own = (live_request.c.id == request_id) & (live_request.c.annotator_id == annotator_id)
    request = connection.execute(sa.select(live_request).where(own)).first()
    if request is None:
        raise UnknownRequest("there is no such prompt of yours; reload the page")
    return request


def _position(connection: sa.Connection, request: sa.Row) -> int | None:
    if request.state != WAITING:
        return None
    earlier = sa.tuple_(live_request.c.created_at, live_request.c.id) < sa.tuple_(
        sa.literal(request.created_at), sa.literal(request.id)
    )
    ahead = sa.select(sa.func.count()).where(live_request.c.state == WAITING, earlier)
    return connection.execute(ahead).scalar_one() + 1


def _answers_as_shown(connection: sa.Connection, request: sa.Row) -> tuple[LiveText, ...]:
    query = sa.select(live_answer).where(live_answer.c.request_id == request.id).order_by(live_answer.c.position)
    rows = connection.execute(query).all()
    order = blind_order([str(row.seed) for row in rows], request.annotator_id)
    return tuple(LiveText(rows[place].text, rows[place].finish_reason is not None) for place in order)


def _card(connection: sa.Connection, request: sa.Row) -> Card | None:
    if request.item_id is None:
        return None
    held = (slot.c.item_id == request.item_id) & (slot.c.annotator_id == request.annotator_id)
    until = connection.execute(sa.select(slot.c.leased_until).where(held, slot.c.state == "leased")).scalar()
    return None if until is None else show(connection, request.item_id, request.annotator_id, until)


def _policies_running(connection: sa.Connection, now: float) -> int:
    """Policies of the running worker that has most of them."""
    running = sa.select(live_worker.c.policies).where(live_worker.c.seen_at > now - WORKER_SECONDS)
    return max((len(policies) for policies in connection.execute(running).scalars()), default=0)
