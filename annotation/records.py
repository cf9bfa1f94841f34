"""What goes between the browser and the service, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.comparisons import Message

ROLES = ("annotator", "adjudicator", "manager")  # each may do what those before it may


class AnnotationError(ValueError):
    """A request that cannot be done, in words for the annotator."""


class InvalidName(AnnotationError):
    """No name to sign in by."""


class InvalidJudgment(AnnotationError):
    """A judgment that does not fit its item."""


class TooLong(AnnotationError):
    """A text longer than is kept."""


class UnknownItem(AnnotationError):
    """There is no such item."""


class NotHeld(AnnotationError):
    """The item went to somebody else meanwhile."""


@dataclass(frozen=True)
class Annotator:
    """A person. `id` is the pseudonym that judgments carry, `name` what they signed in by.

    `role` is one of `ROLES`; `state` is active, or paused: signed in, but given no work; `has_password`: they sign in
    by one.
    """

    id: str
    name: str
    role: str = "annotator"
    state: str = "active"
    has_password: bool = False


@dataclass(frozen=True)
class Card:
    """An item as one annotator sees it.

    Attributes:
        item_id: names the item in all requests.
        campaign: what it belongs to.
        prompt: the conversation, the last message is the user's.
        responses: texts in blind order, from left to right; the same annotator always sees the same order.
        leased_until: until when no one else gets it, in seconds since 1970.
        kind: "work", "adjudication" or "live"; gold items are shown as work.
        campaign_id: the campaign's number.
        settings: what the campaign asks for, as the page reads it.
        opinions: what others said, for an adjudicator.
    """

    item_id: str
    campaign: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    leased_until: float
    kind: str = "work"
    campaign_id: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    opinions: tuple[Opinion, ...] = ()


@dataclass(frozen=True)
class Said:
    """What an annotator says of a card; all that goes by response is in the order shown.

    Attributes:
        kind: "ranking", "skip" or "flag".
        ranks: one per response, 1 = best, equal numbers tie; None for a skip or a flag.
        strength: how much better the preferred response of a pair is: 1 slightly, 2, 3 much; None where unsaid.
        both_bad: no response is acceptable, whatever their order.
        aspects: name -> a rating of each response, 1 = worst.
        rationale: why, in the annotator's words.
        edits: place from the left, counted from 0 -> a better text.
        reason: why it was skipped or flagged.
    """

    kind: str
    ranks: tuple[int, ...] | None = None
    strength: float | None = None
    both_bad: bool = False
    aspects: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rationale: str | None = None
    edits: Mapping[int, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Judgment:
    """What an annotator sends.

    Attributes:
        id: chosen by the browser (a UUID); the same id again is the same judgment.
        item_id: the card's.
        said: what is said of it.
        active_ms: time spent on it, in milliseconds.
    """

    id: str
    item_id: str
    said: Said
    active_ms: int = 0


@dataclass(frozen=True)
class Opinion:
    """What somebody said of an item, for an adjudicator: `who` counts from 1, ranks are in the order shown."""

    who: int
    ranks: tuple[int, ...]
    strength: float | None
    both_bad: bool
    rationale: str | None


@dataclass(frozen=True)
class Gate:
    """What stands before an annotator's work.

    Attributes:
        kind: "guideline" (read and accept), "not_qualified", "paused".
        campaign, campaign_id: whose; none when paused.
        version, text: of the guidelines.
        accuracy, needed: of the qualification.
    """

    kind: str
    campaign: str | None = None
    campaign_id: int | None = None
    version: int | None = None
    text: str | None = None
    accuracy: float | None = None
    needed: float | None = None


@dataclass(frozen=True)
class Next:
    """The card to judge next, or what stands before it; neither when there is nothing left."""

    card: Card | None
    gate: Gate | None = None


@dataclass(frozen=True)
class Saved:
    """A judgment that is on the disk. `revision` counts what this annotator has said of the item, from 1."""

    judgment_id: str
    item_id: str
    revision: int


@dataclass(frozen=True)
class Undone:
    """A judgment taken back, or opened again: its card, and what had been said of it.

    `card` is None where the item was skipped and others have taken it since.
    """

    card: Card | None
    previous: Said


@dataclass(frozen=True)
class Progress:
    """How far an annotator and the whole store are.

    Attributes:
        judged: items ranked by this annotator.
        skipped, flagged: items skipped and flagged by this annotator.
        available: items this annotator can still be given, those on the screen included, and those with a known answer.
        total: items in the open campaigns, without those with a known answer.
        done: items with all the rankings they are to get.
        waiting: items judged by this annotator that are not done; counted where nothing is left for them.

    Where items have a known answer, `available` and `done` are counted in steps: no single answer can be seen in them.
    """

    judged: int
    skipped: int
    available: int
    total: int
    done: int
    flagged: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class HistoryRow:
    """A judgment of one's own that stands. `number` orders all judgments; ranks are in the order shown."""

    number: int
    item_id: str
    campaign: str
    at: float
    said: Said
    revision: int
    active_ms: int
    prompt: str


@dataclass(frozen=True)
class GoldScore:
    """How many of the gold items judged were right."""

    n: int
    right: int
