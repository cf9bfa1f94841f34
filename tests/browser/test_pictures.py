"""Pictures of the app for the README, and that nothing on them runs out of the window.

`RLHF_SCREENSHOTS=folder` keeps them there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.campaigns import EVERYDAY, SKY, SOURDOUGH, comparison
from tests.browser.judge import READY, Judge
from tests.browser.server import Server

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("RLHF_SCREENSHOTS") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def take(page: Page, path: Path) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == page.evaluate("window.innerWidth")
    # the moving parts come to rest, and no button is marked as if the mouse were on it
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    page.screenshot(path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_signing_in(server: Server, judge: Judge, folder: Path) -> None:
    server.fill(EVERYDAY)
    server.start()
    judge.page.goto(server.url)
    judge.page.fill("input", "Ada")
    take(judge.page, folder / "login.png")


def test_judging_a_pair(server: Server, new_context: Callable[..., BrowserContext], folder: Path) -> None:
    # the item for the picture comes after two that are judged, for three people
    server.fill([*EVERYDAY[1:3], SOURDOUGH, *EVERYDAY[3:]], name="Everyday questions", overlap=3)
    server.start()
    for name, scheme, size in (("pair", "light", DESK), ("pair-dark", "dark", DESK), ("phone", "light", PHONE)):
        context = new_context(viewport=size, color_scheme=scheme, device_scale_factor=1 if size is DESK else 2)
        judge = Judge(context.new_page(), server.url).open({"pair": "Ada", "pair-dark": "Grace"}.get(name, "Edsger"))
        for count in (1, 2):
            judge.prefer(EVERYDAY[count].responses[0].text, ("2", "9"))
            judge.saved(count)
        judge.page.wait_for_selector(READY)
        assert judge.page.locator(".prompt > .turn .content").text_content() == SOURDOUGH.prompt[-1].content
        take(judge.page, folder / f"judge-{name}.png")


def test_ranking_four(server: Server, judge: Judge, folder: Path) -> None:
    server.fill([SKY, *EVERYDAY], name="Explain it simply")
    server.start()
    judge.open("Ada")
    ranks = dict(zip((response.text for response in SKY.responses), ("1", "4", "3", "2"), strict=True))
    judge.press(*(ranks[text] for text in judge.responses[:2]))
    take(judge.page, folder / "judge-ranking.png")


def test_long_text_stays_in_its_place(server: Server, judge: Judge) -> None:
    word = "w" * 2000
    lines = "\n".join(f"line {number}" for number in range(200))
    server.fill([comparison(word, word, lines), comparison(lines, *[f"{lines} {word} {end}" for end in "abcdefghi"])])
    server.start()
    page = judge.open("Ada").page
    for count in (2, 9):
        page.wait_for_selector(READY)
        assert page.locator(".response").count() == count
        for size in (DESK, PHONE, {"width": 320, "height": 640}):
            page.set_viewport_size(size)
            assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
            # the controls stay in view while the text is scrolled
            for place in (0, 700, 10**6):
                page.evaluate(f"window.scrollTo(0, {place})")
                box = page.locator(".dock").bounding_box()
                assert box is not None
                assert abs(box["y"] + box["height"] - size["height"]) <= 1
        judge.press("t")
