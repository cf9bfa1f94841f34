"""What the pages and the command line do with the store. No web framework, no torch; any thread may call.

Each method is one short transaction. What is returned has been committed.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from annotation import assignment
from annotation.records import (
    Annotator,
    Card,
    InvalidJudgment,
    InvalidName,
    Judgment,
    NotHeld,
    Progress,
    Saved,
    Undone,
    UnknownItem,
)
from annotation.store import Store
from annotation.tables import annotator, campaign, completion, item, judgment, prompt, session, showing, slot
from rlhf import __version__
from rlhf.data.comparisons import Message

LEASE_SECONDS = 600.0
SESSION_SECONDS = 30 * 24 * 3600.0
LONGEST_NAME = 64
LONGEST_REASON = 2000
STRENGTHS = (1, 2, 3)
# From this many items on, the store-wide numbers are counted every few seconds and not at each answer.
LARGE_STORE = 2000
COUNT_SECONDS = 5.0


@dataclass(frozen=True)
class _Counted:
    """Items of the store, those with all their rankings, those with a free slot, and until when this is good."""

    total: int
    done: int
    free: int
    until: float


class AnnotationService:
    """The work of annotators on one store.

    Args:
        store: where everything is kept.
        lease_seconds: how long an item stays with a tab that no longer asks for it.
        clock: seconds since 1970.
    """

    def __init__(self, store: Store, *, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.time):
        self.store = store
        self.lease_seconds = lease_seconds
        self.clock = clock
        self._counts: _Counted | None = None

    # ---- sessions -----------------------------------------------------------------------------------------

    def sign_in(self, name: str) -> str:
        """Start a session and return its token, the only copy; who comes first under a name is entered.

        Raises:
            InvalidName: the name is empty, too long, or holds characters that cannot be seen.
        """
        shown, key = _checked_name(name)
        token = secrets.token_urlsafe(32)

        def start(connection: sa.Connection) -> str:
            now = self.clock()
            known = connection.execute(sa.select(annotator.c.id).where(annotator.c.name_key == key)).scalar()
            annotator_id = known or f"a{secrets.token_hex(6)}"
            if known is None:
                row = {"id": annotator_id, "name": shown, "name_key": key, "created_at": now}
                connection.execute(sa.insert(annotator).values(row))
            row = {"token_hash": _hash(token), "annotator_id": annotator_id, "created_at": now}
            connection.execute(sa.insert(session).values(row | {"expires_at": now + SESSION_SECONDS}))
            return token

        return self.store.write(start)

    def annotator_of(self, token: str | None) -> Annotator | None:
        """Whose session a token is; None when it is unknown, has run out or was ended."""
        if not token:
            return None
        query = (
            sa.select(annotator.c.id, annotator.c.name)
            .join(session, session.c.annotator_id == annotator.c.id)
            .where(session.c.token_hash == _hash(token), session.c.revoked_at.is_(None))
            .where(session.c.expires_at > self.clock())
        )
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else Annotator(row.id, row.name or row.id)

    def sign_out(self, token: str) -> None:
        """End a session. Its tabs' leases run out by themselves."""
        ended = sa.update(session).where(session.c.token_hash == _hash(token)).values(revoked_at=self.clock())
        self.store.write(lambda connection: connection.execute(ended))

    # ---- work ---------------------------------------------------------------------------------------------

    def next_card(self, annotator_id: str, client: str, *, exclude: Sequence[str] = ()) -> Card | None:
        """Lease an item and show it: the one this tab holds already, else a new one; None when there is none.

        Args:
            annotator_id: who asks.
            client: names the browser tab: two tabs of one annotator get different items.
            exclude: items the tab has on the screen or has just judged.
        """

        def lease(connection: sa.Connection) -> Card | None:
            now = self.clock()
            until = now + self.lease_seconds
            known = [int(item_id) for item_id in exclude if _is_number(item_id)]
            item_id = assignment.held_item(connection, annotator_id, client, known, now=now, until=until)
            if item_id is None:
                item_id = assignment.claim(connection, annotator_id, client, known, now=now, until=until)
            return None if item_id is None else _card(connection, item_id, annotator_id, until)

        return self.store.write(lease)

    def renew(self, annotator_id: str, client: str, item_ids: Sequence[str]) -> list[str]:
        """Keep a tab's items for another `lease_seconds`; those it still holds."""
        numbers = [int(item_id) for item_id in item_ids if _is_number(item_id)]
        until = self.clock() + self.lease_seconds
        held = self.store.write(
            lambda connection: assignment.renew(connection, annotator_id, client, numbers, until=until)
        )
        return [str(item_id) for item_id in held]

    def release(self, annotator_id: str, client: str) -> None:
        """Give a tab's items back: it closes."""
        self.store.write(lambda connection: assignment.give_back(connection, annotator_id, client=client))

    def submit(self, annotator_id: str, said: Judgment) -> Saved:
        """Keep a judgment for good. Sent again with the same id it changes nothing and gives the same answer.

        A second judgment of an item is a new revision; the first one stays in the history.

        Raises:
            UnknownItem: there is no such item.
            InvalidJudgment: it does not fit the item, or its id was used for something else.
            NotHeld: the lease had run out, and others have filled all places of this item since.
        """

        def keep(connection: sa.Connection) -> Saved:
            item_id = int(said.item_id) if _is_number(said.item_id) else -1
            num_responses = _lock_item(connection, item_id)
            _check_judgment(said, num_responses)
            order = _shown(connection, item_id, annotator_id, num_responses)
            ranks = None if said.ranks is None else [said.ranks[order.index(place)] for place in range(num_responses)]
            told = {"kind": said.kind, "ranks": ranks, "strength": said.strength, "reason": said.reason}
            before = _by_id(connection, said.id)
            if before is not None:
                _check_same(before, annotator_id, item_id, told)
                return Saved(said.id, said.item_id, before.revision)
            if said.kind == "skip":
                assignment.give_back(connection, annotator_id, item_id=item_id)
            elif not assignment.hold(connection, item_id, annotator_id, now=self.clock(), client=None, until=None):
                raise NotHeld(
                    "this item went to somebody else after its time here had run out; your judgment was not counted"
                )
            times = {"active_ms": said.active_ms, "shown_order": order}
            revision = self._append(connection, said.id, item_id, annotator_id, told | times)
            return Saved(said.id, said.item_id, revision)

        return self.store.write(keep)

    def undo(self, annotator_id: str, client: str, undo_id: str) -> Undone | None:
        """Take back this annotator's newest judgment that stands, and lease its item to the tab again.

        The judgment stays in the history; an entry that it was taken back follows it. None when there is none. Of
        a skip whose item others have taken since, there is no card.

        Raises:
            InvalidJudgment: the id was used for something else.
        """
        _check_id(undo_id)

        def take_back(connection: sa.Connection) -> Undone | None:
            # one at a time: two would take back the same judgment
            connection.execute(sa.select(annotator.c.id).where(annotator.c.id == annotator_id).with_for_update())
            done = _by_id(connection, undo_id)
            if done is not None and (done.kind != "undo" or done.annotator_id != annotator_id):
                raise InvalidJudgment(f"id {undo_id} was used for another judgment; send a new one")
            last = _newest(connection, annotator_id) if done is None else _by_number(connection, done.supersedes)
            if last is None:
                return None
            _lock_item(connection, last.item_id)
            if done is None:
                told = {"kind": "undo", "active_ms": 0, "shown_order": last.shown_order}
                self._append(connection, undo_id, last.item_id, annotator_id, told)
            now = self.clock()
            until = now + self.lease_seconds
            answered = _stands(connection, last.item_id, annotator_id)
            held = not answered and assignment.hold(
                connection, last.item_id, annotator_id, now=now, client=client, until=until
            )
            ranks = None if last.ranks is None else tuple(last.ranks[place] for place in last.shown_order)
            card = _card(connection, last.item_id, annotator_id, until) if held else None
            return Undone(card, last.kind, ranks, last.strength)

        return self.store.write(take_back)

    def progress(self, annotator_id: str) -> Progress:
        """How far this annotator and the store are."""
        mine = slot.c.annotator_id == annotator_id
        items = sa.func.count(sa.distinct(slot.c.item_id))
        answers = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id).subquery()
        skips = sa.select(sa.func.count()).select_from(answers).where(answers.c.kind == "skip")
        leased = sa.select(slot.c.item_id).where(mine, slot.c.state == "leased")
        busy = sa.select(answers.c.item_id).union(leased)  # not to be given again
        now = self.clock()
        with self.store.reading() as connection:

            def count(query: sa.Select) -> int:
                return int(connection.execute(query).scalar_one())

            store = self._counted(connection, now)
            num_leased = count(sa.select(items).where(mine, slot.c.state == "leased"))
            num_busy_and_free = count(sa.select(items).where(slot.c.item_id.in_(busy), assignment.free(now)))
            return Progress(
                judged=count(sa.select(items).where(mine, slot.c.state == "judged")),
                skipped=count(skips),
                available=max(store.free - num_busy_and_free, 0) + num_leased,
                total=store.total,
                done=store.done,
            )

    # ---- inside -------------------------------------------------------------------------------------------

    def _counted(self, connection: sa.Connection, now: float) -> _Counted:
        """Numbers of the whole store; of a large one a few seconds old."""
        if self._counts is None or now >= self._counts.until:
            items = sa.func.count(sa.distinct(slot.c.item_id))
            total = connection.execute(sa.select(sa.func.count()).select_from(item)).scalar_one()
            unfinished = connection.execute(sa.select(items).where(slot.c.state != "judged")).scalar_one()
            free = connection.execute(sa.select(items).where(assignment.free(now))).scalar_one()
            until = now + COUNT_SECONDS if total > LARGE_STORE else now
            self._counts = _Counted(total, total - unfinished, free, until)
        return self._counts

    def _append(
        self, connection: sa.Connection, judgment_id: str, item_id: int, annotator_id: str, told: dict[str, Any]
    ) -> int:
        """Add a judgment to the chain of this annotator and item; its revision."""
        query = sa.select(judgment.c.number, judgment.c.revision).order_by(judgment.c.revision.desc()).limit(1)
        chain = (judgment.c.item_id == item_id) & (judgment.c.annotator_id == annotator_id)
        last = connection.execute(query.where(chain)).first()
        revision: int = 1 if last is None else last.revision + 1
        row = {
            "id": judgment_id,
            "item_id": item_id,
            "annotator_id": annotator_id,
            "revision": revision,
            "supersedes": None if last is None else last.number,
            "app_version": __version__,
            "created_at": self.clock(),
        }
        connection.execute(sa.insert(judgment).values(row | told))
        return revision


