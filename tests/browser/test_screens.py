"""What lies around the card: guidelines, history, own work, adjudication, live prompts, language and colours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from annotation.accounts import Accounts
from annotation.store import Store
from tests.browser.campaigns import SKY, SOURDOUGH, comparison, numbered
from tests.browser.judge import READY, Judge
from tests.browser.model import Model
from tests.browser.server import Server

GUIDELINE = "# How to judge\n\nPrefer what is **true**, then what helps.\n"
PASSWORD = "seven brown lamps in rain"
STATIC = Path(__file__).parents[2] / "annotation" / "static"


def visit(page: Page, screen: str) -> None:
    page.locator(f".screens a[href='#{screen}']").click()
    page.wait_for_selector(f".screen.{screen} h2")


def test_guidelines_are_accepted_before_the_work_and_read_again_with_a_key(server: Server, judge: Judge) -> None:
    server.fill(numbered(3))
    server.write_guideline(GUIDELINE)
    server.start()
    page = judge.visit("Ada").page
    page.wait_for_selector("[data-state='gate']")
    expect(page.locator(".gate")).to_contain_text("Prefer what is true, then what helps.")
    expect(page.locator(".gate strong")).to_have_text("true")
    expect(page.get_by_role("button", name="I have read it and will follow it")).to_contain_text("Enter")
    page.keyboard.press("1")
    page.keyboard.press("Enter")  # meant for what was there a moment before
    page.wait_for_timeout(1100)
    expect(page.locator(".gate")).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    assert server.rows("SELECT count(*) FROM guideline_ack") == [(1,)]
    judge.press("g")
    expect(page.get_by_role("dialog")).to_contain_text("Prefer what is true")
    judge.press("1")
    judge.press("g")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert server.rows("SELECT count(*) FROM judgment") == [(0,)]
    visit(page, "guidelines")
    expect(page.locator(".screen.guidelines")).to_contain_text("Version 1")


def test_history_opens_what_was_judged_as_a_new_revision(server: Server, judge: Judge) -> None:
    server.fill(numbered(5))
    server.start()
    page = judge.open("Ada").page
    judge.press("1")
    judge.saved(1)
    judge.press("t")
    judge.saved(2)
    judge.press("h")
    rows = page.locator(".rows li")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("question 2")
    expect(rows.nth(0)).to_contain_text("tie")
    expect(rows.nth(1)).to_contain_text("A is much better")
    # keys of the card rest here
    page.keyboard.press("1")
    page.keyboard.press("u")
    rows.nth(1).get_by_role("button").click()
    page.wait_for_selector(f"{READY}[data-item='1']")
    expect(page.locator("[data-previous]")).to_have_attribute("data-do", "pair:0:3")
    judge.press("0")
    expect(judge.status).to_have_text("Saved: B is much better")
    assert server.rows("SELECT item_id, revision, supersedes FROM judgment ORDER BY number") == [
        (1, 1, None),
        (2, 1, None),
        (1, 2, 1),
    ]
    judge.press("h")
    expect(rows.nth(0)).to_contain_text("revision 2")
    page.keyboard.press("h")
    expect(page.locator(".sheet")).to_be_visible()


def test_own_work_shows_the_accuracy_on_gold_with_its_interval(server: Server, judge: Judge) -> None:
    known = numbered(8)
    server.fill(known, gold={row.id: [1, 2] for row in known}, gold_kind="qualification")
    server.ask_for(qualification_items=8, qualification_accuracy=0.5)
    server.start()
    page = judge.open("Ada").page
    for count in range(8):
        page.wait_for_selector(READY)
        # right six times of eight
        good = 0 if "good" in judge.responses[0] else 1
        item = judge.item
        judge.press("1" if (good == 0) == (count < 6) else "0")
        page.wait_for_selector(f"{READY}:not([data-item='{item}']), .judge:not([data-state='card'])")
        expect(judge.unsent).to_be_empty()
    visit(page, "work")
    # Wilson's interval of 6 of 8
    expect(page.locator(".gold")).to_contain_text("6 of 8: 75%")
    expect(page.locator(".gold")).to_contain_text("from 41% to 93%")
    expect(page.locator(".tile").first).to_contain_text("8")
    # a pace is no count: a whole number is as exact as it is
    pace = page.locator(".tile", has_text="Per active hour").locator("dd").text_content()
    assert pace is not None
    assert re.fullmatch(r"[\d,]+", pace)


def test_adjudicators_see_what_others_said_and_others_see_no_such_screen(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill([SOURDOUGH], overlap=2)
    server.start()
    good, bad = (response.text for response in SOURDOUGH.responses)
    adjudicator = Judge(new_context().new_page(), server.url).open("Edsger")
    # where nobody is a manager, everybody is
    server.change("UPDATE annotator SET role = 'manager', password_hash = 'of nothing' WHERE name = 'Edsger'")
    adjudicator.page.goto("about:blank")
    for name, better in (("Ada", good), ("Grace", bad)):
        judge = Judge(new_context().new_page(), server.url).open(name)
        expect(judge.page.get_by_role("link", name="My work")).to_be_visible()
        expect(judge.page.get_by_role("link", name="Adjudicate")).to_be_hidden()
        judge.press("r")
        judge.page.keyboard.type(f"{name}'s reason")
        judge.page.keyboard.press("Control+Enter")
        judge.prefer(better, ("2", "9"))
        judge.saved(1)
    judge = adjudicator.visit()
    judge.page.get_by_role("link", name="Adjudicate").click()
    judge.page.wait_for_selector(READY)
    opinions = judge.page.locator(".opinions li")
    expect(opinions).to_have_count(2)
    assert opinions.locator(".label").all_text_contents() == ["Annotator 1", "Annotator 2"]
    said = " ".join(opinions.all_text_contents())
    for part in ("A is better", "B is better", "Ada's reason", "Grace's reason"):
        assert part in said
    judge.prefer(good, ("1", "0"))
    expect(judge.status).to_contain_text("Saved: ")
    assert server.ranked() == {good: 1, bad: 2}
    assert server.rows("SELECT role FROM judgment ORDER BY number DESC LIMIT 1") == [("adjudication",)]


def test_who_has_judged_all_is_told_how_much_waits_for_others(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(3), overlap=2)
    server.start()
    judge = Judge(new_context().new_page(), server.url).open("Ada")
    for count in (1, 2):
        judge.press("1")
        judge.saved(count)
    judge.press("s", "Enter")
    message = judge.page.locator(".message")
    expect(message.locator("h2")).to_have_text("Nothing left for you")
    expect(message).to_contain_text("2 items that you have judged wait for other annotators.")
    expect(message).to_contain_text("1 item is open in another tab, with another annotator, or skipped or flagged")


def test_what_to_do_at_a_command_line_is_told_to_managers_alone(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(1))
    server.start()
    ada, grace = (Judge(new_context().new_page(), server.url) for _ in range(2))
    ada.open("Ada")
    grace.visit("Grace")
    expect(grace.page.locator(".message")).to_contain_text("rlhf annotate export")
    # where nobody is a manager, everybody is
    server.change("UPDATE annotator SET role = 'manager', password_hash = 'of nothing' WHERE name = 'Ada'")
    ada.press("1")
    for judge, manages in ((ada, True), (grace, False)):
        judge.page.reload()
        expect(judge.page.locator(".message h2")).to_have_text("All done")
        expect(judge.page.locator(".message code")).to_have_count(1 if manages else 0)


def test_a_password_can_be_changed_from_the_menu_where_there_is_one(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(6))
    server.start()
    page = Judge(new_context().new_page(), server.url).open("Ada").page
    page.locator(".menu-button").click()
    expect(page.get_by_role("link", name="Change password")).to_be_hidden()
    # also where others come in by their names alone
    store = Store.open(server.store_url)
    Accounts(store).add("Mara", "manager", PASSWORD, by=None)
    store.close()
    page = new_context().new_page()
    page.goto(server.url)
    page.get_by_label("Your name").fill("Mara")
    page.keyboard.press("Enter")
    # asked for is no error
    expect(page.locator(".hint")).to_have_text("Give your password.")
    expect(page.locator(".error")).to_be_hidden()
    expect(page.get_by_label("Your password")).to_have_attribute("aria-invalid", "false")
    page.get_by_label("Your password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    page.locator(".menu-button").click()
    page.get_by_role("link", name="Change password").click()
    page.get_by_label("The password that you have now").fill(PASSWORD)
    page.get_by_label("The new password", exact=True).fill(f"{PASSWORD} now")
    page.get_by_label("The new password again").fill(f"{PASSWORD} now")
    page.get_by_role("button", name="Change it").click()
    page.wait_for_selector(READY)
    assert server.rows("SELECT count(*) FROM audit WHERE action LIKE '%password%'") == [(1,)]


def test_no_key_is_named_where_there_is_no_keyboard(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.fill([SKY, *numbered(2)])
    server.start()
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    judge = Judge(new_context(**phone).new_page(), server.url)
    judge.page.goto(server.url)
    judge.page.get_by_label("Your name").fill("Ada")
    judge.page.keyboard.press("Enter")
    judge.page.wait_for_selector(READY)
    expect(judge.page.get_by_role("button", name="Save ranking")).to_be_visible()
    assert judge.page.locator(".judge :is(.dock, .views) kbd:visible").count() == 0
    # the digits of a ranking are what its buttons say
    assert judge.page.locator(".ranks kbd:visible").count() == 16
    for number in range(4):
        judge.page.get_by_role("group", name=f"Rank of response {'ABCD'[number]}").get_by_text(str(number + 1)).tap()
    judge.page.get_by_role("button", name="Save ranking").tap()
    judge.page.wait_for_selector(f"{READY}[data-item='2']")
    judge.page.get_by_role("button", name="Response B is better").tap()
    expect(judge.page.locator(".mine")).to_contain_text("2 of ")


def test_on_a_phone_all_is_in_view_and_stands_in_one_order(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    long = "\n".join(["one line"] * 120)
    server.fill([comparison("long", long, long + " and more"), *numbered(2)])
    server.ask_for(live=True)
    server.start()
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "locale": "de-DE"}
    page = new_context(**phone).new_page()
    page.goto(server.url)
    page.locator("#name").fill("Ada")
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    expect(page.locator(".screens a[href='#live']")).to_be_visible()
    for shown in page.locator(".screens a:visible, .extras button:visible, .scale button").all():
        box = shown.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360, shown.text_content()
    for strength in (1, 2, 3):
        boxes = [button.bounding_box() for button in page.locator(f".scale .strength-{strength}").all()]
        assert len({round(box["x"]) for box in boxes if box}) == 1
    # Tab goes through them as one reads
    right = page.locator(".scale .side").last
    right.locator(".strength-3").focus()
    for strength in (2, 1):
        page.keyboard.press("Tab")
        expect(right.locator(f".strength-{strength}")).to_be_focused()
    # what ends the editor stays in view
    page.locator("[data-do='edit:0']").tap()
    expect(page.locator(".status")).to_have_text("Antwort A wird bearbeitet")
    for place in (0, 10**6):
        page.evaluate(f"scrollTo(0, {place})")
        for name in ("Text speichern", "Verlassen"):
            expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    expect(page.locator(".controls")).to_be_hidden()
    page.get_by_label("Besserer Text").fill("kurz")
    page.get_by_role("button", name="Text speichern").tap()
    expect(page.locator(".own-edit")).to_contain_text("kurz")
    expect(page.locator(".edited").first).to_have_text("bearbeitet")
    assert page.evaluate("innerWidth") == 360  # it grows with what is too wide
    expect(page.locator(".controls")).to_be_visible()


@pytest.mark.parametrize("streams", ["streamed", "refused", "held back"])
def test_answers_to_an_own_prompt_grow_and_are_judged(server: Server, judge: Judge, streams: str) -> None:
    server.fill(numbered(2))
    server.ask_for(live=True)
    server.start()
    if streams == "refused":
        judge.page.route("**/events", lambda route: route.abort())
    elif streams == "held back":
        judge.page.route("**/events", lambda route: None)
    page = judge.open("Ada").page
    visit(page, "live")
    page.get_by_label("Your prompt").fill("Why is rain wet?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".live-state")).to_contain_text("Waiting for a free model, place 1")
    model = Model(server)
    model.grow(("Because", "Rain"))
    expect(page.locator(".answers .response")).to_have_count(2)
    expect(page.locator(".answers")).to_contain_text("Because")
    page.reload()
    expect(page.locator(".answers")).to_contain_text("Because")
    model.grow(("Because it is water.", "Rain is not wet."), done=True)
    page.wait_for_selector(READY)
    assert sorted(judge.responses) == ["Because it is water.", "Rain is not wet."]
    judge.prefer("Because it is water.", ("1", "0"))
    expect(judge.status).to_contain_text("Saved: ")
    expect(judge.status).to_contain_text("is much better")
    assert server.ranked() == {"Because it is water.": 1, "Rain is not wet.": 2}
    # and on with the better one
    page.get_by_label("Your next message").fill("And snow?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".live-state")).to_contain_text("Waiting")
    (messages,) = server.rows("SELECT messages FROM live_request ORDER BY created_at DESC LIMIT 1")[0]
    assert [message["content"] for message in json.loads(messages)] == [
        "Why is rain wet?",
        "Because it is water.",
        "And snow?",
    ]
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_label("Your next message")).to_have_value("And snow?")


def test_who_signs_in_next_in_a_tab_sees_no_prompt_of_before(server: Server, judge: Judge) -> None:
    server.fill(numbered(2))
    server.ask_for(live=True)
    server.start()
    page = judge.open("Ada").page
    visit(page, "live")
    page.get_by_label("Your prompt").fill("Why is rain wet?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".live-state")).to_contain_text("Waiting")
    for name, waits in (("Grace", 0), ("Ada", 1)):
        judge.menu("Sign out")
        page.wait_for_url("**/login")
        page.get_by_label("Your name").fill(name)
        page.keyboard.press("Enter")
        page.wait_for_selector(READY)
        visit(page, "live")
        expect(page.get_by_label("Your prompt")).to_have_count(1 - waits)
        expect(page.get_by_text("Why is rain wet?")).to_have_count(waits)


def test_the_language_chosen_last_is_spoken_whichever_arrives_first(server: Server, judge: Judge) -> None:
    server.fill(numbered(1))
    server.start()
    page = judge.open("Ada").page
    held: list[Route] = []
    page.route("**/strings.de.json", lambda route: held.append(route))
    page.locator(".menu-button").click()
    chosen = page.locator("[name='language']")
    chosen.select_option("de")
    page.wait_for_timeout(200)
    chosen.select_option("en")
    with page.expect_response("**/strings.de.json"):
        held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_texts_stay_blurred_until_the_warning_is_read_once_a_tab(server: Server, judge: Judge) -> None:
    server.fill(numbered(4))
    server.ask_for(content_warning="Some texts speak of illness.")
    server.start()
    page = judge.open("Ada").page
    expect(page.locator(".warning")).to_contain_text("Some texts speak of illness.")
    assert page.locator(".texts").evaluate("e => getComputedStyle(e).filter") == "blur(14px)"
    judge.press("1")
    page.get_by_role("button", name="Show the texts").press("Enter")
    expect(page.locator(".warning")).to_be_hidden()
    judge.press("2")
    judge.saved(1)
    page.wait_for_selector(READY)
    expect(page.locator(".warning")).to_be_hidden()
    assert page.locator(".texts").evaluate("e => getComputedStyle(e).filter") == "none"
    assert server.rows("SELECT strength FROM judgment") == [(2.0,)]


def test_the_browser_going_offline_is_said_and_what_was_judged_is_sent_when_it_is_back(
    server: Server, judge: Judge
) -> None:
    server.fill(numbered(4))
    server.start()
    page = judge.open("Ada").page
    page.context.set_offline(True)
    expect(page.locator(".connection")).to_contain_text("Not connected to the server")
    judge.press("1")
    expect(judge.unsent).to_have_text("1 unsent")
    page.context.set_offline(False)
    judge.saved(1)
    expect(page.locator(".connection")).to_be_empty()


def test_three_tabs_work_at_once(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.fill(numbered(12))
    server.start()
    context = new_context()
    tabs = [Judge(context.new_page(), server.url).open("Ada")]
    tabs += [Judge(context.new_page(), server.url).open() for _ in range(2)]
    assert len({tab.item for tab in tabs}) == 3
    for count, tab in enumerate([*tabs, *tabs], start=1):
        tab.press("2")
        tab.saved(count)
    assert server.rows("SELECT count(DISTINCT item_id) FROM judgment") == [(6,)]


# ---- language and colours ---------------------------------------------------------------------------------------

WORDS = """() => {
  const found = [];
  const keys = ".keymap-row button, kbd";
  const theirs = ".content, .rendered, .campaign, bdi, option, .letter, .rank, input, textarea, .rows, .guideline";
  const walk = document.createTreeWalker(document.querySelector(".judge"), NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (/\\p{L}{2}/u.test(node.data) && !node.parentElement.closest(`${theirs}, ${keys}`)) found.push(node.data);
  }
  for (const named of document.querySelectorAll(".judge [aria-label], .judge [title], .judge [placeholder]")) {
    found.push(...["aria-label", "title", "placeholder"].map((name) => named.getAttribute(name)).filter(Boolean));
  }
  return found;
}"""


def test_no_text_of_the_page_is_written_in_its_scripts(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    """In a language in which every text stands in brackets, every text of the page does."""

    def bracketed(route: Route) -> None:
        words = json.loads((STATIC / "strings.de.json").read_text(encoding="utf-8"))
        route.fulfill(json={key: f"⟦{text}⟧" for key, text in words.items()})

    server.fill([SOURDOUGH, SKY, *numbered(2)])
    server.ask_for(rationale="required", aspects=[{"name": "⟦helpful⟧", "levels": 5}], live=True, skip_reasons=["⟦x⟧"])
    server.write_guideline(GUIDELINE)
    server.start()
    context = new_context(locale="de-DE")
    context.route("**/strings.de.json", bracketed)
    judge = Judge(context.new_page(), server.url).visit("Ada")
    page = judge.page

    def check() -> None:
        bare = [
            text for text in page.evaluate(WORDS) if not (text.strip().startswith("⟦") and text.strip().endswith("⟧"))
        ]
        assert bare == []

    page.wait_for_selector("[data-state='gate']")
    check()
    page.locator(".gate button").click()
    page.wait_for_selector(READY)
    judge.press("2")
    check()
    page.keyboard.press("Escape")
    judge.press("s")
    check()
    page.keyboard.press("Escape")
    judge.press("e", "1")
    expect(page.locator(".editor")).to_be_visible()
    check()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    judge.press("?")
    check()
    page.keyboard.press("Escape")
    for screen in ("history", "work", "guidelines", "live"):
        visit(page, screen)
        check()
    page.locator(".menu-button").click()
    page.locator(".menu [data-do='keymap']").click()
    check()


def test_a_name_written_from_right_to_left_stays_apart_from_the_sentence_around_it(
    server: Server, judge: Judge
) -> None:
    name = "שלום"
    server.fill(numbered(1), name=name)
    server.write_guideline(GUIDELINE)
    server.start()
    page = judge.visit("Ada").page
    expect(page.get_by_role("heading", name=name)).to_have_text(f"Guidelines of \u2068{name}\u2069")


def test_the_language_follows_the_browser_and_the_menu(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(3))
    server.start()
    judge = Judge(new_context(locale="de-AT").new_page(), server.url).open("Ada")
    page = judge.page
    expect(page.locator(".dock")).to_contain_text("viel besser")
    assert page.evaluate("document.documentElement.lang") == "de"
    page.locator(".menu-button").click()
    page.get_by_label("Sprache").select_option("en")
    expect(page.locator(".dock")).to_contain_text("much better")
    page.reload()
    page.wait_for_selector(READY)
    expect(page.locator(".dock")).to_contain_text("much better")
    page.keyboard.press("1")
    judge.saved(1)


def test_colours_follow_the_system_and_the_menu(server: Server, judge: Judge) -> None:
    server.fill(numbered(1))
    server.start()
    page = judge.open("Ada").page
    colour = "() => getComputedStyle(document.querySelector('.response')).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(28, 31, 38)"
    assert page.evaluate(colour) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == dark
    page.locator(".menu-button").click()
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(colour) == light
    page.reload()
    page.wait_for_selector(READY)
    assert page.evaluate(colour) == light
