from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from annotation.stats.bradley_terry import BradleyTerry, duels_of, fit_bradley_terry, penalised_loss
from annotation.stats.votes import Vote
from tests.annotation.crowd import pair


def simulated(
    seed: int, strengths: dict[str, float], sharpness: dict[str, float], left: dict[str, float], each: int
) -> tuple[list[Vote], dict[str, tuple[str, str]]]:
    """Votes drawn from the model, every annotator on items of their own, and which policies the responses are from."""
    generator = np.random.default_rng(seed)
    votes, names = [], {}
    for annotator in sharpness:
        for number in range(each):
            item = f"{annotator}{number}"
            names[item] = tuple(str(name) for name in generator.choice([*strengths], 2, replace=False))
            shown = tuple(generator.permutation(2).tolist())
            gap = strengths[names[item][shown[0]]] - strengths[names[item][shown[1]]]
            left_wins = generator.random() < 1 / (1 + math.exp(-sharpness[annotator] * gap - left[annotator]))
            winner = shown[0] if left_wins else shown[1]
            votes.append(pair(item, annotator, "first" if winner == 0 else "second", shown))
    return votes, names


def loss_by_hand(
    votes: list[Vote], names: dict[str, tuple[str, str]], strengths: dict[str, float], care: float, left: float
) -> float:
    """Of pairs by one annotator, with penalty 1, written from the formula."""
    total = 0.5 * (sum(value**2 for value in strengths.values()) + (care - 1) ** 2 + left**2)
    for vote in votes:
        first, second = (strengths[name] for name in names[vote.item])
        first_is_left = vote.shown_order == (0, 1)
        logit = care * (first - second) + (left if first_is_left else -left)
        first_wins = 1 / (1 + math.exp(-logit))
        won = {"first": 1.0, "tie": 0.5, "second": 0.0}[vote.label]
        total -= won * math.log(first_wins) + (1 - won) * math.log(1 - first_wins)
    return total


def test_duels_are_in_the_order_shown() -> None:
    ranking = Vote("0", "b", ranks=(2, 1, 2), shown_order=(1, 2, 0))
    known, annotators, duels = duels_of([ranking, pair("1", "a", "first", (1, 0))], {"0": "xyz", "1": "zx"})
    assert known == ("x", "y", "z")
    assert annotators == ("a", "b")
    shown = [(known[left], known[right]) for left, right in zip(duels.left, duels.right, strict=True)]
    assert shown == [("y", "z"), ("y", "x"), ("z", "x"), ("x", "z")]
    assert duels.left_won.tolist() == [1, 1, 0.5, 0]
    assert duels.annotator.tolist() == [1, 1, 1, 0]


def test_responses_of_one_policy_are_no_duel() -> None:
    _, _, duels = duels_of([Vote("0", "a", (1, 2, 3), (0, 1, 2))], {"0": "xxy"})
    assert len(duels.left) == 2


@pytest.mark.parametrize("shared_left", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_gradient_is_that_of_differences(seed: int, shared_left: bool) -> None:
    who = {"a": 1.0, "b": 0.3, "c": 2.0}
    votes, names = simulated(seed, {"x": 0.0, "y": 1.0, "z": -1.0}, who, dict.fromkeys(who, 0.4), each=8)
    votes.append(pair("tied", "b", "tie", (1, 0)))
    known, annotators, duels = duels_of(votes, {**names, "tied": ("x", "z")})
    generator = np.random.default_rng(seed)
    parameters = generator.normal(size=len(known) + len(annotators) + (1 if shared_left else 3))
    arguments = (duels, len(known), len(annotators), 0.7)
    value, gradient = penalised_loss(parameters, *arguments)
    for index in range(len(parameters)):
        step = np.zeros(len(parameters))
        step[index] = 1e-5
        above, below = (penalised_loss(parameters + sign * step, *arguments)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((above - below) / 2e-5, abs=1e-6)
    assert value > 0


def test_fit_is_the_minimum_that_brute_force_finds() -> None:
    labels = ["first", "first", "second", "tie", "first", "second", "first", "first"]
    orders = [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1), (0, 1), (1, 0), (0, 1)]
    policies = [("x", "y"), ("x", "z"), ("y", "z"), ("x", "y"), ("z", "y"), ("z", "x"), ("x", "y"), ("y", "z")]
    votes = [pair(str(n), "a", label, order) for n, (label, order) in enumerate(zip(labels, orders, strict=True))]
    names = {str(n): of_item for n, of_item in enumerate(policies)}

    def loss(parameters: np.ndarray) -> float:
        strengths = dict(zip("xyz", parameters[:3], strict=True))
        return loss_by_hand(votes, names, strengths, abs(parameters[3]), parameters[4])

    best = min(
        (
            optimize.minimize(
                loss,
                np.random.default_rng(seed).normal(size=5),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000},
            )
            for seed in range(3)
        ),
        key=lambda found: found.fun,
    )
    fit = fit_bradley_terry(votes, names)
    assert fit.names == ("x", "y", "z")
    assert fit.loss == pytest.approx(best.fun, abs=1e-7)
    assert np.allclose(fit.strengths, best.x[:3], atol=1e-3)
    assert fit.sharpness[0] == pytest.approx(abs(best.x[3]), abs=1e-3)
    assert fit.left[0] == pytest.approx(best.x[4], abs=1e-3)
    assert fit.converged