def shown_order(comparison_id: str, annotator_id: str, num_responses: int) -> list[int]:
    """The blind order: positions of the responses from left to right, fixed by item and annotator."""
    places = range(num_responses)
    return sorted(places, key=lambda place: _hash(f"{comparison_id}:{annotator_id}:{place}"))


def _card(connection: sa.Connection, item_id: int, annotator_id: str, until: float) -> Card:
    query = (
        sa.select(campaign.c.name, prompt.c.messages)
        .select_from(item)
        .join(campaign, campaign.c.id == item.c.campaign_id)
        .join(prompt, prompt.c.id == item.c.prompt_id)
    )
    row = connection.execute(query.where(item.c.id == item_id)).one()
    texts_query = sa.select(completion.c.text).where(completion.c.item_id == item_id).order_by(completion.c.position)
    texts = connection.execute(texts_query).scalars().all()
    order = _shown(connection, item_id, annotator_id, len(texts))
    messages = tuple(Message.from_dict(message) for message in row.messages)
    return Card(str(item_id), row.name, messages, tuple(texts[place] for place in order), until)


def _lock_item(connection: sa.Connection, item_id: int) -> int:
    """Let no one else judge this item before the transaction ends; the number of its responses."""
    connection.execute(sa.select(slot.c.id).where(slot.c.item_id == item_id).order_by(slot.c.id).with_for_update())
    query = sa.select(sa.func.count()).select_from(completion).where(completion.c.item_id == item_id)
    num_responses = connection.execute(query).scalar_one()
    if not num_responses:
        raise UnknownItem("there is no such item in this store; reload the page")
    return num_responses


