from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.losses import bradley_terry_loss, rao_kupper_loss

SCORES = st.floats(-30, 30)


def loss_of(chosen: float, rejected: float, margin: float | None = None) -> float:
    c, r = (torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected))
    return bradley_terry_loss(c, r, None if margin is None else torch.tensor([margin], dtype=torch.float64)).item()


def test_hand_worked_values() -> None:
    assert loss_of(0.0, 0.0) == pytest.approx(math.log(2))
    assert loss_of(math.log(3), 0.0) == pytest.approx(math.log(4 / 3))
    assert loss_of(0.0, math.log(3)) == pytest.approx(math.log(4))


def test_a_margin_is_a_lead_that_must_be_reached_first() -> None:
    assert loss_of(2.0, 0.0, margin=2.0) == pytest.approx(math.log(2))
    assert loss_of(2.0 + math.log(3), 0.0, margin=2.0) == pytest.approx(math.log(4 / 3))
    assert loss_of(1.0, 0.5, margin=0.0) == loss_of(1.0, 0.5)


@settings(deadline=None, max_examples=40)
@given(chosen=SCORES, rejected=SCORES, shift=st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_scores_changes_nothing(chosen, rejected, shift) -> None:
    assert loss_of(chosen + shift, rejected + shift) == pytest.approx(loss_of(chosen, rejected), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(chosen=SCORES, rejected=SCORES)
def test_swapping_a_pair_negates_its_lead(chosen, rejected) -> None:
    # -log s(x) + log s(-x) = -x
    assert loss_of(chosen, rejected) - loss_of(rejected, chosen) == pytest.approx(rejected - chosen, abs=1e-9)
    assert math.exp(-loss_of(chosen, rejected)) + math.exp(-loss_of(rejected, chosen)) == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(chosen=SCORES, rejected=SCORES, margin=st.floats(0, 3))
def test_gradient_is_the_probability_of_being_wrong(chosen, rejected, margin) -> None:
    c, r = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected))
    bradley_terry_loss(c, r, torch.tensor([margin], dtype=torch.float64)).sum().backward()
    wrong = 1 / (1 + math.exp(chosen - rejected - margin))
    assert c.grad.item() == pytest.approx(-wrong, abs=1e-12)
    assert r.grad.item() == -c.grad.item()


def test_far_apart_scores_do_not_overflow() -> None:
    assert loss_of(-1e4, 1e4) == pytest.approx(2e4)
    assert loss_of(1e4, -1e4) == 0


def test_each_pair_has_its_own_margin() -> None:
    chosen, rejected = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    one, other = bradley_terry_loss(chosen, rejected, torch.tensor([0.0, 1.0])).tolist()
    assert one == pytest.approx(math.log1p(math.exp(-1)))
    assert other == pytest.approx(math.log(2))


# ---- probabilities in place of certainty ----------------------------------------------------------------


def soft_loss(lead: float, target: float, margin: float | None = None) -> float:
    tensors = [torch.tensor([x], dtype=torch.float64) for x in (lead, 0.0)]
    extra = None if margin is None else torch.tensor([margin], dtype=torch.float64)
    return bradley_terry_loss(*tensors, extra, torch.tensor([target], dtype=torch.float64)).item()


def test_hand_worked_values_of_shares_of_votes() -> None:
    # sigmoid(log 3) = 3/4: -3/4 log(3/4) - 1/4 log(1/4)
    assert soft_loss(math.log(3), 0.75) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert soft_loss(math.log(3), 0.5) == pytest.approx(-0.5 * math.log(0.75) - 0.5 * math.log(0.25))
    assert soft_loss(0.0, 0.6) == pytest.approx(math.log(2))


