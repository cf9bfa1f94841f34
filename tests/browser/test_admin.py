"""A manager at work on the managers' page.

`RLHF_SCREENSHOTS=folder` keeps pictures there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.campaigns import numbered
from tests.browser.judge import Judge
from tests.browser.server import Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("RLHF_SCREENSHOTS") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_admin(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/admin")
    if page.url.endswith("/login"):
        page.fill("input[name=name]", "Mara")
        page.keyboard.press("Enter")
        page.wait_for_url("**/annotate/", wait_until="commit")
        page.goto(f"{server.url}/admin")
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

    # a campaign from a file
    tab(page, "Campaigns")
    page.get_by_label("Name", exact=True).fill("From the page")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Click to upload or drop files").first.click()
    chooser.value.set_files(file)
    expect(page.locator(".file-preview").first).to_contain_text("items")
    page.get_by_role("button", name="Make the campaign").click()
    expect(page.locator(".said", has_text="3 items added")).to_be_visible()

    # its guidelines
    tab(page, "Guidelines")
    page.locator("#guidelines-text textarea").fill("# Be fair\n\nPrefer what is *true*.<script>alert(1)</script>")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".rendered .level-1", has_text="Be fair")).to_be_visible()
    assert page.locator(".rendered script").count() == 0
    page.get_by_role("button", name="Publish").click()
    expect(page.locator(".said", has_text="Published as version 1.")).to_be_visible()
    page.screenshot(path=folder / "admin-guidelines.png")

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
    page.screenshot(path=folder / "admin-dashboard.png", full_page=True)
    findings = serious(page)

    # and the annotator is paused
    tab(page, "Users and audit")
    user = page.locator("#user input")
    user.click()
    page.get_by_role("option", name="Ada").click()
    page.get_by_role("button", name="Pause: no more work").click()
    expect(page.locator(".said", has_text="Ada is paused now.")).to_be_visible()
    assert server.rows("SELECT state FROM annotator WHERE name = 'Ada'") == [("paused",)]
    page.screenshot(path=folder / "admin-users.png", full_page=True)
    findings += serious(page)

    assert findings == []
    # the browser itself asks for updates; what the page asks for is ours
    assert [url for url in asked if not url.startswith((f"{server.url}/", "data:", "blob:"))] == []
