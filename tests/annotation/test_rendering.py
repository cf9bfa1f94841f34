"""Texts become HTML that shows all of them and cannot act."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.rendering import (
    ATTRIBUTES,
    CLASSES,
    LANGUAGES,
    MAX_LENGTH,
    REL,
    TAGS,
    UNSEEN,
    render,
    sanitise,
    verbatim,
)
from benchmarks.annotation import hostile

# What a browser may meet, written down once more: the renderer's own list has to stay within it.
HARMLESS_TAGS = set(
    "a blockquote br code div em h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul math mrow mi mn "
    "mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mstyle mpadded".split()
)
HARMLESS_ATTRIBUTES = set(
    "href rel target title class start display alttext accent depth displaystyle fence form height largeop "
    "linethickness lspace mathvariant maxsize minsize movablelimits rspace scriptlevel separator stretchy voffset "
    "width".split()
)
NEVER_CLOSED = {"br", "hr"}


class Reader(HTMLParser):
    """Reads HTML by the standard library's parser, and holds every piece of it to the list."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.open: list[tuple[str, str]] = []
        self.seen: list[str] = []  # what stands in the place of a character that cannot be seen
        self.code = [""]
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in HARMLESS_TAGS & TAGS
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        for name, value in attrs:
            assert name in HARMLESS_ATTRIBUTES
            assert name in ATTRIBUTES.get(tag, set()) | {"class", "rel"}
            assert value
            if name == "class":
                assert set(value.split()) <= CLASSES[tag]
            if name in ("width", "height", "depth", "voffset", "lspace", "rspace", "minsize", "maxsize"):
                assert re.fullmatch(r"\+?[\d.]{1,5}(em|ex|px|pt|mu)?|-0?\.\d+(em|ex)", value)
        if tag == "a":
            link = dict(attrs)
            assert (link["rel"], link["target"]) == (REL, "_blank")
            if "href" in link:
                assert link["href"] == link["title"]
                assert urlsplit(link["href"]).scheme in ("http", "https")
                assert urlsplit(link["href"]).hostname
        if tag == "pre":
            self.code.append("")
        if tag not in NEVER_CLOSED:
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        assert not UNSEEN.search(data) or all(_belongs_in_pictures(mark) for mark in UNSEEN.findall(data))
        if self.open and self.open[-1] == ("span", "unseen"):
            assert re.fullmatch("U\\+[0-9A-F]{4,6}", data)
            data = chr(int(data[2:], 16))
        self.text += data
        if any(tag == "pre" for tag, _ in self.open):
            self.code[-1] += data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/>")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def _belongs_in_pictures(mark: str) -> bool:
    return mark in "\u200c\u200d\ufe0e\ufe0f"


# ---- Markdown -------------------------------------------------------------------------------------------------

