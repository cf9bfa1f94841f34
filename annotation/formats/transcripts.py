"""Conversations in one text, as the HH data keep them: turns that begin with "\\n\\nHuman:" and "\\n\\nAssistant:".

The turns alternate. A role's name inside a line is text, and so is one at the beginning of a paragraph where the
other role is due to speak next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlhf.data.comparisons import Message
from rlhf.data.records import FieldError

MARK = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
BY_HAND = "write the row with prompt, chosen and rejected as lists of messages, or leave it out"


def is_transcript(row: Mapping[str, Any]) -> bool:
    """Whether a row of `chosen` and `rejected` is one of transcripts: alone, or after a `prompt` that is one."""
    first = row.get("prompt", row.get("chosen"))
    texts = [first, row.get("chosen"), row.get("rejected")]
    if not all(isinstance(text, str) for text in texts) or not _starts(first):
        return False
    return first.rstrip().endswith("\n\nAssistant:") if "prompt" in row else _starts(row["rejected"])


def parse_transcripts(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Prompt, chosen and rejected answer: the two conversations differ in the last one only.

    Raises:
        FieldError: a text is no transcript, or the conversations part before the last answer.
    """
    for name in ("chosen", "rejected"):
        if name not in row:
            raise FieldError(name, "missing", "a row of transcripts needs chosen and rejected")
    beginning = row.get("prompt", "")
    chosen, rejected = (_turns(name, beginning, row[name]) for name in ("chosen", "rejected"))
    if len(chosen) != len(rejected) or chosen[:-1] != rejected[:-1]:
        shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(rejected))
        found = f"{len(chosen)} and {len(rejected)} turns that part at turn {shared + 1}, before the last answer"
        raise FieldError("rejected", found, BY_HAND)
    return tuple(chosen[:-1]), chosen[-1].content, rejected[-1].content


def _turns(name: str, beginning: Any, text: Any) -> list[Message]:
    for field, value in (("prompt", beginning), (name, text)):
        if not isinstance(value, str):
            raise FieldError(field, f"{type(value).__name__} where a transcript belongs", BY_HAND)
    whole = "\n\n" + (beginning + text).lstrip("\n")
    marks = []
    due = "Human"
    for mark in MARK.finditer(whole):
        if mark[1] == due:
            marks.append(mark)
            due = "Assistant" if due == "Human" else "Human"
    if not marks or marks[0].start() != 0:
        raise FieldError(name, "no transcript", "begin it with a blank line and Human: ...")
    ends = [mark.start() for mark in marks[1:]] + [len(whole)]
    turns = [
        Message(ROLES[mark[1]], whole[mark.end() : end].removeprefix(" "))
        for mark, end in zip(marks, ends, strict=True)
    ]
    if turns[-1].role != "assistant":
        raise FieldError(name, "no answer after the last Human:", BY_HAND)
    return turns


def _starts(text: str) -> bool:
    return text.lstrip("\n").startswith("Human:") and "\n\nAssistant:" in text
