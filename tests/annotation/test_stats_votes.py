from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.stats.labels import labels_of
from annotation.stats.table import middle_of, pair_labels, strength_labels, table_of
from annotation.stats.votes import PAIR_CLASSES, Vote, label_of, middle_ranks, ranks_of
from tests.annotation.crowd import pair, votes_table


@st.composite
def rankings(draw: st.DrawFn, sizes: st.SearchStrategy[int]) -> list[Vote]:
    """Votes of up to four annotators on up to five items, some of them rankings."""
    votes = []
    for item in range(draw(st.integers(1, 5))):
        size = draw(sizes)
        for annotator in draw(st.sets(st.sampled_from("abcd"), min_size=1)):
            ranks = tuple(draw(st.lists(st.integers(1, 4), min_size=size, max_size=size)))
            votes.append(Vote(str(item), annotator, ranks, tuple(draw(st.permutations(range(size))))))
    return votes


def test_label_names_the_better_response_by_its_position() -> None:
    assert [pair("0", "a", label).label for label in PAIR_CLASSES] == ["first", "tie", "second"]
    assert label_of((1, 3)) == "first"
    assert label_of((4, 2)) == "second"
    assert label_of((2, 2)) == "tie"
    assert [ranks_of(label) for label in PAIR_CLASSES] == [(1, 2), (1, 1), (2, 1)]


def test_shown_ranks_are_read_from_left_to_right() -> None:
    # position 2 was shown leftmost, and is the best
    assert Vote("0", "a", ranks=(3, 2, 1), shown_order=(2, 0, 1)).shown_ranks == (1, 3, 2)


@given(pressed=st.permutations([1, 2, 3]), order=st.permutations(range(3)))
@settings(deadline=None, max_examples=60)
def test_what_is_pressed_lands_on_the_response_that_was_shown_there(pressed: list[int], order: list[int]) -> None:
    ranks = [0, 0, 0]
    for place, position in enumerate(order):
        ranks[position] = pressed[place]
    assert Vote("0", "a", tuple(ranks), tuple(order)).shown_ranks == tuple(pressed)


@given(votes=rankings(st.just(2)))
@settings(deadline=None, max_examples=60)
def test_the_order_shown_never_changes_who_won(votes: list[Vote]) -> None:
    turned = [Vote(vote.item, vote.annotator, vote.ranks, vote.shown_order[::-1]) for vote in votes]
    assert [vote.label for vote in turned] == [vote.label for vote in votes]
    assert np.array_equal(pair_labels(turned).label, pair_labels(votes).label)
    assert all(
        label_of(after.shown_ranks)
        == {"first": "second", "tie": "tie", "second": "first"}[label_of(before.shown_ranks)]
        for before, after in zip(votes, turned, strict=True)
    )


@given(votes=rankings(st.integers(2, 4)))
@settings(deadline=None, max_examples=60)
def test_a_ranking_is_all_pairs_of_its_responses(votes: list[Vote]) -> None:
    labels = pair_labels(votes)
    found = {
        (labels.units[unit], labels.annotators[annotator]): labels.classes[label]
        for unit, annotator, label in zip(labels.unit, labels.annotator, labels.label, strict=True)
    }
    expected = {
        ((vote.item, i, j), vote.annotator): label_of((vote.ranks[i], vote.ranks[j]))
        for vote in votes
        for i, j in combinations(range(len(vote.ranks)), 2)
    }
    assert found == expected
    assert len(labels.label) == len(expected)
    assert [labels.items[item] for item in labels.item_of_unit] == [unit[0] for unit in labels.units]
    counts = labels.counts()
    assert counts.sum() == len(expected)
    for unit, row in zip(labels.units, counts, strict=True):
        said = [label for (of_unit, _), label in expected.items() if of_unit == unit]
        assert row.tolist() == [said.count(name) for name in PAIR_CLASSES]


def test_strengths_carry_the_sign_of_the_winner() -> None:
    votes = [
        pair("0", "a", "first", strength=3),
        pair("0", "b", "second", strength=1),
        pair("0", "c", "tie"),
        pair("0", "d", "first"),  # did not say how much
        Vote("1", "a", (1, 2, 3), (0, 1, 2), strength=2),
    ]
    labels = strength_labels(votes)
    assert labels.classes == (-1.0, 0.0, 3.0)
    assert labels.annotators == ("a", "b", "c")
    assert labels.label.tolist() == [2, 0, 1]