LINK = 'target="_blank" rel="noreferrer noopener nofollow"'


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ""),
        ("plain", "<p>plain</p>\n"),
        ("one\ntwo", "<p>one<br>\ntwo</p>\n"),
        ("*a* **b** ~~c~~ `d<e`", "<p><em>a</em> <strong>b</strong> <s>c</s> <code>d&lt;e</code></p>\n"),
        ("# A\n## B\n###### F", '<h4 class="level-1">A</h4>\n<h5 class="level-2">B</h5>\n<h6 class="level-6">F</h6>\n'),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
        ("3. a\n4. b", '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>\n'),
        ("> a", "<blockquote>\n<p>a</p>\n</blockquote>\n"),
        ("a\n\n---\n\nb", "<p>a</p>\n<hr>\n<p>b</p>\n"),
        (
            "|a|b|\n|:-:|--:|\n|1|2|",
            '<div class="wide"><table>\n<thead>\n<tr>\n<th class="center">a</th>\n<th class="right">b</th>\n</tr>\n'
            '</thead>\n<tbody>\n<tr>\n<td class="center">1</td>\n<td class="right">2</td>\n</tr>\n</tbody>\n'
            "</table></div>\n",
        ),
        ("a & b < c > d \"e\" 'f'", "<p>a &amp; b &lt; c &gt; d \"e\" 'f'</p>\n"),
        ("&amp; &lt; &copy;", "<p>&amp; &lt; ©</p>\n"),
        ("<b>bold</b>", "<p>&lt;b&gt;bold&lt;/b&gt;</p>\n"),
        ("<div>\n*a*\n</div>", "<p>&lt;div&gt;<br>\n<em>a</em><br>\n&lt;/div&gt;</p>\n"),
        (
            "[a](https://b.c/d)",
            f'<p><a href="https://b.c/d" title="https://b.c/d" {LINK}>a</a> '
            '<span class="address">(https://b.c/d)</span></p>\n',
        ),
        ("<https://b.c/>", f'<p><a href="https://b.c/" title="https://b.c/" {LINK}>https://b.c/</a></p>\n'),
        ("https://b.c/", "<p>https://b.c/</p>\n"),
        ('[a](/b "c")', '<p>[a]<span class="address">(/b "c")</span></p>\n'),
        ("[a](javascript:b)", '<p>[a]<span class="address">(javascript:b)</span></p>\n'),
        ("<mailto:a@b.c>", "<p>&lt;mailto:a@b.c&gt;</p>\n"),
        (
            "![a *b*](http://c.d/e.png)",
            '<p><span class="image">[image: a *b*]</span> <span class="address">(http://c.d/e.png)</span></p>\n',
        ),
        ("it costs $5, or $6", "<p>it costs $5, or $6</p>\n"),
        ("$$ to $$$", "<p>$$ to $$$</p>\n"),
        ("`\\(x\\)`", "<p><code>\\(x\\)</code></p>\n"),
        (
            "```\na<b\n```",
            '<div class="code"><pre><code>a&lt;b\n</code></pre></div>\n',
        ),
        (
            "```python\nx = 1  # y\n```",
            '<div class="code"><div class="language">python</div><pre><code>x = <span class="code-number">1</span>  '
            '<span class="code-comment"># y</span>\n</code></pre></div>\n',
        ),
        (
            "```klingon\nx = 1\n```",
            '<div class="code"><div class="language">klingon</div><pre><code>x = 1\n</code></pre></div>\n',
        ),
        ("    indented", '<div class="code"><pre><code>indented\n</code></pre></div>\n'),
        ("a\u202eb", '<p>a<span class="unseen">U+202E</span>b</p>\n'),
    ],
)
def test_markdown_is_laid_out(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "\\(x^2\\)",
            '<p><math display="inline" alttext="x^2"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math></p>\n',
        ),
        (
            "$$a<b$$",
            '<p class="formula"><math display="block" alttext="a&lt;b"><mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi></mrow>'
            "</math></p>\n",
        ),
        (
            "so\n\\[\n- x\n\\]\nthen",
            '<p>so</p>\n<p class="formula"><math display="block" alttext="- x"><mrow><mo>\u2212</mo><mi>x</mi></mrow>'
            "</math></p>\n<p>then</p>\n",
        ),
        (
            "> $$\n> x\n> $$",
            '<blockquote>\n<p class="formula"><math display="block" alttext="x"><mrow><mi>x</mi></mrow></math></p>\n'
            "</blockquote>\n",
        ),
        (
            "\\(\\boxed{4}\\)",
            '<p><math display="inline" alttext="\\boxed{4}"><mrow><mrow class="boxed"><mrow><mn>4</mn></mrow></mrow>'
            "</mrow></math></p>\n",
        ),
        (
            "\\(\\begin{aligned} a &= b \\end{aligned}\\)",
            '<p><math display="inline" alttext="\\begin{aligned} a &amp;= b \\end{aligned}"><mrow>'
            '<mtable displaystyle="true"><mtr><mtd class="right"><mi>a</mi></mtd><mtd class="left"><mi></mi><mo>=</mo>'
            "<mi>b</mi></mtd></mtr></mtable></mrow></math></p>\n",
        ),
    ],
)
def test_a_formula_is_drawn(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    "formula",
    [
        "\\(\\unknown{x}\\)",
        "\\(\\href{http://a.b}{x}\\)",
        "\\(x % a comment\\)",
        "\\(\\phantom{x}\\)",
        "\\(\\def\\a{\\a\\a}\\a\\)",
        "\\(\\newcommand{\\x}{y}\\x\\)",
        "\\(\\frac{1}\\)",
        "\\(a & b\\)",
        "\\({{x}\\)",
        "\\(\u202ex\\)",
        "\\(" + "{" * 200 + "x" + "}" * 200 + "\\)",
        "$$ \\includegraphics{x} $$ and",
    ],
)
def test_a_formula_that_cannot_be_shown_in_full_stays_as_it_was_written(formula: str) -> None:
    html = render(f"so {formula}")
    assert '<code class="formula">' in html
    assert "<math" not in html
    assert Reader(html).text == f"so {formula}\n"


