"""People at the judge page in real browsers: how soon the next item is there, and what a killed server costs them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.annotation.chromium import Chromium, chromium
from benchmarks.annotation.databases import database
from benchmarks.annotation.durability import any_wrong, counted, fill, integrity
from benchmarks.annotation.figures import Figure, quantiles
from benchmarks.annotation.server import Server
from benchmarks.annotation.tab import Tab

PACE_MS = 700  # from one judgment to the next
IN_A_ROW = 10
KEYS = "1239t"
PATIENCE_SECONDS = 600

# `window.paints` takes, for each judgment, the milliseconds from the key press to the second frame after the next
# item's number, prompt and responses stand in the document: the first of the two may have begun before that.
PAINTS = """(() => {
  window.paints = [];
  let pressed = null;
  const shown = () => [
    document.querySelector(".judge")?.dataset.state === "card" && document.querySelector(".sheet").dataset.item,
    document.querySelector(".prompt .content")?.textContent,
    document.querySelector(".response .content")?.textContent,
  ];
  document.addEventListener("keydown", ({ timeStamp }) => (pressed = { at: timeStamp, before: shown() }), true);
  const frame = () => new Promise(requestAnimationFrame);
  new MutationObserver(async () => {
    if (pressed === null || !shown().every((part, at) => part && part !== pressed.before[at])) return;
    const { at } = pressed;
    pressed = null;
    await frame();
    await frame();
    paints.push(performance.now() - at);
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["data-item", "data-state"] });
})()"""

# `window.saved` takes the ids of judgments when the page says "Saved": it takes each out of what is unsent just before.
SAVED = """(() => {
  window.saved = [];
  let sent = null;
  const { removeItem } = Storage.prototype;
  Storage.prototype.removeItem = function (key) {
    if (key.startsWith("rlhf.unsent.")) sent = key.split(".").at(-1);
    return removeItem.call(this, key);
  };
  new MutationObserver(() => {
    if (sent === null || document.querySelector(".status")?.dataset.kind !== "saved") return;
    saved.push(sent);
    sent = null;
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["data-kind"] });
})()"""
LOOK = """() => ({
  state: document.querySelector(".judge").dataset.state,
  ready: document.querySelector(".sheet").dataset.ready === "true",
  unsent: Object.keys(localStorage).filter((key) => key.startsWith("rlhf.unsent.")).length,
})"""


def in_chromium(measure: Callable[[Chromium, str, Path], Figure]) -> Callable[[str, Path], Figure]:
    """A measure with a browser of its own."""

    def run(kind: str, folder: Path) -> Figure:
        with chromium() as browser:
            return measure(browser, kind, folder)

    return run


# ---- the next item --------------------------------------------------------------------------------------------


def painted(
    browser: Chromium, kind: str, folder: Path, *, counts: Sequence[int] = (10_000,), judgments: int = 100
) -> Figure:
    """From the key that judges a pair to the next one on the screen, in a campaign of each size.

    Of two sizes the second is compared with the first; both are tried in turns, so that the machine is the same.
    """
    with ExitStack() as stack:
        tabs = [stack.enter_context(campaign(browser, kind, folder, count)) for count in counts]
        for begun in range(0, judgments, IN_A_ROW):
            for tab in tabs:
                for _ in range(min(IN_A_ROW, judgments - begun)):
                    judge_at_a_pace(tab)
        found = [[ms / 1000 for ms in tab.page.evaluate("paints")] for tab in tabs]
        for tab in tabs:
            tab.page.wait_for_selector(".unsent:empty", state="attached")
    times = [quantiles(seconds) for seconds in found]
    ratio = times[-1]["p50_ms"] / times[0]["p50_ms"]
    told = [
        f"{count} items p50 {each['p50_ms']:.0f} ms, p95 {each['p95_ms']:.0f} ms"
        for count, each in zip(counts, times, strict=True)
    ]
    promise = f"key press to the next item painted, {counts[-1]} items"
    compared = [f"ratio {ratio:.2f}"] if len(counts) > 1 else []
    complete = all(len(seconds) == judgments for seconds in found)
    details = {"n": judgments, "ratio": ratio, "times": dict(zip(map(str, counts), times, strict=True))}
    kept = complete and times[0]["p50_ms"] <= 300 and ratio <= 1.5
    return Figure(promise, kind, "; ".join([*told, *compared]), kept, details)


@contextmanager
def campaign(browser: Chromium, kind: str, folder: Path, count: int) -> Iterator[Tab]:
    """A tab in front of a campaign of so many items."""
    with database(kind, folder) as url:
        fill(url, count, overlap=3)
        with serving(url, folder / f"painted-{kind}-{count}.log") as server:
            context = browser.new_context()
            context.add_init_script(PAINTS)
            yield Tab(context.new_page(), server.url).open("annotator")
            context.close()


@contextmanager
def serving(url: str, log: Path) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(url, log)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def judge_at_a_pace(tab: Tab) -> None:
    """One key, and the time that a person takes for the next item."""
    done = tab.page.evaluate("paints.length")
    tab.press(random.choice(KEYS))
    tab.page.wait_for_timeout(PACE_MS)
    tab.page.wait_for_function("done => paints.length > done", arg=done)


# ---- a server that is killed ----------------------------------------------------------------------------------


def ten_browsers(
    browser: Chromium, kind: str, folder: Path, *, people: int = 10, judgments: int = 30, kills: int = 5
) -> Figure:
    """People judge by keyboard while the server is killed; what their pages called saved is looked up afterwards."""
    overlap = 2
    needed = people * judgments
    moments = [needed * number // (kills + 1) for number in range(1, kills + 1)]
    with database(kind, folder) as url:
        fill(url, needed // overlap, overlap=overlap)
        with serving(url, folder / f"browsers-{kind}.log") as server:
            tabs = []
            for number in range(people):
                context = browser.new_context()
                context.add_init_script(SAVED)
                tabs.append(Tab(context.new_page(), server.url).open(f"annotator {number}"))
            with Killer(server, url, moments) as killer:
                unsent = judge_all(tabs, killer)
            acknowledged = [name for tab in tabs for name in tab.page.evaluate("saved")]
            notices = sum(tab.page.get_by_role("alert").count() for tab in tabs)
            for tab in tabs:
                tab.page.context.close()
        found = counted(url, acknowledged, overlap)
    bad = [check for check in killer.checks if check != "ok"]
    text = (
        f"{found['acknowledged']} shown as saved, {found['lost']} lost, {found['duplicated']} doubled, "
        f"{found['over_assigned']} over-assigned, {unsent} unsent left; {len(killer.checks)} kills"
    )
    complete = len(set(acknowledged)) == needed and len(killer.checks) == kills
    kept = complete and not any_wrong(found) and not bad and not unsent and not notices
    details = found | {"unsent": unsent, "notices": notices, "kills": len(killer.checks), "judgments": needed}
    return Figure(f"{people} browsers and a server that is killed", kind, text, kept, details)


class Killer:
    """Kills a server when so many keys were pressed, and starts it again a moment later, in a thread of its own."""

    def __init__(self, server: Server, url: str, moments: Sequence[int]):
        self.server = server
        self.url = url
        self.moments = moments
        self.pressed = 0
        self.checks: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Killer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def run(self) -> None:
        draw = random.Random(0)
        for moment in self.moments:
            while self.pressed < moment:
                if self.ended.wait(0.02):
                    return
            time.sleep(draw.uniform(0.0, 0.3))
            self.server.kill()
            self.checks.append(integrity(self.url))
            self.server.start()


def judge_all(tabs: Sequence[Tab], killer: Killer) -> int:
    """Judge in all tabs, in turns and without waiting for any, until there is nothing left; what stays unsent."""
    draw = random.Random(1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        seen = [tab.page.evaluate(LOOK) for tab in tabs]
        if all(each["state"] == "empty" and each["unsent"] == 0 for each in seen):
            break
        for tab, each in zip(tabs, seen, strict=True):
            if each["state"] == "card" and each["ready"]:
                tab.page.keyboard.press(draw.choice(KEYS))
                killer.pressed += 1
        tabs[0].page.wait_for_timeout(50)
    return sum(each["unsent"] for each in seen)
