"""A real Chromium that reaches this machine only, and what its pages do that they should not."""

from __future__ import annotations

import os
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Request, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]
PATIENCE = int(os.environ.get("RLHF_PATIENCE", "60000"))  # milliseconds; the machine may be busy


def program() -> Path | None:
    """Where Chromium is, None if it is not installed."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    return Path(found) if found else None


class Trap(socketserver.ThreadingTCPServer):
    """Stands in as the browser's proxy to all the world, lets nothing through, and keeps what was asked for."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Caught)
        self.requests: list[str] = []


class Caught(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Trap)
        self.server.requests.append(self.rfile.readline().decode("latin-1").strip())
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextmanager
def trapping() -> Iterator[Trap]:
    """A trap that is open."""
    with Trap() as trap:
        thread = threading.Thread(target=trap.serve_forever, daemon=True)
        thread.start()
        try:
            yield trap
        finally:
            trap.shutdown()
            thread.join()


class Chromium:
    """A browser whose way out is a trap."""

    def __init__(self, browser: Browser, trap: Trap):
        self.browser = browser
        self.trap = trap

    def new_context(self, **settings: object) -> BrowserContext:
        """Another person's browser, with cookies and storage of its own."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        context.set_default_timeout(PATIENCE)
        return context


@contextmanager
def started(playwright: Playwright, trap: Trap) -> Iterator[Chromium]:
    """A Chromium that is closed at the end.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = program()
    if found is None:
        raise FileNotFoundError("Chromium is not installed; apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    proxy = f"--proxy-server=http://127.0.0.1:{trap.server_address[1]}"
    browser = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS, proxy], timeout=PATIENCE)
    try:
        yield Chromium(browser, trap)
    finally:
        browser.close()


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A Chromium with a Playwright and a trap of its own."""
    with sync_playwright() as playwright, trapping() as trap, started(playwright, trap) as found:
        yield found


class Watch:
    """What pages of a browser did that they should not: dialogs, errors, requests to other machines.

    Chromium asks its makers' machines for things of its own, which no page sees: of what the trap holds, only what
    the texts name counts.
    """

    def __init__(self, page: Page, url: str):
        self.url = url
        self.seen: list[str] = []
        self.requests: list[str] = []
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.seen.append(f"error {error}"))
        page.on(
            "console",
            lambda said: self.seen.append(f"console {said.text} {said.location}") if said.type == "error" else None,
        )
        page.on("popup", lambda popup: self.seen.append(f"popup {popup.url}"))
        page.context.on("request", self._requested)

    def _requested(self, asked: Request) -> None:
        if not asked.url.startswith(f"{self.url}/"):
            self.seen.append(asked.url)
            self.requests.append(asked.url)