def fit_of_the_model(shared_left: bool = False) -> BradleyTerry:
    sharpness = {"careful": 2.0, "usual": 1.0, "careless": 0.0}
    left = {"careful": 0.0, "usual": 0.8, "careless": 0.0}
    votes, names = simulated(0, {"x": 1.0, "y": 0.0, "z": -1.0}, sharpness, left, each=1500)
    return fit_bradley_terry(votes, names, shared_left=shared_left)


def test_planted_strengths_care_and_bias_are_found() -> None:
    fit = fit_of_the_model()
    assert fit.annotators == ("careful", "careless", "usual")
    strengths = dict(zip(fit.names, fit.strengths, strict=True))
    # votes leave the scale open: what counts is how the annotators compare, and sharpness times strength
    assert strengths["x"] > strengths["y"] > strengths["z"]
    assert fit.sharpness[0] * (strengths["x"] - strengths["z"]) == pytest.approx(4, abs=0.5)
    assert fit.sharpness[0] / fit.sharpness[2] == pytest.approx(2, rel=0.25)
    assert fit.sharpness[1] < 0.1
    assert fit.left == pytest.approx([0, 0, 0.8], abs=0.2)
    assert fit.strengths.sum() == pytest.approx(0, abs=1e-9)


def test_a_shared_left_bias_is_one_for_all() -> None:
    fit = fit_of_the_model(shared_left=True)
    assert len(set(fit.left.tolist())) == 1
    assert 0.1 < fit.left[0] < 0.6


def test_who_prefers_what_everyone_else_rejects_is_not_sharp() -> None:
    votes = [pair(f"{who}{n}", who, "first", (n % 2, 1 - n % 2)) for who in "abc" for n in range(20)]
    votes += [pair(f"d{n}", "d", "second", (n % 2, 1 - n % 2)) for n in range(20)]
    fit = fit_bradley_terry(votes, {vote.item: ("good", "bad") for vote in votes})
    assert fit.sharpness[3] == 0
    assert (fit.sharpness[:3] > 1).all()


def test_ties_alone_leave_all_equal() -> None:
    fit = fit_bradley_terry([pair(str(n), "a", "tie") for n in range(9)], {str(n): "xy" for n in range(9)})
    assert np.allclose(fit.strengths, 0)
    assert fit.sharpness[0] == pytest.approx(1)
    assert fit.left[0] == pytest.approx(0)


def test_what_always_wins_stays_finite() -> None:
    votes = [pair(str(n), "a", "first", (n % 2, 1 - n % 2)) for n in range(200)]
    fit = fit_bradley_terry(votes, {vote.item: "xy" for vote in votes})
    assert np.isfinite(fit.strengths).all()
    assert 0 < fit.strengths[0] < 10


def test_without_names_each_response_stands_for_itself() -> None:
    fit = fit_bradley_terry([pair("0", "a", "first"), pair("0", "b", "first", (1, 0)), pair("1", "a", "second")])
    assert fit.names == (("0", 0), ("0", 1), ("1", 0), ("1", 1))
    assert fit.strengths[0] > fit.strengths[1]
    assert fit.strengths[3] > fit.strengths[2]
    assert fit.strengths[0] > fit.strengths[3]  # two votes are more than one


@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=10)
def test_a_mirrored_screen_turns_the_left_bias_alone(seed: int) -> None:
    who = {"a": 1.0, "b": 0.5}
    votes, names = simulated(seed, {"x": 1.0, "y": 0.0}, who, {"a": 1.0, "b": -0.5}, each=30)
    mirrored = [Vote(vote.item, vote.annotator, vote.ranks, vote.shown_order[::-1]) for vote in votes]
    one, other = fit_bradley_terry(votes, names), fit_bradley_terry(mirrored, names)
    assert np.allclose(one.left, -other.left, atol=1e-3)
    assert np.allclose(one.sharpness, other.sharpness, atol=1e-3)
    assert one.names == other.names
    assert np.allclose(one.strengths, other.strengths, atol=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no votes"):
        fit_bradley_terry([])
    with pytest.raises(ValueError, match="penalty is 0"):
        fit_bradley_terry([pair("0", "a", "tie")], penalty=0)
    with pytest.raises(ValueError, match="item '0' has votes but no names"):
        fit_bradley_terry([pair("0", "a", "tie")], {})
    with pytest.raises(ValueError, match="item '0' has 3 names for 2 responses"):
        fit_bradley_terry([pair("0", "a", "tie")], {"0": "xyz"})
