"""Every screen shows every hostile text: nothing of it runs, and nothing asks another machine for anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request

from benchmarks.annotation.browsers import serving
from benchmarks.annotation.chromium import Chromium, Watch
from benchmarks.annotation.databases import database
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.hostile import HOST, MARK, PAYLOADS
from benchmarks.annotation.hostile_store import fill, note_of, plain, reason_of, storable, title_of
from benchmarks.annotation.tab import READY, Tab

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
# The cells of all tables on the screen.
CELLS = """() => [...document.querySelectorAll(".sheet td")]
  .filter((cell) => cell.getClientRects().length > 0)
  .map((cell) => cell.textContent)"""


class Seen:
    """Texts by the place on the screens where they were seen; spaces and line breaks do not matter."""

    def __init__(self) -> None:
        self.places: dict[str, set[str]] = {}

    def add(self, place: str, texts: Iterable[str]) -> None:
        self.places.setdefault(place, set()).update(map(plain, texts))

    def missing(self, place: str, texts: Iterable[str]) -> int:
        """How many of the texts were not seen there."""
        return len(set(map(plain, texts)) - self.places.get(place, set()))


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
    seen = Seen()
    watched: list[Watch] = []
    browser.trap.requests.clear()
    with database(kind, folder) as url:
        cast = fill(url, texts, at_a_time)
        with serving(url, folder / f"hostile-{kind}.log") as server:

            def visit(look: Callable[..., None], name: str, *arguments: Any) -> None:
                context = browser.new_context()
                context.add_init_script(MARK)
                page = context.new_page()
                watched.append(Watch(page, server.url))
                look(Tab(page, server.url), name, seen, *arguments)
                context.close()

            visit(judge, cast.judge)
            visit(adjudicate, cast.adjudicator)
            for name in (*cast.names[: cast.raters], cast.adjudicator):
                visit(look_back, name)
            visit(manage, cast.manager, texts, -(-len(texts) // at_a_time))
    everywhere = [f"{place}, {view}" for place in ("prompt", "response") for view in ("verbatim", "Markdown")]
    wanted = {
        **dict.fromkeys((*everywhere, "preview", "texts of an item"), texts),
        "guideline": [title_of(text) for text in texts],
        **dict.fromkeys(("rationale, adjudication", "rationale, history"), cast.rationales),
        "reason to skip": [reason_of(text) for text in texts],
        "manager's page": [*cast.names, *cast.reasons, *map(title_of, texts), *map(note_of, texts)],
        "campaign to choose": [title_of(text) for text in texts],
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


def manage(tab: Tab, name: str, seen: Seen, texts: Sequence[str], items: int) -> None:
    """The managers' page: its tables and lists, a preview of each text as guidelines, and the texts of each item."""
    page = tab.visit(name).page
    answered = Handlers(page).answered
    page.goto(f"{tab.url}/admin")
    page.wait_for_function("document.querySelector('#campaign input')?.value")
    answered(page.get_by_role("button", name="Refresh").first.click)
    page.wait_for_selector(".cards")
    page.locator("button.label-wrap:not(.open)").evaluate_all("all => all.forEach((one) => one.click())")
    seen.add("manager's page", page.evaluate(CELLS))
    page.locator("#campaign input").click()
    seen.add("campaign to choose", options(page))
    page.keyboard.press("Escape")

    answered(lambda: turn_to(page, "Campaigns"))
    turn_to(page, "Guidelines")
    for text in texts:
        page.locator("#guidelines-text textarea").fill(text)
        answered(page.get_by_role("button", name="Preview").click)
        page.wait_for_selector(".rendered-frame .rendered > *")
        page.evaluate(TOUCH, ".rendered-frame")
        seen.add("preview", [text])
    turn_to(page, "Gold items")
    seen.add("manager's page", page.evaluate(CELLS))
    for number in range(1, items + 1):
        page.get_by_label("Item", exact=True).fill(str(number))
        answered(page.get_by_role("button", name="Show", exact=True).click)
        shown = plain(page.get_by_label("Prompt and responses by position").input_value())
        seen.add("texts of an item", [text for text in texts if plain(text) in shown])

    answered(lambda: turn_to(page, "Data and export"))
    answered(lambda: turn_to(page, "Users and audit"))
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
    """What the list that is open offers, scrolled to its end, without the marks of what is chosen."""
    found, rest = page.get_by_role("option"), page.locator(".scroll-sentinel")
    while rest.count():
        shown = found.count()
        rest.evaluate("rest => rest.scrollIntoView()")
        page.wait_for_function(
            "shown => document.querySelectorAll('[role=option]').length > shown"
            " || !document.querySelector('.scroll-sentinel')",
            arg=shown,
        )
    return [text.strip().removeprefix("✓ ") for text in found.all_text_contents()]


class Handlers:
    """What the managers' page asks of the server, so that none of its answers comes unexpected."""

    def __init__(self, page: Page):
        self.page = page
        self.waiting = 0
        page.on("request", lambda request: self._count(request, 1))
        page.on("requestfinished", lambda request: self._count(request, -1))
        page.on("requestfailed", lambda request: self._count(request, -1))

    def _count(self, request: Request, change: int) -> None:
        if request.url.endswith("/run/predict"):
            self.waiting += change

    def answered(self, action: Callable[[], None]) -> None:
        """Do what asks the server, and wait until all answers are on the screen."""
        with self.page.expect_response("**/run/predict"):
            action()
        calm = 0
        while calm < 5:  # an answer may lead to the next request
            self.page.wait_for_timeout(20)
            calm = 0 if self.waiting else calm + 1
