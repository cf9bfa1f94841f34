"""Text that would like to be a program stays text, and nothing leaves this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from benchmarks.annotation.chromium import Trap, Watch
from benchmarks.annotation.hostile import CODE, HOST, OUTSIDE
from rlhf.data.comparisons import Message
from tests.browser.campaigns import comparison, numbered
from tests.browser.judge import READY, Judge
from tests.browser.server import Server

PAYLOADS = [
    f"<script>{CODE}</script>",
    f"<img src=x onerror={CODE}>",
    f'<img src="{OUTSIDE}/a.png">![picture]({OUTSIDE}/b.png)',
    f'<svg><a xlink:href="javascript:{CODE}"><text>press</text></a></svg>',
    f"<svg onload={CODE}><animate onbegin={CODE} attributeName=x></svg>",
    f'<iframe srcdoc="<script>parent.{CODE}</script>"></iframe><object data="{OUTSIDE}/c"></object>',
    f'<a href="javascript:{CODE}">press</a><form action="{OUTSIDE}"><button>go</button></form>',
    f'<style>@import "{OUTSIDE}/d.css";</style><link rel=stylesheet href="{OUTSIDE}/e.css">',
    f'<video poster="{OUTSIDE}/f" autoplay src="{OUTSIDE}/g"></video><meta http-equiv=refresh content="0;{OUTSIDE}">',
    f"${{{CODE}}} `${{{CODE}}}` {{{{value}}}} {{{{#each value}}}}{{{{this}}}}{{{{/each}}}} {{{{{{constructor}}}}}}",
    "${value} ${HOME} \\users \\u{zz} `unclosed {% raw %} <%= 7 * 7 %> $name @children",
    f"</script><script>{CODE}</script></textarea></title></style>--><img src=x onerror={CODE}>",
    f"\"onmouseover={CODE} x=\"' onfocus={CODE} autofocus x='",
    "\u202egnp.exe\u202c \u2066left\u2069 \u200bzero\u200d width \ufeff mark",
    '<div style="position:fixed;inset:0;background:red">over all</div>',
    '<p id="judge" class="judge dock" data-do="skip">press</p>',
    "  two spaces, a tab\tand\n\n\nthree lines  \n",
    "\u0001\u001b[31m\u007f control, \U0001f9ea astral, e\u0301 combined, \ufffd replaced",
    f"[link](javascript:{CODE}) <javascript:{CODE}> {OUTSIDE}/h",
    f"<math><mtext><table><mglyph><style><img src=x onerror={CODE}></style></mglyph></table></mtext></math>",
]
NAMES = ["<img src=x onerror=window.hit=1>", "${window.hit=1}{{constructor}}", '"><script>window.hit=1</script>']


@pytest.mark.parametrize("num_responses, scheme", [(2, "light"), (4, "dark")])
def test_no_text_runs_or_reaches_out(
    server: Server, new_context: Callable[..., BrowserContext], trap: Trap, scheme: str, num_responses: int
) -> None:
    size = len(PAYLOADS)
    rows = []
    for start in range(0, size, num_responses):
        texts = [PAYLOADS[(start + step) % size] for step in range(num_responses)]
        earlier = (Message("system", texts[0]), Message("user", texts[-1]), Message("assistant", texts[0]))
        rows.append(comparison((*earlier, Message("user", texts[1])), *texts))
    server.fill(rows, name=NAMES[num_responses % 3])
    server.start()
    trap.requests.clear()
    judge = Judge(new_context(color_scheme=scheme).new_page(), server.url)
    watch = Watch(judge.page, server.url)
    judge.open(NAMES[(num_responses + 1) % 3])
    for number, row in enumerate(rows, start=1):
        assert judge.page.locator(".campaign").text_content() == NAMES[num_responses % 3]
        assert judge.page.locator(".who").text_content() == NAMES[(num_responses + 1) % 3]
        assert sorted(judge.responses) == sorted(response.text for response in row.responses)
        turns = judge.page.locator(".prompt .content")
        assert turns.all_text_contents() == [*(turn.content for turn in row.prompt[:-1]), row.prompt[-1].content]
        judge.page.locator("summary").click()
        assert judge.page.locator(".verbatim *").count() == 0
        assert judge.page.locator(".judge :is(script, img, svg, iframe, style, link, video, object)").count() == 0
        for view in ("markdown", "content"):
            for box in judge.page.locator(f".response .{view}").all():
                box.hover()
                box.click()
            judge.press("m")
        expect(judge.page.locator(".dock")).to_be_in_viewport()
        if number % 2:
            judge.press("s")
            judge.page.keyboard.insert_text(PAYLOADS[number].replace("\n", " ").replace("\t", " "))
            judge.page.keyboard.press("Enter")
        else:
            judge.press(*"3421"[:num_responses] if num_responses > 2 else "2", *["Enter"] * (num_responses > 2))
        expect(judge.unsent).to_be_empty()
        judge.page.wait_for_selector(f"{READY}:not([data-item='{number}']), [data-state='empty']")
        assert judge.page.evaluate("window.hit") is None
    assert server.rows("SELECT count(*) FROM judgment") == [(len(rows),)]
    assert watch.seen == []
    assert [asked for asked in trap.requests if HOST in asked] == []


def test_text_is_seen_as_it_was_written(server: Server, judge: Judge) -> None:
    """Not only in the document: as laid out, with its spaces, and with its direction closed off."""
    spaces = "  two spaces\n\n    four, a tab\tand the end"
    turned = "\u202ereversed to the end"
    server.fill([comparison("Which?", spaces, turned)])
    server.start()
    judge.open("Ada")
    judge.press("m")
    expect(judge.page.locator(".response .content").first).to_be_visible()
    assert sorted(judge.page.locator(".response .content").all_inner_texts()) == sorted([spaces, turned])
    rank = judge.page.get_by_role("button", name="Response A is much better")
    assert rank.inner_text().split() == ["1", "much", "better"]


def test_the_login_page_shows_a_name_as_text(server: Server, judge: Judge, trap: Trap) -> None:
    server.fill(numbered(1))
    server.start()
    watch = Watch(judge.page, server.url)
    judge.page.goto(f"{server.url}/login")
    name = '"><img src=x onerror=window.hit=1>${window.hit=1}'
    # longer than a name may be, past the field's own limit
    judge.page.evaluate("document.querySelector('#name').removeAttribute('maxlength')")
    judge.page.get_by_label("Your name").fill(name * 2)
    judge.page.keyboard.press("Enter")
    expect(judge.page.get_by_role("alert")).to_contain_text("1 to 64 characters")
    assert judge.page.get_by_label("Your name").input_value() == name * 2
    assert judge.page.evaluate("window.hit") is None
    # the browser reports the refusal itself
    assert [seen for seen in watch.seen if "422" not in seen] == []
    assert [asked for asked in trap.requests if HOST in asked] == []


def test_the_trap_sees_what_would_leave(server: Server, browser: Browser, trap: Trap) -> None:
    """Without the page's policy an image of another machine is asked for, and the trap has it; with it, it is not."""
    server.fill(numbered(1))
    server.start()
    ask = f"new Promise((done) => {{ const i = new Image(); i.onload = i.onerror = done; i.src = '{OUTSIDE}/i'; }})"
    for bypass in (False, True):
        context = browser.new_context(bypass_csp=bypass)
        judge = Judge(context.new_page(), server.url).open("Ada")
        trap.requests.clear()
        judge.page.evaluate(ask)
        caught = [asked for asked in trap.requests if HOST in asked]
        assert caught == ([f"GET {OUTSIDE}/i HTTP/1.1"] if bypass else [])
        context.close()
