from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.advantages import (
    discounted_returns,
    gae,
    group_relative,
    leave_one_out,
    masked_mean,
    whiten,
)

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def random_rows(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rewards, values = torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64)
    return rewards, values, mask


def gae_by_definition(rewards, values, lengths, gamma, gae_lambda):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, as a sum of its own for every t."""
    advantages = torch.zeros_like(rewards)
    for row, length in enumerate(lengths):
        for t in range(length):
            for later in range(t, length):
                next_value = values[row, later + 1] if later + 1 < length else 0.0
                delta = rewards[row, later] + gamma * next_value - values[row, later]
                advantages[row, t] += (gamma * gae_lambda) ** (later - t) * delta
    return advantages


@settings(deadline=None, max_examples=30)
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 1000),
    gamma=st.sampled_from([1.0, 0.99, 0.5, 0.0]),
    gae_lambda=st.sampled_from([1.0, 0.95, 0.3, 0.0]),
)
def test_gae_equals_its_definition_of_order_t_squared(lengths, seed, gamma, gae_lambda) -> None:
    rewards, values, mask = random_rows(lengths, seed)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    expected = gae_by_definition(rewards, values, lengths, gamma, gae_lambda)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, (expected + values) * mask, rtol=0, atol=1e-12)


def test_gae_hand_worked() -> None:
    # gamma .5, lambda .5; V = 1 2 4, r = 1 0 2: deltas 1 + 1 - 1 = 1, 0 + 2 - 2 = 0, 2 + 0 - 4 = -2
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    # A_2 = -2; A_1 = 0 - 2/4 = -1/2; A_0 = 1 - 1/8
    assert advantages.tolist() == [[0.875, -0.5, -2.0]]
    assert returns.tolist() == [[1.875, 1.5, 2.0]]


def test_lambda_1_gives_what_was_earned_less_the_value() -> None:
    rewards, values, mask = random_rows([4, 2], 0)
    _, returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    for row, length in enumerate([4, 2]):
        for t in range(length):
            assert returns[row, t].item() == pytest.approx(rewards[row, t:length].sum().item())


def test_lambda_0_gives_the_error_of_one_step() -> None:
    rewards, values, mask = random_rows([3], 1)
    advantages, _ = gae(rewards, values, mask, gamma=0.9, gae_lambda=0.0)
    r, v = rewards[0].tolist(), values[0].tolist()
    assert advantages[0].tolist() == pytest.approx([r[0] + 0.9 * v[1] - v[0], r[1] + 0.9 * v[2] - v[1], r[2] - v[2]])


def test_a_value_that_is_right_leaves_no_advantage() -> None:
    rewards = torch.tensor([[0.0, 0.0, 3.0]])
    advantages, returns = gae(
        rewards, torch.full((1, 3), 3.0), torch.ones(1, 3, dtype=torch.bool), gamma=1.0, gae_lambda=0.95
    )
    assert advantages.tolist() == [[0, 0, 0]]
    assert returns.tolist() == [[3, 3, 3]]


@settings(deadline=None, max_examples=20)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_nothing_leaks_past_the_end_of_a_response(lengths, seed) -> None:
    rewards, values, mask = random_rows(lengths, seed)
    clean = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    dirty = gae(rewards + 1e6 * ~mask, values - 1e6 * ~mask, mask, gamma=1.0, gae_lambda=0.95)
    wider = torch.nn.functional.pad
    padded = gae(
        wider(rewards, (0, 3), value=7.0),
        wider(values, (0, 3), value=9.0),
        wider(mask, (0, 3)),
        gamma=1.0,
        gae_lambda=0.95,
    )
    for one, two, three in zip(clean, dirty, padded, strict=True):
        assert one.equal(two)
        assert one.equal(three[:, : mask.shape[1]])
        assert not three[:, mask.shape[1] :].any()
        assert not one[~mask].any()


def test_rows_do_not_see_each_other() -> None:
    rewards, values, mask = random_rows([3, 5, 1], 2)
    together, _ = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    for row in range(3):
        only = slice(row, row + 1)
        alone, _ = gae(rewards[only], values[only], mask[only], gamma=1.0, gae_lambda=0.95)
        assert alone.equal(together[only])


# ---- whitening and means --------------------------------------------------------------------------------

TABLE = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
EVERYWHERE = torch.ones(3, 3, dtype=torch.bool)


def test_whitening_uses_the_biased_variance_and_may_keep_the_mean() -> None:
    kept = whiten(TABLE, EVERYWHERE, shift_mean=False)
    assert kept[0].tolist() == pytest.approx([0.0508, 0.4381, 0.8254], abs=5e-5)
    # by hand: mean 1.6, variance .6 / 9, so 1.2 becomes -.4 / sqrt(.0667) + 1.6
    deviation = math.sqrt(0.6 / 9)
    assert kept.flatten().tolist() == pytest.approx(
        [(x - 1.6) / deviation + 1.6 for x in TABLE.flatten().tolist()], abs=1e-6
    )


def test_whitening_centres_by_default() -> None:
    centred = whiten(TABLE, EVERYWHERE)
    assert centred.mean().item() == pytest.approx(0, abs=1e-12)
    assert centred.var(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert centred[0, 0].item() == pytest.approx(-0.4 / math.sqrt(0.6 / 9), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(scale=st.sampled_from([0.1, 3.0, 1000.0]), shift=st.sampled_from([0.0, -5.0]))
def test_the_scale_of_rewards_does_not_matter_once_whitened(scale, shift) -> None:
    torch.testing.assert_close(whiten(TABLE * scale + shift, EVERYWHERE), whiten(TABLE, EVERYWHERE), rtol=0, atol=1e-4)


def test_values_that_do_not_vary_become_zero_not_nan() -> None:
    assert whiten(torch.full((2, 2), 3.0), torch.ones(2, 2, dtype=torch.bool)).tolist() == [[0, 0], [0, 0]]


@settings(deadline=None, max_examples=20)
@given(lengths=LENGTHS, seed=st.integers(0, 1000), shift_mean=st.booleans())
def test_masked_values_change_neither_whitening_nor_mean(lengths, seed, shift_mean) -> None:
    values, _, mask = random_rows(lengths, seed)
    garbage = torch.where(mask, values, torch.tensor(-123.0, dtype=torch.float64))
    assert whiten(values, mask, shift_mean=shift_mean).equal(whiten(garbage, mask, shift_mean=shift_mean))
    assert not whiten(garbage, mask, shift_mean=shift_mean)[~mask].any()
    assert masked_mean(garbage, mask).item() == pytest.approx(values[mask].mean().item())


def test_masked_mean_hand_worked() -> None:
    values = torch.tensor([[1.0, 2.0, 100.0], [6.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask).item() == 3.0


@pytest.mark.parametrize("shift_mean", [True, False])
def test_two_processes_whiten_as_one(shift_mean) -> None:
    """Each half is given the sums of both, as an all-reduce would."""
    values, _, mask = random_rows([7, 2, 5, 1], 4)
    halves = [(values[:1], mask[:1]), (values[1:], mask[1:])]
    whole = whiten(values, mask, shift_mean=shift_mean)

    def run(half: int) -> torch.Tensor:
        # the other half's sums, in the order in which whiten asks for them: of values, then of squares
        total = mask.sum()
        mean = values[mask].sum() / total
        rows, counted = halves[1 - half]
        others = iter(
            torch.stack([sums, counted.sum().double()])
            for sums in (rows[counted].sum(), (rows[counted] - mean).square().sum())
        )
        result = whiten(*halves[half], shift_mean=shift_mean, reduce=lambda mine: mine + next(others))
        assert next(others, None) is None
        return result

    torch.testing.assert_close(torch.cat([run(0), run(1)]), whole, rtol=0, atol=1e-12)


# ---- without a value model ------------------------------------------------------------------------------

GROUPS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def random_groups(sizes: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rewards = torch.randn(len(index), generator=generator, dtype=torch.float64)
    return rewards, index, torch.rand(len(index), generator=generator) < 0.8


def test_returns_hand_worked() -> None:
    # gamma .5: 4; 2 + 4/2 = 4; 1 + 4/2 = 3; and in the second row 7 alone
    rewards = torch.tensor([[1.0, 2.0, 4.0], [7.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert discounted_returns(rewards, mask, gamma=0.5).tolist() == [[3, 4, 4], [7, 0, 0]]


@settings(deadline=None, max_examples=20)
@given(lengths=LENGTHS, seed=st.integers(0, 1000), gamma=st.sampled_from([1.0, 0.9, 0.0]))
def test_returns_are_gae_with_values_of_0_and_lambda_1(lengths, seed, gamma) -> None:
    rewards, _, mask = random_rows(lengths, seed)
    expected, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, gae_lambda=1.0)
    torch.testing.assert_close(discounted_returns(rewards, mask, gamma=gamma), expected, rtol=0, atol=1e-12)
    dirty = rewards + 1e6 * ~mask
    assert discounted_returns(dirty, mask, gamma=gamma).equal(discounted_returns(rewards, mask, gamma=gamma))


def test_leave_one_out_hand_worked() -> None:
    # group 0: 1, 2, 6 against means of the others 4, 3.5, 1.5; group 1: 5, 3 against each other; group 2 is alone
    rewards = torch.tensor([1.0, 5.0, 2.0, 3.0, 6.0, 9.0])
    index = torch.tensor([0, 1, 0, 1, 0, 2])
    everyone = torch.ones(6, dtype=torch.bool)
    assert leave_one_out(rewards, index, everyone).tolist() == [-3, 2, -1.5, -2, 4.5, 0]
    # without the 6, which has no score: 1 and 2 against each other
    assert leave_one_out(rewards, index, everyone & (rewards != 6)).tolist() == [-1, 2, 1, -2, 0, 0]


def test_group_relative_hand_worked() -> None:
    # 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3; 5, 5: no spread
    rewards, index = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0]).double(), torch.tensor([0, 0, 0, 1, 1])
    everyone = torch.ones(5, dtype=torch.bool)
    assert group_relative(rewards, index, everyone, divide_by_deviation=False).tolist() == [-2, -1, 3, 0, 0]
    scale = math.sqrt(14 / 3) + 1e-4
    assert group_relative(rewards, index, everyone).tolist() == pytest.approx([-2 / scale, -1 / scale, 3 / scale, 0, 0])


@settings(deadline=None, max_examples=40)
@given(sizes=GROUPS, seed=st.integers(0, 1000))
def test_groups_agree_with_a_plain_loop(sizes, seed) -> None:
    rewards, index, counts = random_groups(sizes, seed)
    left_out, relative, centred = np.zeros(len(rewards)), np.zeros(len(rewards)), np.zeros(len(rewards))
    for i in range(len(rewards)):
        if not counts[i]:
            continue
        group = [float(rewards[j]) for j in range(len(rewards)) if index[j] == index[i] and counts[j]]
        others = [float(rewards[j]) for j in range(len(rewards)) if index[j] == index[i] and counts[j] and j != i]
        left_out[i] = float(rewards[i]) - np.mean(others) if others else 0.0
        centred[i] = float(rewards[i]) - np.mean(group)
        relative[i] = centred[i] / (np.std(group) + 1e-4)
    assert leave_one_out(rewards, index, counts).numpy() == pytest.approx(left_out, abs=1e-12)
    assert group_relative(rewards, index, counts).numpy() == pytest.approx(relative, abs=1e-9)
    plain = group_relative(rewards, index, counts, divide_by_deviation=False)
    assert plain.numpy() == pytest.approx(centred, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(sizes=GROUPS, seed=st.integers(0, 1000), shift=st.sampled_from([0.0, 3.0, -40.0]))
def test_what_is_added_to_all_rewards_of_a_prompt_does_not_matter(sizes, seed, shift) -> None:
    rewards, index, counts = random_groups(sizes, seed)
    moved = rewards + shift * index
    for estimate in (leave_one_out, group_relative):
        torch.testing.assert_close(estimate(moved, index, counts), estimate(rewards, index, counts), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(sizes=GROUPS, seed=st.integers(0, 1000), scale=st.sampled_from([0.5, 10.0, 1e4]))
def test_the_scale_of_rewards_does_not_matter_to_grpo(sizes, seed, scale) -> None:
    rewards, index, counts = random_groups(sizes, seed)
    one, other = group_relative(rewards * 10, index, counts), group_relative(rewards * 10 * scale, index, counts)
    torch.testing.assert_close(one, other, rtol=0.02, atol=1e-3)


def test_rewards_of_one_value_give_no_advantage() -> None:
    rewards, index = torch.full((6,), 0.1) * 3, torch.tensor([0, 0, 0, 1, 1, 1])
    everyone = torch.ones(6, dtype=torch.bool)
    assert group_relative(rewards, index, everyone).abs().max() < 1e-3
    assert leave_one_out(rewards, index, everyone).abs().max() < 1e-6


def test_advantages_of_a_group_add_up_to_0() -> None:
    rewards, index, _ = random_groups([4, 3], 5)
    for estimate in (leave_one_out, group_relative):
        advantages = estimate(rewards, index, torch.ones(7, dtype=torch.bool))
        assert advantages[:4].sum().abs() < 1e-9
        assert advantages[4:].sum().abs() < 1e-9


def gae_of_stable_baselines(rewards, values, length, gamma, gae_lambda):
    """The loop of a rollout buffer: one environment whose only episode ends at `length`."""
    advantages, last = np.zeros(length), 0.0
    for step in reversed(range(length)):
        non_terminal, next_value = (0.0, 0.0) if step == length - 1 else (1.0, values[step + 1])
        delta = rewards[step] + gamma * next_value * non_terminal - values[step]
        last = delta + gamma * gae_lambda * non_terminal * last
        advantages[step] = last
    return advantages


@settings(deadline=None, max_examples=20)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_gae_agrees_with_a_rollout_buffer(lengths, seed) -> None:
    rewards, values, mask = random_rows(lengths, seed)
    advantages, _ = gae(rewards, values, mask, gamma=0.97, gae_lambda=0.9)
    for row, length in enumerate(lengths):
        expected = gae_of_stable_baselines(rewards[row].numpy(), values[row].numpy(), length, 0.97, 0.9)
        assert advantages[row, :length].numpy() == pytest.approx(expected, abs=1e-12)
