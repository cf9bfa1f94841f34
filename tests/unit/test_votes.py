from __future__ import annotations

import pytest

from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.data.votes import merged, votes_of

PROMPT = (Message("user", "q"),)


def judged(ranks, *, texts: str = "abc", **settings) -> Comparison:
    return Comparison(PROMPT, tuple(Response(text) for text in texts), ranks, **settings)


def test_a_preference_is_the_share_of_votes_with_ties_as_halves() -> None:
    votes = votes_of([judged((1, 2, 3)), judged((2, 1, 3)), judged((1, 1, 2)), judged((1, 2, 2))])
    # a before b: 1, 0, .5, 1 of 4; a before c: 4 of 4; b before c: 1, 1, 1, .5
    assert votes.preferred == {(0, 1): 2.5 / 4, (0, 2): 1.0, (1, 2): 3.5 / 4}
    assert votes.mean_ranks == (5 / 4, 6 / 4, 10 / 4)


def test_the_pair_is_turned_towards_the_majority() -> None:
    assert votes_of([judged((3, 2, 1)), judged((3, 1, 2)), judged((1, 2, 3))]).preferred == {
        (1, 0): pytest.approx(2 / 3),
        (2, 0): pytest.approx(2 / 3),
        (1, 2): pytest.approx(2 / 3),
    }


def test_votes_count_by_weight_and_none_without_one() -> None:
    votes = votes_of([judged((1, 2, 3), weight=3.0), judged((2, 1, 3)), judged((3, 2, 1), weight=0.0), judged(None)])
    assert votes.preferred[(0, 1)] == 3 / 4
    assert votes.weight == 2.0


def test_strength_is_the_mean_of_those_given() -> None:
    pair = {"texts": "ab"}
    assert votes_of([judged((1, 2), strength=2.0, **pair), judged((1, 2), **pair)]).strength == 2.0
    assert votes_of([judged((1, 2), strength=2.0, **pair), judged((2, 1), strength=1.0, **pair)]).strength == 1.5
    assert votes_of([judged((1, 2), **pair)]).strength is None


def test_judgments_of_the_same_responses_are_put_together_in_order() -> None:
    rows = [judged((1, 2), texts="ab"), judged((1, 2), texts="cd"), judged((2, 1), texts="ab")]
    assert merged(rows) == [[rows[0], rows[2]], [rows[1]]]


def test_annotators_who_chose_differently_vote_on_the_same_responses() -> None:
    """A row of chosen and rejected has the chosen response first, whichever it is."""
    rows = [judged((1, 2), texts="ab"), judged((1, 2), texts="ba"), judged((1, 2), texts="ab")]
    (together,) = merged(rows)
    assert [comparison.ranks for comparison in together] == [(1, 2), (2, 1), (1, 2)]
    assert votes_of(together).preferred == {(0, 1): pytest.approx(2 / 3)}


def test_equal_texts_keep_their_order_when_responses_are_put_in_that_of_the_first() -> None:
    ((first, second),) = merged([judged((1, 2, 3), texts="aba"), judged((1, 2, 3), texts="baa")])
    assert first.id == second.id
    assert second.ranks == (2, 1, 3)
    ((_, unranked),) = merged([judged((1, 2), texts="ab"), judged(None, texts="ba")])
    assert (unranked.ranks, unranked.responses[0].text) == (None, "a")


def test_what_does_not_vote_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 1 judgments"):
        votes_of([judged(None)])
    with pytest.raises(ValueError, match="different responses"):
        votes_of([judged((1, 2, 3)), judged((1, 2), texts="ab")])
