"""A worker's side of live prompts: it takes a request, has it answered, and writes the answers while they grow.

No torch here: what answers is given (`rlhf.live_worker` brings the policies). Generation happens between
transactions, each of which is short. A request belongs to a worker by a lease that a thread renews; one whose worker
died goes to the next, once. That one draws with the same seeds, so the text goes on growing where it stopped.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from annotation.importing import PolicyOrigin, policy_id
from annotation.live import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    WORKER_SECONDS,
    give_up_old_ones,
    make_item,
)
from annotation.store import Store, StoreUnavailable
from annotation.tables import live_answer, live_request, live_worker
from rlhf.data.comparisons import Message, Response

logger = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
POLL_SECONDS = 0.2  # between two looks for a request
WRITE_SECONDS = 0.3  # between two writes of what has grown
TRIES_TO_FINISH = 30  # a second apart, where the store is busy

LOST_ONCE = "the worker that answered was lost; another one has begun again"
LOST_TWICE = "two workers were lost over this prompt; it is not tried again"

Result = TypeVar("Result")


class Unanswerable(ValueError):
    """A prompt that the policies do not answer, in words for the annotator that name no policy."""


class Answer(Protocol):
    """One policy's answer, generated a token at a time."""

    ended: bool

    def step(self) -> None:
        """One token more."""

    def text(self) -> str:
        """What there is of it so far; each text begins with the one before."""

    def response(self) -> Response:
        """The whole with its provenance, once it has ended."""


class Answering(Protocol):
    """What answers, for instance policies on this machine."""

    def start(self, messages: Sequence[Message], seeds: Sequence[int]) -> Sequence[Answer]:
        """An answer of each policy, of which nothing is generated yet.

        Raises:
            Unanswerable: the prompt does not fit.
        """


@dataclass(frozen=True)
class LivePolicy:
    """A policy that answers: its name, what is known of its weights, and how it is sampled (as in `Response`)."""

    name: str
    origin: PolicyOrigin
    sampling: Mapping[str, Any]


@dataclass(frozen=True)
class Claimed:
    """A request that this worker is to answer.

    Attributes:
        id: the request's.
        messages: the conversation.
        seeds: one for each policy.
        texts: what an earlier worker has written of each answer; empty without one.
    """

    id: str
    messages: tuple[Message, ...]
    seeds: tuple[int, ...]
    texts: tuple[str, ...]


