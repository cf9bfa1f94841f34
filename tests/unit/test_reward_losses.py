from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.losses import bradley_terry_loss

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
