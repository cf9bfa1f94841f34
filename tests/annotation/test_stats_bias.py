from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from annotation.stats.bias import (
    both_bad_share,
    left_share,
    length_bias,
    mean_ranks_by_place,
    pace,
    pace_by_annotator,
    tie_share,
    time_left,
)
from annotation.stats.votes import Vote
from tests.annotation.crowd import pair


def test_left_share_counts_decided_pairs_by_where_they_were_shown() -> None:
    votes = [
        pair("0", "a", "first", (0, 1)),  # left
        pair("1", "a", "second", (1, 0)),  # left
        pair("2", "a", "first", (1, 0)),  # right
        pair("3", "a", "second", (1, 0)),  # left
        pair("4", "a", "tie", (1, 0)),
        Vote("5", "a", (1, 2, 3), (0, 1, 2)),
    ]
    found = left_share(votes)
    assert (found.value, found.n) == (0.75, 4)
    # Wilson's interval of 3 of 4
    assert found.low == pytest.approx(0.3006, abs=1e-4)
    assert found.high == pytest.approx(0.9544, abs=1e-4)


@given(labels=st.lists(st.sampled_from(["first", "tie", "second"]), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_mirrored_screen_turns_left_into_right(labels: list[str]) -> None:
    one = left_share([pair(str(n), "a", label, (0, 1)) for n, label in enumerate(labels)])
    other = left_share([pair(str(n), "a", label, (1, 0)) for n, label in enumerate(labels)])
    assert one.n == other.n == sum(label != "tie" for label in labels)
    if one.n:
        assert one.value == pytest.approx(1 - other.value)
        assert one.low == pytest.approx(1 - other.high)


def test_mean_ranks_by_place_by_hand() -> None:
    votes = [
        Vote("0", "a", ranks=(1, 2, 3), shown_order=(2, 0, 1)),  # 3, 1, 2 from left to right
        Vote("1", "a", ranks=(1, 1, 2), shown_order=(0, 1, 2)),  # 1.5, 1.5, 3
        Vote("2", "a", ranks=(4, 3, 2, 1), shown_order=(0, 1, 2, 3)),
        pair("3", "a", "first"),
    ]
    assert mean_ranks_by_place(votes) == {3: (2.25, 1.25, 2.5), 4: (4.0, 3.0, 2.0, 1.0)}


def test_all_orders_of_one_ranking_give_every_place_the_same() -> None:
    votes = [Vote(str(n), "a", (1, 2, 2, 4), order) for n, order in enumerate(permutations(range(4)))]
    assert mean_ranks_by_place(votes)[4] == pytest.approx((2.5, 2.5, 2.5, 2.5))


@given(ranks=st.lists(st.integers(1, 4), min_size=3, max_size=6))
@settings(deadline=None)
def test_ties_share_their_ranks_as_in_scipy(ranks: list[int]) -> None:
    found = mean_ranks_by_place([Vote("0", "a", tuple(ranks), tuple(range(len(ranks))))])
    assert found[len(ranks)] == pytest.approx(rankdata(ranks))


def test_length_bias_counts_each_item_once() -> None:
    lengths = {"0": (10, 20), "1": (30, 5), "2": (7, 7), "3": (1, 2, 3)}
    votes = [
        pair("0", "a", "second"),  # longer
        pair("0", "b", "second"),  # longer
        pair("0", "c", "first"),  # shorter
        pair("1", "a", "first"),  # longer
        pair("1", "b", "tie"),
        pair("2", "a", "first"),  # equally long
        Vote("3", "a", (1, 2, 2), (0, 1, 2)),  # shorter twice, and a tie
    ]
    found = length_bias(votes, lengths)
    assert found.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.n == 3


def test_lengths_must_fit_the_votes() -> None:
    with pytest.raises(ValueError, match="item '0' has 0 lengths for 2 responses"):
        length_bias([pair("0", "a", "first")], {})
    with pytest.raises(ValueError, match="item '0' has 3 lengths for 2 responses"):
        length_bias([pair("0", "a", "first")], {"0": (1, 2, 3)})


def test_ties_and_both_bad_are_shares_of_votes() -> None:
    votes = [
        pair("0", "a", "tie", both_bad=True),
        pair("1", "a", "first"),
        pair("2", "a", "tie"),
        Vote("3", "a", (1, 1, 2), (0, 1, 2)),  # one pair of three
    ]
    assert tie_share(votes).value == pytest.approx((1 + 0 + 1 + 1 / 3) / 4)
    assert tie_share(votes).n == 4
    assert both_bad_share(votes).value == 0.25
    assert both_bad_share([]).value is None


def test_pace_by_hand() -> None:
    votes = [pair(str(n), "a", "first", active_ms=ms) for n, ms in enumerate([10_000, 20_000, 60_000, 0])]
    found = pace(votes)
    assert (found.votes, found.median_seconds) == (3, 20.0)
    assert found.items_per_hour == pytest.approx(3 / 90 * 3600)
    assert (pace([]).votes, pace([]).median_seconds, pace([]).items_per_hour) == (0, None, None)


def test_pace_by_annotator() -> None:
    votes = [
        pair("0", "b", "first", active_ms=5000),
        pair("1", "a", "first", active_ms=9000),
        pair("2", "b", "first", active_ms=7000),
    ]
    assert {name: found.median_seconds for name, found in pace_by_annotator(votes).items()} == {"a": 9.0, "b": 6.0}


def test_time_left_is_what_is_left_over_the_pace_of_the_last_hours() -> None:
    hour = 3600.0
    found = time_left(0.0, 60, 120, now=100 * hour, hours=10)
    # 60 votes in 10 hours
    assert found.votes_per_hour == pytest.approx(6)
    assert found.hours == pytest.approx(20)
    assert found.at == pytest.approx(120 * hour)


def test_a_young_campaign_counts_from_its_first_vote() -> None:
    found = time_left(1000.0, 31, 60, now=1000 + 7200.0)
    # thirty after the first in two hours
    assert found.votes_per_hour == pytest.approx(15)
    assert found.hours == pytest.approx(4)


def test_less_than_an_hour_says_nothing_of_hours() -> None:
    found = time_left(1000.0, 36, 4, now=1000 + 120.0)
    assert (found.votes_per_hour, found.hours, found.at) == (None, None, None)
    assert found.note == "no pace yet: the first vote is less than an hour old"


def test_without_a_pace_there_is_no_time_left_but_words() -> None:
    for first, lately in ((None, 0), (5.0, 1)):
        found = time_left(first, lately, 10, now=10.0)
        assert (found.hours, found.at) == (None, None)
        assert found.note == "no pace yet: no two votes in the last 24 hours"
    assert time_left(0.0, 0, 1, now=90 * 3600.0).hours is None


def test_nothing_left_is_done_now() -> None:
    assert time_left(None, 0, 0, now=10.0).at == 10.0
    assert time_left(5.0, 1, 0, now=10.0).hours == 0
