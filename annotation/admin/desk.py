"""What all handlers of the managers' page go through: who asks, in which language, and what to say when it fails."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from annotation.admin.words import language_of, words_in
from annotation.dashboard import Dashboard
from annotation.figure_tables import Table
from annotation.managing import Archives
from annotation.records import Annotator
from annotation.routes.access import has_role, visitor
from annotation.service import AnnotationService
from annotation.stats.remarks import Remark
from annotation.store import Store, StoreUnavailable

NOTHING = "—"
LONG = ("reasons", "note", "details", "prompt")  # columns of texts that are read in lines


@dataclass(frozen=True)
class Call:
    """One request of a manager: who, when, what the page says in their language, and the address they came by."""

    manager: Annotator
    at: float
    words: Mapping[str, str]
    address: str


class Mistake(ValueError):
    """What a manager left out or wrote wrong, as a text of the page; in English where nobody's language is known."""

    def __init__(self, key: str, **values: Any):
        self.key = key
        self.values = values
        super().__init__(self.told(words_in("en")))

    def told(self, words: Mapping[str, str]) -> str:
        """In the language of the words; the value under `label` is a key of theirs."""
        told = {name: words[value] if name == "label" else value for name, value in self.values.items()}
        return words[self.key].format(**told)


@dataclass(frozen=True)
class Desk:
    """What the tabs are built with: Gradio, its dictionary, and the parts of the app that they work on."""

    gr: Any
    say: Any
    service: AnnotationService
    dashboard: Dashboard
    archives: Archives
    public_url: str = ""

    @property
    def store(self) -> Store:
        return self.service.store

    def choice(self, **settings: Any) -> Any:
        """A list to choose from that handlers fill.

        Gradio's own refuses what is not among the choices it was built with, or has in memory for a tab.
        """
        gr = self.gr

        class Choice(gr.Dropdown):  # type: ignore[name-defined]
            is_template = True  # shown by the script of its parent

            def preprocess(self, payload: Any) -> Any:
                return payload

        return Choice(choices=[], **settings)

    def table(self, **settings: Any) -> Any:
        """A place for what `table_html` gives."""
        return self.gr.HTML(elem_classes="sheet", apply_default_css=False, **settings)

    def on(
        self,
        event: Callable[..., Any],
        action: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        *,
        progress: str = "hidden",
        with_event: bool = False,
    ) -> Any:
        """Let an event run an action: `action(call, *values of the inputs)` gives a list of what the outputs become.

        `with_event` adds what the event itself brings, which a script made, as the last value.

        Whether a manager asks is looked up at each call: that the page was shown to one says nothing of who sends
        this. A mistake that can be told is told in a message, with the values of what it names shown as text.
        """
        gr = self.gr

        def run(request: Any, *values: Any) -> Any:
            call = self._call(request.request)
            if call is None:
                words = self._words(request.request)
                raise gr.Error(words["mistake.no_manager"], title=words["failed"], print_exception=False)
            try:
                answer = action(call, *values)
                return answer if len(outputs) > 1 else answer[0]
            except (ValueError, OSError, StoreUnavailable) as error:
                message = error.told(call.words) if isinstance(error, Mistake) else str(error)
                text = html.escape(message).replace("\n", "<br>")
                raise gr.Error(text, duration=None, print_exception=False, title=call.words["failed"]) from None

        def run_with_event(request: Any, happened: Any, *values: Any) -> Any:
            return run(request, *values, getattr(happened, "_data", None))

        # Gradio goes by annotations, and gives no event where there is none
        run.__annotations__ = {"request": gr.Request}
        run_with_event.__annotations__ = {"request": gr.Request, "happened": gr.EventData}
        return event(
            run_with_event if with_event else run,
            list(inputs),
            list(outputs),
            queue=False,
            api_visibility="private",
            show_progress=progress,
            trigger_mode="once",
        )

    def _call(self, request: Request) -> Call | None:
        annotator = visitor(request, self.service)
        if annotator is None or not has_role(annotator, "manager"):
            return None
        address = self.public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
        return Call(annotator, self.service.clock(), self._words(request), address)

    def _words(self, request: Request) -> Mapping[str, str]:
        return words_in(language_of(request.headers.get("accept-language", "")))


def number_of(value: Any, label: str) -> int:
    """A whole number that a field gave; `label` is the key of what stands over it.

    Raises:
        Mistake: there is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise Mistake("mistake.no_number" if value is None else "mistake.number", label=label, value=value)
    return int(value)


# ---- showing --------------------------------------------------------------------------------------------------


def shown(value: Any, kind: str) -> str:
    """A figure of a table's kind, as people read it; plain text."""
    if value is None:
        return NOTHING
    if kind == "share":
        return f"{100 * value:.0f} %"
    if kind == "number":
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    if kind == "time":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    return value if isinstance(value, str) else str(value)


def table_html(
    table: Table,
    words: Mapping[str, str],
    title: str,
    *,
    translated: Sequence[str] = (),
    button: str = "",
    captioned: bool = False,
    whole: bool = True,
) -> str:
    """A table as HTML with all texts escaped; on a phone each row is a list of its values. One line where it is empty.

    Heads sort the rows where there are several.

    Args:
        table: what is shown.
        words: what the page says, by key.
        title: of the table, for screen readers; for all with `captioned`.
        translated: columns whose values are keys of the words.
        button: a column whose values are buttons.
        captioned: whether the title stands above the table.
        whole: whether all rows there are are in the table; a part of them cannot be sorted.
    """
    caption = f'<p class="soft">{html.escape(title)}</p>' if captioned else ""
    if not table.rows:
        return f'{caption}<p class="soft">{html.escape(words["nothing_yet"])}</p>'
    heads = [html.escape(words.get(f"column.{name}", name)) for name, _ in table.columns]
    rows = []
    for row in table.rows:
        cells = []
        for value, head, (name, kind) in zip(row, heads, table.columns, strict=True):
            text = html.escape(
                words.get(f"value.{value}", str(value)) if name in translated else in_words(shown(value, kind), words)
            )
            if name == button:
                text = f'<button type="button" data-value="{text}">{text}</button>'
            width = " long" if name in LONG else ""
            order = f' data-order="{float(value)!r}"' if isinstance(value, (int, float)) else ""
            order += " data-none" if value is None else ""
            cells.append(f'<td class="{kind}{width}"{order} data-head="{head}"><span dir="auto">{text}</span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if len(rows) > 1 and whole:
        heads = [f'<button type="button" class="sort">{head}</button>' for head in heads]
    header = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'{caption}<div class="scrolled" role="region" tabindex="0" aria-label="{html.escape(title)}">'
        f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def in_words(text: str, words: Mapping[str, str]) -> str:
    """A remark in the language of the words; English, and what is no remark, as it is."""
    if not isinstance(text, Remark):
        return text
    told = words.get(f"remark.{text.key}")
    return text if told is None else told.format(**text.places)


def said(text: str) -> str:
    """A message for the line under a button; a screen reader reads it out."""
    return f'<p class="said" role="status">{html.escape(text)}</p>'


def links(found: Sequence[tuple[str, str]]) -> str:
    """Links to files of this app, (text, address) each."""
    parts = [f'<a href="{html.escape(address)}" download>{html.escape(text)}</a>' for text, address in found]
    return f'<p class="links">{" ".join(parts)}</p>'
