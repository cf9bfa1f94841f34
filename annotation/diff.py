"""What two texts share and where they differ, word by word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import accumulate
from typing import Literal

Kind = Literal["equal", "delete", "insert"]

# A word or another character, and the spaces after it. Chinese and Japanese put no spaces between words.
ALONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
TOKEN = re.compile(rf"^\s+|(?:[{ALONE}]|[^\W{ALONE}]+|[^\w\s])\s*")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
MAX_PAIRS = 100_000  # of equal tokens; texts with more are compared by lines first
MAX_STEPS = 4_000_000  # of all comparisons of two texts together: less than a second


def words_diff(old: str, new: str) -> list[tuple[Kind, str]]:
    """The pieces from which both texts can be put together: `equal` and `delete` give the old one, `equal` and
    `insert` the new one. What was deleted stands before what came in its place; no piece is empty, and no two of a kind
    follow each other.

    Long texts are compared by lines, and by words only within the lines that differ. What is left when `MAX_STEPS` are
    used up is given as a whole, as in two texts of one word over and over.
    """
    pieces: list[tuple[Kind, str]] = []
    equal = deleted = inserted = ""
    for same, before, after in _runs(old, new):
        if not same:
            pieces.append(("equal", equal))
            equal, deleted, inserted = "", deleted + before, inserted + after
        elif before:
            pieces += ("delete", deleted), ("insert", inserted)
            equal, deleted, inserted = equal + before, "", ""
    pieces += ("delete", deleted), ("insert", inserted), ("equal", equal)
    return [(kind, text) for kind, text in pieces if text]


@dataclass
class Steps:
    """How many steps may still be made."""

    left: int = MAX_STEPS


class Matcher(SequenceMatcher[str]):
    """Finds nothing more in common when the steps are used up."""

    def __init__(self, old: Sequence[str], new: Sequence[str], steps: Steps):
        super().__init__(None, old, new, autojunk=False)
        counts = Counter(new)
        # a step for each token and for each pair of equal ones, which is what the search goes through
        self._steps_before = [0, *accumulate(1 + counts[word] for word in old)]
        self._steps = steps

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        assert ahi is not None
        needed = self._steps_before[ahi] - self._steps_before[alo]
        if needed > self._steps.left:
            return Match(alo, blo, 0)
        self._steps.left -= needed
        return super().find_longest_match(alo, ahi, blo, bhi)


def _runs(old: str, new: str) -> Iterator[tuple[bool, str, str]]:
    """Whether it is the same, what the old text has, what the new one has; from beginning to end."""
    old_words, new_words = TOKEN.findall(old), TOKEN.findall(new)
    start, end = _shared_ends(old_words, new_words)
    head, tail = "".join(old_words[:start]), "".join(old_words[len(old_words) - end :])
    yield True, head, head
    steps = Steps()
    old_words, new_words = old_words[start : len(old_words) - end], new_words[start : len(new_words) - end]
    if _pairs(old_words, new_words) <= MAX_PAIRS:
        yield from _matched(old_words, new_words, steps)
    else:
        old_lines, new_lines = LINE.findall("".join(old_words)), LINE.findall("".join(new_words))
        for same, before, after in _matched(old_lines, new_lines, steps):
            if same:
                yield same, before, after
            else:
                yield from _matched(TOKEN.findall(before), TOKEN.findall(after), steps)
    yield True, tail, tail


def _matched(old: Sequence[str], new: Sequence[str], steps: Steps) -> Iterator[tuple[bool, str, str]]:
    """The same by tokens, whose spaces may differ."""
    old_words, new_words = [token.rstrip() for token in old], [token.rstrip() for token in new]
    matcher = Matcher(old_words, new_words, steps)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag != "equal":
            yield from _same_spaces_apart("".join(old[old_from:old_to]), "".join(new[new_from:new_to]))
            continue
        for before, after in zip(old[old_from:old_to], new[new_from:new_to], strict=True):
            word = before.rstrip()
            yield True, word, word
            yield before == after, before[len(word) :], after[len(word) :]


def _same_spaces_apart(before: str, after: str) -> Iterator[tuple[bool, str, str]]:
    """Two texts that differ, but for the spaces at their ends, where these are the same."""
    spaces = before[len(before.rstrip()) :]
    if spaces and spaces == after[len(after.rstrip()) :]:
        yield False, before[: -len(spaces)], after[: -len(spaces)]
        yield True, spaces, spaces
    else:
        yield False, before, after


def _shared_ends(old: Sequence[str], new: Sequence[str]) -> tuple[int, int]:
    """How many tokens both have in common at the beginning, and at the end of the rest."""
    shorter = min(len(old), len(new))
    start = 0
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return start, end


def _pairs(old: Sequence[str], new: Sequence[str]) -> int:
    """How many pairs of equal tokens there are."""
    counts = Counter(token.rstrip() for token in new)
    return sum(count * counts[word] for word, count in Counter(token.rstrip() for token in old).items())
