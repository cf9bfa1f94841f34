"""A manager at work on the managers' page.

`RLHF_SCREENSHOTS=folder` keeps pictures there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.campaigns import comparison, numbered
from tests.browser.judge import Judge
from tests.browser.pictures import take
from tests.browser.server import Server

# labels that are wider than what is seen of them
CUT_OFF = """() => [...document.querySelectorAll("label")].filter((label) => {
  const shown = label.closest(".block");
  return label.checkVisibility() && shown && shown.scrollWidth > shown.clientWidth;
}).map((label) => label.textContent)"""


def open_admin(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/admin")
    if page.url.endswith("/login?to=/admin"):
        page.fill("input[name=name]", "Mara")
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/", wait_until="commit")
    expect(page.get_by_role("tab", name="Dashboard")).to_be_visible()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def serious(page: Page) -> list[str]:
    """Serious and critical findings of axe-core, rule and place."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:160]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_a_manager_makes_a_campaign_and_sees_how_it_goes(
    server: Server, new_context: Callable[..., BrowserContext], tmp_path: Path, folder: Path
) -> None:
    file = tmp_path / "items.jsonl"
    rows = [
        {"prompt": each.prompt[0].content, "responses": [response.text for response in each.responses]}
        for each in numbered(3)
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    server.start()
    page = new_context(viewport={"width": 1280, "height": 1000}).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_admin(page, server)

    # what cannot be done is said, and what is to be mended stays in its place
    tab(page, "Campaigns")
    page.get_by_label("Name", exact=True).fill("From the page")
    page.get_by_role("button", name="Make the campaign").click()
    expect(page.get_by_role("alert")).to_contain_text("no file was given; choose one")
    expect(page.get_by_text("Error", exact=True).locator("visible=true")).to_have_count(0)

    # a campaign from a file
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Click to upload or drop files").first.click()
    chooser.value.set_files(file)
    expect(page.locator(".file-preview").first).to_contain_text("items")
    page.get_by_role("button", name="Make the campaign").click()
    expect(page.locator(".said", has_text="3 items added")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()

    # its settings are on the form at once
    tab(page, "Settings")
    expect(page.get_by_label("State")).to_have_value("open")
    expect(page.get_by_label('Offer "both bad"')).to_be_checked()
    expect(page.get_by_label("Reasons to skip")).to_have_value(re.compile("I cannot judge this"))

    # gold that nobody would be given
    tab(page, "Gold items")
    page.get_by_label("Item", exact=True).fill("3")
    page.get_by_label("Right ranks").fill("one, two")
    page.get_by_role("button", name="Make it gold").click()
    expect(page.get_by_role("alert")).to_contain_text("ranks are 'one, two'; give one per response, such as 1, 2")
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_label("Right ranks").fill("1, 2")
    page.get_by_role("button", name="Make it gold").click()
    expect(page.locator(".said", has_text="Item 3 is gold. Nobody is given gold items yet")).to_be_visible()
    page.get_by_role("button", name="Make it work again").click()
    expect(page.locator(".said", has_text="Item 3 is work again.")).to_be_visible()

    # its guidelines
    tab(page, "Guidelines")
    page.locator("#guidelines-text textarea").fill("# Be fair\n\nPrefer what is *true*.<script>alert(1)</script>")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".rendered .level-1", has_text="Be fair")).to_be_visible()
    assert page.locator(".rendered script").count() == 0
    page.get_by_role("button", name="Publish").click()
    expect(page.locator(".said", has_text="Published as version 1.")).to_be_visible()
    take(page, folder / "admin-guidelines.png")

    # somebody accepts them and judges
    with_judge = new_context().new_page()
    judge = Judge(with_judge, server.url)
    judge.visit("Ada")
    with_judge.get_by_role("button", name="I have read it and will follow it").click()
    with_judge.wait_for_selector(".sheet[data-ready='true']")
    judge.press("1")
    expect(with_judge.locator(".status[data-kind='saved']")).to_be_visible()

    # the dashboard counts it
    tab(page, "Dashboard")
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".card", has_text="Judgments").first).to_contain_text("1 / 3")
    expect(page.locator(".plot img").first).to_be_visible()
    picture = page.locator(".plot img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    take(page, folder / "admin-dashboard.png")
    findings = serious(page)

    # and the annotator is paused
    tab(page, "Users and audit")
    user = page.locator("#user input")
    user.click()
    page.get_by_role("option", name="Ada").click()
    page.get_by_role("button", name="Pause: no more work").click()
    expect(page.locator(".said", has_text="Ada is paused now.")).to_be_visible()
    assert server.rows("SELECT state FROM annotator WHERE name = 'Ada'") == [("paused",)]
    people = page.get_by_role("region", name="Users", exact=True)
    name = people.get_by_role("columnheader", name="name", exact=False).first
    for way, names in (("ascending", ["Ada", "Mara"]), ("descending", ["Mara", "Ada"])):
        name.get_by_role("button").click()
        expect(name).to_have_attribute("aria-sort", way)
        assert people.locator("tbody td:nth-child(2)").all_text_contents() == names
    # figures by what they are: within a minute both times read the same
    name.get_by_role("button").click()
    expect(name).to_have_attribute("aria-sort", "ascending")
    since = people.get_by_role("columnheader", name="Since")
    since.get_by_role("button").click()
    expect(since).to_have_attribute("aria-sort", "ascending")
    assert people.locator("tbody td:nth-child(2)").all_text_contents() == ["Mara", "Ada"]
    findings += serious(page)

    assert findings == []
    # the browser itself asks for updates; what the page asks for is ours
    assert [url for url in asked if not url.startswith((f"{server.url}/", "data:", "blob:"))] == []


def test_nothing_is_cut_off_on_a_phone_and_a_session_that_ended_is_said(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(2))
    server.write_guideline("# Be fair")
    server.start()
    page = new_context(viewport={"width": 360, "height": 740}).new_page()
    open_admin(page, server)

    def more(place: int, name: str) -> None:
        """Open a tab that has no room beside the others."""
        page.get_by_role("button", name="More tabs").locator("visible=true").nth(place).click()
        page.locator(".overflow-dropdown button:visible", has_text=name).click()

    more(0, "Campaigns")
    more(1, "Settings")
    expect(page.get_by_label("State")).to_have_value("open")
    expect(page.get_by_label("Allow own prompts, live")).to_be_visible()
    assert page.evaluate(CUT_OFF) == []
    more(1, "Guidelines")
    text, preview = page.locator("#guidelines-text"), page.locator(".block.rendered-frame")
    expect(preview).to_contain_text("Be fair")
    text_box, preview_box = text.bounding_box(), preview.bounding_box()
    assert text_box is not None
    assert preview_box is not None
    assert text_box["width"] > 260
    assert preview_box["y"] > text_box["y"] + text_box["height"] - 1
    assert page.evaluate("document.documentElement.scrollWidth") == 360

    server.change("UPDATE session SET revoked_at = 1")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert")).to_contain_text("your session has ended")
    page.get_by_role("alert").get_by_role("link", name="Sign in").click()
    page.wait_for_url("**/login?to=/admin")


def test_a_manager_finds_the_managers_page(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    server.start()
    mara, ada = (Judge(new_context().new_page(), server.url) for _ in range(2))
    ada.visit("Ada")
    mara.visit("Mara")
    mara.page.get_by_role("link", name="Make a campaign from a file").click()
    expect(mara.page.get_by_role("tab", name="Dashboard")).to_be_visible()
    mara.page.get_by_role("link", name="Judge").click()
    mara.page.get_by_role("link", name="Manage").click()
    expect(mara.page.get_by_role("tab", name="Dashboard")).to_be_visible()
    # where nobody is a manager, everybody is
    server.change("UPDATE annotator SET role = 'manager', password_hash = 'of nothing' WHERE name = 'Mara'")
    ada.page.reload()
    expect(ada.page.get_by_role("link", name="My work")).to_be_visible()
    expect(ada.page.locator("a[href='/admin']:visible")).to_have_count(0)


def test_invites_and_exports_are_of_the_campaign_that_is_chosen(
    server: Server, new_context: Callable[..., BrowserContext]
) -> None:
    server.fill(numbered(2), name="First")
    server.fill(numbered(2), name="Second")
    server.start()
    page = new_context(viewport={"width": 1280, "height": 1000}).new_page()
    open_admin(page, server)
    top = page.locator("#campaign input")
    expect(top).to_have_value("Second")
    top.click()
    page.get_by_role("option", name="First").click()

    tab(page, "Data and export")
    exported = page.get_by_label("Campaigns; none takes all")
    expect(page.locator(".block", has=exported).locator(".token")).to_have_text("First")
    tab(page, "Users and audit")
    tab(page, "Invites")
    member_of = page.get_by_label("Member of")
    expect(member_of).to_have_value("First")

    # the second link is as the first one
    for count in (1, 2):
        page.get_by_role("button", name="Make a link").click()
        expect(page.get_by_role("region", name="Invites").locator("td", has_text="First")).to_have_count(count)
    expect(member_of).to_have_value("First")
    assert server.rows("SELECT campaign_id FROM invite") == [(1,), (1,)]


def test_a_row_of_the_gold_list_shows_its_item(server: Server, new_context: Callable[..., BrowserContext]) -> None:
    hostile = "${document.title = 'acted'} {{constructor.name}} <b>bold</b>"
    server.fill([*numbered(2), comparison(hostile, "good", "bad")])
    server.start()
    page = new_context(viewport={"width": 1280, "height": 1000}).new_page()
    open_admin(page, server)
    expect(page.get_by_role("heading", name="Manage")).to_be_visible()
    tab(page, "Campaigns")
    tab(page, "Gold items")
    row = page.locator("#gold-items tr", has_text="document.title")
    expect(row).to_contain_text(hostile)
    row.locator("td").last.click()
    expect(page.get_by_label("Item", exact=True)).to_have_value("3")
    expect(page.get_by_label("Prompt and responses by position")).to_have_value(re.compile("good"))
    page.locator("#gold-items").get_by_role("button", name="1", exact=True).press("Enter")
    expect(page.get_by_label("Item", exact=True)).to_have_value("1")
    assert page.title() == "Manage"
    assert "common.complete" not in page.locator("body").inner_text()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
