from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.calibration import (
    TEMPERATURES,
    brier_score,
    calibration,
    cross_fitted,
    error_by_chance,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    num_bins_for,
    reliability,
)
from rlhf.data.folds import fold_of

MARGINS = st.lists(st.floats(-8, 8).map(lambda x: round(x, 3)), min_size=1, max_size=60)


def prompts(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


def drawn(scale: float, count: int = 4000, seed: int = 0) -> list[float]:
    """Margins of a model whose logits are `scale` times the true ones, chosen minus rejected."""
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 1.5, count)
    is_right = generator.random(count) < 1 / (1 + np.exp(-true))
    return [float(scale * (logit if right else -logit)) for logit, right in zip(true, is_right, strict=True)]


def ece_by_hand(margins: list[float], num_bins: int) -> float:
    """The definition, written out with one loop over pairs."""
    confidence = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
    edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1])
    inside: dict[int, list[tuple[float, float]]] = {}
    for margin, sure in zip(margins, confidence, strict=True):
        right = 0.5 if margin == 0 else float(margin > 0)
        inside.setdefault(sum(edge <= sure for edge in edges), []).append((right, sure))
    return sum(abs(sum(right - sure for right, sure in pairs)) for pairs in inside.values()) / len(margins)


@settings(deadline=None, max_examples=60)
@given(MARGINS, st.integers(1, 15))
def test_the_error_is_that_of_its_definition(margins, num_bins) -> None:
    bins = reliability(margins, prompts(len(margins)), num_bins)
    assert expected_calibration_error(bins) == pytest.approx(ece_by_hand(margins, num_bins), abs=1e-9)
    assert sum(one.accuracy.n for one in bins) == len(margins)
    assert 1 <= len(bins) <= num_bins


@settings(deadline=None, max_examples=30)
@given(MARGINS, st.integers(1, 15), st.randoms())
def test_the_order_of_pairs_does_not_matter(margins, num_bins, draw) -> None:
    shuffled = draw.sample(margins, len(margins))
    one, other = (expected_calibration_error(reliability(m, prompts(len(m)), num_bins)) for m in (margins, shuffled))
    assert one == pytest.approx(other, abs=1e-12)


def test_hand_worked_values() -> None:
    # sigmoid(log 3) = 3/4; three of four right: calibrated
    margins = [math.log(3)] * 3 + [-math.log(3)]
    (only,) = reliability(margins, prompts(4), 10)
    assert (only.confidence, only.accuracy.value) == (pytest.approx(0.75), 0.75)
    assert expected_calibration_error([only]) == pytest.approx(0)
    assert log_loss(margins) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert brier_score(margins) == pytest.approx(0.75 * 0.25**2 + 0.25 * 0.75**2)
    assert log_loss([0.0]) == pytest.approx(math.log(2))
    assert brier_score([0.0]) == 0.25


def test_chance_alone_makes_few_pairs_look_miscalibrated() -> None:
    for count in (300, 3000):
        errors = [
            expected_calibration_error(reliability(drawn(1.0, count, seed), prompts(count), 15)) for seed in range(1, 9)
        ]
        assert error_by_chance(drawn(1.0, count), 15) == pytest.approx(float(np.mean(errors)), rel=0.15)
    # one pair of confidence 3/4 is off by 1/4 three times in four, else by 3/4
    assert error_by_chance([math.log(3)], 1, num_draws=20000) == pytest.approx(0.375, abs=0.01)


def test_bins_hold_equally_many_pairs_and_never_too_few() -> None:
    bins = reliability(drawn(1.0, 600), prompts(600), 15)
    assert [one.accuracy.n for one in bins] == [40] * 15
    assert [num_bins_for(count) for count in (1, 39, 40, 300, 10_000)] == [1, 1, 2, 15, 15]


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_slope_of_a_logistic_regression(scale) -> None:
    from sklearn.linear_model import LogisticRegression

    margins = np.array(drawn(scale))
    # every pair both ways round, so that both classes are there
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    regression.fit(np.concatenate([margins, -margins])[:, None], np.repeat([1, 0], margins.size))
    found = fit_temperature(margins.tolist())
    assert found == pytest.approx(1 / regression.coef_[0, 0], rel=1e-4)
    assert found == pytest.approx(scale, rel=0.1), "the logits were multiplied by that"


@pytest.mark.parametrize(
    ("margins", "end"), [([1.0, 2.0], TEMPERATURES[0]), ([-1.0, 0.5], TEMPERATURES[1]), ([0.0], TEMPERATURES[0])]
)
def test_pairs_that_settle_no_temperature_give_an_end(margins, end) -> None:
    assert fit_temperature(margins) == end


def test_margins_are_scaled_by_what_other_prompts_say() -> None:
    margins, groups = drawn(3.0, 200), prompts(200)
    scaled = cross_fitted(margins, groups)
    for fold in range(5):
        others = [m for m, group in zip(margins, groups, strict=True) if fold_of(group, 5) != fold]
        mine = [i for i, group in enumerate(groups) if fold_of(group, 5) == fold]
        temperature = fit_temperature(others)
        assert [scaled[i] for i in mine] == pytest.approx([margins[i] / temperature for i in mine])
    assert cross_fitted([1.0, -2.0], ["one", "one"]) == [1.0, -2.0]


def test_a_model_too_sure_of_itself_is_mended_by_its_temperature() -> None:
    found = calibration(drawn(4.0, 1500), prompts(1500))
    assert found["temperature"] == pytest.approx(4, rel=0.15)
    assert found["before"]["ece"] > 0.1 > 0.05 > found["after"]["ece"]
    for name in ("log_loss", "brier"):
        assert found["after"][name] < found["before"][name]
    assert found["num_bins"] == len(found["after"]["bins"]) == 15
