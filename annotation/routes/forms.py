"""The pages that are forms: their words in the browser's language, and their fields, escaped.

They work without scripts, so the language is the one that the browser asks for.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response

from annotation.admin.words import language_of
from annotation.passwords import SHORTEST
from annotation.sessions import TooManyTries

STATIC = Path(__file__).parents[1] / "static"


@cache
def _words_in(language: str) -> Mapping[str, str]:
    return json.loads((STATIC / f"strings_forms.{language}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Speech:
    """What the forms say, in one language."""

    language: str

    @property
    def words(self) -> Mapping[str, str]:
        return _words_in(self.language)

    def word(self, key: str, **places: str) -> str:
        return self.words[key].format(**places)

    def of(self, error: Exception) -> str:
        """An error as a sentence: in English its own words, elsewhere those for its kind, if there are any."""
        said = self.words.get(f"error.{type(error).__name__}")
        if said is None:
            words = str(error)
            return words[:1].upper() + words[1:] + "."
        minutes = -(-error.seconds // 60) if isinstance(error, TooManyTries) else 0
        return said.format(minutes=minutes, shortest=SHORTEST)


async def _speech(request: Request) -> Speech:
    return Speech(language_of(request.headers.get("accept-language", "")))


Spoken = Annotated[Speech, Depends(_speech)]


def page(
    file: str, speech: Speech, fields: Mapping[str, str], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """One of the templates in static, filled in. A template names a text by `$t_` and its key."""
    template = Template((STATIC / file).read_text(encoding="utf-8"))
    texts = {f"t_{key}": text.format(shortest=SHORTEST) for key, text in speech.words.items() if "." not in key}
    given = {**texts, **fields, "lang": speech.language, "shortest": str(SHORTEST)}
    escaped = {key: html.escape(value) for key, value in given.items()}
    filled = template.substitute(escaped, invalid="true" if fields["error"] else "false")
    # a name can hold what UTF-8 cannot, and is shown all the same
    return HTMLResponse(filled.encode("utf-8", "replace"), status, headers)
