from __future__ import annotations

import statistics
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.moments import RunningMoments

BATCHES = st.lists(st.lists(st.floats(-50, 50), min_size=1, max_size=6), min_size=1, max_size=5)


def fed(batches: list[list[float]]) -> RunningMoments:
    moments = RunningMoments()
    for batch in batches:
        moments.update(len(batch), statistics.fmean(batch), statistics.pvariance(batch))
    return moments


@settings(deadline=None, max_examples=60)
@given(batches=BATCHES)
def test_batch_by_batch_equals_all_at_once(batches) -> None:
    everything = [value for batch in batches for value in batch]
    moments = fed(batches)
    assert moments.count == len(everything)
    assert moments.mean == pytest.approx(statistics.fmean(everything), abs=1e-9)
    assert moments.variance == pytest.approx(statistics.pvariance(everything), abs=1e-7)


def test_hand_worked() -> None:
    # 1 3 and then 8: mean 4, squared distances 9 + 1 + 16
    moments = fed([[1.0, 3.0], [8.0]])
    assert (moments.count, moments.mean) == (3, 4)
    assert moments.variance == pytest.approx(26 / 3)
    assert moments.deviation == pytest.approx((26 / 3) ** 0.5)


def test_the_first_batch_is_taken_as_it_is() -> None:
    assert fed([[2.0, 4.0]]) == RunningMoments(2, 3, 1)


def test_order_of_batches_does_not_matter() -> None:
    batches = [[1.0, 2.0], [30.0], [-4.0, 5.0, 6.0]]
    one, other = fed(batches), fed(batches[::-1])
    assert one.mean == pytest.approx(other.mean)
    assert one.variance == pytest.approx(other.variance)


def test_values_far_from_zero_keep_their_deviation() -> None:
    moments = fed([[1e6 + x for x in (0.0, 1.0)], [1e6 + x for x in (0.0, 1.0)]])
    assert moments.deviation == pytest.approx(0.5, rel=1e-6)


def test_deviation_can_be_divided_by_even_where_nothing_varies() -> None:
    assert RunningMoments().deviation > 0
    assert fed([[3.0, 3.0]]).deviation > 0


def test_state_survives_as_plain_numbers() -> None:
    moments = fed([[1.0, 2.5], [7.0]])
    again = RunningMoments(**asdict(moments))
    for each in (moments, again):
        each.update(2, 4.0, 1.0)
    assert again == moments
