"""The judge page in a browser tab, used by keyboard."""

from __future__ import annotations

from typing import Self

from playwright.sync_api import Page

READY = ".sheet[data-ready='true']"


class Tab:
    """A tab with the judge page."""

    def __init__(self, page: Page, url: str):
        self.page = page
        self.url = url

    def open(self, name: str | None = None) -> Self:
        """Visit the app; with a name, sign in by keyboard. Returns when a card is on the screen."""
        self.visit(name)
        self.page.wait_for_selector(READY)
        return self

    def visit(self, name: str | None = None) -> Self:
        """The same, and returns when anything is on the screen."""
        self.page.goto(self.url)
        if name is not None:
            self.page.wait_for_selector("input:focus")
            self.page.keyboard.type(name)
            self.page.keyboard.press("Enter")
        self.page.wait_for_selector(".judge:not([data-state='loading'])")
        return self

    @property
    def state(self) -> str | None:
        return self.page.locator(".judge").get_attribute("data-state")

    @property
    def item(self) -> str | None:
        return self.page.locator(".sheet").get_attribute("data-item") if self.state == "card" else None

    @property
    def responses(self) -> list[str]:
        """Texts from left to right."""
        return self.page.locator(".response .content").all_text_contents()

    def press(self, *keys: str) -> None:
        """Press keys on a card that takes them."""
        if self.state == "card":
            self.page.wait_for_selector(READY)
        for key in keys:
            self.page.keyboard.press(key)
