from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.kl import AdaptiveKL, FixedKL, kl_estimate

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=8)


def test_estimators_hand_worked() -> None:
    # policy 1/2, reference 1/4: r = 1/2, log r = -ln 2
    policy, reference = torch.tensor([0.5]).double().log(), torch.tensor([0.25]).double().log()
    assert kl_estimate(policy, reference).item() == pytest.approx(math.log(2))
    assert kl_estimate(policy, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(policy, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(policy, reference, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_policy_equal_to_reference_gives_exactly_zero(kind) -> None:
    logprobs = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert not kl_estimate(logprobs, logprobs.clone(), kind).any()


@settings(deadline=None, max_examples=60)
@given(first=LOGPROBS, seed=st.integers(0, 99))
def test_k2_and_k3_are_never_negative(first, seed) -> None:
    policy = torch.tensor(first)
    for spread in (1e-6, 1e-3, 1.0, 20.0):
        noise = torch.randn(len(first), generator=torch.Generator().manual_seed(seed)) * spread
        assert (kl_estimate(policy, policy + noise, "k2") >= 0).all()
        assert (kl_estimate(policy, policy + noise, "k3") >= 0).all()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_average_to_the_exact_kl(kind) -> None:
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    reference = torch.tensor([0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    exact = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    expectation = (policy * kl_estimate(policy.log(), reference.log(), kind)).sum().item()
    assert expectation == pytest.approx(exact, abs=1e-12)


def test_k2_pulls_towards_the_reference() -> None:
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    kl_estimate(logprobs, torch.tensor([-2.0, -2.0]), "k2").sum().backward()
    assert logprobs.grad.tolist() == [1.0, -1.0]


def test_unknown_estimators_are_refused() -> None:
    with pytest.raises(ValueError, match="kl_estimator is 'k4': choose k1, k2 or k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_a_fixed_weight_stays() -> None:
    controller = FixedKL(0.05)
    controller.update(100.0, 1000)
    assert controller.kl_coef == 0.05


@pytest.mark.parametrize(
    "kl, expected",
    [
        (6.0, 0.05),  # on target
        (6.6, 0.05 * (1 + 0.1 * 256 / 10_000)),
        (5.4, 0.05 * (1 - 0.1 * 256 / 10_000)),
        (60.0, 0.05 * (1 + 0.2 * 256 / 10_000)),  # clipped
        (0.0, 0.05 * (1 - 0.2 * 256 / 10_000)),
        (-5.0, 0.05 * (1 - 0.2 * 256 / 10_000)),
    ],
)
def test_adaptive_weight_moves_in_proportion_and_at_most_by_a_fifth_per_horizon(kl, expected) -> None:
    controller = AdaptiveKL(0.05, target=6.0, horizon=10_000)
    controller.update(kl, 256)
    assert controller.kl_coef == pytest.approx(expected, rel=1e-12)


def test_adaptive_weight_brings_a_system_to_its_target() -> None:
    controller = AdaptiveKL(0.01, target=6.0, horizon=1000)
    for _ in range(500):
        controller.update(0.6 / controller.kl_coef, 100)  # KL falls as the weight rises
    assert 0.6 / controller.kl_coef == pytest.approx(6.0, rel=1e-3)


POLICY_LOGITS, REFERENCE_PROBABILITIES = [0.3, -1.0, 0.8, 0.1], [0.1, 0.2, 0.3, 0.4]


def mean_gradient(kind: str) -> torch.Tensor:
    """The gradient of an estimate as a loss, averaged exactly over tokens of the policy."""
    logits = torch.tensor(POLICY_LOGITS, dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(dim=0)
    estimate = kl_estimate(logprobs, torch.tensor(REFERENCE_PROBABILITIES, dtype=torch.float64).log(), kind)
    (gradient,) = torch.autograd.grad((logprobs.detach().exp() * estimate).sum(), logits)
    return gradient


def exact_gradient(reverse: bool) -> torch.Tensor:
    logits = torch.tensor(POLICY_LOGITS, dtype=torch.float64, requires_grad=True)
    logprobs, reference = logits.log_softmax(dim=0), torch.tensor(REFERENCE_PROBABILITIES, dtype=torch.float64)
    if reverse:
        kl = (logprobs.exp() * (logprobs - reference.log())).sum()
    else:
        kl = (reference * (reference.log() - logprobs)).sum()
    return torch.autograd.grad(kl, logits)[0]


def test_as_a_loss_k1_holds_nothing_k2_the_kl_and_k3_its_converse() -> None:
    torch.testing.assert_close(mean_gradient("k1"), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_gradient("k2"), exact_gradient(reverse=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_gradient("k3"), exact_gradient(reverse=False), rtol=0, atol=1e-12)
