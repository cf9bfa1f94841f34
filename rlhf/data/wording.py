"""What stays of a text when case and punctuation are left out: two texts of one wording ask the same."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+")


def wording(text: str) -> str:
    """The words of a text, lower-case, one blank between two; the text without its margins where it has no words."""
    return " ".join(WORD.findall(text.lower())) or text.strip()
