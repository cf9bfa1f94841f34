"""Every screen shows every hostile text: nothing of it runs, and nothing asks another machine for anything."""

from __future__ import annotations

import re
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from playwright.sync_api import Page

from annotation import campaigns
from annotation.accounts import LONGEST_NAME
from annotation.campaigns import CampaignSettings
from annotation.importing import import_comparisons
from annotation.invites import LONGEST_NOTE
from annotation.judgments import LONGEST_RATIONALE, LONGEST_REASON
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from benchmarks.annotation.browsers import serving
from benchmarks.annotation.chromium import Chromium, Watch
from benchmarks.annotation.databases import database
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.hostile import HANDLERS, HOST, MARK, PAYLOADS
from benchmarks.annotation.tab import READY, Tab
from rlhf.data.comparisons import Comparison, Message, Response

MAIN = f"All of them {HANDLERS[0]}"
OFFERED = 1000  # characters that a form or a list is given

# Where texts stand in the document, as `[place, text]`; those that cannot be seen are left out.
VIEWS = """() => [...document.querySelectorAll(".texts .two-views")].flatMap((text) => {
  const place = text.closest(".prompt") ? "prompt" : "response";
  return [["content", "verbatim"], ["markdown", "Markdown"]]
    .filter(([name]) => text.querySelector(`:scope > .${name}`)?.getClientRects().length > 0)
    .map(([, view]) => [`${place}, ${view}`, text.querySelector(":scope > .content").textContent]);
})"""
# What a hand on the mouse and keyboard would set off; links are left alone, they lead away by design.
TOUCH = """(selector) => {
  const names = ["pointerover", "mouseover", "mouseenter", "mousedown", "click", "focus", "focusin", "blur", "toggle"];
  for (const one of document.querySelectorAll(`${selector} *`)) {
    for (const name of names) if (name !== "click" || !one.closest("a[href]")) one.dispatchEvent(new Event(name));
  }
}"""
# The cells of all tables on the screen, which are made as one scrolls.
CELLS = """async () => {
  const found = new Set();
  for (const table of document.querySelectorAll(".virtual-table-viewport")) {
    if (table.getClientRects().length === 0) continue;
    table.scrollIntoView();
    for (let top = 0; top <= table.scrollHeight; top += table.clientHeight / 2 + 1) {
      table.scrollTop = top;
      await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      for (const cell of table.querySelectorAll(".virtual-row > *")) found.add(cell.textContent);
    }
  }
  return [...found];
}"""


class Seen:
    """Texts by the place on the screens where they were seen; spaces and line breaks do not matter."""

    def __init__(self) -> None:
        self.places: dict[str, set[str]] = {}

    def add(self, place: str, texts: Iterable[str]) -> None:
        self.places.setdefault(place, set()).update(map(_plain, texts))

    def missing(self, place: str, texts: Iterable[str]) -> int:
        """How many of the texts were not seen there."""
        return len(set(map(_plain, texts)) - self.places.get(place, set()))


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


