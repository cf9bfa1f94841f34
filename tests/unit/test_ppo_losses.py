from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.ppo import policy_loss, token_rewards, value_loss


def at_ratios(ratios: list[float], advantages: list[float], clip_range: float = 0.2):
    """The loss where the policy is `ratios` times as likely as when it sampled, and its leaf."""
    old = torch.full((len(ratios),), -2.0, dtype=torch.float64)
    logprobs = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    return policy_loss(logprobs, old, torch.tensor(advantages, dtype=torch.float64), clip_range=clip_range), logprobs


# ---- rewards --------------------------------------------------------------------------------------------


def test_score_lands_on_last_response_token() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    rewards = token_rewards(torch.tensor([5.0, 6.0, 7.0]), torch.zeros(3, 3), mask, kl_coef=0.1)
    assert rewards.tolist() == [[0, 0, 5], [6, 0, 0], [0, 7, 0]]


def test_rewards_hand_worked() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    kl = torch.tensor([[1.0, -2.0, 4.0], [8.0, 16.0, 999.0]])
    rewards = token_rewards(torch.tensor([3.0, -1.0]), kl, mask, kl_coef=0.25)
    assert rewards.tolist() == [[-0.25, 0.5, 2.0], [-2.0, -5.0, 0.0]]


def test_rewards_of_a_response_add_up_to_score_less_weighted_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    kl, scores = torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 4])[:, None]
    rewards = token_rewards(scores, kl, mask, kl_coef=0.05)
    torch.testing.assert_close(rewards.sum(dim=1), scores - 0.05 * (kl * mask).sum(dim=1))
    assert not rewards[~mask].any()


def test_computing_rewards_leaves_scores_and_kl_as_they_were() -> None:
    kl, scores = torch.ones(2, 3), torch.tensor([1.0, 2.0])
    token_rewards(scores, kl, torch.ones(2, 3, dtype=torch.bool), kl_coef=1.0)
    assert kl.equal(torch.ones(2, 3))
    assert scores.tolist() == [1, 2]


# ---- policy ---------------------------------------------------------------------------------------------