def test_what_is_too_long_or_too_deep_or_too_slow_is_shown_verbatim() -> None:
    for text in (
        "*a* " * (MAX_LENGTH // 4 + 1),
        ">" * 60 + " deep",
        "*a **b " * 100 + " b** a*" * 100,
        "[" * 3_000,
        "[[]" * 3_000,
        "![" * 4_000 + "x" + "](y)" * 4_000,
    ):
        assert render(text) == verbatim(text)
    assert render("*a* " * 100) != verbatim("*a* " * 100)


# ---- nothing is left out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[a](http://b.c 'first last')",
        "![first](a.png 'last')",
        "[first]: http://a.b 'last'",
        "[a]\n\n[a]: http://first.b\n[a]: http://last.b",
        "[//]: # (first last)",
        "|a|\n|-|\n|b|first|last|",
        "```python first last\n```",
        "<!-- first last -->",
        ">" * 200 + " first last",
        "\\(first % last\n\\)",
        "\\(\\phantom{first} \\href{last}{x}\\)",
        "<p hidden>first last</p>",
    ],
)
def test_what_markdown_would_hide_is_shown(text: str) -> None:
    shown = Reader(render(text)).text
    for word in ("first", "last"):
        assert (word in text) == (word in shown)


FRAGMENTS = st.sampled_from(
    [
        *"# * ** _ ~~ ` ``` - 1. > [ ]( ) ![ ](http://a.b) ][ ]: < > &lt; &#60; \\( \\) \\[ \\] $$ $ \\ \\frac "
        "{ } ^ & % | "
        "<script> </p> javascript: <http://a.b> https://a.b/?c=d&e \u202e \u200b \x00 \ud800 x".split(),
        "- ",
        "1. ",
        "> ",
        "    ",
        "  \n",
        "\n",
        "\n\n",
        "\t",
        "```python\n",
        "|-|\n",
        "|a|b\n|-|-|\n",
        "]: http://c.d 'e'\n",
    ]
)
MARKDOWN = st.lists(FRAGMENTS | st.text(max_size=4), max_size=30).map("".join)


@settings(deadline=None, max_examples=300)
@given(MARKDOWN)
def test_no_text_breaks_out(text: str) -> None:
    html = render(text)
    Reader(html)
    assert sanitise(html) == html


@settings(deadline=None)
@given(st.lists(FRAGMENTS.filter(lambda part: "\\" not in part and "$" not in part), max_size=12))
def test_every_word_is_shown(parts: list[str]) -> None:
    """Words between pieces of Markdown; formulas aside, which are read letter by letter."""
    text = "".join(f"{part}w{number}w" for number, part in enumerate(parts))
    shown = Reader(render(text)).text
    assert [number for number in range(len(parts)) if f"w{number}w" not in shown] == []


# ---- what is hostile ------------------------------------------------------------------------------------------


def test_the_list_of_hostile_texts_is_long() -> None:
    assert len(set(hostile.PAYLOADS)) == len(hostile.PAYLOADS) >= 150


