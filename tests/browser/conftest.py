"""A real Chromium and a real server process. Chromium reaches this machine only, and what it tries else is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

from benchmarks.annotation.chromium import Chromium, Trap, program, started, trapping
from tests.browser.judge import Judge
from tests.browser.server import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def trap() -> Iterator[Trap]:
    with trapping() as trap:
        yield trap


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def chromium(playwright: Playwright, trap: Trap) -> Iterator[Chromium]:
    if program() is None:
        assert not os.environ.get("CI"), "Chromium is missing; .ci/system-packages installs it"
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with started(playwright, trap) as found:
        yield found


@pytest.fixture
def browser(chromium: Chromium) -> Browser:
    return chromium.browser


@pytest.fixture
def new_context(chromium: Chromium) -> Iterator[Callable[..., BrowserContext]]:
    """`new_context(color_scheme="dark")`: another person's browser, with cookies and storage of its own."""
    contexts = []

    def make(**settings: object) -> BrowserContext:
        contexts.append(chromium.new_context(**settings))
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test fills and starts."""
    server = Server(tmp_path)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


@pytest.fixture
def judge(server: Server, new_context: Callable[..., BrowserContext]) -> Judge:
    """A tab that the test opens."""
    return Judge(new_context().new_page(), server.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where pictures are kept."""
    folder = Path(os.environ.get("RLHF_SCREENSHOTS") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
