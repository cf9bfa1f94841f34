"""Several people and tabs share a campaign: no item is with two of them, none is judged twice, none is left."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, expect

from tests.browser.campaigns import numbered
from tests.browser.judge import READY, Judge
from tests.browser.server import Server

NUM_ITEMS = 21
HELD = "SELECT item_id FROM slot WHERE state = 'leased'"


def test_two_people_with_two_tabs_each_share_a_campaign(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(NUM_ITEMS))
    server.start()
    tabs = []
    for name in ("Ada", "Grace"):
        context = new_context()
        tabs.append(Judge(context.new_page(), server.url).open(name))
        tabs.append(Judge(context.new_page(), server.url).open())
    working = list(tabs)
    turn = 0
    while working:
        on_screen = [tab.item for tab in working]
        assert len(set(on_screen)) == len(on_screen)
        held = [item_id for (item_id,) in server.rows(HELD)]
        assert len(set(held)) == len(held)
        # all press before any of them is waited for
        for number, tab in enumerate(working):
            tab.press("129t"[(turn + number) % 4])
        for tab in working:
            expect(tab.unsent).to_be_empty()
            tab.page.wait_for_selector(f"{READY}, [data-state='empty']")
        working = [tab for tab in working if tab.state == "card"]
        turn += 1
    judged = [item_id for (item_id,) in server.rows("SELECT item_id FROM judgment")]
    assert sorted(judged) == list(range(1, NUM_ITEMS + 1))
    assert server.rows("SELECT DISTINCT kind FROM judgment") == [("ranking",)]
    assert server.rows("SELECT count(DISTINCT annotator_id) FROM judgment") == [(2,)]
    for tab in tabs:
        expect(tab.page.get_by_role("alert")).to_have_count(0)
        tab.page.reload()
        expect(tab.page.locator(".message h2")).to_have_text("All done")
        expect(tab.page.locator(".everyone")).to_have_text(f"All annotators: {NUM_ITEMS} of {NUM_ITEMS} items finished")


def test_three_tabs_of_one_person_judge_at_once(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.fill(numbered(12))
    server.start()
    context = new_context()
    tabs = [Judge(context.new_page(), server.url).open("Ada")]
    tabs += [Judge(context.new_page(), server.url).open() for _ in range(2)]
    while working := [tab for tab in tabs if tab.state == "card"]:
        assert len({tab.item for tab in working}) == len(working)
        for tab in working:
            tab.press("2")
        for tab in working:
            expect(tab.unsent).to_be_empty()
            tab.page.wait_for_selector(f"{READY}, [data-state='empty']")
    assert sorted(server.rows("SELECT item_id FROM judgment")) == [(number,) for number in range(1, 13)]
    for tab in tabs:
        expect(tab.page.get_by_role("alert")).to_have_count(0)


def test_a_duplicated_tab_is_another_tab(server: Server, judge: Judge) -> None:
    """A page opened by a page starts with a copy of its storage, the tab's id included."""
    server.fill(numbered(6))
    server.start()
    judge.open("Ada")
    with judge.page.expect_popup() as popup:
        judge.page.evaluate("void window.open('/annotate/')")
    twin = Judge(popup.value, server.url)
    twin.page.wait_for_selector(READY)
    assert (judge.item, twin.item) == ("1", "3")
    names = [tab.page.evaluate("sessionStorage.getItem('rlhf.tab')") for tab in (judge, twin)]
    assert names[0] != names[1]
    for tab, count in ((judge, 1), (twin, 2)):
        tab.press("1")
        tab.saved(count)
    assert sorted(server.rows("SELECT item_id FROM judgment")) == [(1,), (3,)]


def test_a_closed_tab_gives_its_items_back(
    server: Server, judge: Judge, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(3))
    server.start()
    judge.open("Ada")
    judge.page.wait_for_function("document.querySelector('.mine').textContent === '0 of 3 judged'")
    other = Judge(new_context().new_page(), server.url).open("Grace")
    assert other.item == "3"
    judge.page.close(run_before_unload=True)
    other.press("1")
    other.saved(1)
    other.page.wait_for_selector(READY)
    other.press("1")
    other.saved(2)
    other.page.wait_for_selector(READY)
    other.press("1")
    other.saved(3)
    assert sorted(server.rows("SELECT item_id FROM judgment")) == [(1,), (2,), (3,)]


def test_an_overlap_asks_each_person_once(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.fill(numbered(3), overlap=2)
    server.start()
    for name in ("Ada", "Grace", "Edsger"):
        judge = Judge(new_context().new_page(), server.url).visit(name)
        while judge.state == "card":
            item = judge.item
            judge.press("2")
            judge.page.wait_for_selector(f".sheet[data-ready='true']:not([data-item='{item}']), [data-state='empty']")
    query = "SELECT item_id, name FROM judgment JOIN annotator ON annotator.id = annotator_id"
    assert sorted(server.rows(query)) == [(number, name) for number in (1, 2, 3) for name in ("Ada", "Grace")]
