from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.plackett_luce import plackett_luce_loss

ONE_GROUP = torch.zeros(4, dtype=torch.long)


def by_hand(utilities, ranks) -> float:
    """Independent: stage by stage, as the model is told."""
    total = 0.0
    for u, rank in zip(utilities, ranks, strict=True):
        rest = [math.exp(v) for v, other in zip(utilities, ranks, strict=True) if other >= rank]
        total -= math.log(math.exp(u) / sum(rest))
    return total


def test_two_responses_give_bradley_terry() -> None:
    loss = plackett_luce_loss(torch.tensor([1.0, -0.5]), torch.tensor([1.0, 2.0]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)), rel=1e-6)


def test_likelihoods_of_all_rankings_add_up_to_one() -> None:
    utilities = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)
    orders = itertools.permutations([1.0, 2.0, 3.0, 4.0])
    total = sum(plackett_luce_loss(utilities, torch.tensor(ranks), ONE_GROUP).neg().exp().item() for ranks in orders)
    assert total == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.floats(-4, 4), st.integers(1, 3)), min_size=2, max_size=5), min_size=1, max_size=4)
)
def test_groups_with_ties_are_as_worked_stage_by_stage(groups) -> None:
    flat = [item for group in groups for item in group]
    utilities = torch.tensor([u for u, _ in flat], dtype=torch.float64)
    ranks = torch.tensor([float(rank) for _, rank in flat])
    index = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    expected = [by_hand(*zip(*group, strict=True)) for group in groups]
    np.testing.assert_allclose(plackett_luce_loss(utilities, ranks, index).numpy(), expected, rtol=1e-9, atol=1e-12)
    shifted = plackett_luce_loss(utilities + 3.0, ranks, index)
    np.testing.assert_allclose(shifted.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_the_gradient_lifts_the_best_and_lowers_the_worst() -> None:
    utilities = torch.zeros(4, requires_grad=True)
    plackett_luce_loss(utilities, torch.tensor([2.0, 1.0, 4.0, 3.0]), ONE_GROUP).sum().backward()
    assert utilities.grad is not None
    assert utilities.grad[1] < 0 < utilities.grad[2]
    assert utilities.grad.sum().item() == pytest.approx(0.0, abs=1e-6)