class LiveQueue:
    """The requests, as one worker sees them. Any thread may call.

    Args:
        store: where the requests are.
        policies: who answers, in the order in which answers are kept.
        lease_seconds: how long a request stays with a worker that is not heard of; at most `WORKER_SECONDS`.
        clock: seconds since 1970, in step with the app's.

    Attributes:
        name: the worker's own.
    """

    def __init__(
        self,
        store: Store,
        policies: Sequence[LivePolicy],
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ):
        self.store = store
        self.policies = policies
        self.lease_seconds = lease_seconds
        self.clock = clock
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._policy_ids: list[int] = []

    def join(self) -> None:
        """Enter the policies and this worker."""

        def enter(connection: sa.Connection) -> list[int]:
            old = live_worker.c.seen_at <= self.clock() - WORKER_SECONDS
            connection.execute(sa.delete(live_worker).where(old))
            self._be_seen(connection)
            return [policy_id(connection, one.name, one.origin) for one in self.policies]

        self._policy_ids = self.store.write(enter)

    def leave(self) -> None:
        """Say that this worker is gone, and give back what it has."""

        def go(connection: sa.Connection) -> None:
            values = {"state": WAITING, "worker": None, "leased_until": None}
            connection.execute(sa.update(live_request).where(self._own()).values(values))
            connection.execute(sa.delete(live_worker).where(live_worker.c.name == self.name))

        self.store.write(go)

    def beat(self) -> None:
        """Say that this worker is alive, and keep what it has."""

        def renew(connection: sa.Connection) -> None:
            self._be_seen(connection)
            values = {"leased_until": self.clock() + self.lease_seconds}
            connection.execute(sa.update(live_request).where(self._own()).values(values))

        self.store.write(renew)

    def claim(self) -> Claimed | None:
        """Take the oldest request that waits or whose worker is gone; None when there is none."""
        now = self.clock()
        state = live_request.c.state
        lost = (state == RUNNING) & (live_request.c.leased_until <= now)
        with self.store.reading() as connection:  # no write lock is taken only to look
            if (
                connection.execute(sa.select(live_request.c.id).where((state == WAITING) | lost).limit(1)).first()
                is None
            ):
                return None

        def take(connection: sa.Connection) -> Claimed | None:
            give_up_old_ones(connection, now)
            ended = {"state": FAILED, "error": LOST_TWICE, "finished_at": now}
            connection.execute(sa.update(live_request).where(lost, live_request.c.error.is_not(None)).values(ended))
            first = sa.select(live_request.c.id).where((state == WAITING) | lost)
            first = first.order_by(live_request.c.created_at, live_request.c.id).limit(1)
            error = sa.case((state == RUNNING, LOST_ONCE), else_=live_request.c.error)
            taken = (
                sa.update(live_request)
                .where(live_request.c.id == first.with_for_update(skip_locked=True).scalar_subquery())
                .values(state=RUNNING, worker=self.name, leased_until=now + self.lease_seconds, error=error)
                .returning(live_request.c.id, live_request.c.messages)
            )
            row = connection.execute(taken).first()
            if row is None:
                return None
            messages = tuple(Message.from_dict(message) for message in row.messages)
            answers = self._answers(connection, row.id)
            return Claimed(
                row.id, messages, tuple(int(seed) for seed, _ in answers), tuple(text for _, text in answers)
            )

        return self.store.write(take)

    def write(self, request_id: str, grown: Mapping[int, tuple[str, str | None]]) -> bool:
        """Write what has grown, by position: the text and, of an answer that has ended, its finish reason.

        Returns:
            Whether the request is still this worker's; if not, it was cancelled or has gone to another one.
        """

        def keep(connection: sa.Connection) -> bool:
            if self._held(connection, request_id) is None:
                return False
            for position, (text, finish_reason) in grown.items():
                _put(connection, request_id, position, text, finish_reason)
            return True

        return self.store.write(keep)

    def finish(self, request_id: str, responses: Sequence[Response]) -> bool:
        """Keep the answers and make an item of them, or a note why there is none; False as `write`."""

        def end(connection: sa.Connection) -> bool:
            request = self._held(connection, request_id)
            if request is None:
                return False
            for position, response in enumerate(responses):
                _put(connection, request_id, position, response.text, response.finish_reason)
            now = self.clock()
            answered = list(zip(self._policy_ids, responses, strict=True))
            item_id, note = make_item(connection, request, answered, now=now)
            self._end(connection, request_id, state=DONE, error=note, item_id=item_id)
            return True

        return self.store.write(end)

    def fail(self, request_id: str, words: str) -> bool:
        """End a request that cannot be answered; False as `write`."""

        def end(connection: sa.Connection) -> bool:
            if self._held(connection, request_id) is None:
                return False
            self._end(connection, request_id, state=FAILED, error=words)
            return True

        return self.store.write(end)

    def _own(self) -> sa.ColumnElement[bool]:
        return (live_request.c.worker == self.name) & (live_request.c.state == RUNNING)

    def _held(self, connection: sa.Connection, request_id: str) -> sa.Row | None:
        own = sa.select(live_request).where(live_request.c.id == request_id, self._own())
        return connection.execute(own.with_for_update()).first()

    def _end(self, connection: sa.Connection, request_id: str, **values: Any) -> None:
        ended = {"finished_at": self.clock(), "leased_until": None} | values
        connection.execute(sa.update(live_request).where(live_request.c.id == request_id).values(ended))

    def _be_seen(self, connection: sa.Connection) -> None:
        now = self.clock()
        own = sa.update(live_worker).where(live_worker.c.name == self.name)
        if not connection.execute(own.values(seen_at=now)).rowcount:
            row = {"name": self.name, "policies": [one.name for one in self.policies], "seen_at": now}
            connection.execute(sa.insert(live_worker).values(row))

    def _answers(self, connection: sa.Connection, request_id: str) -> list[tuple[str, str]]:
        """Seed and text of each answer: those of an earlier worker with the same policies, else new ones."""
        own = live_answer.c.request_id == request_id
        known = connection.execute(sa.select(live_answer).where(own).order_by(live_answer.c.position)).all()
        wanted = [(number, dict(one.sampling)) for number, one in zip(self._policy_ids, self.policies, strict=True)]
        if [(row.policy_id, row.sampling) for row in known] == wanted:
            return [(row.seed, row.text) for row in known]
        connection.execute(sa.delete(live_answer).where(own))
        seeds = [str(secrets.randbelow(2**31)) for _ in wanted]
        rows = [
            {
                "request_id": request_id,
                "position": position,
                "policy_id": policy_id,
                "text": "",
                "sampling": sampling,
                "seed": seed,
            }
            for position, ((policy_id, sampling), seed) in enumerate(zip(wanted, seeds, strict=True))
        ]
        connection.execute(sa.insert(live_answer), rows)
        return [(seed, "") for seed in seeds]


