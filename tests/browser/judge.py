"""The judge page as a person sees and uses it."""

from __future__ import annotations

from playwright.sync_api import Locator, expect

from benchmarks.annotation.tab import READY, Tab


class Judge(Tab):
    """A tab with the judge page, and what it says."""

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
