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
from annotation.store import Store, StoreUnavailable

NOTHING = "—"


@dataclass(frozen=True)
class Call:
    """One request of a manager: who, when, what the page says in their language, and the address they came by."""

    manager: Annotator
    at: float
    words: Mapping[str, str]
    address: str


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

    def table(self, label: Any, *, max_height: int = 420, show_label: bool = True) -> Any:
        """A table of texts, shown as they are: neither Markdown nor HTML."""
        return self.gr.Dataframe(
            value={"headers": [" "], "data": []},
            label=label,
            show_label=show_label,
            datatype="str",
            interactive=False,
            type="array",
            wrap=True,
            max_height=max_height,
        )

    def on(
        self,
        event: Callable[..., Any],
        action: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        *,
        progress: str = "hidden",
    ) -> Any:
        """Let an event run an action: `action(call, *values of the inputs)` gives a list of what the outputs become.

        Whether a manager asks is looked up at each call: that the page was shown to one says nothing of who sends
        this. A mistake that can be told is told in a message, with the values of what it names shown as text.
        """
        gr = self.gr

        def handle(request: Any, *values: Any) -> Any:
            call = self._call(request.request)
            if call is None:
                raise gr.Error("this page is for managers: sign in as one", print_exception=False)
            try:
                answer = action(call, *values)
                return answer if len(outputs) > 1 else answer[0]
            except (ValueError, OSError, StoreUnavailable) as error:
                text = html.escape(str(error)).replace("\n", "<br>")
                raise gr.Error(text, duration=None, print_exception=False, title=call.words["failed"]) from None

        handle.__annotations__ = {"request": gr.Request}
        return event(
            handle,
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
        words = words_in(language_of(request.headers.get("accept-language", "")))
        address = self.public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
        return Call(annotator, self.service.clock(), words, address)


def number_of(value: Any, name: str) -> int:
    """A whole number that a field gave.

    Raises:
        ValueError: there is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{name} is {value!r}; give a whole number")
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
    return str(value)


def frame(table: Table, words: Mapping[str, str], *, translated: Sequence[str] = ()) -> dict[str, Any]:
    """A table as the value of a data frame: texts only. Values of the columns in `translated` are keys of the words."""
    headers = [words.get(f"column.{name}", name) for name, _ in table.columns]
    data = [
        [
            words.get(f"value.{value}", str(value)) if name in translated else shown(value, kind)
            for value, (name, kind) in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]
    return {"headers": headers, "data": data}


def said(text: str) -> str:
    """A message for the line under a button; a screen reader reads it out."""
    return f'<p class="said" role="status">{html.escape(text)}</p>'


def links(found: Sequence[tuple[str, str]]) -> str:
    """Links to files of this app, (text, address) each."""
    parts = [f'<a href="{html.escape(address)}" download>{html.escape(text)}</a>' for text, address in found]
    return f'<p class="links">{" ".join(parts)}</p>'
