"""What was judged is never lost: the server dies, answers get lost, items go to somebody else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from tests.browser.campaigns import comparison, numbered
from tests.browser.judge import READY, Judge
from tests.browser.server import Server

HISTORY = "SELECT item_id, kind, strength FROM judgment ORDER BY number"
JUDGMENTS = "**/api/v1/judgments"


@pytest.fixture
def opened(server: Server, judge: Judge) -> Judge:
    server.fill(numbered(6))
    server.start()
    return judge.open("Ada")


def test_what_the_page_calls_saved_survives_a_kill_of_the_server(server: Server, opened: Judge) -> None:
    for count in (1, 2):
        opened.press("2")
        opened.saved(count)
        server.kill()
        assert server.rows("SELECT count(*) FROM judgment") == [(count,)]
        server.start()
        opened.page.wait_for_selector(READY)
    assert server.rows("PRAGMA integrity_check") == [("ok",)]
    # the session and the lease of the next item survived as well
    opened.press("t")
    opened.saved(3)
    assert server.rows(HISTORY) == [(1, "ranking", 2.0), (2, "ranking", 2.0), (3, "ranking", None)]


def test_what_is_judged_while_the_server_is_down_arrives_once(server: Server, opened: Judge) -> None:
    server.kill()
    opened.press("1")
    expect(opened.unsent).to_have_text("1 unsent")
    opened.press("9")
    expect(opened.unsent).to_have_text("2 unsent")
    assert opened.state == "away"
    expect(opened.page.locator(".connection")).to_have_text("Not connected to the server, retrying")
    expect(opened.page.locator(".status[data-kind='saved']")).to_have_count(0)
    server.start()
    opened.saved(2)
    opened.page.wait_for_selector(READY)
    expect(opened.page.locator(".connection")).to_be_empty()
    assert server.rows(HISTORY) == [(1, "ranking", 3.0), (2, "ranking", 2.0)]


def test_what_is_unsent_outlives_its_tab(server: Server, opened: Judge) -> None:
    server.kill()
    opened.press("1")
    expect(opened.unsent).to_have_text("1 unsent")
    warnings = []
    opened.page.on("dialog", lambda dialog: (warnings.append(dialog.type), dialog.accept()))
    opened.page.close(run_before_unload=True)
    server.start()
    later = Judge(opened.page.context.new_page(), server.url)
    assert warnings == ["beforeunload"]
    later.open()
    later.saved(1)
    # the old tab's lease of item 2 has yet to run out
    assert later.item == "3"
    assert server.rows(HISTORY) == [(1, "ranking", 3.0)]


def test_an_answer_that_got_lost_makes_no_second_judgment(server: Server, opened: Judge) -> None:
    lost = []

    def lose(route: Route) -> None:
        if len(lost) < 2:
            lost.append(route.fetch().status)  # the server did it
            route.abort()
        else:
            route.continue_()

    opened.page.route(JUDGMENTS, lose)
    opened.press("3")
    opened.saved(1)
    assert lost == [201, 201]
    assert server.rows(HISTORY) == [(1, "ranking", 1.0)]


@pytest.mark.parametrize("kept", [False, True], ids=["undone", "kept"])
def test_undo_waits_for_what_is_unsent(server: Server, opened: Judge, kept: bool) -> None:
    opened.page.route(JUDGMENTS, lambda route: route.abort())
    opened.press("2")
    expect(opened.unsent).to_have_text("1 unsent")
    opened.press("u")
    expect(opened.status).to_have_text("Undo, as soon as your last answer is saved. Esc keeps it")
    # neither lost nor judged twice: the keys of the next card wait too
    opened.press("1")
    expect(opened.unsent).to_have_text("1 unsent")
    if kept:
        opened.press("Escape")
        expect(opened.status).to_have_text("Your last answer stays")
    opened.page.unroute(JUDGMENTS)
    if kept:
        opened.saved(1)
        assert opened.item == "2"
        assert server.rows(HISTORY) == [(1, "ranking", 2.0)]
    else:
        opened.taken_back()
        assert opened.item == "1"
        assert server.rows(HISTORY) == [(1, "ranking", 2.0), (1, "undo", None)]


def test_what_stays_unsent_holds_up_nothing_else(server: Server, opened: Judge) -> None:
    page = opened.page
    store = """([annotator, id, entry]) => localStorage.setItem(`rlhf.unsent.${annotator}.${id}`, entry)"""
    ((annotator,),) = server.rows("SELECT id FROM annotator")
    # one that the app itself refuses, and one that cannot be read
    body = {"client": "c", "id": str(uuid.UUID(int=1)), "item_id": "99", "kind": "ranking", "ranks": [1, 2]}
    page.evaluate(store, [annotator, body["id"], json.dumps({"at": 1, "said": "A is better", "body": body})])
    page.evaluate(store, [annotator, "broken", "{"])
    page.reload()
    page.wait_for_selector(READY)
    expect(page.get_by_role("alert")).to_contain_text("Not saved (A is better): there is no such item")
    expect(opened.unsent).to_be_empty()

    # something in between does not know the address for a while: who knows what the app would say
    def unknown(route: Route) -> None:
        if route.request.post_data_json["item_id"] == "1":
            route.fulfill(status=404, body="<h1>Not Found</h1>")
        else:
            route.continue_()

    page.route(JUDGMENTS, unknown)
    opened.press("1")
    expect(opened.unsent).to_have_text("1 unsent")
    opened.press("2")
    expect(opened.status).to_have_text("Saved: A is better")
    expect(opened.unsent).to_have_text("1 unsent")
    opened.press("u")
    opened.taken_back()
    assert opened.item == "2"
    page.unroute(JUDGMENTS)
    opened.press("t")
    opened.saved(2)
    history = [(2, "ranking", 2.0), (2, "undo", None), (1, "ranking", 3.0), (2, "ranking", None)]
    assert server.rows(HISTORY) == history


def test_an_item_that_went_to_somebody_else_is_said_plainly(
    server: Server, opened: Judge, new_context: Callable[..., BrowserContext]
) -> None:
    # as after a night with the lid closed; what is open would be given out first
    server.change(
        "UPDATE slot SET state = 'leased', annotator_id = (SELECT id FROM annotator), "
        "client = coalesce(client, 'another tab'), leased_until = item_id"
    )
    other = Judge(new_context().new_page(), server.url).open("Grace")
    assert other.item == opened.item == "1"
    other.press("1")
    other.saved(1)
    opened.press("0")
    notice = opened.page.get_by_role("alert")
    expect(notice.first).to_contain_text("Not saved (B is much better): this item went to somebody else")
    expect(opened.unsent).to_be_empty()
    assert server.rows("SELECT count(*) FROM judgment") == [(1,)]
    for _ in range(2):
        notice.first.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    # the item that was ready to be shown next went the same way
    expect(opened.page.locator(".sheet")).to_have_attribute("data-item", "4")
    assert other.item == "2"


def test_a_server_that_stops_in_good_order_does_so_with_open_pages(server: Server, opened: Judge) -> None:
    opened.press("1")
    opened.saved(1)
    assert server.stop() == 0
    assert server.rows(HISTORY) == [(1, "ranking", 3.0)]


def test_a_judgment_with_a_long_text_is_sent(server: Server, judge: Judge) -> None:
    """A browser sends no request of more than 64 KiB that is to outlive its page."""
    long = "word " * 14_000
    server.fill([comparison("Which?", long, "short"), *numbered(1)])
    server.start()
    page = judge.open("Ada").page
    place = judge.responses.index(long)
    page.locator(f"[data-do='edit:{place}']").click()
    page.keyboard.type("Better ")
    page.keyboard.press("Control+Enter")
    judge.press("1")
    judge.saved(1)
    ((edited,),) = server.rows("SELECT edits FROM judgment")
    assert f"Better {long}" in json.loads(edited).values()


def test_what_is_written_and_not_judged_yet_outlives_a_reload(server: Server, opened: Judge) -> None:
    page = opened.page
    original = opened.responses[0]
    opened.press("r")
    page.keyboard.type("Because it is true")
    page.keyboard.press("Control+Enter")
    opened.press("e", "1")
    page.keyboard.type("Even better: ")
    page.reload()
    page.wait_for_selector(READY)
    expect(opened.status).to_have_text("What you had begun here is still there")
    opened.press("e", "1")
    expect(page.get_by_label("Better text of response A")).to_have_value(f"Even better: {original}")
    page.keyboard.press("Control+Enter")
    opened.saved(1)
    ((rationale, edited),) = server.rows("SELECT rationale, edits FROM judgment")
    assert rationale == "Because it is true"
    assert f"Even better: {original}" in edited
    page.wait_for_selector(READY)
    # a card that is judged leaves nothing behind, and the next one begins with nothing
    assert page.evaluate("Object.keys(sessionStorage).filter((key) => key.startsWith('rlhf.draft.'))") == []
    page.reload()
    page.wait_for_selector(READY)
    expect(opened.status).to_be_empty()
