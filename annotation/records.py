"""What goes between the browser and the service, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.data.comparisons import Message


class AnnotationError(ValueError):
    """A request that cannot be done, in words for the annotator."""


class InvalidName(AnnotationError):
    """No name to sign in by."""


class InvalidJudgment(AnnotationError):
    """A judgment that does not fit its item."""


class UnknownItem(AnnotationError):
    """There is no such item."""


class NotHeld(AnnotationError):
    """The item went to somebody else meanwhile."""


@dataclass(frozen=True)
class Annotator:
    """A person. `id` is the pseudonym that judgments carry, `name` what they signed in by."""

    id: str
    name: str


@dataclass(frozen=True)
class Card:
    """An item as one annotator sees it.

    Attributes:
        item_id: names the item in all requests.
        campaign: what it belongs to.
        prompt: the conversation, the last message is the user's.
        responses: texts in blind order, from left to right; the same annotator always sees the same order.
        leased_until: until when no one else gets it, in seconds since 1970.
    """

    item_id: str
    campaign: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    leased_until: float


@dataclass(frozen=True)
class Judgment:
    """What an annotator says of a card.

    Attributes:
        id: chosen by the browser (a UUID); the same id again is the same judgment.
        item_id: the card's.
        kind: "ranking" or "skip".
        ranks: one per response in the order shown, 1 = best, equal numbers tie; None for a skip.
        strength: how much better the preferred response of a pair is: 1 slightly, 2, 3 much; None where unsaid.
        reason: why it was skipped.
        active_ms: time spent on it, in milliseconds.
    """

    id: str
    item_id: str
    kind: str
    ranks: tuple[int, ...] | None = None
    strength: float | None = None
    reason: str | None = None
    active_ms: int = 0


@dataclass(frozen=True)
class Saved:
    """A judgment that is on the disk. `revision` counts what this annotator has said of the item, from 1."""

    judgment_id: str
    item_id: str
    revision: int


@dataclass(frozen=True)
class Undone:
    """A judgment taken back: its card again, and what had been said of it (ranks in the order shown).

    `card` is None where the item was skipped and others have taken it since.
    """

    card: Card | None
    kind: str
    ranks: tuple[int, ...] | None
    strength: float | None


@dataclass(frozen=True)
class Progress:
    """How far an annotator and the whole store are.

    Attributes:
        judged: items ranked by this annotator.
        skipped: items skipped by this annotator.
        available: items this annotator can still be given, those on the screen included.
        total: items in the store.
        done: items with all the rankings they are to get.
    """

    judged: int
    skipped: int
    available: int
    total: int
    done: int
