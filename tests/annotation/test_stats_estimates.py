from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from annotation.stats.estimates import bootstrap, interval, kinds_of, share


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


# as many kinds as items, and so few that they are drawn together
KINDS = [np.arange(7), np.repeat(np.arange(2), 30)]


@pytest.mark.parametrize("kind", KINDS)
def test_bootstrap_draws_n_of_n_items_and_repeats_itself(kind: np.ndarray) -> None:
    kept = bootstrap(kind, lambda weights: weights, resamples=40, seed=3)
    assert kept.shape == (40, kind.max() + 1)
    assert (kept.sum(axis=1) == len(kind)).all()
    assert np.array_equal(kept, bootstrap(kind, lambda weights: weights, resamples=40, seed=3))
    assert not np.array_equal(kept, bootstrap(kind, lambda weights: weights, resamples=40, seed=4))


@pytest.mark.parametrize("num_kinds", [50_000, 40])
def test_bootstrap_of_a_mean_spreads_as_its_standard_error(num_kinds: int) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=num_kinds)[generator.permutation(50_000) % num_kinds][:, None]
    kinds, kind = kinds_of(rows)  # more items than fit in one go
    means = bootstrap(kind, lambda weights: weights @ kinds[:, 0] / 50_000, resamples=400, seed=0)
    assert means.mean() == pytest.approx(rows.mean(), abs=4 * rows.std() / np.sqrt(50_000 * 400))
    assert means.std() == pytest.approx(rows.std() / np.sqrt(50_000), rel=0.15)


@given(rows=st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=2), min_size=1, max_size=20))
@settings(deadline=None)
def test_kinds_are_the_different_rows(rows: list[list[float]]) -> None:
    kinds, kind = kinds_of(np.array(rows))
    assert kinds[kind].tolist() == rows
    assert len({*map(tuple, kinds.tolist())}) == len(kinds)


def test_interval_leaves_out_what_is_not_defined() -> None:
    samples = np.array([np.nan, *range(101), np.nan])
    assert interval(samples, 0.9) == (pytest.approx(5), pytest.approx(95))
    assert interval(np.array([np.nan])) == (None, None)
