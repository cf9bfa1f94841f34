"""Every screen, light and dark, on a desk and a phone: axe finds nothing serious, nothing is wider than the window."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from benchmarks.annotation.chromium import Trap
from tests.browser.campaigns import SKY, SOURDOUGH, comparison, numbered
from tests.browser.judge import READY, Judge
from tests.browser.server import Server
from tests.browser.test_screens import GUIDELINE, Model, visit

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => [id, ...nodes.map((node) => `${node.target} ${node.failureSummary}`)].join("; "));
}"""
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
RICH = comparison(
    "Show me **all**.",
    "# Title\n\nSome `code`, a [link](https://example.org), and:\n\n```python\nx = 1  # "
    + "a very long line " * 20
    + "\n```\n\n| "
    + " | ".join(f"column {number}" for number in range(12))
    + " |\n|"
    + "---|" * 12
    + "\n| "
    + " | ".join(str(number) for number in range(12))
    + " |\n\n$$\\sum_{n=1}^{\\infty} \\frac{1}{n^2}"
    + " + \\frac{1}{n^3}" * 30
    + "$$\n",
    "> A quotation.\n\n1. one\n2. two\n\n" + "w" * 300,
)


class Screens:
    """Checks what is on the screen in both sizes and colours, and takes a picture of each."""

    def __init__(self, page: Page):
        self.page = page
        folder = os.environ.get("RLHF_SCREENSHOTS")
        self.folder = Path(folder) if folder else None

    def check(self, name: str) -> None:
        for scheme in ("light", "dark"):
            for size, viewport in (("desk", DESK), ("phone", PHONE)):
                self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                self.page.set_viewport_size(viewport)
                assert self.page.evaluate("document.documentElement.scrollWidth") == viewport["width"], (name, size)
                if self.folder is not None:
                    self.page.screenshot(path=self.folder / f"{name}-{size}-{scheme}.png")
                self.page.evaluate(AXE)
                assert self.page.evaluate(RUN) == [], (name, size, scheme)
        self.page.set_viewport_size(DESK)


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


def test_no_screen_has_a_serious_finding(server: Server, page: Page, trap: Trap) -> None:
    server.fill([RICH, SOURDOUGH, SKY, *numbered(4)])
    server.ask_for(
        live=True,
        rationale="required",
        aspects=[{"name": "helpful", "levels": 5}, {"name": "harmless", "levels": 3}],
        content_warning="Some texts speak of illness.",
    )
    server.write_guideline(GUIDELINE)
    server.start()
    judge = Judge(page, server.url)
    screens = Screens(page)
    page.goto(server.url)
    judge.visit("Ada")
    page.wait_for_selector("[data-state='gate']")
    screens.check("gate")
    page.locator(".gate button").click()
    page.wait_for_selector(READY)
    screens.check("warning")
    page.locator(".warning button").click()
    page.wait_for_selector(".rendered [tabindex='0']")
    screens.check("pair")
    judge.press("d")
    page.wait_for_selector(".compared")
    screens.check("differences")
    judge.press("d", "e", "1")
    page.wait_for_selector(".editor")
    page.keyboard.type("Better: ")
    page.wait_for_selector(".changes ins")
    screens.check("editor")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".details:not([hidden])")
    page.keyboard.type("5432")
    screens.check("details")
    page.keyboard.press("1")
    page.get_by_label("Why?").fill("shorter")
    page.get_by_role("radiogroup", name="harmless of response B, 1 to 3").get_by_role("radio").nth(1).check()
    page.keyboard.press("Control+Enter")
    judge.saved(1)
    judge.press("s")
    screens.check("skip")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{READY}[data-item='3']")
    judge.press("2", "1")
    screens.check("ranking")
    judge.press("?")
    screens.check("help")
    page.keyboard.press("Escape")
    page.locator(".menu-button").click()
    screens.check("menu")
    page.locator(".menu [data-do='keymap']").click()
    screens.check("keymap")
    page.keyboard.press("Escape")
    for name in ("history", "work", "guidelines", "live"):
        visit(page, name)
        screens.check(name)
    page.get_by_label("Your prompt").fill("Why is rain wet?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".live-state")).to_contain_text("Waiting")
    Model(server).grow(("Because it is water, and water", "Rain is not"))
    expect(page.locator(".answers .response")).to_have_count(2)
    screens.check("answers")
    assert [asked for asked in trap.requests if "127.0.0.1" not in asked and "axe" in asked] == []


def test_the_screen_of_adjudicators_has_no_serious_finding(server: Server, page: Page) -> None:
    server.fill([RICH, SKY], overlap=2)
    server.disagree(("Ada", "Grace"), "Because it *says* so, and " + "at some length " * 20)
    server.start()
    judge = Judge(page, server.url).visit("Edsger")
    screens = Screens(page)
    page.get_by_role("link", name="Adjudicate").click()
    page.wait_for_selector(READY)
    expect(page.locator(".opinions li")).to_have_count(2)
    screens.check("adjudicate-pair")
    judge.press("1")
    page.wait_for_selector(f"{READY}[data-item='2']")
    expect(page.locator(".opinions li")).to_have_count(2)
    screens.check("adjudicate-ranking")
    judge.press("1", "2", "3", "4", "Enter")
    page.wait_for_selector("[data-state='empty']")
    screens.check("adjudicate-nothing")


@pytest.mark.parametrize("kind", ["not_qualified", "paused"])
def test_gates_have_no_serious_finding(server: Server, page: Page, kind: str) -> None:
    """What the server says of an annotator who may not work now."""

    def stopped(route: Route) -> None:
        answer = route.fetch()
        told = {"not_qualified": {"campaign": "Plain words", "accuracy": 0.4, "needed": 0.7}, "paused": {}}[kind]
        route.fulfill(json=answer.json() | {"card": None, "gate": {"kind": kind} | told})

    server.fill(numbered(1))
    server.start()
    page.route("**/api/v1/next", stopped)
    Judge(page, server.url).visit("Ada")
    page.wait_for_selector("[data-state='gate']")
    expect(page.locator(".gate")).to_contain_text({"not_qualified": "40%", "paused": "Paused"}[kind])
    Screens(page).check(kind)


def test_a_screen_reader_finds_its_way(server: Server, page: Page) -> None:
    server.fill([SOURDOUGH])
    server.start()
    Judge(page, server.url).open("Ada")
    for landmark in ("banner", "main", "navigation", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_text("Plain words")
    for letter in "AB":
        expect(page.get_by_role("article", name=f"Response {letter}")).to_be_visible()
        expect(page.get_by_role("heading", name=f"Response {letter}")).to_have_count(1)
    expect(page.get_by_role("region", name="Prompt")).to_be_visible()
    unnamed = page.get_by_role("button").evaluate_all(
        "all => all.filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim())).length"
    )
    assert unnamed == 0
    # by Tab alone: from the card to the judgment
    page.locator(".sheet").focus()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.dataset?.do ?? document.activeElement.tagName"))
        if seen[-1] == "pair:1:3":
            break
    order = [action for action in seen if action.startswith(("pair", "tie", "bad"))]
    assert order == ["pair:0:3", "pair:0:2", "pair:0:1", "tie", "bad", "pair:1:1", "pair:1:2", "pair:1:3"]
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_have_text("Saved: B is much better")
