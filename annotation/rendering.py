"""Texts of models and people as HTML that cannot act: no script, no request, no style of its own.

Two views of a text. `render` reads it as Markdown with formulas, `verbatim` shows every character. In both, what cannot
be seen (controls, zero-width and direction marks) is named, and nothing that was written is left out, be it the title
of a link or the seventh cell of a row of six: what is not shown cannot be judged. The page puts either into an element
of class `rendered`, which `static/rendered.css` closes off.

Both are pure: the same text gives the same HTML, and who asks may keep it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from html import escape
from types import MappingProxyType
from typing import Any
from xml.etree.ElementTree import Element

import nh3
from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String

MAX_LENGTH = 200_000  # characters; a longer text is shown verbatim
MAX_DEPTH = 50  # elements in elements; a deeper text is shown verbatim
MAX_BRACKETS = 2_000_000  # steps from brackets to where they close; what takes more is shown verbatim
MAX_FORMULA = 4_000  # characters; what a longer formula says is text
MAX_FORMULA_LINES = 100
MAX_FORMULA_DEPTH = 40
MAX_FORMULAS = 20_000  # characters of a text's formulas; what comes after is shown as it was written
MAX_CODE = 40_000  # characters of a text's code; what comes after has no colours

# ---- what may be in the HTML ----------------------------------------------------------------------------------

CODE_CLASSES = {
    Comment: "code-comment",
    Keyword: "code-keyword",
    Operator.Word: "code-keyword",
    String: "code-string",
    Number: "code-number",
    Name.Builtin: "code-builtin",
    Name.Class: "code-name",
    Name.Decorator: "code-name",
    Name.Function: "code-name",
    Name.Tag: "code-keyword",
    Name.Attribute: "code-name",
    Generic.Deleted: "code-deleted",
    Generic.Inserted: "code-inserted",
}
LENGTH = r"\+?(\d{1,2}|\d?\.\d{1,3}|\d\.\d{1,3})(em|ex|px|pt|mu)?|-0?\.\d{1,3}(em|ex)"
BOOLEAN = "true|false"
# What the parser of formulas may ask for, and what it may be: nothing that reaches far over its neighbours.
MATH_ATTRIBUTES = {
    "accent": BOOLEAN,
    "depth": LENGTH,
    "displaystyle": BOOLEAN,
    "fence": BOOLEAN,
    "form": "prefix|infix|postfix",
    "height": LENGTH,
    "largeop": BOOLEAN,
    "linethickness": LENGTH,
    "lspace": LENGTH,
    "mathvariant": "normal|bold|italic|bold-italic|monospace|sans-serif|double-struck|script|fraktur",
    "maxsize": LENGTH,
    "minsize": LENGTH,
    "movablelimits": BOOLEAN,
    "rspace": LENGTH,
    "scriptlevel": r"\+?[0-3]",
    "separator": BOOLEAN,
    "stretchy": BOOLEAN,
    "voffset": LENGTH,
    "width": LENGTH,
}
MATH_TAGS = set(
    "mrow mi mn mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mstyle "
    "mpadded".split()
)
ALIGNMENTS = {"left", "center", "right"}
STRIKES = {
    "box": "boxed",
    "updiagonalstrike": "struck",
    "downdiagonalstrike": "struck",
    "horizontalstrike": "struck",
    "updiagonalstrike downdiagonalstrike": "struck",
}
TAGS = MATH_TAGS | set(
    "a blockquote br code div em h4 h5 h6 hr li math ol p pre s span strong table tbody td th thead tr ul".split()
)
ATTRIBUTES = {
    "a": {"href", "target", "title"},  # and `rel`, which is always the same
    "math": {"alttext", "display"},
    "ol": {"start"},
    **{tag: set(MATH_ATTRIBUTES) for tag in MATH_TAGS},
}
CLASSES = {
    "code": {"formula"},
    "div": {"code", "language", "wide"},
    **{heading: {f"level-{level}" for level in range(1, 7)} for heading in ("h4", "h5", "h6")},
    "mrow": set(STRIKES.values()),
    "mtd": ALIGNMENTS,
    "p": {"definition", "formula"},
    "pre": {"verbatim"},
    "span": {"address", "image", "trailing", "unseen", *CODE_CLASSES.values()},
    "td": ALIGNMENTS,
    "th": ALIGNMENTS,
}
REL = "noreferrer noopener nofollow"

_cleaner = nh3.Cleaner(
    tags=TAGS,
    attributes=ATTRIBUTES,
    allowed_classes=CLASSES,
    clean_content_tags=set(),
    generic_attribute_prefixes=set(),
    link_rel=REL,
    set_tag_attribute_values={"a": {"target": "_blank"}},
    url_schemes={"http", "https"},
    url_relative="deny",
)


def sanitise(html: str) -> str:
    """The HTML with nothing but the tags, attributes, classes and addresses above. Doing it again changes nothing."""
    return _cleaner.clean(html)


# ---- what cannot be seen --------------------------------------------------------------------------------------

# Controls, format characters but for those of Arabic that are drawn, fillers, variation selectors, lone surrogates,
# and what Unicode keeps for more of the kind.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Spaces at the end of a line; the look back and the possessive `++` keep the search linear.
SPACES = " \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
TRAILING = re.compile(f"(?<![{SPACES}])[{SPACES}]++(?=\r?$)", re.MULTILINE)


def _belongs(text: str, at: int) -> bool:
    """Whether a joiner or a selector does what it is there for: in Persian and Indic spelling, and in pictures."""
    mark, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if not before:
        return False
    if mark in "\ufe0e\ufe0f":  # as text, as a picture
        return unicodedata.category(before) in ("So", "Sm", "Po", "Nd")
    if mark not in "\u200c\u200d" or not after:
        return False
    if unicodedata.combining(before) == 9:  # the sign that a consonant has no vowel
        return True
    if unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL":
        return True
    in_picture = before == "\ufe0f" or unicodedata.category(before) in ("So", "Sk")
    return mark == "\u200d" and in_picture and unicodedata.category(after) == "So"


def _seen(text: str) -> str:
    """The text as HTML, with a name in place of each character that cannot be seen."""
    parts = []
    start = 0
    for match in UNSEEN.finditer(text):
        at = match.start()
        if not _belongs(text, at):
            parts.append(f'{escape(text[start:at])}<span class="unseen">U+{ord(match[0]):04X}</span>')
            start = at + 1
    return "".join(parts) + escape(text[start:])


def verbatim(text: str) -> str:
    """Every character of the text, in a `<pre>`.

    What cannot be seen has its name in its place (`<span class="unseen">U+202E</span>`), and spaces at the end of a
    line are in a `<span class="trailing">`. All else is as it was written. (The outer span keeps a first empty line,
    which a browser leaves out right after `<pre>`.)
    """
    parts = []
    start = 0
    for match in TRAILING.finditer(text):
        parts.append(f'{_seen(text[start : match.start()])}<span class="trailing">{match[0]}</span>')
        start = match.end()
    return f'<pre class="verbatim"><span>{"".join(parts)}{_seen(text[start:])}</span></pre>'


# ---- formulas -------------------------------------------------------------------------------------------------

CLOSERS = {"$$": "$$", "\\(": "\\)", "\\[": "\\]"}
# Environments under the names by which the parser knows how to lay them out.
ENVIRONMENTS = {
    "align": "align*",
    "aligned": "align*",
    "dcases": "cases",
    "gather": "matrix",
    "gather*": "matrix",
    "gathered": "matrix",
}
ENVIRONMENT = re.compile(rf"\\(begin|end)\{{({'|'.join(map(re.escape, ENVIRONMENTS))})\}}")
ROW_SKIP = re.compile(r"\\\\[ \t]*\[[\d.]+(?:em|ex|pt|mm|cm)\]")
REFERENCE = re.compile("&#x([0-9A-Fa-f]+);")  # how the parser writes a symbol
COMMAND = re.compile(r"\\.", re.DOTALL)
# How many parts these elements have; with others a browser draws something else.
PARTS = {"mfrac": 2, "mover": 2, "mroot": 2, "msub": 2, "msubsup": 3, "msup": 2, "munder": 2, "munderover": 3}


class _Unreadable(ValueError):
    """A formula that cannot be shown in full."""


def _element(element: Element, depth: int) -> str:
    tag, attributes, text = element.tag, element.attrib, element.text or ""
    if depth > MAX_FORMULA_DEPTH:
        raise _Unreadable("too deep")
    if "href" in attributes or "linebreak" in attributes:
        raise _Unreadable("something that would not be seen")
    if "\\" in text or text in ("&", "{", "}"):
        raise _Unreadable(f"a command or a brace that the parser does not know: {text}")
    classes = attributes.get("columnalign", "")
    if tag == "menclose":
        tag, classes = "mrow", STRIKES[attributes["notation"]]
    text = REFERENCE.sub(lambda match: chr(int(match[1], 16)), text)
    if UNSEEN.search(text):
        raise _Unreadable("a character that cannot be seen")
    if tag == "mi" and (text == "~" or "\u27f0" <= text <= "\u27ff"):  # relations, which want space around them
        tag, text = "mo", text.replace("~", "\u223c")
    if tag not in MATH_TAGS or len(element) != PARTS.get(tag, len(element)):
        raise _Unreadable(f"an element that is not shown, or not whole: {tag}")
    kept = f' class="{classes}"' if classes and classes in CLASSES.get(tag, ()) else ""
    for name, value in attributes.items():
        if name in MATH_ATTRIBUTES and re.fullmatch(MATH_ATTRIBUTES[name], value):
            kept += f' {name}="{value}"'
    return f"<{tag}{kept}>{escape(text)}{''.join(_element(child, depth + 1) for child in element)}</{tag}>"


def _math(latex: str, display: str) -> str | None:
    """The formula as MathML, or None where it cannot be read, or not in full.

    It defines no macros: a line of them can grow without end. Colours, classes and links are left out, and so that
    nothing is hidden in it, a formula with comments or phantoms is not drawn.
    """
    bare = COMMAND.sub("", latex)
    if "%" in bare or bare.count("{") != bare.count("}") or UNSEEN.search(latex):
        return None
    prepared = ENVIRONMENT.sub(lambda match: rf"\{match[1]}{{{ENVIRONMENTS[match[2]]}}}", latex)
    converter = Converter(display=display)
    converter.macros = MappingProxyType({})
    try:
        drawn = "".join(_element(child, 1) for child in converter.convert_to_element(ROW_SKIP.sub(r"\\\\", prepared)))
    except Exception:  # the parser fails in many ways; whatever it is, the formula is shown as it was written
        return None
    return f'<math display="{display}" alttext="{escape(latex.strip())}">{drawn}</math>'


def _formula_in_a_line(state: StateInline, silent: bool) -> bool:
    """`\\(x\\)`, `\\[x\\]` and `$$x$$`; a single dollar is a price. Looks no further than a formula may be long."""
    source, start = state.src, state.pos
    opener = source[start : start + 2]
    closer = CLOSERS.get(opener)
    if closer is None or (opener == "$$" and "$" in (source[start + 2 : start + 3], source[start - 1 : start])):
        return False
    end = source.find(closer, start + 2, min(state.posMax, start + 2 + MAX_FORMULA))
    if end < 0 or source[end - 1] == "\\" or source[end : end + 3] == "$$$":
        return False
    content = source[start + 2 : end]
    if not content.strip():
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = content, opener
    state.pos = end + 2
    return True


def _formula_on_its_lines(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """A formula that has lines for itself: what stands in it is no list, heading or table."""
    start = state.bMarks[first] + state.tShift[first]
    opener = state.src[start : start + 2]
    if opener not in ("$$", "\\[") or state.is_code_block(first):
        return False
    found = state.src.find(CLOSERS[opener], start + 2, start + 2 + MAX_FORMULA)
    if found < 0 or state.src[found - 1] == "\\" or state.src[start : start + 3] == "$$$":
        return False
    last = bisect_left(state.eMarks, found, first, end)
    if last >= min(end, first + MAX_FORMULA_LINES) or state.src[found + 2 : state.eMarks[last]].strip():
        return False
    if any(state.sCount[line] < state.blkIndent and not state.isEmpty(line) for line in range(first + 1, last + 1)):
        return False
    content = state.getLines(first, last + 1, state.blkIndent, False).strip()[2:-2]
    if not content.strip():
        return False
    if not silent:
        token = state.push("formula_block", "math", 0)
        token.content, token.markup = content, opener
        token.map = [first, last + 1]
        state.line = last + 1
    return True


# ---- code -----------------------------------------------------------------------------------------------------

LANGUAGES = frozenset(
    "bash c c# c++ console cpp cs csharp css dart diff docker dockerfile elixir go golang haskell html ini java "
    "javascript js json julia kotlin latex lua make makefile matlab objc perl php postgresql powershell py python "
    "python3 r rb ruby rs rust scala scss sh shell sql swift tex toml ts tsx typescript xml yaml yml zsh".split()
)


def _code_class(kind: Any) -> str | None:
    while kind is not None and kind not in CODE_CLASSES:
        kind = kind.parent
    return CODE_CLASSES.get(kind)


def _coloured(code: str, language: str) -> str:
    """The code as HTML with its parts told apart where the language is known. Its characters stay what they are."""
    if language not in LANGUAGES:
        return _seen(code)
    parts: list[tuple[str | None, str]] = []
    for _, kind, value in get_lexer_by_name(language).get_tokens_unprocessed(code):
        name = _code_class(kind)
        if parts and parts[-1][0] == name:
            parts[-1] = (name, parts[-1][1] + value)
        else:
            parts.append((name, value))
    if "".join(value for _, value in parts) != code:
        return _seen(code)
    return "".join(f'<span class="{name}">{_seen(value)}</span>' if name else _seen(value) for name, value in parts)


# ---- Markdown -------------------------------------------------------------------------------------------------

WEB = re.compile(r"https?://[^/?#]", re.IGNORECASE)
CELL_END = re.compile(r"(?<!\\)\|")


def _whole_table(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """A table; cells that its header has no column for are kept in the last one."""
    before = len(state.tokens)
    if not table(state, first, end, silent):
        return False
    width = sum(token.type == "th_open" for token in state.tokens[before:])
    last_cell = None
    line = first
    for token in state.tokens[before:]:
        if token.type == "tr_open" and token.map:
            line = token.map[0]
        elif token.type == "inline":
            last_cell = token
        elif token.type == "tr_close" and line > first + 1 and last_cell is not None:
            row = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip().removeprefix("|")
            cells = CELL_END.split(row)
            if any(cell.strip() for cell in cells[width:]):
                last_cell.content = "|".join([last_cell.content, *cells[width:]])
    return True


class _Renderer(RendererHTML):
    """What Markdown says, as HTML. `env` counts what is limited over the whole text."""

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _seen(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<code>{_seen(tokens[idx].content)}</code>"

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<div class="code"><pre><code>{_seen(tokens[idx].content)}</code></pre></div>\n'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        code, info = tokens[idx].content, unescapeAll(tokens[idx].info).strip()
        env["code"] = env.get("code", 0) + len(code)
        language = info.split()[0].lower() if info and env["code"] <= MAX_CODE else ""
        label = f'<div class="language">{_seen(info)}</div>' if info else ""
        return f'<div class="code">{label}<pre><code>{_coloured(code, language)}</code></pre></div>\n'

    def formula(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        latex, opener = tokens[idx].content, tokens[idx].markup
        env["formulas"] = env.get("formulas", 0) + len(latex)
        display = "inline" if opener == "\\(" else "block"
        drawn = _math(latex, display) if env["formulas"] <= MAX_FORMULAS else None
        return drawn or f'<code class="formula">{_seen(opener + latex + CLOSERS[opener])}</code>'

    def formula_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<p class="formula">{self.formula(tokens, idx, options, env)}</p>\n'

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        address = _target(token, "src")
        return f'<span class="image">[image: {_seen(token.content)}]</span> {address}'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        address = str(tokens[idx].attrs["href"])
        env["link"] = idx
        if WEB.match(address):
            return f'<a href="{escape(address)}" title="{escape(address)}">'
        return "&lt;" if tokens[idx].markup == "autolink" else "["

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        opened = tokens[env["link"]]
        address = str(opened.attrs["href"])
        shown = "".join(token.content for token in tokens[env["link"] + 1 : idx])
        if not WEB.match(address):
            return "&gt;" if opened.markup == "autolink" else f"]{_target(opened, 'href')}"
        return "</a>" if shown == address and "title" not in opened.attrs else f"</a> {_target(opened, 'href')}"

    def definition(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        label, address, title = (tokens[idx].meta[name] for name in ("label", "url", "title"))
        shown = f"[{label}]: {address}" + (f' "{title}"' if title else "")
        return f'<p class="definition">{_seen(shown)}</p>\n'

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        level = int(tokens[idx].tag[1:])
        return f'<h{min(level + 3, 6)} class="level-{level}">'

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"</h{min(int(tokens[idx].tag[1:]) + 3, 6)}>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="wide"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        alignment = str(tokens[idx].attrs.get("style", "")).removeprefix("text-align:")
        return f'<{tokens[idx].tag} class="{alignment}">' if alignment else f"<{tokens[idx].tag}>"

    td_open = th_open


def _target(token: Token, attribute: str) -> str:
    """Where a link or an image leads, and its title, as text."""
    title = f' "{token.attrs["title"]}"' if "title" in token.attrs else ""
    return f'<span class="address">({_seen(str(token.attrs[attribute]) + title)})</span>'


def _markdown() -> MarkdownIt:
    options = {"html": False, "breaks": True, "xhtmlOut": False, "inline_definitions": True, "maxNesting": MAX_DEPTH}
    markdown = MarkdownIt("commonmark", options, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    markdown.disable(["html_block", "html_inline"])
    # Every address is read as one, so that every link is shown as one; which of them can be followed is decided later.
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]
    markdown.block.ruler.at("table", _whole_table, {"alt": ["paragraph", "reference"]})
    markdown.block.ruler.before(
        "fence", "formula_block", _formula_on_its_lines, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    markdown.inline.ruler.before("escape", "formula", _formula_in_a_line)
    return markdown


_MARKDOWN = _markdown()
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _depth(tokens: Sequence[Token]) -> int:
    """How many elements are open at once at most."""
    depth = deepest = 0
    for token in tokens:
        depth += token.nesting
        deepest = max(deepest, depth + (_depth(token.children) if token.children else 0))
    return deepest


# Where the parser stops in a line of text.
STOP = re.compile(r"[\n!#$%&*+:<=>@[\\\]^_`{}~-]")


def _bracket_steps(text: str) -> int:
    """How far the parser goes, over all brackets, to see where each closes; half of them open can take hours."""
    steps = 0
    for paragraph in text.split("\n\n"):
        opened = []
        stops = STOP.findall(paragraph)
        for number, stop in enumerate(stops):
            if stop == "[":
                opened.append(number)
            elif stop == "]" and opened:
                steps += number - opened.pop()
        steps += sum(len(stops) - number for number in opened)
    return steps


def render(text: str) -> str:
    """The text read as Markdown: CommonMark with tables, strikethrough, line breaks as they are, code in colours, and
    formulas in `$$..$$`, `\\(..\\)` and `\\[..\\]` as MathML.

    HTML in it is text. Images are text, and so are links that do not lead to the web; the others show their address
    beside them and tell the other side nothing about this one. A formula that cannot be read is shown as it was
    written, and so is (see `verbatim`) a text that is too long or too deep to be laid out.
    """
    if len(text) > MAX_LENGTH or _bracket_steps(text) > MAX_BRACKETS:
        return verbatim(text)
    env: dict[str, Any] = {}
    tokens = _MARKDOWN.parse(LONE_SURROGATE.sub("\ufffd", text), env)
    if _depth(tokens) >= MAX_DEPTH:  # the parser leaves out what is deeper than its limit
        return verbatim(text)
    return sanitise(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, env))