def _shown(connection: sa.Connection, item_id: int, annotator_id: str, num_responses: int) -> list[int]:
    """The order in which this annotator sees an item; drawn and kept the first time."""
    own = (showing.c.item_id == item_id) & (showing.c.annotator_id == annotator_id)
    kept = connection.execute(sa.select(showing.c.shown_order).where(own)).scalar()
    if kept is not None:
        return kept
    comparison_id = connection.execute(sa.select(item.c.comparison_id).where(item.c.id == item_id)).scalar_one()
    order = shown_order(comparison_id, annotator_id, num_responses)
    row = {"item_id": item_id, "annotator_id": annotator_id, "shown_order": order}
    connection.execute(sa.insert(showing).values(row))
    return order


def _by_id(connection: sa.Connection, judgment_id: str) -> sa.Row | None:
    return connection.execute(sa.select(judgment).where(judgment.c.id == judgment_id)).first()


def _by_number(connection: sa.Connection, number: int) -> sa.Row | None:
    return connection.execute(sa.select(judgment).where(judgment.c.number == number)).first()


def _newest(connection: sa.Connection, annotator_id: str) -> sa.Row | None:
    query = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id)
    return connection.execute(query.order_by(judgment.c.number.desc()).limit(1)).first()


def _stands(connection: sa.Connection, item_id: int, annotator_id: str) -> bool:
    """Whether a judgment of this annotator stands on this item."""
    current = assignment.current_judgments().where(judgment.c.item_id == item_id)
    return connection.execute(current.where(judgment.c.annotator_id == annotator_id)).first() is not None


