"""Baselines of reward models, against numbers worked out by hand."""

from __future__ import annotations

import sys

import pytest

from reward.baselines import BagOfWords, length_margins, text_pairs
from rlhf.data.comparisons import Comparison, Message, Response


def comparison(ranks: tuple[int, ...], *texts: str) -> Comparison:
    return Comparison((Message("user", "Which?"),), tuple(Response(text) for text in texts), ranks)


def test_every_ordered_pair_of_a_ranking_is_a_pair_of_texts() -> None:
    assert text_pairs([comparison((2, 1, 2), "tie one", "best", "tie two"), comparison((1, 2), "a", "b")]) == [
        ("best", "tie one"),
        ("best", "tie two"),
        ("a", "b"),
    ]


def test_the_length_margin_counts_characters() -> None:
    assert length_margins([("four", "ab"), ("ab", "four"), ("same", "size"), ("été", "abc")]) == [2, -2, 0, 0]


def test_one_word_gets_the_weight_that_solves_the_regression() -> None:
    """One pair given both ways: x = 1 and -1, so the minimum of w^2 / 2 + 2 ln(1 + e^-w) is w = 2 / (1 + e^w),
    whose solution is 0.6748 (0.6748 * (1 + 1.9636) = 2.0). "x" is one character and no word."""
    model = BagOfWords([("good", "x")])
    assert model.margins([("good", "x"), ("x", "good"), ("x", "x")]) == pytest.approx([0.6748, -0.6748, 0], abs=2e-4)


def test_words_of_chosen_texts_win_whatever_their_order() -> None:
    model = BagOfWords([("a kind answer", "a rude answer"), ("kind words", "rude words"), ("kind", "rude")])
    kind, unknown, rude = model.margins([("very kind", "very rude"), ("never seen", "before today"), ("rude", "kind")])
    assert kind > 0.1
    assert unknown == 0
    assert rude < -0.1


def test_repeated_words_count_by_the_logarithm() -> None:
    """Vectors have length 1: (good, bad) terms are (1 + ln 2, 1) and (1, 1 + ln 2) before, so over their length
    sqrt(1.6931^2 + 1) = 1.9664 the difference is 0.6931 / 1.9664 = 0.3525 of good, and as much less of bad. Both
    words are in both texts, so their inverse document frequencies are equal and cancel."""
    pair = ("good good bad", "good bad bad")
    model = BagOfWords([pair])
    assert sorted(model._differences([pair]).toarray()[0]) == pytest.approx([-0.3525, 0.3525], abs=1e-4)


def test_no_pairs_and_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        BagOfWords([])
    with pytest.raises(ValueError, match="empty vocabulary"):
        BagOfWords([("x", "y")])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ValueError, match=r"rlhf-loop\[baselines\]"):
        BagOfWords([("good", "bad")])