@settings(deadline=None, max_examples=40)
@given(lead=SCORES, margin=st.floats(0, 3))
def test_a_certain_preference_is_the_loss_without_targets(lead, margin) -> None:
    assert soft_loss(lead, 1.0, margin) == pytest.approx(loss_of(lead, 0.0, margin), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(lead=st.floats(-20, 20), target=st.floats(0.5, 1), margin=st.floats(0, 3))
def test_naming_the_other_response_the_chosen_one_changes_nothing(lead, target, margin) -> None:
    """(chosen, rejected, p) says what (rejected, chosen, 1 - p) says; the margin turns with it."""
    assert soft_loss(lead, target, margin) == pytest.approx(soft_loss(-lead, 1 - target, margin), abs=1e-9)


@pytest.mark.parametrize("target", [0.5, 0.6, 0.75, 0.9])
def test_the_loss_is_least_where_the_model_gives_the_share_of_votes(target) -> None:
    lead = torch.tensor([math.log(target / (1 - target))], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(lead, torch.zeros(1), target=torch.tensor([target], dtype=torch.float64)).sum().backward()
    assert lead.grad.item() == pytest.approx(0, abs=1e-12)
    assert soft_loss(lead.item() + 0.1, target) > soft_loss(lead.item(), target) < soft_loss(lead.item() - 0.1, target)


def test_a_tie_asks_for_equal_scores_whatever_the_strength() -> None:
    assert soft_loss(1.5, 0.5, margin=2.0) == soft_loss(-1.5, 0.5, margin=2.0) > soft_loss(0.0, 0.5, margin=2.0)


# ---- ties with a probability of their own ---------------------------------------------------------------


def tie_loss(lead: float, is_tie: bool, threshold: float = 0.5, margin: float | None = None) -> float:
    chosen, rejected = torch.tensor([lead], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    extra = None if margin is None else torch.tensor([margin], dtype=torch.float64)
    return rao_kupper_loss(chosen, rejected, torch.tensor([is_tie]), threshold=threshold, margin=extra).item()


def test_hand_worked_values_with_ties() -> None:
    # theta = 2, worths 3 and 1: 3 / (3 + 2) wins, 1 / (1 + 6) loses, (4 - 1) * 3 / (5 * 7) ties
    lead, threshold = math.log(3), math.log(2)
    assert tie_loss(lead, False, threshold) == pytest.approx(-math.log(3 / 5))
    assert tie_loss(-lead, False, threshold) == pytest.approx(-math.log(1 / 7))
    assert tie_loss(lead, True, threshold) == pytest.approx(-math.log(9 / 35))
    assert tie_loss(0.0, True, threshold) == pytest.approx(-math.log(math.tanh(threshold / 2)))


@settings(deadline=None, max_examples=40)
@given(lead=st.floats(-15, 15), threshold=st.floats(0.01, 4))
def test_win_loss_and_tie_are_all_there_is(lead, threshold) -> None:
    losses = (tie_loss(lead, False, threshold), tie_loss(-lead, False, threshold), tie_loss(lead, True, threshold))
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(lead=st.floats(-15, 15), shift=st.floats(-1e3, 1e3), is_tie=st.booleans())
def test_ties_see_no_constant_shift_either(lead, shift, is_tie) -> None:
    chosen, rejected = (torch.tensor([x], dtype=torch.float64) for x in (lead + shift, shift))
    shifted = rao_kupper_loss(chosen, rejected, torch.tensor([is_tie]), threshold=0.5).item()
    assert shifted == pytest.approx(tie_loss(lead, is_tie), abs=1e-9)


@pytest.mark.parametrize(
    ("lead", "is_tie", "sign"), [(-1.0, False, -1), (3.0, False, -1), (1.0, True, 1), (-1, True, -1)]
)
def test_a_win_spreads_scores_and_a_tie_draws_them_together(lead, is_tie, sign) -> None:
    score = torch.tensor([float(lead)], dtype=torch.float64, requires_grad=True)
    rao_kupper_loss(score, torch.zeros(1), torch.tensor([is_tie]), threshold=0.5).sum().backward()
    assert math.copysign(1, score.grad.item()) == sign


@settings(deadline=None, max_examples=20)
@given(lead=st.floats(-10, 10))
def test_without_a_threshold_wins_are_those_of_bradley_and_terry(lead) -> None:
    assert tie_loss(lead, False, 1e-9) == pytest.approx(loss_of(lead, 0.0), abs=1e-7)
    assert tie_loss(lead, False, 0.5, margin=1.0) == pytest.approx(loss_of(lead, 0.0, 1.5))
    assert tie_loss(lead, True, 0.5, margin=1.0) == tie_loss(lead, True, 0.5)
