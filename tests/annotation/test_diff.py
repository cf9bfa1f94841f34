"""The word diff gives both texts back, and says what a person would say changed."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.diff import words_diff

WORDS = st.lists(
    st.sampled_from(["cat", "dog", "the", " ", "  ", "\n", ",", ".", "é", "猫", "犬", "\u200d"]), max_size=40
)
TEXTS = WORDS.map("".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("", "", []),
        ("same text", "same text", [("equal", "same text")]),
        ("", "new", [("insert", "new")]),
        ("old", "", [("delete", "old")]),
        (" \n", "\t", [("delete", " \n"), ("insert", "\t")]),
        (
            "The cat sat on the mat.",
            "The dog sat on a mat, today.",
            [
                ("equal", "The "),
                ("delete", "cat"),
                ("insert", "dog"),
                ("equal", " sat on "),
                ("delete", "the"),
                ("insert", "a"),
                ("equal", " mat"),
                ("insert", ", today"),
                ("equal", "."),
            ],
        ),
        ("one two three", "one three", [("equal", "one "), ("delete", "two "), ("equal", "three")]),
        ("a  b", "a b", [("equal", "a"), ("delete", "  "), ("insert", " "), ("equal", "b")]),
        ("我喜欢猫", "我喜欢狗", [("equal", "我喜欢"), ("delete", "猫"), ("insert", "狗")]),
        ("cafe", "café", [("delete", "cafe"), ("insert", "café")]),
    ],
)
def test_a_change_is_told_in_words(old: str, new: str, expected: list[tuple[str, str]]) -> None:
    assert words_diff(old, new) == expected


def check(old: str, new: str) -> None:
    pieces = words_diff(old, new)
    kinds = [kind for kind, _ in pieces]
    assert "".join(text for kind, text in pieces if kind != "insert") == old
    assert "".join(text for kind, text in pieces if kind != "delete") == new
    assert all(text for _, text in pieces)
    allowed = {("equal", "delete"), ("equal", "insert"), ("delete", "insert"), ("delete", "equal"), ("insert", "equal")}
    assert set(itertools.pairwise(kinds)) <= allowed


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_the_pieces_give_both_texts_back(old: str, new: str) -> None:
    check(old, new)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text: str) -> None:
    assert words_diff(text, text) == ([("equal", text)] if text else [])


@pytest.mark.parametrize(
    "old, new",
    [
        ("a " * 40_000, "b " + "a " * 40_000 + "c"),
        ("x y " * 2_000, "y x " * 2_000 + "\n"),
        ("a\n" * 20_000, "b\n" + "a\n" * 20_000 + "c"),
        (" ".join(map(str, range(20_000))), " ".join(map(str, reversed(range(20_000))))),
    ],
    ids=["one word", "two words", "lines", "all moved"],
)
def test_long_texts_are_given_back_too(old: str, new: str) -> None:
    check(old, new)


def test_a_long_text_is_compared_within_its_lines() -> None:
    lines = [f"{number} the the the the the end" for number in range(1_000)]
    changed = list(lines)
    changed[500] = "500 the the other the the end"
    expected_head = "\n".join(lines[:500]) + "\n500 the the "
    assert words_diff("\n".join(lines), "\n".join(changed))[:3] == [
        ("equal", expected_head),
        ("delete", "the"),
        ("insert", "other"),
    ]
    changed[10] = "10 the end"
    pieces = words_diff("\n".join(lines), "\n".join(changed))
    assert ("delete", "the the the the ") in pieces
    assert pieces.count(("insert", "other")) == 1


def test_no_two_texts_take_long() -> None:
    old, new = ("\n".join(f"{f'a {word} ' * 310}\n{number}" for number in range(16)) for word in "xy")
    begun = time.process_time()
    check(old, new)
    assert time.process_time() - begun < 5  # half a minute, were nothing given as a whole
