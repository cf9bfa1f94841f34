from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.algorithms.penalties import overlong, without_end

SCORES, FINISHED = torch.tensor([2.0, -3.0, 0.5]), torch.tensor([True, False, False])


def test_a_response_that_was_cut_off_loses_the_penalty() -> None:
    assert without_end(SCORES, FINISHED, penalty=1.0, replace=False).tolist() == [2.0, -4.0, -0.5]
    assert without_end(SCORES, FINISHED, penalty=0.0, replace=False).tolist() == SCORES.tolist()


def test_or_minus_the_penalty_is_its_score() -> None:
    assert without_end(SCORES, FINISHED, penalty=1.0, replace=True).tolist() == [2.0, -1.0, -1.0]
    assert without_end(SCORES, torch.ones(3, dtype=torch.bool), penalty=1.0, replace=True).tolist() == SCORES.tolist()


def test_length_costs_from_the_soft_limit_to_the_hard_one() -> None:
    # DAPO's L_max 16 and L_cache 4: nothing up to 12, a quarter for each token more, all of it at 16
    lengths = torch.tensor([1.0, 12.0, 13.0, 15.0, 16.0])
    assert overlong(lengths, soft_limit=12, hard_limit=16).tolist() == [0, 0, 0.25, 0.75, 1]


@given(soft=st.integers(0, 30), more=st.integers(1, 30), length=st.integers(1, 80))
def test_length_costs_between_nothing_and_1_and_never_less_for_more(soft, more, length) -> None:
    cost = overlong(torch.tensor([length, length + 1.0]), soft_limit=soft, hard_limit=soft + more)
    assert 0 <= cost[0] <= cost[1] <= 1
    assert (cost[0] == 0) == (length <= soft)
    assert cost[0].item() == pytest.approx(min(max((length - soft) / more, 0), 1))
