"""What an annotator sees, as pictures, and that nothing on them runs out of the window.

`RLHF_SCREENSHOTS=folder` keeps them there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from annotation.accounts import Accounts
from annotation.invites import Invites
from annotation.sessions import Sessions
from annotation.store import Store
from tests.browser.campaigns import EVERYDAY, SKY, SOURDOUGH, comparison
from tests.browser.judge import READY, Judge
from tests.browser.pictures import take
from tests.browser.server import Server

DESK = {"width": 1280, "height": 800}
SMALL_DESK = {"width": 960, "height": 640}
PHONE = {"width": 390, "height": 844}
PASSWORD = "seven brown lamps in rain"
GUIDELINE = """# What makes an answer better

Prefer the answer that is **true**, then the one that helps, then the shorter one.

- A confident mistake is worse than *"I do not know"*.
- Style counts only where both are equally right.
- Do not look things up for longer than two minutes: skip the item instead.

If both answers are wrong, press `b`.
"""


def invite(server: Server) -> str:
    """The token of an invite. There is a manager now, and whoever comes in is an annotator."""
    store = Store.open(server.store_url)
    accounts = Accounts(store)
    accounts.add("Mara", "manager", PASSWORD, by=None)
    token = Invites(Sessions(accounts)).make("annotator", campaign_id=1, by=None)
    store.close()
    return token


def test_signing_in(server: Server, judge: Judge, folder: Path) -> None:
    server.fill(EVERYDAY)
    server.start()
    judge.page.set_viewport_size({"width": 560, "height": 560})
    judge.page.goto(server.url)
    judge.page.get_by_label("Your name").fill("Ada")
    take(judge.page, folder / "login.png")


def test_coming_in_and_looking_back(server: Server, new_context: Callable[..., BrowserContext], folder: Path) -> None:
    server.fill(EVERYDAY, name="Everyday questions")
    server.write_guideline(GUIDELINE)
    token = invite(server)
    server.start()
    page = new_context(viewport={"width": 560, "height": 740}).new_page()
    page.goto(f"{server.url}/invite/{token}")
    page.get_by_label("Your name").fill("Ada")
    take(page, folder / "invite.png")
    page.get_by_label("A password").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-state='gate']")
    page.set_viewport_size(SMALL_DESK)
    take(page, folder / "judge-guidelines.png")
    page.get_by_role("button", name="I have read it and will follow it").click()
    page.wait_for_selector(READY)
    judge = Judge(page, server.url)
    for count, key in enumerate(("2", "t", "8", "1"), start=1):
        judge.press(key)
        judge.saved(count)
    judge.press("s")
    expect(page.locator(".reason-form")).to_be_visible()
    take(page, folder / "judge-skip.png")
    page.keyboard.press("1")
    expect(judge.status).to_contain_text("skipped")
    page.wait_for_selector(READY)
    judge.press("h")
    expect(page.locator(".rows li")).to_have_count(5)
    take(page, folder / "judge-history.png")


def test_what_a_campaign_asks_beside_the_choice(server: Server, judge: Judge, folder: Path) -> None:
    server.fill(EVERYDAY[1:], name="Everyday questions")
    server.ask_for(rationale="required", aspects=[{"name": "true", "levels": 3}, {"name": "helpful", "levels": 5}])
    invite(server)
    server.start()
    page = judge.open("Ada").page
    page.set_viewport_size(SMALL_DESK)
    judge.prefer(EVERYDAY[1].responses[0].text, ("2", "9"))
    for key in "3142":
        page.keyboard.press(key)
    page.keyboard.type("The other one names no plant.")
    take(page, folder / "judge-details.png")


def test_judging_a_pair(server: Server, new_context: Callable[..., BrowserContext], folder: Path) -> None:
    # the item for the picture comes after two that are judged, for three people
    server.fill([*EVERYDAY[1:3], SOURDOUGH, *EVERYDAY[3:]], name="Everyday questions", overlap=3)
    invite(server)
    server.start()
    for name, scheme, size in (("pair", "light", DESK), ("pair-dark", "dark", DESK), ("phone", "light", PHONE)):
        hand = {} if size is DESK else {"has_touch": True, "is_mobile": True, "device_scale_factor": 1.5}
        context = new_context(viewport=size, color_scheme=scheme, **hand)
        judge = Judge(context.new_page(), server.url).open({"pair": "Ada", "pair-dark": "Grace"}.get(name, "Edsger"))
        for count in (1, 2):
            judge.prefer(EVERYDAY[count].responses[0].text, ("2", "9"))
            judge.saved(count)
        judge.page.wait_for_selector(READY)
        assert judge.page.locator(".prompt > .turn .content").text_content() == SOURDOUGH.prompt[-1].content
        take(judge.page, folder / f"judge-{name}.png")


def test_ranking_four(server: Server, judge: Judge, folder: Path) -> None:
    server.fill([SKY, *EVERYDAY], name="Explain it simply")
    invite(server)
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
