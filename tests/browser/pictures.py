"""Pictures of the app for the README and docs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

LARGEST = 80_000  # bytes of a picture


def take(page: Page, path: Path) -> None:
    """Keep what the window shows, which nothing runs out of."""
    assert page.evaluate("document.documentElement.scrollWidth") == page.evaluate("window.innerWidth")
    # the moving parts come to rest, and no button is marked as if the mouse were on it
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    page.screenshot(path=path)
    # a page has few colours
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    assert 5_000 < path.stat().st_size < LARGEST
