from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.dpo import preference_loss

LOGRATIOS = st.floats(-40, 40)


def loss_of(chosen: float, rejected: float, beta: float = 0.1, label_smoothing: float = 0.0) -> float:
    pair = (torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected))
    return preference_loss(*pair, beta=beta, label_smoothing=label_smoothing).item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_every_loss_starts_at_ln_2(beta, label_smoothing) -> None:
    assert loss_of(0.0, 0.0, beta, label_smoothing) == pytest.approx(math.log(2), abs=1e-15)
    assert loss_of(-3.5, -3.5, beta, label_smoothing) == pytest.approx(math.log(2), abs=1e-15)


def test_hand_worked_values() -> None:
    # beta h = ln 3: sigmoid is 3/4
    chosen, rejected = 10 * math.log(3), 0.0
    assert loss_of(chosen, rejected) == pytest.approx(math.log(4 / 3))
    assert loss_of(rejected, chosen) == pytest.approx(math.log(4))
    assert loss_of(chosen, rejected, label_smoothing=0.2) == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(4))


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS, shift=LOGRATIOS)
def test_only_the_difference_of_logratios_counts(chosen, rejected, shift) -> None:
    assert loss_of(chosen + shift, rejected + shift) == pytest.approx(loss_of(chosen, rejected), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS)
def test_a_pair_and_its_swap_are_probabilities_of_one_event_and_its_opposite(chosen, rejected) -> None:
    assert math.exp(-loss_of(chosen, rejected)) + math.exp(-loss_of(rejected, chosen)) == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS, label_smoothing=st.sampled_from([0.0, 0.1, 0.3]))
def test_gradient_is_beta_times_how_wrong_the_pair_is_ranked(chosen, rejected, label_smoothing) -> None:
    beta = 0.2
    c, r = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected))
    preference_loss(c, r, beta=beta, label_smoothing=label_smoothing).sum().backward()
    expected = -beta * (1 - label_smoothing - sigmoid(beta * (chosen - rejected)))
    assert c.grad.item() == pytest.approx(expected, abs=1e-12)
    assert r.grad.item() == -c.grad.item()


def test_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    chosen, rejected = (torch.zeros(3, requires_grad=True) for _ in range(2))
    preference_loss(chosen, rejected, beta=0.1).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.05] * 3)
    assert rejected.grad.tolist() == pytest.approx([0.05] * 3)


def test_label_smoothing_is_least_where_the_probability_is_what_it_says() -> None:
    losses = {h: loss_of(h, 0.0, beta=1.0, label_smoothing=0.1) for h in (1.0, math.log(9), 4.0)}
    assert min(losses, key=losses.get) == math.log(9)


def test_far_apart_logratios_neither_overflow_nor_vanish() -> None:
    assert loss_of(0.0, 1e5) == pytest.approx(1e4)
    assert loss_of(1e5, 0.0) == 0
    assert loss_of(1e5, 0.0, label_smoothing=0.1) == pytest.approx(1e3)


def test_pairs_do_not_see_each_other() -> None:
    chosen = torch.tensor([1.0, -2.0, 30.0])
    rejected = torch.tensor([0.0, 5.0, 7.0])
    together = preference_loss(chosen, rejected, beta=0.1)
    alone = [loss_of(c, r) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    assert together.tolist() == pytest.approx(alone)