@pytest.mark.parametrize("kind", hostile.BY_KIND)
def test_no_hostile_text_is_more_than_text(kind: str) -> None:
    for payload in hostile.BY_KIND[kind]:
        for text in (payload, f"before\n{payload}\nafter", f"- {payload}", f"|a|\n|-|\n|{payload}|", f"**{payload}**"):
            html = render(text)
            Reader(html)
            assert sanitise(html) == html
            assert Reader(verbatim(text)).text == text


def test_the_sanitiser_by_itself_lets_nothing_through() -> None:
    """Were the steps before it to fail."""
    for payload in hostile.PAYLOADS:
        html = sanitise(payload.encode(errors="replace").decode())  # it takes no lone surrogates
        assert sanitise(html) == html
        lowered = re.sub(r"&[a-z]+;", "", html).lower()
        for tag in re.findall("<([a-z0-9-]+)", lowered):
            assert tag in HARMLESS_TAGS
        for attribute in re.findall(r"<[^>]*?\s([a-z:-]+)=", lowered):
            assert attribute in HARMLESS_ATTRIBUTES
        assert not re.search(r'href="(?!https?:)', lowered)


# ---- code -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", sorted(LANGUAGES | {"klingon", "text", ""}))
def test_code_keeps_its_characters(language: str) -> None:
    code = (
        'def f(x):\n\treturn "a" + \'b\'  # <c> & d;\n\n  /* e */ {"g": [1, 2.5e3, 0xff]} <h i="j">k</h>\n'
        "@l $m ${n} \\o -- p // q `r` é 猫 \U0001f468\u200d\U0001f469 \u202e\n+ s\n- t\n#!/bin/u\n"
    )
    html = render(f"```{language}\n{code}```")
    assert Reader(html).code[-1] == code


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_characters="`\r\x00", exclude_categories=["Cs"])), st.sampled_from(sorted(LANGUAGES))
)
def test_any_code_keeps_its_characters(code: str, language: str) -> None:
    assert Reader(render(f"```{language}\n{code}\n```")).code[-1] == f"{code}\n"


# ---- verbatim -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, inner",
    [
        ("", ""),
        ('<b> & "c"\n\n  d\te', "&lt;b&gt; &amp; &quot;c&quot;\n\n  d\te"),
        ("\n\nfirst lines are empty", "\n\nfirst lines are empty"),
        ("a  \nb\t", 'a<span class="trailing">  </span>\nb<span class="trailing">\t</span>'),
        ("a \r\nb", 'a<span class="trailing"> </span><span class="unseen">U+000D</span>\nb'),
        ("a\u202eb\u200bc\x1b\x00", "a{}b{}c{}{}"),
        ("\ud800\U000e0041\u3164", "{}{}{}"),
        ("\u0645\u06cc\u200c\u062e \u0915\u094d\u200d\u0937 \U0001f468\u200d\U0001f469 \u2764\ufe0f", None),
        ("a\u200cb\u200d\u0645\ufe0f", "a{}b{}\u0645{}"),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, inner: str | None) -> None:
    if inner is None:
        inner = text
    elif "{" in inner:
        inner = inner.format(*(f'<span class="unseen">U+{ord(mark):04X}</span>' for mark in UNSEEN.findall(text)))
    assert verbatim(text) == f'<pre class="verbatim"><span>{inner}</span></pre>'


def test_all_that_unicode_calls_a_control_or_a_format_is_named() -> None:
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}  # signs of Arabic and Kaithi
    for number in range(0x110000):
        if unicodedata.category(chr(number)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and number not in {9, 10, *drawn}:
            assert UNSEEN.fullmatch(chr(number))


@settings(deadline=None, max_examples=300)
@given(st.text() | MARKDOWN | st.text("\u202e\u200b\u200d\u200c\ufe0f \t\r\n\x00<&a\u2764\u0645\U0001f468\ud800"))
def test_without_its_spans_a_verbatim_text_is_the_text(text: str) -> None:
    html = verbatim(text)
    assert html.startswith('<pre class="verbatim"><span>')
    assert Reader(html).text == text
