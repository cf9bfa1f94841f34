from __future__ import annotations

import statistics

import pytest
import torch

from rlhf.data.comparisons import Message
from rlhf.engine.packing import Group
from rlhf.training.rollout import SampledGroup, pack_rollout
from rlhf.training.rollout_metrics import correlation, distinct_bigrams, response_values, sample_rows


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a b c d", 1.0),
        ("a a a a", 1 / 3),
        ("a b a b a", 1 / 2),  # ab ba ab ba
        ("one", 1.0),
        ("", 1.0),
    ],
)
def test_distinct_bigrams_counts_word_pairs(text, expected) -> None:
    assert distinct_bigrams(text) == pytest.approx(expected)


def test_correlation_is_pearsons() -> None:
    x, y = [1.0, 2.0, 4.0, 7.0], [2.0, 1.0, 5.0, 3.0]
    assert correlation(torch.tensor(x), torch.tensor(y)) == pytest.approx(statistics.correlation(x, y))
    assert correlation(torch.tensor(x), torch.tensor(x) * -2 + 1) == pytest.approx(-1)


def test_correlation_with_something_constant_is_0() -> None:
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])) == 0
    assert correlation(torch.tensor([5.0]), torch.tensor([1.0])) == 0


def test_sample_rows_and_values_say_what_was_measured_on_which_response() -> None:
    first, second = (Message("user", "one?"),), (Message("user", "two?"),)
    groups = [
        SampledGroup(
            first, Group([1, 2], [[3, 4], [5]]), ["three four", "five"], [True, False], [[-1.0, -2.0], [-3.0]]
        ),
        SampledGroup(second, Group([6], [[7]]), ["seven"], [True], [[-0.5]]),
    ]
    batch = pack_rollout(groups, torch.device("cpu"))
    assert batch.sampler_logprobs.tolist() == [-1, -2, -3, -0.5]
    batch.old_logprobs = torch.tensor([-1.0, -2.0, -3.0, -0.5])
    batch.ref_logprobs = torch.tensor([-1.5, -4.0, -1.0, -0.5])
    batch.scores = torch.tensor([0.5, -1.0, 2.0])
    rows = list(sample_rows(batch, step=7))
    assert [row["response"] for row in rows] == ["three four", "five", "seven"]
    assert [row["prompt"][0]["content"] for row in rows] == ["one?", "one?", "two?"]
    assert [row["kl"] for row in rows] == [2.5, -2.0, 0.0]
    assert [row["score"] for row in rows] == [0.5, -1.0, 2.0]
    assert [row["finished"] for row in rows] == [True, False, True]
    assert {row["step"] for row in rows} == {7}
    values = {name: value.tolist() for name, value in response_values([batch, batch]).items()}
    assert values["score"] == [0.5, -1.0, 2.0] * 2
    assert values["kl"] == [2.5, -2.0, 0.0] * 2
    assert values["length"] == [2, 1, 1] * 2