def hostile(
    browser: Chromium, kind: str, folder: Path, *, payloads: Sequence[str] = PAYLOADS, at_a_time: int = 9
) -> Figure:
    """All payloads as prompts, responses, reasons, names, guidelines, each seen in a browser where it is shown.

    Args:
        browser, kind, folder: as of every measure in browsers.
        payloads: the texts.
        at_a_time: so many are the responses of an item, and the turns of its prompt; at most 9, each has a key.
    """
    texts = [storable(payload) for payload in payloads]
    seen, watched = Seen(), []
    browser.trap.requests.clear()
    with database(kind, folder) as url:
        cast = fill(url, texts, at_a_time)
        with serving(url, folder / f"hostile-{kind}.log") as server:

            def tab() -> Tab:
                context = browser.new_context()
                context.add_init_script(MARK)
                page = context.new_page()
                watched.append(Watch(page, server.url))
                return Tab(page, server.url)

            judge(tab(), cast.judge, seen)
            adjudicate(tab(), cast.adjudicator, seen)
            for name in (*cast.names[: cast.raters], cast.adjudicator):
                look_back(tab(), name, seen)
            manage(tab(), cast.manager, texts, seen, items=-(-len(texts) // at_a_time))
            for watch in watched:
                watch.page.context.close()
    everywhere = [f"{place}, {view}" for place in ("prompt", "response") for view in ("verbatim", "Markdown")]
    wanted = {
        **dict.fromkeys((*everywhere, "preview", "texts of an item"), texts),
        "guideline": [_title(text) for text in texts],
        **dict.fromkeys(("rationale, adjudication", "rationale, history"), cast.rationales),
        "reason to skip": [_reason(text) for text in texts],
        "manager's page": [*cast.names, *cast.reasons, *map(_title, texts), *map(_note, texts)],
        "campaign to choose": [_title(text) for text in texts],
        "user to choose": cast.names,
    }
    missing = {place: count for place, those in wanted.items() if (count := seen.missing(place, those))}
    asked = [line for line in browser.trap.requests if HOST in line]
    asked += [entry for watch in watched for entry in watch.requests]
    ran = [entry for watch in watched for entry in watch.seen if entry not in watch.requests]
    text = f"{len(texts)} texts in {len(wanted)} places: {len(ran)} ran, {len(asked)} requests to elsewhere"
    if missing:
        text += "; not seen: " + ", ".join(f"{count} as {place}" for place, count in missing.items())
    kept = not ran and not asked and not missing
    return Figure("hostile texts on every screen", kind, text, kept, {"ran": ran[:9], "asked": asked[:9]})


# ---- the store ------------------------------------------------------------------------------------------------


def storable(text: str) -> str:
    """A text without what no database keeps, and with something to see: import refuses others."""
    kept = re.sub("[\0\ud800-\udfff]", "\ufffd", text)
    return kept if kept.strip() else f".{kept}"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _name(text: str) -> str:
    """What of a text can be a name."""
    shown = "".join(mark for mark in unicodedata.normalize("NFC", _plain(text)) if mark.isprintable())
    return _plain(shown[:LONGEST_NAME])


def _title(text: str) -> str:
    """What of a text is the name of a campaign."""
    return text[:OFFERED]


def _note(text: str) -> str:
    """What of a text is the note of an invite."""
    return "".join(mark for mark in _plain(text) if mark.isprintable())[:LONGEST_NOTE]


def _reason(text: str) -> str:
    """What of a text is a reason that a form offers."""
    return text.strip()[:OFFERED]


def fill(url: str, texts: list[str], at_a_time: int) -> Cast:
    """A campaign named after each text with the text as its guidelines, and one in which all of them are judged."""
    store = Store.open(url)
    service = AnnotationService(store)
    names = list({_name(text).casefold(): _name(text) for text in texts if _name(text)}.values())
    ids = [str(found.id) for name in names if (found := service.annotator_of(service.sign_in(name)))]
    for text in texts:
        service.invites.make("annotator", note=_note(text), by=None)
    for title in dict.fromkeys(map(_title, texts)):
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
    offered = tuple(dict.fromkeys(map(_reason, texts)))
    asked = CampaignSettings(skip_reasons=offered, flag_reasons=offered, content_warning="\n".join(offered))
    alone = CampaignSettings(members_only=True)
    now = time.time()
    numbers = {found.name: found.id for found in campaigns.all_campaigns(connection)}
    for name, number in numbers.items():
        settings = asked if name == MAIN else alone
        campaigns.change(connection, number, actor_id=None, at=now, settings=settings)
    for text in texts:
        campaigns.write_guideline(connection, numbers[_title(text)], text, actor_id=None, at=now)
        campaigns.add_member(connection, numbers[_title(text)], reader, at=now)


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


# ---- the screens ----------------------------------------------------------------------------------------------


def judge(tab: Tab, name: str, seen: Seen) -> None:
    """All items in both views, with a look at the reasons for leaving one out."""
    page = tab.open(name).page
    page.locator(".warning button").press("Enter")
    tab.press("s")
    seen.add("reason to skip", page.locator(".reason span").all_text_contents())
    page.evaluate(TOUCH, ".reason-form")
    page.keyboard.press("Escape")
    while tab.state == "card":
        page.wait_for_selector(READY)
        page.locator("summary").click()
        for _ in ("one view", "the other"):
            for place, text in page.evaluate(VIEWS):
                seen.add(place, [text])
            page.evaluate(TOUCH, ".texts")
            page.keyboard.press("m")
        page.locator(".sheet").focus()  # Enter would fold the earlier turns
        rank(tab)


def rank(tab: Tab) -> None:
    """Judge the card, and wait for the next one or for the end."""
    before = tab.item
    tab.press(*"123456789"[: len(tab.responses)], "Enter")
    another = f".judge[data-state='card'] .sheet:not([data-item='{before}'])"
    tab.page.wait_for_selector(f"{another}, .judge[data-state='empty'] .message")


def adjudicate(tab: Tab, name: str, seen: Seen) -> None:
    """All items once more, with what others said of them."""
    page = tab.visit(name).page
    page.locator(".screens a[href='#adjudicate']").click()
    page.locator(".warning button").press("Enter")
    while tab.state == "card":
        seen.add("rationale, adjudication", page.locator(".opinions .why").all_text_contents())
        page.evaluate(TOUCH, ".texts")
        rank(tab)


def look_back(tab: Tab, name: str, seen: Seen) -> None:
    """What somebody has judged, how much it was, and the guidelines of their campaigns."""
    page = tab.visit(name).page
    for screen in ("history", "work", "guidelines"):
        page.locator(f".screens a[href='#{screen}']").click()
        page.wait_for_selector(f".screen.{screen} h2")
        page.evaluate(TOUCH, f".screen.{screen}")
    seen.add("rationale, history", page.locator(".row-why").all_text_contents())
    seen.add("guideline", page.locator(".guideline:has(.paper > *) h3").all_text_contents())


def manage(tab: Tab, name: str, texts: Sequence[str], seen: Seen, *, items: int) -> None:
    """The managers' page: its tables and lists, a preview of each text as guidelines, and the texts of each item."""
    page = tab.visit(name).page
    page.goto(f"{tab.url}/admin")
    page.wait_for_function("document.querySelector('#campaign input')?.value")
    page.get_by_role("button", name="Refresh").first.click()
    page.wait_for_selector(".cards")
    page.locator("button.label-wrap:not(.open)").evaluate_all("all => all.forEach((one) => one.click())")
    seen.add("manager's page", page.evaluate(CELLS))
    page.locator("#campaign input").click()
    seen.add("campaign to choose", options(page))
    page.keyboard.press("Escape")

    answered(page, lambda: turn_to(page, "Campaigns"))
    turn_to(page, "Guidelines")
    for text in texts:
        page.locator("#guidelines-text textarea").fill(text)
        answered(page, page.get_by_role("button", name="Preview").click)
        page.wait_for_selector(".rendered-frame .rendered > *")
        page.evaluate(TOUCH, ".rendered-frame")
        seen.add("preview", [text])
    turn_to(page, "Gold items")
    seen.add("manager's page", page.evaluate(CELLS))
    for number in range(1, items + 1):
        page.get_by_label("Item", exact=True).fill(str(number))
        answered(page, page.get_by_role("button", name="Show", exact=True).click)
        shown = _plain(page.get_by_label("Prompt and responses by position").input_value())
        seen.add("texts of an item", [text for text in texts if _plain(text) in shown])

    answered(page, lambda: turn_to(page, "Data and export"))
    answered(page, lambda: turn_to(page, "Users and audit"))
    page.locator("#user input").click()
    seen.add("user to choose", [re.sub(r" \(\w+\)$", "", option) for option in options(page)])
    page.keyboard.press("Escape")
    for part in ("Users", "Invites", "Audit"):
        turn_to(page, part)
        seen.add("manager's page", page.evaluate(CELLS))


def turn_to(page: Page, name: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


def options(page: Page) -> list[str]:
    """What the list that is open offers, without the marks of what is chosen."""
    return [text.strip().removeprefix("✓ ") for text in page.get_by_role("option").all_text_contents()]


def answered(page: Page, action: Callable[[], None]) -> None:
    """Do what asks the server, and wait until the answer is on the screen."""
    with page.expect_response("**/run/predict"):
        action()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
