"""What `make faults-annotation` measures in browsers, small; and that it would see what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from benchmarks.annotation import browsers, screens
from benchmarks.annotation.chromium import Chromium, Watch
from benchmarks.annotation.hostile import MARK, PAYLOADS
from tests.browser.campaigns import numbered
from tests.browser.judge import Judge
from tests.browser.server import Server


def test_the_next_item_is_painted_as_soon_in_a_larger_campaign(chromium: Chromium, tmp_path: Path) -> None:
    figure = browsers.painted(chromium, "sqlite", tmp_path, counts=(20, 40), judgments=3)
    assert set(figure.details["times"]) == {"20", "40"}
    # how soon is for a quiet machine
    assert 0 < figure.details["times"]["20"]["p50_ms"] < 10_000, figure


def test_what_browsers_called_saved_is_there_after_kills(chromium: Chromium, tmp_path: Path) -> None:
    figure = browsers.ten_browsers(chromium, "sqlite", tmp_path, people=3, judgments=4, kills=1)
    assert figure.kept, figure


def test_a_page_that_is_slow_to_show_the_next_item_is_seen(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(4))
    server.start()
    context = new_context()
    context.add_init_script(browsers.PAINTS)
    tab = Judge(context.new_page(), server.url).open("Ada")
    tab.page.evaluate(
        "addEventListener('keydown', ({ timeStamp }) => { while (performance.now() < timeStamp + 400) continue; })"
    )
    browsers.judge_at_a_pace(tab)
    (milliseconds,) = tab.page.evaluate("paints")
    assert milliseconds >= 400


def test_only_what_the_page_calls_saved_counts_as_that(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(3))
    server.start()
    context = new_context()
    context.add_init_script(browsers.SAVED)
    tab = Judge(context.new_page(), server.url).open("Ada")
    tab.page.route("**/api/v1/judgments", lambda route: route.abort())
    tab.press("1")
    expect(tab.unsent).to_have_text("1 unsent")
    assert tab.page.evaluate(browsers.LOOK)["unsent"] == 1
    assert tab.page.evaluate("saved") == []
    tab.page.unroute("**/api/v1/judgments")
    tab.saved(1)
    assert [tuple(tab.page.evaluate("saved"))] == server.rows("SELECT id FROM judgment")


def test_hostile_texts_are_seen_on_every_screen_and_do_nothing(chromium: Chromium, tmp_path: Path) -> None:
    figure = screens.hostile(chromium, "sqlite", tmp_path, payloads=PAYLOADS[::30], at_a_time=3)
    assert figure.kept, figure


def test_a_text_that_runs_is_seen(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.fill(numbered(1))
    server.start()
    context = new_context()
    context.add_init_script(MARK)
    page = context.new_page()
    watch = Watch(page, server.url)
    Judge(page, server.url).open("Ada")
    assert watch.seen == []
    page.evaluate("document.querySelector('.prompt').innerHTML = '<b onclick=window.hit=1><i>press</i></b>'")
    with page.expect_console_message():
        page.evaluate(screens.TOUCH, ".prompt")
    assert ["a hostile text ran" in entry for entry in watch.seen] == [True]
