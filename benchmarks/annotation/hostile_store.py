"""A store in which every hostile text is a prompt, a response, a reason, a name, and guidelines."""

from __future__ import annotations

import re
import time
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from annotation import campaigns
from annotation.accounts import LONGEST_NAME
from annotation.campaigns import CampaignSettings
from annotation.importing import import_comparisons
from annotation.invites import LONGEST_NOTE
from annotation.judgments import LONGEST_RATIONALE, LONGEST_REASON
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from benchmarks.annotation.hostile import HANDLERS
from rlhf.data.comparisons import Comparison, Message, Response

MAIN = f"All of them {HANDLERS[0]}"
OFFERED = 1000  # characters that a form or a list is given


@dataclass(frozen=True)
class Cast:
    """Who is in the store, and what they have said.

    Attributes:
        names: of all; some of them rate, three have a screen each, and all others have flagged an item.
        raters: how many: each gave one of an item's texts as the reason of a ranking.
        reasons, rationales: of flags and of rankings.
    """

    names: Sequence[str]
    raters: int
    reasons: Sequence[str]
    rationales: Sequence[str]

    @property
    def judge(self) -> str:
        return self.names[self.raters]

    @property
    def adjudicator(self) -> str:
        return self.names[self.raters + 1]

    @property
    def manager(self) -> str:
        return self.names[self.raters + 2]


def storable(text: str) -> str:
    """A text without what no database keeps, and with something to see: import refuses others."""
    kept = re.sub("[\0\ud800-\udfff]", "\ufffd", text)
    return kept if kept.strip() else f".{kept}"


def plain(text: str) -> str:
    return " ".join(text.split())


def _name(text: str) -> str:
    """What of a text can be a name."""
    shown = "".join(mark for mark in unicodedata.normalize("NFC", plain(text)) if mark.isprintable())
    return plain(shown[:LONGEST_NAME])


def title_of(text: str) -> str:
    """What of a text is the name of a campaign."""
    return text[:OFFERED]


def note_of(text: str) -> str:
    """What of a text is the note of an invite."""
    return "".join(mark for mark in plain(text) if mark.isprintable())[:LONGEST_NOTE]


def reason_of(text: str) -> str:
    """What of a text is a reason that a form offers."""
    return text.strip()[:OFFERED]


def fill(url: str, texts: list[str], at_a_time: int) -> Cast:
    """A campaign named after each text with the text as its guidelines, and one in which all of them are judged."""
    store = Store.open(url)
    service = AnnotationService(store)
    names = list({_name(text).casefold(): _name(text) for text in texts if _name(text)}.values())
    ids = [str(found.id) for name in names if (found := service.annotator_of(service.sign_in(name)))]
    for text in texts:
        service.invites.make("annotator", note=note_of(text), by=None)
    for title in dict.fromkeys(map(title_of, texts)):
        import_comparisons(store, [], name=title)
    parts = [(texts[start:] + texts)[:at_a_time] for start in range(0, len(texts), at_a_time)]
    import_comparisons(store, [_comparison(part) for part in parts], name=MAIN, overlap=at_a_time + 1)
    staff, others = ids[: at_a_time + 3], ids[at_a_time + 3 :]
    store.write(lambda connection: _set_up(connection, texts, reader=staff[at_a_time + 1]))
    reasons = [_flag(service, others[number % len(others)], text) for number, text in enumerate(texts)]
    rationales = [_rank(service, staff[place], part[place]) for place in range(at_a_time) for part in parts]
    store.close()
    return Cast(names, at_a_time, reasons, rationales)


def _comparison(texts: Sequence[str]) -> Comparison:
    roles = ("user", "assistant", "system")  # from the last one on
    turns = [Message(roles[number % 3], text) for number, text in enumerate(reversed(texts))]
    return Comparison(tuple(reversed(turns)), tuple(map(Response, texts)))


def _set_up(connection: sa.Connection, texts: Sequence[str], *, reader: str) -> None:
    """All but the main campaign have guidelines, and are for one person alone."""
    offered = tuple(dict.fromkeys(map(reason_of, texts)))
    asked = CampaignSettings(skip_reasons=offered, flag_reasons=offered, content_warning="\n".join(offered))
    alone = CampaignSettings(members_only=True)
    now = time.time()
    numbers = {found.name: found.id for found in campaigns.all_campaigns(connection)}
    for name, number in numbers.items():
        settings = asked if name == MAIN else alone
        campaigns.change(connection, number, actor_id=None, at=now, settings=settings)
    for text in texts:
        campaigns.write_guideline(connection, numbers[title_of(text)], text, actor_id=None, at=now)
        campaigns.add_member(connection, numbers[title_of(text)], reader, at=now)


def _flag(service: AnnotationService, annotator_id: str, text: str) -> str:
    """Flag the next item; the reason as it is kept."""
    reason = text[:LONGEST_REASON]
    card = service.next_card(annotator_id, "tab").card
    assert card is not None
    service.submit(annotator_id, Judgment(str(uuid.uuid4()), card.item_id, Said("flag", reason=reason)))
    return reason


def _rank(service: AnnotationService, annotator_id: str, text: str) -> str:
    """Rank the next item with a text on top; the reason, the same text, as it is kept."""
    rationale = text[:LONGEST_RATIONALE]
    card = service.next_card(annotator_id, "tab").card
    assert card is not None
    ranks = tuple(1 if response == text else 2 for response in card.responses)
    said = Said("ranking", ranks, rationale=rationale)
    service.submit(annotator_id, Judgment(str(uuid.uuid4()), card.item_id, said))
    return rationale
