"""The judge page as a person sees and uses it."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

READY = ".sheet[data-ready='true']"


class Judge:
    """A tab with the judge page."""

    def __init__(self, page: Page, url: str):
        self.page = page
        self.url = url

    def open(self, name: str | None = None) -> Judge:
        """Visit the app; with a name, sign in by keyboard. Returns when a card is on the screen."""
        self.visit(name)
        self.page.wait_for_selector(READY)
        return self

    def visit(self, name: str | None = None) -> Judge:
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

    @property
    def status(self) -> Locator:
        return self.page.locator(".status")

    @property
    def unsent(self) -> Locator:
        return self.page.locator(".unsent")

    def menu(self, button: str) -> None:
        """Open the menu under the annotator's name and press one of its buttons."""
        self.page.locator(".menu-button").click()
        self.page.locator(".menu").get_by_role("button", name=button).click()

    def press(self, *keys: str) -> None:
        """Press keys on a card that takes them."""
        if self.state == "card":
            self.page.wait_for_selector(READY)
        for key in keys:
            self.page.keyboard.press(key)

    def prefer(self, text: str, keys: tuple[str, str]) -> None:
        """Of a pair, press the first key if the text is on the left and the second one if it is on the right."""
        self.press(keys[0] if self.responses[0] == text else keys[1])

    def rank(self, ranks: dict[str, int]) -> None:
        """Press the ranks from the first response to the last."""
        self.press(*(str(ranks[text]) for text in self.responses))

    def saved(self, count: int) -> None:
        """Wait until the page says so, and counts so many."""
        expect(self.page.locator(".status[data-kind='saved']")).to_contain_text("Saved: ")
        expect(self.page.locator(".mine")).to_contain_text(f"{count} of ")
        expect(self.unsent).to_be_empty()

    def taken_back(self) -> None:
        expect(self.status).to_contain_text("Taken back: ")
        self.page.wait_for_selector(READY)
