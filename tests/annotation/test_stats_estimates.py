from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from annotation.stats.estimates import bootstrap, interval, share


@given(total=st.integers(1, 5000), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None, max_examples=60)
def test_share_has_wilsons_interval(total: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, total))
    found = share(successes, total, confidence=confidence)
    expected = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert found.value == successes / total
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.n == total


def test_wilson_by_hand() -> None:
    # none of 10: from 0 to z² / (n + z²) = 3.8415 / 13.8415
    assert share(0, 10).low == 0
    assert share(0, 10).high == pytest.approx(0.27753, abs=1e-5)


def test_a_share_of_nothing_has_no_value() -> None:
    found = share(0, 0)
    assert (found.value, found.low, found.high, found.n) == (None, None, None, 0)
    assert found.note


def test_bootstrap_draws_n_of_n_items_and_repeats_itself() -> None:
    kept = bootstrap(lambda weights: weights, 7, resamples=40, seed=3)
    assert kept.shape == (40, 7)
    assert (kept.sum(axis=1) == 7).all()
    assert np.array_equal(kept, bootstrap(lambda weights: weights, 7, resamples=40, seed=3))
    assert not np.array_equal(kept, bootstrap(lambda weights: weights, 7, resamples=40, seed=4))


def test_bootstrap_of_a_mean_spreads_as_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=50_000)  # more than fit in one go
    means = bootstrap(lambda weights: weights @ values / weights.sum(axis=1), len(values), resamples=400, seed=0)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(50_000 * 400))
    assert means.std() == pytest.approx(values.std() / np.sqrt(50_000), rel=0.15)


def test_interval_leaves_out_what_is_not_defined() -> None:
    samples = np.array([np.nan, *range(101), np.nan])
    assert interval(samples, 0.9) == (pytest.approx(5), pytest.approx(95))
    assert interval(np.array([np.nan])) == (None, None)
