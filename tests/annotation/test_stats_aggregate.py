from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.stats.aggregate import aggregate
from annotation.stats.votes import Vote
from tests.annotation.crowd import crowd, pair, votes_table

tables = st.lists(st.text("fts.", min_size=5, max_size=5), min_size=1, max_size=4)


def test_majority_by_hand() -> None:
    #            agreed, two of three, three ways, split, most say tie, one vote
    votes = votes_table(["fffft.", "ffts.f", "fss.t.", "...ss."])
    found = aggregate(votes)
    assert [one.item for one in found] == ["0", "1", "2", "3", "4", "5"]
    assert [one.ranks for one in found] == [(1, 2), (1, 2), (1, 1), (2, 1), (1, 1), (1, 2)]
    assert [one.share for one in found] == pytest.approx([1, 2 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert found[1].annotators == ("a", "b", "c")
    assert all(one.probability is None for one in found)


def test_split_votes_are_a_tie_or_nothing() -> None:
    votes = votes_table(["ff", "ss"])
    assert [one.ranks for one in aggregate(votes)] == [(1, 1), (1, 1)]
    assert [one.share for one in aggregate(votes)] == [0, 0]  # nobody said tie
    (first, _) = aggregate(votes, when_split="none")
    assert first.ranks is None
    assert first.share == 0.5


def test_rankings_are_ordered_by_their_mean_ranks() -> None:
    votes = [
        Vote("0", "a", (1, 2, 3), (0, 1, 2)),
        Vote("0", "b", (1, 3, 2), (2, 1, 0)),
        Vote("0", "c", (2, 1, 3), (1, 0, 2)),
    ]
    # mean ranks 4/3, 2, 8/3
    (found,) = aggregate(votes)
    assert found.ranks == (1, 2, 3)
    # of nine votes on pairs, seven say the same
    assert found.share == pytest.approx(7 / 9)
    (tied,) = aggregate(votes[:2])
    assert tied.ranks == (1, 2, 2)


def test_every_vote_keeps_each_with_the_share_that_says_the_same() -> None:
    found = aggregate(votes_table(["f", "f", "s"]), "every_vote")
    assert [(one.ranks, one.annotators) for one in found] == [((1, 2), ("a",)), ((1, 2), ("b",)), ((2, 1), ("c",))]
    assert [one.share for one in found] == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_dawid_skene_believes_who_is_usually_right() -> None:
    # b confirms a on all items but the last; c agrees with them as often as a coin would, and contradicts a there
    votes = votes_table(["sfsfsfsfsfss", "sfsfsfsfsfs.", "ffssffssfsff"])
    by_majority, by_model = aggregate(votes)[-1], aggregate(votes, "dawid_skene")[-1]
    assert by_majority.ranks == (1, 1)
    assert by_model.ranks == (2, 1)
    assert by_model.probability > 0.7
    assert by_model.share == 0.5


def test_dawid_skene_keeps_what_is_probable_enough() -> None:
    votes, _ = crowd(0, {"honest": 10}, overlap=3)
    found = aggregate(votes, "dawid_skene")
    strict = aggregate(votes, "dawid_skene", threshold=0.9)
    assert [one.probability for one in found] == [one.probability for one in strict]
    for one in strict:
        assert (one.ranks is None) == (one.probability < 0.9)
    assert 0 < sum(one.ranks is None for one in strict) < len(strict)


def test_position_does_not_settle_what_votes_leave_open() -> None:
    (found,) = aggregate([pair("0", "a", "first"), pair("0", "b", "second")], "dawid_skene", threshold=0)
    assert found.ranks is None
    assert found.probability == pytest.approx(0.5)
    assert found.share == 0.5


def test_dawid_skene_orders_rankings_by_who_probably_beats_whom() -> None:
    votes = [
        Vote(str(item), annotator, (1, 2, 3) if item % 2 else (3, 2, 1), (0, 1, 2))
        for item in range(10)
        for annotator in "abc"
    ]
    found = aggregate([*votes, Vote("0", "d", (1, 2, 3), (0, 1, 2))], "dawid_skene")
    assert [one.ranks for one in found] == [(1, 2, 3) if item % 2 else (3, 2, 1) for item in range(10)]
    assert all(one.probability > 0.9 for one in found)
    assert found[0].share == pytest.approx(0.75)


@given(rows=tables, method=st.sampled_from(["majority", "dawid_skene", "every_vote"]))
@settings(deadline=None, max_examples=60)
def test_swapping_responses_swaps_the_label(rows: list[str], method: str) -> None:
    votes = votes_table(rows)
    turned = [Vote(vote.item, vote.annotator, vote.ranks[::-1], vote.shown_order) for vote in votes]
    before, after = aggregate(votes, method, when_split="none"), aggregate(turned, method, when_split="none")
    assert [one.ranks for one in before] == [other.ranks and other.ranks[::-1] for other in after]
    assert [one.share for one in before] == pytest.approx([other.share for other in after])


@given(rows=tables, method=st.sampled_from(["majority", "dawid_skene", "every_vote"]))
@settings(deadline=None, max_examples=40)
def test_the_order_shown_changes_nothing(rows: list[str], method: str) -> None:
    votes = votes_table(rows)
    turned = [Vote(vote.item, vote.annotator, vote.ranks, vote.shown_order[::-1]) for vote in votes]
    assert aggregate(votes, method) == aggregate(turned, method)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="method is 'mean'; use one of majority, dawid_skene, every_vote"):
        aggregate([], "mean")
    with pytest.raises(ValueError, match="when_split is 'first'; use one of tie, none"):
        aggregate([], when_split="first")
    with pytest.raises(ValueError, match="several votes on item '0'"):
        aggregate([pair("0", "a", "first"), pair("0", "a", "tie")])
    assert aggregate([]) == []