class Worker:
    """Answers one request after the other, all policies of a request in turns of a token.

    Args:
        queue: the requests.
        answering: what answers; its answers are in the order of the queue's policies.
    """

    def __init__(self, queue: LiveQueue, answering: Answering):
        self.queue = queue
        self.answering = answering
        self.stopping = threading.Event()

    def run(self) -> None:
        """Work until `stopping` is set, from a signal or another thread; what is not finished is given back.

        Raises:
            StoreUnavailable: the store stays too busy to begin.
        """
        self._insist(self.queue.join)
        gone = threading.Event()
        pulse = threading.Thread(target=self._pulse, args=(gone,), name="heartbeat", daemon=True)
        pulse.start()
        try:
            while not self.stopping.is_set():
                if not self.work():
                    self.stopping.wait(POLL_SECONDS)
        finally:
            gone.set()
            pulse.join()
            try:
                self.queue.leave()
            except StoreUnavailable as error:
                logger.warning("leaving: %s; what it had goes to another worker once its lease has run out", error)

    def work(self) -> bool:
        """Answer one request; False when there was none."""
        try:
            claimed = self.queue.claim()
        except StoreUnavailable as error:
            logger.warning("looking for prompts: %s", error)
            return False
        if claimed is None:
            return False
        try:
            self._answer(claimed)
        except StoreUnavailable as error:
            logger.error("prompt %s: its answers could not be kept: %s", claimed.id, error)
        except Unanswerable as error:
            self._fail(claimed.id, str(error))
        except Exception as error:
            # whatever it was, the next prompt may be answered
            logger.exception("prompt %s", claimed.id)
            self._fail(claimed.id, f"the worker failed at this ({type(error).__name__}); its log says why")
        return True

    def _fail(self, request_id: str, words: str) -> None:
        try:
            self._insist(lambda: self.queue.fail(request_id, words))
        except StoreUnavailable as error:
            logger.error("prompt %s: that it failed could not be kept: %s", request_id, error)

    def _answer(self, claimed: Claimed) -> None:
        answers = self.answering.start(claimed.messages, claimed.seeds)
        written = {place: (text, False) for place, text in enumerate(claimed.texts)}
        due = 0.0  # the first token is written at once
        while growing := [answer for answer in answers if not answer.ended]:
            for answer in growing:
                answer.step()
            if self.stopping.is_set():
                return  # `leave` gives it back
            if time.monotonic() < due:
                continue
            grown = _grown(answers, written)
            try:
                if not self.queue.write(claimed.id, grown):
                    return
            except StoreUnavailable as error:
                logger.warning("prompt %s: %s", claimed.id, error)
            else:
                written |= {place: (text, finish_reason is not None) for place, (text, finish_reason) in grown.items()}
            due = time.monotonic() + WRITE_SECONDS
        responses = [answer.response() for answer in answers]
        for response in responses:
            _check_storable(response.text)
        self._insist(lambda: self.queue.finish(claimed.id, responses))

    def _insist(self, action: Callable[[], Result]) -> Result:
        """Try again while the store is busy: what took long to generate is not thrown away."""
        for _ in range(TRIES_TO_FINISH):
            try:
                return action()
            except StoreUnavailable as error:
                logger.warning("%s", error)
                time.sleep(1)
        return action()

    def _pulse(self, gone: threading.Event) -> None:
        while not gone.wait(self.queue.lease_seconds / 4):
            try:
                self.queue.beat()
            except StoreUnavailable as error:
                logger.warning("heartbeat: %s", error)


def _grown(answers: Sequence[Answer], written: Mapping[int, tuple[str, bool]]) -> dict[int, tuple[str, str | None]]:
    """Answers that are longer than what is written, or have ended since; an earlier worker may have been further."""
    grown: dict[int, tuple[str, str | None]] = {}
    for place, answer in enumerate(answers):
        text, ended = written[place]
        if answer.ended and not ended:
            response = answer.response()
            grown[place] = (_check_storable(response.text), response.finish_reason)
        elif not answer.ended and len(now := answer.text()) > len(text):
            grown[place] = (_check_storable(now), None)
    return grown


def _check_storable(text: str) -> str:
    if "\0" in text:
        raise Unanswerable("an answer holds a NUL character, which databases do not keep; ask something else")
    return text


def _put(connection: sa.Connection, request_id: str, position: int, text: str, finish_reason: str | None) -> None:
    own = (live_answer.c.request_id == request_id) & (live_answer.c.position == position)
    connection.execute(sa.update(live_answer).where(own).values(text=text, finish_reason=finish_reason))
