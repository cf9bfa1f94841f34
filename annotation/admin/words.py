"""What the managers' page says, in the languages it speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parents[1] / "static"
LANGUAGES = ("en", "de")


@cache
def words_in(language: str) -> Mapping[str, str]:
    """Key -> text, of one of `LANGUAGES`."""
    return json.loads((STATIC / f"strings_admin.{language}.json").read_text(encoding="utf-8"))


def language_of(accepted: str) -> str:
    """The first language of an Accept-Language header that the page speaks; English without one."""
    weighed = []
    for place, part in enumerate(accepted.split(",")[:20]):
        name, _, quality = part.partition(";")
        language = name.strip().casefold().partition("-")[0]
        if language in LANGUAGES:
            weighed.append((-_quality(quality), place, language))
    return min(weighed)[2] if weighed else LANGUAGES[0]


def _quality(text: str) -> float:
    try:
        return float(text.strip().removeprefix("q=") or 1)
    except ValueError:
        return 0.0
