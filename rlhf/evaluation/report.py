"""Reports: one HTML file with prose, tables, plots and samples, readable offline, in the dark and on a phone.

    write_report("report.html", title="Demo", sections=[
        Section("Result", prose("The policy won 61 % of comparisons."), interval_plot(...)),
        Section("Samples", samples_table(samples)),
    ])

The file asks for nothing from outside and runs no script; a Content-Security-Policy in its head holds it to
that. All functions here take plain text and escape it, so what a model wrote can be shown but cannot act.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.evaluation.page import STYLE, plain

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, init=False)
class Section:
    """A heading with what stands below it. `parts`: HTML from the functions of this module and of `plots`."""

    title: str
    parts: tuple[str, ...]

    def __init__(self, title: str, *parts: str):
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class Sample:
    """One prompt with the answers of several policies.

    Attributes:
        prompt: plain text.
        answers: policy name -> its answer, plain text; shown in this order.
        notes: policy name -> a short remark such as "score 0.61".
        preferred: name of the policy whose answer the judge preferred; None for a tie.
    """

    prompt: str
    answers: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)
    preferred: str | None = None


@dataclass(frozen=True)
class Branch:
    """An entry of a tree: what it is, a remark, and the entries below it; plain text."""

    text: str
    note: str = ""
    branches: tuple[Branch, ...] = ()


def write_report(path: str | os.PathLike[str], *, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Writes the page to `path`, atomically, and returns the path. `lead`: a sentence or two below the title.

    Raises:
        ValueError: there are no sections.
    """
    if not sections:
        raise ValueError("sections is empty; give at least one Section(title, html)")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(_page(title, lead, sections), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def prose(text: str) -> str:
    """Paragraphs, separated by blank lines. Words between backticks are set as code."""
    paragraphs = [plain(text.strip()) for text in re.split(r"\n\s*\n", text) if text.strip()]
    return "\n".join("<p>" + re.sub("`([^`]+)`", r"<code>\1</code>", text) + "</p>" for text in paragraphs)


def caution(text: str) -> str:
    """A paragraph set apart: what the reader must not conclude from what stands beside it."""
    return f'<p class="caution">{plain(text)}</p>'


def key_figures(figures: Mapping[str, str]) -> str:
    """A row of large figures, each above its name: `{"win rate": "0.61", "KL, nats": "3.2"}`."""
    cells = [f"<div><dt>{plain(name)}</dt><dd>{plain(value)}</dd></div>" for name, value in figures.items()]
    return f'<dl class="key-figures">{"".join(cells)}</dl>'


def figures_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> str:
    """A table whose first column names the row. Numbers are set right; floats with three decimals, None as a
    dash.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"rows[{number}] has {len(row)} cells for {len(header)} columns; give one cell for each")
    numeric = [rows and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    kinds = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(f'<th scope="col"{kind}>{plain(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    body = []
    for row in rows:
        first, *others = (plain(_cell(value)) for value in row)
        cells = "".join(f"<td{kind}>{text}</td>" for text, kind in zip(others, kinds[1:], strict=True))
        body.append(f'<tr><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>')
    title = f"<caption>{plain(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def tree(branches: Sequence[Branch]) -> str:
    """Nested lists, such as what a model was made from."""
    if not branches:
        return ""
    entries = []
    for branch in branches:
        note = f' <span class="note">{plain(branch.note)}</span>' if branch.note else ""
        entries.append(f"<li>{plain(branch.text)}{note}{tree(branch.branches)}</li>")
    return f'<ul class="tree">{"".join(entries)}</ul>'


def details(summary: str, part: str) -> str:
    """HTML that stays folded until the reader opens it."""
    return f"<details><summary>{plain(summary)}</summary>{part}</details>"


def samples_table(samples: Sequence[Sample]) -> str:
    """Each prompt above the answers to it, side by side where the page is wide enough and else stacked."""
    return "\n".join(_sample_html(sample) for sample in samples)


def side_by_side(*parts: str) -> str:
    """Plots next to each other where the page is wide enough and else stacked."""
    return f'<div class="side-by-side">{"".join(parts)}</div>'


def charts(*parts: str) -> str:
    """Plots in a grid, all of one size, also the last one of an odd number."""
    return f'<div class="side-by-side charts">{"".join(parts)}</div>'


def _sample_html(sample: Sample) -> str:
    answers = []
    for name, text in sample.answers.items():
        is_preferred = name == sample.preferred
        mark = '<span class="mark">preferred</span>' if is_preferred else ""
        note = f'<span class="note">{plain(sample.notes[name])}</span>' if name in sample.notes else ""
        shown = plain(text) if text.strip() else "<em>no text</em>"
        answers.append(
            f'<section class="answer{" preferred" if is_preferred else ""}">'
            f'<h4>{plain(name)}{mark}{note}</h4><div class="text" dir="auto">{shown}</div></section>'
        )
    return (
        f'<article class="sample"><h3 dir="auto">{plain(sample.prompt)}</h3>'
        f'<div class="side-by-side">{"".join(answers)}</div></article>'
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _page(title: str, lead: str, sections: Sequence[Section]) -> str:
    contents, body = [], []
    for number, section in enumerate(sections, start=1):
        name, inner = plain(section.title), "\n".join(section.parts)
        contents.append(f'<li><a href="#section-{number}">{name}</a></li>')
        body.append(f'<section id="section-{number}">\n<h2>{name}</h2>\n{inner}\n</section>')
    navigation = f"<nav><ol>{''.join(contents)}</ol></nav>" if len(sections) > 2 else ""
    opening = f'<p class="lead">{plain(lead)}</p>' if lead else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{plain(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{plain(title)}</h1>{opening}{navigation}</header>
<main>
{chr(10).join(body)}
</main>
</body>
</html>
"""