def test_at_the_start_the_ratio_is_1_and_nothing_is_clipped() -> None:
    logprobs = torch.randn(20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantages = torch.linspace(-2, 2, 20)
    loss = policy_loss(logprobs, logprobs.detach().clone(), advantages, clip_range=0.2)
    assert loss.ratio.equal(torch.ones(20))
    assert loss.loss.equal(-advantages)
    assert not loss.approx_kl.any()
    assert not loss.clipped.any()
    # the gradient there is that of REINFORCE: -A grad log p
    loss.loss.sum().backward()
    assert logprobs.grad.equal(-advantages)


@pytest.mark.parametrize(
    "ratio, advantage, loss, gradient, clipped",
    [
        (1.1, 2.0, -2.2, -2.2, False),  # inside the range: d(-A rho)/d log p = -A rho
        (1.1, -2.0, 2.2, 2.2, False),
        (1.5, 2.0, -2.4, 0.0, True),  # good and already likelier: clipped at 1.2
        (0.5, 2.0, -1.0, -1.0, False),  # good but less likely: pulled back
        (1.5, -2.0, 3.0, 3.0, False),  # bad and likelier: pushed down without limit
        (0.5, -2.0, 1.6, 0.0, True),  # bad and already less likely: clipped at .8
        (1.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_clipping_hand_worked(ratio, advantage, loss, gradient, clipped) -> None:
    result, logprobs = at_ratios([ratio], [advantage])
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert bool(result.clipped) is clipped
    assert result.ratio.item() == pytest.approx(ratio)


@settings(deadline=None, max_examples=50)
@given(ratio=st.floats(0.01, 10), advantage=st.floats(-5, 5), clip_range=st.sampled_from([0.05, 0.2, 0.5]))
def test_clipping_only_ever_makes_the_objective_smaller(ratio, advantage, clip_range) -> None:
    result, _ = at_ratios([ratio], [advantage], clip_range)
    nearest = min(max(ratio, 1 - clip_range), 1 + clip_range)
    assert result.loss.item() == pytest.approx(-min(advantage * ratio, advantage * nearest), abs=1e-9)
    assert result.loss.item() >= -advantage * ratio - 1e-9


@settings(deadline=None, max_examples=30)
@given(ratio=st.floats(1e-4, 1e4))
def test_approx_kl_is_k3_of_the_ratio_and_never_negative(ratio) -> None:
    result, _ = at_ratios([ratio], [1.0])
    assert result.approx_kl.item() == pytest.approx(ratio - 1 - math.log(ratio), rel=1e-6, abs=1e-9)
    assert result.approx_kl.item() >= 0


def test_better_than_expected_tokens_become_likelier() -> None:
    result, logprobs = at_ratios([1.0, 1.0], [0.5, -0.5])
    result.loss.sum().backward()
    assert logprobs.grad[0] < 0 < logprobs.grad[1]


def test_diagnostics_carry_no_gradient() -> None:
    result, _ = at_ratios([1.1], [1.0])
    assert result.loss.requires_grad
    assert not any(t.requires_grad for t in (result.ratio, result.approx_kl, result.clipped))


@pytest.mark.parametrize(
    "ratio, advantage, loss, gradient, clipped",
    [
        (1.25, 2.0, -2.5, -2.5, False),  # above 1.2, which only the lower side keeps
        (1.4, 2.0, -2.56, 0.0, True),  # clipped at 1.28
        (0.5, -2.0, 1.6, 0.0, True),  # the lower side is as it was
    ],
)
def test_clip_higher_hand_worked(ratio, advantage, loss, gradient, clipped) -> None:
    old = torch.tensor([-2.0], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([advantage], dtype=torch.float64)
    result = policy_loss(logprobs, old, advantages, clip_range=0.2, clip_range_high=0.28)
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert bool(result.clipped) is clipped


@pytest.mark.parametrize(
    "ratio, advantage, loss, gradient, clipped",
    [
        (2.0, -2.0, 4.0, 4.0, False),  # below c: as without
        (5.0, -2.0, 6.0, 0.0, True),  # -c A = 6 instead of 10, and no gradient
        (5.0, 2.0, -2.4, 0.0, True),  # good tokens know no dual clip
    ],
)
def test_dual_clip_hand_worked(ratio, advantage, loss, gradient, clipped) -> None:
    old = torch.tensor([-2.0], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    result = policy_loss(logprobs, old, torch.tensor([advantage], dtype=torch.float64), clip_range=0.2, dual_clip=3.0)
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert bool(result.clipped) is clipped


@settings(deadline=None, max_examples=40)
@given(ratio=st.floats(0.05, 20), advantage=st.floats(-5, 5))
def test_wide_limits_are_the_plain_loss(ratio, advantage) -> None:
    old, advantages = torch.tensor([-2.0], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    logprobs = old + math.log(ratio)
    plain = policy_loss(logprobs, old, advantages, clip_range=0.2)
    for limits in ({"clip_range_high": 0.2}, {"dual_clip": 1e9}, {"clip_range_high": 0.2, "dual_clip": 1e9}):
        same = policy_loss(logprobs, old, advantages, clip_range=0.2, **limits)
        assert same.loss.equal(plain.loss)
        assert same.clipped.equal(plain.clipped)
    bounded = policy_loss(logprobs, old, advantages, clip_range=0.2, dual_clip=3.0)
    assert bounded.loss.item() <= max(plain.loss.item(), 0) + 1e-12
    assert bounded.loss.item() <= 3 * abs(advantage) + 1e-9


# ---- value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, old, target, loss, gradient",
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # half the squared error; the gradient is V - R
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9),  # inside the range
        (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved far towards the target: as if it stood at 1.2
        (0.0, 1.0, 3.0, 0.5 * 3.0**2, -3.0),  # moved away from it: the larger error counts
        (5.0, 1.0, 0.0, 0.5 * 5.0**2, 5.0),
        (3.0, 3.0, 3.0, 0.0, 0.0),
    ],
)
def test_value_loss_hand_worked(value, old, target, loss, gradient) -> None:
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    result = value_loss(
        values, torch.tensor([old], dtype=torch.float64), torch.tensor([target], dtype=torch.float64), clip_range=0.2
    )
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)


@settings(deadline=None, max_examples=30)
@given(value=st.floats(-3, 3), old=st.floats(-3, 3), target=st.floats(-3, 3))
def test_a_wide_value_clip_is_half_the_squared_error(value, old, target) -> None:
    v, o, r = (torch.tensor([x], dtype=torch.float64) for x in (value, old, target))
    assert value_loss(v, o, r, clip_range=100.0).item() == pytest.approx((value - target) ** 2 / 2, abs=1e-12)
    assert (value_loss(v, o, r, clip_range=0.2) >= value_loss(v, o, r, clip_range=100.0)).all()


# ---- a whole minibatch, worked through in plain Python ----------------------------------------------------


def test_two_responses_agree_with_the_formulas_of_trl_1_12() -> None:
    """Its PPO: pg_losses of max(-A rho, -A clip), half of vf_losses, masked means over response tokens."""
    old_logprobs, logprobs = [-1.0, -0.5, -2.0, -0.7], [-0.6, -0.9, -2.05, -0.7]
    old_values, values, returns = [0.1, 0.4, -0.2, 0.0], [0.5, 0.35, -0.6, 0.3], [1.0, 0.2, -1.0, 0.1]
    advantages = [1.5, -0.8, -0.3, 0.6]
    losses, errors, clips = [], [], []
    for lp, old, advantage, value, old_value, target in zip(
        logprobs, old_logprobs, advantages, values, old_values, returns, strict=True
    ):
        ratio = math.exp(lp - old)
        losses.append(max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2)))
        clips.append(-advantage * min(max(ratio, 0.8), 1.2) > -advantage * ratio)
        near = min(max(value, old_value - 0.2), old_value + 0.2)
        errors.append(0.5 * max((value - target) ** 2, (near - target) ** 2))
    as_tensor = {
        name: torch.tensor(v, dtype=torch.float64)
        for name, v in locals().items()
        if name in {"old_logprobs", "logprobs", "old_values", "values", "returns", "advantages"}
    }
    policy = policy_loss(as_tensor["logprobs"], as_tensor["old_logprobs"], as_tensor["advantages"], clip_range=0.2)
    value = value_loss(as_tensor["values"], as_tensor["old_values"], as_tensor["returns"], clip_range=0.2)
    assert policy.loss.tolist() == pytest.approx(losses)
    assert policy.clipped.tolist() == clips == [True, True, False, False]
    assert value.tolist() == pytest.approx(errors)
    assert (policy.loss.mean() + 0.1 * value.mean()).item() == pytest.approx(sum(losses) / 4 + 0.1 * sum(errors) / 4)
