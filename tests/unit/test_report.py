from __future__ import annotations

import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.plots import distribution_plot, interval_plot, line_plot
from rlhf.evaluation.report import (
    Branch,
    Sample,
    Section,
    caution,
    charts,
    details,
    figures_table,
    key_figures,
    prose,
    samples_table,
    side_by_side,
    tree,
    write_report,
)

HOSTILE = """<script>alert(1)</script> <img src="https://example.org/x.png" onerror='alert(2)'> & $x^2$
</style></div><a href="javascript:alert(3)">click</a> <iframe src=//example.org></iframe>
\x00\x1b[31m \u202eevil \ud800"""
ESTIMATE = Estimate(0.6, 0.52, 0.68, 120)


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text shown."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page that uses every building block, with hostile text wherever text goes."""
    text = HOSTILE
    sections = [
        Section(text, prose(text), caution(text), key_figures({text: text})),
        Section("Tables", figures_table([text, "b"], [[text, 1.0]], caption=text)),
        Section(
            "Plots",
            charts(line_plot({"a": ([1], [1])}, x_label="x", y_label="y", caption=text)),
            side_by_side(
                line_plot({text: ([1, 2], [0, 1])}, x_label=text, y_label=text, caption=text),
                distribution_plot({text: [1, 2], "b": [2, 3]}, x_label=text, caption=text),
                interval_plot({text: ESTIMATE}, x_label=text, caption=text),
            ),
        ),
        Section("Tree", tree([Branch(text, text, (Branch(text),))]), details(text, prose(text))),
        Section("Samples", samples_table([Sample(text, {text: text, "b": ""}, {text: text}, text)])),
    ]
    path = tmp_path_factory.mktemp("report") / "new" / "r.html"
    write_report(path, title=text, sections=sections, lead=text)
    return path.read_text(encoding="utf-8")


def test_hostile_text_stays_text(hostile_page: str) -> None:
    page = Page(hostile_page)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "link", "base", "foreignobject"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert all("javascript:" not in (attributes.get(name) or "") for name in ("href", "src", "xlink:href"))
    assert "<script>alert(1)</script>" in "".join(page.shown)
    assert page.open == [], "every tag that is opened is closed"


def test_page_asks_for_nothing_from_outside(hostile_page: str) -> None:
    page = Page(hostile_page)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    styles = re.findall(r"<style.*?</style>", hostile_page, flags=re.DOTALL)
    drawn = [value for _, attributes in page.tags for value in attributes.values() if value and "url(" in value]
    assert all(url.startswith("#") for text in (*styles, *drawn) for url in re.findall(r"url\(([^)]*)\)", text))
    assert not any("@import" in style for style in styles)


def test_policy_forbids_scripts_and_requests(hostile_page: str) -> None:
    policy = next(
        attributes["content"]
        for tag, attributes in Page(hostile_page).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_characters_that_cannot_be_shown_or_turn_the_text_are_marked(hostile_page: str) -> None:
    shown = samples_table([Sample("p", {"a": "x\x00y\u202ez\ud800\nnext\ttab"})])
    assert "x\ufffdy\ufffdz\ufffd\nnext\ttab" in shown
    assert "\x1b" not in hostile_page


def test_page_suits_dark_mode_and_phones(hostile_page: str) -> None:
    assert "prefers-color-scheme: dark" in hostile_page
    assert 'name="viewport"' in hostile_page


def test_plots_take_every_colour_from_the_page() -> None:
    drawn = line_plot({"a": ([1, 2], [0, 1]), "b": ([1, 2], [1, 0])}, x_label="x", y_label="y", caption="c")
    drawn += distribution_plot({"a": [1, 2], "b": [2, 3]}, x_label="x", caption="c")
    drawn += interval_plot({"a": ESTIMATE}, x_label="x", caption="c")
    assert "var(--series-2)" in drawn
    assert not re.findall(r"(?:fill|stroke): *(?:#|black|white)", drawn)
    assert not re.findall(r"http://|https://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", drawn))


def test_equal_data_give_equal_plots() -> None:
    def draw() -> str:
        return line_plot({"a": ([1, 2, 3], [0.1, 0.4, 0.2])}, x_label="x", y_label="y", caption="c")

    assert draw() == draw()


def test_plots_draw_what_is_missing_as_missing() -> None:
    line_plot({"a": ([1, 2, 3], [0.1, math.nan, 0.2])}, x_label="x", y_label="y", caption="c")
    assert "1 not finite" in distribution_plot({"a": [1, 2, math.inf], "b": [1]}, x_label="x", caption="c")
    alone = interval_plot({"a": Estimate(0.5, math.nan, math.nan, 3)}, x_label="x", caption="c")
    assert "nan" not in alone


def test_labels_are_words_and_no_mathematics() -> None:
    drawn = interval_plot({"costs $5 or $6": ESTIMATE}, x_label="x", caption="c")
    assert "costs $5 or $6" in drawn


def test_a_name_that_begins_with_an_underscore_is_in_the_legend() -> None:
    curve = ([1.0, 2.0], [1.0, 2.0])
    drawn = line_plot({"_first": curve, "second": curve}, x_label="x", y_label="y", caption="c")
    assert "_first" in drawn
    assert "second" in drawn


def test_long_names_lose_their_middle() -> None:
    drawn = interval_plot({"runs/2026/" + "x" * 80 + "/checkpoint-40": ESTIMATE}, x_label="x", caption="c")
    assert "runs/2026/xx\N{HORIZONTAL ELLIPSIS}heckpoint-40" in drawn


def test_figures_table_sets_numbers_right_and_none_as_a_dash() -> None:
    table = figures_table(["model", "win rate", "n"], [["DPO", 0.61239, 120], ["PPO", None, 1]])
    assert '<td class="number">0.612</td><td class="number">120</td>' in table
    assert '<td class="number">\N{EN DASH}</td>' in table
    assert '<th scope="row">DPO</th>' in table


def test_prose_makes_paragraphs_and_code() -> None:
    assert prose("One & `two`.\n\n  Three.") == "<p>One &amp; <code>two</code>.</p>\n<p>Three.</p>"


def test_report_replaces_the_old_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    assert write_report(path, title="t", sections=[Section("s", prose("new"))]) == path
    assert "new" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: write_report("r.html", title="t", sections=[]), "sections is empty"),
        (lambda: figures_table(["a", "b"], [[1, 2], [1]]), r"rows\[1\] has 1 cells for 2 columns"),
        (lambda: line_plot({"a": ([1], [1, 2])}, x_label="", y_label="", caption=""), "1 x and 2 y values"),
        (lambda: line_plot({}, x_label="", y_label="", caption=""), "0 series"),
        (lambda: distribution_plot({"a": [math.nan]}, x_label="", caption=""), "no finite value"),
        (lambda: interval_plot({}, x_label="", caption=""), "estimates is empty"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