def test_ties_are_no_strengths_where_nobody_was_asked_for_one() -> None:
    assert len(strength_labels(votes_table(["ft", "st"])).label) == 0


def test_middle_ranks_share_the_places_of_a_tie() -> None:
    assert middle_ranks((1, 1, 3)) == middle_ranks((1, 1, 2)) == (1.5, 1.5, 3.0)
    assert middle_ranks((7, 7, 7)) == (2.0, 2.0, 2.0)
    assert middle_ranks((2, 9, 5, 2)) == (1.5, 4.0, 3.0, 1.5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ranks": (1,), "shown_order": (0,)}, "two or more responses"),
        ({"ranks": (1, 2), "shown_order": (1, 2)}, "each position from 0 to 1 once"),
        ({"ranks": (1, 2), "shown_order": (0, 0)}, "each position from 0 to 1 once"),
        ({"ranks": (1, 2), "shown_order": (0, 1), "strength": -2.0}, "strength is -2.0"),
        ({"ranks": (1, 2), "shown_order": (0, 1), "strength": float("nan")}, "strength is nan"),
    ],
)
def test_a_vote_that_contradicts_itself_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vote("7", "a", **fields)


def test_a_ranking_has_no_label() -> None:
    with pytest.raises(ValueError, match="'0' has 3 responses"):
        _ = Vote("0", "a", (1, 2, 3), (0, 1, 2)).label


def test_votes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="annotator 'a' has several votes on item '0'"):
        pair_labels([pair("1", "a", "tie"), pair("0", "a", "first"), pair("0", "a", "second")])
    with pytest.raises(ValueError, match="item '0' has votes on 2 and on 3 responses"):
        pair_labels([pair("0", "a", "first"), Vote("0", "b", (1, 2, 3), (0, 1, 2))])
    with pytest.raises(ValueError, match="label of '0' is 'left'; use one of 'first', 'second'"):
        labels_of([("0", "a", "left")], ["first", "second"])


def test_no_votes_are_no_labels() -> None:
    labels = pair_labels([])
    assert labels.items == labels.units == labels.annotators == ()
    assert labels.counts().shape == (0, 3)


@given(votes=rankings(st.integers(2, 4)))
@settings(deadline=None, max_examples=60)
def test_a_table_holds_the_votes_it_was_made_of(votes: list[Vote]) -> None:
    votes = [
        dataclasses.replace(vote, strength=None if n % 3 else float(n), both_bad=n % 2 == 0, active_ms=n, at=0.5 * n)
        for n, vote in enumerate(votes)
    ]
    table = table_of(votes)
    assert table_of(table) is table
    assert [table.vote(row) for row in range(len(table))] == votes
    assert [tuple(row[:size]) for row, size in zip(table.shown_ranks.tolist(), table.size, strict=True)] == [
        vote.shown_ranks for vote in votes
    ]
    found = {name: [own.vote(row) for row in range(len(own))] for name, own in table.by_annotator.items()}
    assert [*found] == sorted(found)
    assert found == {name: [vote for vote in votes if vote.annotator == name] for name in found}
    of_size = [(size, [table.vote(row) for row in rows]) for size, rows in table.by_size()]
    assert of_size == [(size, [vote for vote in votes if len(vote.ranks) == size]) for size, _ in of_size]


def test_some_votes_of_a_table_have_labels_of_their_own() -> None:
    votes = [pair("0", "a", "first"), pair("1", "b", "tie"), pair("1", "c", "second"), pair("2", "c", "first")]
    some = table_of(votes).where(np.array([False, False, True, True]))
    labels = pair_labels(some)
    assert (labels.items, labels.annotators) == (("1", "2"), ("c",))
    assert np.array_equal(labels.label, pair_labels(votes[2:]).label)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shown": np.array([[0, 1], [1, 1]])}, "each position from 0 to 1 once"),
        ({"shown": np.array([[0, 1], [0, -1]])}, "two or more responses"),
        ({"strength": np.array([np.nan, -1.0])}, "strength is -1.0 for item '1'"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes: dict[str, np.ndarray], message: str) -> None:
    table = table_of([pair("0", "a", "first"), pair("1", "a", "tie")])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(table, **changes)


@given(ranks=st.lists(st.integers(1, 4), min_size=2, max_size=5))
@settings(deadline=None)
def test_middle_ranks_of_many_are_those_of_each(ranks: list[int]) -> None:
    assert middle_of(np.array([ranks])).tolist() == [list(middle_ranks(ranks))]
