"""What else a key does beside the choice: edits, reasons, ratings, views; and that every key can be another one."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Route, expect

from tests.browser.campaigns import SKY, SOURDOUGH, comparison, numbered
from tests.browser.judge import READY, Judge
from tests.browser.server import Server

SAID = "SELECT kind, ranks, strength, both_bad, reason, rationale FROM judgment ORDER BY number"


def edits(server: Server) -> list[dict[str, str] | None]:
    """Of each judgment in the order they came: the better texts, by the original that they replace."""
    found: list[dict[str, str] | None] = []
    for item_id, edited in server.rows("SELECT item_id, edits FROM judgment ORDER BY number"):
        texts = server.rows("SELECT text FROM completion WHERE item_id = ? ORDER BY position", item_id)
        places = json.loads(edited) if edited else None
        found.append(places and {texts[int(place)][0]: text for place, text in places.items()})
    return found


def test_the_better_response_is_edited_and_the_choice_goes_with_it(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.open("Ada").page
    original = judge.responses[1]
    judge.press("e")
    expect(judge.status).to_contain_text("the better response opens for editing")
    judge.press("9")
    field = page.get_by_label("Better text of response B")
    expect(field).to_be_focused()
    expect(field).to_have_value(original)
    # keys are letters here
    page.keyboard.type("1t ")
    expect(page.locator(".changes ins")).to_contain_text("1t")
    expect(page.locator(".changes del")).to_have_count(0)
    page.keyboard.press("Control+Enter")
    judge.saved(1)
    assert edits(server) == [{original: f"1t {original}"}]
    assert server.ranked()[original] == 1


def test_an_edit_is_shown_when_its_item_is_judged_again_and_can_be_dropped(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.open("Ada").page
    original = judge.responses[0]
    judge.press("e", "1")
    page.keyboard.type("Better: ")
    page.keyboard.press("Control+Enter")
    judge.saved(1)
    judge.press("f")
    page.keyboard.type("a phone number")
    page.keyboard.press("Enter")
    expect(judge.status).to_have_text("Saved: flagged")
    judge.press("h")
    rows = page.locator(".rows li")
    expect(rows.nth(0)).to_contain_text("a phone number")
    expect(rows.nth(1)).to_contain_text("edited: A")
    rows.nth(1).get_by_role("button").click()
    page.wait_for_selector(f"{READY}[data-item='1']")
    edit = page.locator(".response").first.locator(".own-edit")
    expect(edit.locator("ins")).to_contain_text("Better")
    expect(edit).to_contain_text(f"Better: {original}")
    page.get_by_role("button", name="Drop the edit of response A").click()
    expect(judge.status).to_have_text("The edit of response A is dropped")
    expect(edit).to_have_count(0)
    expect(page.locator(".edited").first).to_be_empty()
    judge.press("2")
    expect(judge.status).to_have_text("Saved: A is better")
    assert edits(server) == [{original: f"Better: {original}"}, None, None]


def test_typing_into_a_long_text_does_not_move_the_page(server: Server, judge: Judge) -> None:
    server.fill([comparison("long", "\n".join(["one line"] * 120), "\n".join(["another"] * 120))])
    server.start()
    page = judge.open("Ada").page
    judge.press("e", "1")
    field = page.get_by_label("Better text of response A")
    field.press("Control+End")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    before = page.evaluate("scrollY")
    assert before > 1000
    field.press_sequentially("more", delay=30)
    assert page.evaluate("scrollY") == before


def test_an_editor_that_is_left_keeps_the_choice_and_the_text(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.open("Ada").page
    original = judge.responses[0]
    judge.press("e", "1")
    page.keyboard.type("better ")
    page.keyboard.press("Escape")
    expect(page.locator(".editor")).to_have_count(0)
    expect(page.locator(".chosen")).to_have_text("A is much better")
    assert server.rows("SELECT count(*) FROM judgment") == [(0,)]
    # back to the card: the choice is open again, and the text is where it was left
    page.keyboard.press("Escape")
    expect(page.locator(".details")).to_be_hidden()
    page.get_by_role("button", name="Edit response A").click()
    expect(page.get_by_label("Better text of response A")).to_have_value(f"better {original}")
    page.keyboard.press("Escape")
    judge.press("1")
    judge.saved(1)
    assert edits(server) == [None]
    # left and then confirmed
    judge.press("e", "0")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    judge.saved(2)
    assert edits(server) == [None, None]


def test_a_text_as_it_was_and_an_empty_one_are_no_edits(server: Server, judge: Judge) -> None:
    texts = ("one\r\ntwo", "three\r\nfour")
    server.fill([comparison("Which?", *texts)])
    server.start()
    page = judge.open("Ada").page
    judge.press("e", "1")
    expect(page.locator(".changes")).to_have_text("Nothing is changed yet")
    page.keyboard.press("Control+Enter")
    judge.saved(1)
    judge.press("u")
    judge.taken_back()
    page.get_by_role("button", name="Edit response A").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.press("Control+Enter")
    expect(judge.status).to_have_text("An empty text is no better one: response A stays as it is")
    judge.press("r")
    page.keyboard.type("A, all the same")
    page.keyboard.press("Control+Enter")
    judge.press("1")
    judge.saved(1)
    assert edits(server) == [None, None, None]
    assert server.rows("SELECT rationale FROM judgment ORDER BY number DESC LIMIT 1") == [("A, all the same",)]


def test_what_was_said_before_stays_with_its_card(server: Server, judge: Judge) -> None:
    server.fill(numbered(3))
    server.start()
    page = judge.open("Ada").page

    def because(reason: str) -> None:
        judge.press("r")
        page.keyboard.type(reason)
        page.keyboard.press("Control+Enter")

    for count, reason in enumerate(("first", "second"), start=1):
        because(reason)
        judge.press("1")
        judge.saved(count)
        page.wait_for_selector(f"{READY}[data-item='{count + 1}']")
    for item in ("2", "1"):
        judge.press("u")
        page.wait_for_selector(f"{READY}[data-item='{item}']")
    # both were taken back: the second one waits behind the first
    for count in (1, 2):
        expect(page.locator("[data-previous]")).to_have_attribute("data-do", "pair:0:3")
        judge.press("t")
        judge.saved(count)
        page.wait_for_selector(f"{READY}[data-item='{count + 1}']")
    reasons = server.rows("SELECT rationale FROM judgment WHERE ranks = '[1, 1]' ORDER BY number")
    assert reasons == [("first",), ("second",)]

    # a manager changes what is asked for meanwhile: what was written and is refused is there again
    because("third")
    original = judge.responses[0]
    page.get_by_role("button", name="Edit response A").click()
    page.keyboard.type("Better: ")
    page.keyboard.press("Control+Enter")
    server.ask_for(rationale="off")
    judge.press("1")
    expect(page.get_by_role("alert")).to_contain_text("this campaign asks for no rationale")
    expect(judge.status).to_have_text("What you had begun here is still there")
    expect(page.get_by_role("button", name="Reason")).to_have_count(0)
    judge.press("1")
    judge.saved(3)
    assert edits(server)[-1] == {original: f"Better: {original}"}


def test_an_answer_that_comes_late_takes_no_key_away(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.page
    held: list[Route] = []
    page.route("**/openapi.json", lambda route: held.append(route))
    judge.open("Ada")
    judge.press("r")
    page.keyboard.type("keys are le")
    held.pop().continue_()
    expect(page.get_by_role("link", name="History")).to_be_visible()
    page.keyboard.type("tters")
    expect(page.get_by_label("Why?")).to_have_value("keys are letters")
    page.keyboard.press("Control+Enter")

    # without the server no difference is known, and none is denied
    page.route("**/api/v1/diff", lambda route: route.abort())
    page.get_by_role("button", name="Edit response A").click()
    expect(page.locator(".changes")).to_have_text("Nothing is changed yet")
    page.keyboard.type("changed ")
    expect(page.locator(".changes")).to_be_empty()
    page.keyboard.press("Escape")
    for count in (1, 2):
        judge.press("1")
        judge.saved(count)
        page.wait_for_selector(f"{READY}[data-item='{count + 1}']")

    # two presses bring the same rows once
    page.route("**/history?*", lambda route: route.continue_(url=route.request.url.replace("limit=50", "limit=1")))
    judge.press("h")
    rows = page.locator(".rows li")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Show more").evaluate("button => { button.click(); button.click(); }")
    expect(rows).to_have_count(2)
    page.wait_for_timeout(500)
    expect(rows).to_have_count(2)

    # whoever goes back to the card keeps it
    page.route("**/history/open", lambda route: held.append(route))
    rows.first.get_by_role("button").click()
    page.keyboard.press("h")
    expect(page.locator(".sheet")).to_be_visible()
    with page.expect_response("**/history/open") as answered:
        held.pop().continue_()
    answered.value.finished()
    page.wait_for_timeout(300)
    assert judge.item == "3"


def test_bad_ones_flags_and_reasons_take_one_or_two_keys(server: Server, judge: Judge) -> None:
    server.fill([*numbered(4), SKY])
    server.ask_for(skip_reasons=["wrong language", "cannot judge"], flag_reasons=["harmful", "private"])
    server.start()
    page = judge.open("Ada").page
    judge.press("b")
    judge.saved(1)
    judge.press("s", "2")
    expect(page.locator(".mine")).to_contain_text("1 skipped")
    judge.press("f")
    # each reason in its own writing direction
    reasons = page.get_by_role("group", name="Reasons to flag").locator("button span")
    assert [reason.get_attribute("dir") for reason in reasons.all()] == ["auto", "auto"]
    page.keyboard.type("the prompt is cut")
    page.keyboard.press("Enter")
    expect(judge.status).to_have_text("Saved: flagged")
    expect(page.locator(".mine")).to_have_text("1 of 5 judged, 1 skipped, 1 flagged")
    judge.press("f", "1")
    page.wait_for_selector(f"{READY}[data-item='5']")
    judge.press("b")
    judge.saved(2)
    assert server.rows(SAID) == [
        ("ranking", "[1, 1]", None, 1, None, None),
        ("skip", None, None, None, "cannot judge", None),
        ("flag", None, None, None, "the prompt is cut", None),
        ("flag", None, None, None, "harmful", None),
        ("ranking", "[1, 1, 1, 1]", None, 1, None, None),
    ]


def test_aspects_and_a_required_reason_are_asked_for_after_the_choice(server: Server, judge: Judge) -> None:
    server.fill([SOURDOUGH, *numbered(2)])
    server.ask_for(rationale="required", aspects=[{"name": "helpful", "levels": 5}, {"name": "true", "levels": 3}])
    server.start()
    page = judge.open("Ada").page
    good, bad = (response.text for response in SOURDOUGH.responses)
    judge.prefer(good, ("1", "0"))
    expect(page.get_by_role("radiogroup", name="helpful of response A, 1 to 5")).to_be_visible()
    by_text = {good: ("5", "3"), bad: ("2", "1")}
    left, right = judge.responses
    for key in (by_text[left][0], by_text[right][0], by_text[left][1], by_text[right][1]):
        page.keyboard.press(key)
    expect(page.get_by_label("Why?")).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(judge.status).to_have_text("A reason is asked for here")
    page.keyboard.type("one is dead wrong")
    page.keyboard.press("Control+Enter")
    judge.saved(1)
    (said,) = server.rows("SELECT aspects, rationale FROM judgment")
    assert (json.loads(said[0]), said[1]) == ({"helpful": [5, 2], "true": [3, 1]}, "one is dead wrong")
    # what was said is there again when it is taken back
    judge.press("u")
    judge.taken_back()
    judge.press("t")
    judge.saved(1)
    assert server.rows("SELECT rationale FROM judgment ORDER BY number DESC LIMIT 1") == [("one is dead wrong",)]


def test_a_reason_can_come_before_the_choice(server: Server, judge: Judge) -> None:
    server.fill(numbered(2))
    server.start()
    page = judge.open("Ada").page
    judge.press("r")
    page.keyboard.type("s is for skip, ")
    page.keyboard.press("Escape")
    # left, it is there as well
    expect(judge.status).to_have_text("Kept: it goes with your choice")
    kept = page.get_by_role("button", name="Reason kept")
    expect(kept).to_be_visible()
    kept.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("not here")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".details")).to_be_hidden()
    expect(kept).to_be_visible()
    judge.press("8")
    judge.saved(1)
    expect(page.get_by_role("button", name="Reason", exact=True)).to_be_visible()
    assert server.rows("SELECT rationale FROM judgment") == [("s is for skip, not here",)]


@pytest.mark.parametrize("asked", [True, False])
def test_a_campaign_that_does_not_ask_shows_no_button(server: Server, judge: Judge, asked: bool) -> None:
    server.fill(numbered(2))
    rationale = "optional" if asked else "off"
    server.ask_for(strength=asked, both_bad=asked, edits=asked, rationale=rationale)
    server.start()
    page = judge.open("Ada").page
    for name, count in (("both bad", 1), ("Edit better", 1), ("Reason", 1), ("much better", 2)):
        expect(page.get_by_role("button", name=name)).to_have_count(count if asked else 0)
    judge.press("b" if asked else "1")
    judge.saved(1)
    assert server.rows("SELECT strength, both_bad FROM judgment") == [(None, int(asked))]


def test_arrows_judge_a_pair_but_scroll_a_wide_block(server: Server, judge: Judge) -> None:
    wide = "```\n" + "wide " * 200 + "\n```"
    server.fill([comparison("Which?", wide, "narrow"), *numbered(1)])
    server.start()
    page = judge.open("Ada").page
    page.wait_for_selector(".rendered [tabindex='0']")
    page.locator(".rendered [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert server.rows("SELECT count(*) FROM judgment") == [(0,)]
    page.locator(".sheet").focus()
    right = judge.responses[1]
    judge.press("ArrowRight")
    judge.saved(1)
    assert server.ranked()[right] == 1
    assert server.rows("SELECT strength FROM judgment") == [(2.0,)]


def test_texts_are_seen_formatted_verbatim_and_compared(server: Server, judge: Judge) -> None:
    server.fill([comparison("Which?", "It is **bold** and old.", "It is **bold** and new.")])
    server.start()
    page = judge.open("Ada").page
    expect(page.locator(".response .markdown strong")).to_have_count(2)
    expect(page.locator(".response .content").first).to_be_hidden()
    judge.press("m")
    expect(page.locator(".response .markdown").first).to_be_hidden()
    expect(page.get_by_text("It is **bold** and old.")).to_be_visible()
    judge.press("d")
    marks = page.locator(".response mark")
    expect(marks).to_have_count(2)
    assert sorted(marks.all_text_contents()) == ["new", "old"]
    judge.press("d")
    expect(page.locator(".compared")).to_have_count(0)
    # the view stays chosen
    page.reload()
    page.wait_for_selector(READY)
    expect(page.get_by_text("It is **bold** and old.")).to_be_visible()


def test_differences_favour_no_side_and_leave_code_as_code(server: Server, judge: Judge) -> None:
    text = "Try `{}` or:\n```\nprint({})\n```\nIt is {}."
    server.fill([comparison("Which?", text.format("a", 1, "old"), text.format("b", 2, "new"))])
    server.start()
    page = judge.open("Ada").page
    judge.press("d")
    marks = page.locator(".response mark")
    expect(marks).to_have_count(6)
    properties = ["backgroundColor", "color", "textDecorationLine", "fontSize"]
    look = f"e => {properties}.map((name) => getComputedStyle(e)[name])"
    looks = {json.dumps(mark.evaluate(look)) for mark in marks.all()}
    assert len(looks) == 1
    assert "none" in looks.pop()
    # word by word: what is code, and what is not
    font = "e => getComputedStyle(e).fontFamily.includes('mono')"
    for side in range(2):
        found = page.locator(".response").nth(side).locator("mark")
        in_code = [mark.locator("code").count() == 1 for mark in found.all()]
        assert in_code == [True, True, False]
        assert found.first.locator("code").evaluate(font)
        assert not found.last.evaluate(font)
        shown = page.locator(".response").nth(side).locator(".compared").text_content()
        assert shown == judge.responses[side]


def test_every_key_can_be_another_one(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.open("Ada").page
    judge.menu("Change keys")
    said = page.locator(".keymap-said")
    page.get_by_role("button", name="tie: neither is better: key T, change").click()
    page.keyboard.press("s")
    expect(said).to_contain_text("S is the key of “skip; a reason is optional”")
    page.keyboard.press("x")
    expect(said).to_have_text("X: tie: neither is better")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    expect(page.get_by_role("button", name="Tie")).to_contain_text("X")
    page.reload()
    page.wait_for_selector(READY)
    judge.press("t")
    judge.press("x")
    judge.saved(1)
    assert server.rows("SELECT ranks FROM judgment") == [("[1, 1]",)]
    judge.menu("Change keys")
    page.get_by_role("button", name="All as they were").click()
    page.keyboard.press("Escape")
    judge.press("x")
    judge.press("t")
    judge.saved(2)
    assert server.rows("SELECT count(*) FROM judgment") == [(2,)]
