"""The page that reports are made of: how text is shown on it, and its style sheet.

Series colours are Okabe and Ito's, lighter or darker to stand out from a light or a dark page.
"""

from __future__ import annotations

import re
from html import escape

# What a browser cannot show or what turns the reading order: controls, lone surrogates, bidi overrides.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def shown(text: str) -> str:
    """The text with a replacement mark for each character that cannot be shown; line ends become newlines."""
    return UNSHOWN.sub("\ufffd", text.replace("\r\n", "\n"))


def plain(text: str) -> str:
    """Text as HTML that shows it and does nothing else."""
    return escape(shown(text))


STYLE = """
:root {
  --page: #ffffff; --ink: #1b1f24; --quiet: #59636e; --line: #c9cfd6; --panel: #f5f6f8; --accent: #0072b2;
  --warn: #d55e00;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #00805d; --series-4: #a8558a; --series-5: #946c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --ink: #e6e9ed; --quiet: #9aa4af; --line: #48505a; --panel: #1e2329; --accent: #56b4e9;
    --warn: #f0894a;
    --series-1: #56b4e9; --series-2: #f0894a; --series-3: #2fc79a; --series-4: #dd94bb; --series-5: #e6b43c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
h1, h2, h3, h4, p, li, .text { overflow-wrap: anywhere; }
p { max-width: 42rem; margin: .6rem 0; }
a { color: var(--accent); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.lead { font-size: 1.1rem; color: var(--quiet); }
.caution { border-left: .25rem solid var(--warn); padding: .1rem 0 .1rem .8rem; }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1rem 0; }
.key-figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.25rem 0; }
.key-figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.key-figures dd { margin: 0; font-size: 1.75rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.key-figures dt { color: var(--quiet); font-size: .875rem; }
.side-by-side {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
}
.sample .side-by-side { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
figure { margin: .75rem 0; max-width: 34rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--quiet); font-size: .875rem; margin-top: .4rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: .875rem; padding-bottom: .4rem; }
th, td { text-align: left; padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--line); }
td, th[scope=row] { vertical-align: top; }
th[scope=col] { color: var(--quiet); font-weight: 600; font-size: .875rem; }
th[scope=row] { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
.sample { border-top: 1px solid var(--line); padding: 1rem 0; }
.answer { background: var(--panel); border-radius: .4rem; padding: .75rem .9rem; min-width: 0; }
.answer.preferred { box-shadow: inset .25rem 0 0 var(--accent); }
.answer h4 {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .6rem;
  margin: 0 0 .4rem; font-size: .875rem;
}
.mark { color: var(--accent); font-weight: 400; }
.note { color: var(--quiet); font-weight: 400; margin-left: auto; font-variant-numeric: tabular-nums; }
.tree { list-style: none; margin: .25rem 0; padding: 0 0 0 1rem; border-left: 1px solid var(--line); }
.tree .note { font-size: .875rem; }
.tree li { padding: .15rem 0; }
section > .tree { padding: 0; border: 0; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--accent); }
.text { white-space: pre-wrap; unicode-bidi: isolate; }
@media print { body { max-width: none; } .answer, figure, tr { break-inside: avoid; } }
"""
