"""A rollout's means and their standard errors, against the standard library's statistics."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from rlhf.data.comparisons import Message
from rlhf.engine.packing import Group
from rlhf.training.rollout import RolloutBatch, SampledGroup, pack_rollout
from rlhf.training.rollout_summary import alarm_rows, highest_ratio, summarise

CPU = torch.device("cpu")


def rollout(texts: list[list[str]], scores: list[list[float]], judge: bool = False) -> list[RolloutBatch]:
    """One batch for each prompt; a response has one token a letter, a KL of .5 a token and an entropy of .1 a place."""
    batches = []
    for number, (responses, values) in enumerate(zip(texts, scores, strict=True)):
        group = SampledGroup(
            messages=(Message("user", f"prompt {number}"),),
            group=Group([1, 2], [[3] * len(text) for text in responses]),
            texts=responses,
            finished=[len(text) < 6 for text in responses],
            logprobs=[[-1.0] * len(text) for text in responses],
        )
        batch = pack_rollout([group], CPU)
        batch.old_logprobs, batch.ref_logprobs = (torch.full_like(batch.sampler_logprobs, v) for v in (-1.0, -1.5))
        batch.entropy = torch.cat([0.1 * torch.arange(len(text)) for text in responses])
        batch.scores = torch.tensor(values)
        batch.judge_scores = -torch.tensor(values) if judge else None
        batches.append(batch)
    return batches


def summary(batches: list[RolloutBatch], processes: int = 1):
    return summarise(batches, 1, reduce=lambda total: processes * total, device=CPU)


def test_with_one_response_a_prompt_the_error_is_that_of_the_mean() -> None:
    scores = [1.0, 4.0, 2.5, -1.0]
    found = summary(rollout([["ab"], ["abc"], ["abcdefg"], ["a"]], [[score] for score in scores]))
    assert found.means["objective/score"] == pytest.approx(statistics.mean(scores))
    assert found.errors["objective/score"] == pytest.approx(statistics.stdev(scores) / 2)
    lengths = [2, 3, 7, 1]
    assert found.means["objective/response_length"] == pytest.approx(statistics.mean(lengths))
    assert found.errors["objective/response_length"] == pytest.approx(statistics.stdev(lengths) / 2)
    assert found.means["objective/kl"] == pytest.approx(statistics.mean(lengths) / 2)
    assert found.means["objective/kl_per_token"] == pytest.approx(0.5)
    assert found.errors["objective/kl_per_token"] == pytest.approx(0)
    assert found.means["objective/eos_rate"] == pytest.approx(3 / 4)
    assert found.means["policy/sampler_gap"] == 0
    assert found.means["reward/length_correlation"] == pytest.approx(statistics.correlation(lengths, scores))


def test_responses_to_one_prompt_count_as_one_sample() -> None:
    scores = [[1.0, 3.0], [5.0, 5.0], [0.0, 1.0]]
    found = summary(rollout([["ab", "cd"], ["ef", "gh"], ["ij", "kl"]], scores))
    means = [statistics.mean(pair) for pair in scores]
    assert found.errors["objective/score"] == pytest.approx(statistics.stdev(means) / 3**0.5)


def test_one_prompt_has_no_error() -> None:
    assert "objective/score" not in summary(rollout([["ab", "cd"]], [[1.0, 2.0]])).errors


def test_a_score_left_out_does_not_count() -> None:
    found = summary(rollout([["ab"], ["abc"], ["abcd"], ["a"]], [[1.0], [float("nan")], [2.0], [6.0]]))
    assert found.means["objective/score"] == pytest.approx(3)
    assert found.means["reward/length_correlation"] == pytest.approx(statistics.correlation([2, 4, 1], [1, 2, 6]))


def test_numbers_of_all_processes_are_added() -> None:
    batches = rollout([["ab"], ["abc"], ["abcd"]], [[1.0], [3.0], [2.0]])
    one, two = summary(batches), summary(batches, processes=2)
    assert two.means == pytest.approx(one.means)
    assert two.errors["objective/score"] == pytest.approx(statistics.stdev([1, 3, 2] * 2) / 6**0.5)


def test_copies_of_a_text_are_one_text() -> None:
    found = summary(rollout([["ab", "ab"], ["ab", "c"]], [[1.0, 1.0], [1.0, 1.0]]))
    assert found.means["objective/distinct_responses"] == pytest.approx(2 / 4)


def test_explained_variance_is_there_with_values_only() -> None:
    batches = rollout([["ab"], ["c"]], [[1.0], [2.0]])
    assert "value/explained_variance" not in summary(batches).means
    for batch, returns, values in zip(batches, ([1.0, 2.0], [4.0]), ([0.5, 2.5], [2.0]), strict=True):
        batch.returns, batch.old_values = torch.tensor(returns), torch.tensor(values)
    errors = [0.5, -0.5, 2.0]
    expected = 1 - statistics.pvariance(errors) / statistics.pvariance([1.0, 2.0, 4.0])
    assert summary(batches).means["value/explained_variance"] == pytest.approx(expected)


def test_explained_variance_is_of_responses_that_are_learnt_from() -> None:
    batches = rollout([["ab"], ["c"], ["de"]], [[1.0], [2.0], [float("nan")]])
    returns = [[1.0, 2.0], [4.0], [90.0, -90.0]]
    for batch, values in zip(batches, returns, strict=True):
        batch.returns, batch.old_values = torch.tensor(values), torch.zeros(len(values)) + torch.tensor(values) / 2
    # half of the returns is foreseen, so a quarter of their variance is left
    assert summary(batches).means["value/explained_variance"] == pytest.approx(3 / 4)
    batches[2].old_values = torch.tensor([-90.0, 90.0])
    assert summary(batches).means["value/explained_variance"] == pytest.approx(3 / 4)


def test_the_highest_ratio_is_the_highest_mean_of_a_minibatch_over_all_processes() -> None:
    # this process: means 1.5, 4 and, where it counted nothing, none; the other has twelve ratios of 1 in each
    mine = [torch.tensor([6.0, 4.0]), torch.tensor([16.0, 4.0]), torch.tensor([0.0, 0.0])]
    assert highest_ratio(mine, reduce=lambda total: total, device=CPU) == 4
    assert highest_ratio(mine, reduce=lambda total: total + 12, device=CPU) == pytest.approx(28 / 16)
    assert math.isnan(highest_ratio([], reduce=lambda total: total, device=CPU))


def test_rows_have_what_alarms_choose_by() -> None:
    batches = rollout([["ab", "ab"], ["abcdefg", "c"]], [[1.0, 2.0], [3.0, 0.0]], judge=True)
    rows = alarm_rows(batches, step=4)
    assert [row["response"] for row in rows] == ["ab", "ab", "abcdefg", "c"]
    assert [row["length"] for row in rows] == [2, 2, 7, 1]
    assert [row["copies"] for row in rows] == [2, 2, 1, 1]
    assert [row["judge_score"] for row in rows] == [-1.0, -2.0, -3.0, 0.0]
    assert [row["entropy"] for row in rows] == pytest.approx([0.05, 0.05, 0.3, 0.0])
    assert {row["step"] for row in rows} == {4}
    assert "value_error" not in rows[0]
    assert rows[2]["score_over_judge"] == pytest.approx(2)  # one deviation above in score, one below in judge