def _check_judgment(said: Judgment, num_responses: int) -> None:
    _check_id(said.id)
    if type(said.active_ms) is not int or not 0 <= said.active_ms < 2**53:
        raise InvalidJudgment(f"active_ms is {said.active_ms!r}; give milliseconds >= 0")
    if said.kind == "skip":
        if said.ranks is not None or said.strength is not None:
            raise InvalidJudgment("a skip has neither ranks nor strength; leave them out")
        if said.reason is not None and (len(said.reason) > LONGEST_REASON or "\0" in said.reason):
            raise InvalidJudgment(f"the reason is longer than {LONGEST_REASON} characters or holds a NUL; shorten it")
        return
    if said.kind != "ranking":
        raise InvalidJudgment(f"kind is {said.kind!r}; use ranking or skip")
    if said.reason is not None:
        raise InvalidJudgment("a ranking has no reason; leave it out")
    ranks = said.ranks or ()
    if len(ranks) != num_responses or not all(type(rank) is int and 1 <= rank <= num_responses for rank in ranks):
        raise InvalidJudgment(f"ranks are {list(ranks)}; give {num_responses} whole numbers from 1 to {num_responses}")
    if said.strength is None:
        return
    if num_responses != 2 or ranks[0] == ranks[1]:
        raise InvalidJudgment("only the preferred one of a pair has a strength; leave it out")
    if said.strength not in STRENGTHS:
        raise InvalidJudgment(f"strength is {said.strength!r}; use 1, 2 or 3, or leave it out")


def _check_id(judgment_id: str) -> None:
    if not 8 <= len(judgment_id) <= 64 or not judgment_id.isascii() or not judgment_id.isprintable():
        raise InvalidJudgment("id must be 8 to 64 ASCII characters; a UUID is one")


def _check_same(before: sa.Row, annotator_id: str, item_id: int, told: dict[str, Any]) -> None:
    same = (before.annotator_id, before.item_id) == (annotator_id, item_id)
    if not same or any(getattr(before, name) != value for name, value in told.items()):
        raise InvalidJudgment(f"id {before.id} was used for another judgment; send a new one")


def _checked_name(name: str) -> tuple[str, str]:
    """A name as shown, and the key under which it is found again."""
    shown = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(shown) <= LONGEST_NAME or not shown.isprintable():
        raise InvalidName(f"the name must have 1 to {LONGEST_NAME} characters that can be seen; give another one")
    return shown, shown.casefold()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_number(item_id: str) -> bool:
    return item_id.isascii() and item_id.isdigit() and len(item_id) < 19
