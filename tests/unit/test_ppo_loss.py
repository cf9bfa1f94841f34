"""The loss of a pass: what counts, what does not, and what the mean is over."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.engine.backbone import RoleOutput
from rlhf.engine.packing import Group
from rlhf.training.ppo_loss import loss_count, loss_weights, rollout_loss
from rlhf.training.rollout import RolloutBatch, SampledGroup, pack_rollout

LENGTHS = [3, 1, 2]
MEASURED = ("old_logprobs", "ref_logprobs", "entropy", "old_values", "advantages", "returns")


def settings_of(**changes: Any) -> Any:
    defaults = {
        "clip_range": 0.2,
        "clip_range_high": None,
        "dual_clip": None,
        "value_clip_range": 0.2,
        "value_coef": 0.1,
        "entropy_coef": 0.0,
        "kl_in": "reward",
        "kl_estimator": "k2",
        "loss_average": "token",
        "max_new_tokens": 4,
    }
    return SimpleNamespace(**{**defaults, **changes})


def make_batch(seed: int = 0, scores: tuple[float, ...] = (1.0, 2.0, 3.0)) -> RolloutBatch:
    """Two responses to one prompt and one to another."""
    groups = [Group([5, 6], [[7] * LENGTHS[0], [8] * LENGTHS[1]]), Group([9], [[7] * LENGTHS[2]])]
    sampled = [
        SampledGroup((), group, ["x"] * len(group.response_ids), [True] * len(group.response_ids), [[0.0]])
        for group in groups
    ]
    batch = pack_rollout(sampled, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for name in MEASURED:
        setattr(batch, name, torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64) - 1)
    batch.scores = torch.tensor(scores)
    return batch


def outputs(batch: RolloutBatch, seed: int = 1) -> tuple[RoleOutput, torch.Tensor, torch.Tensor]:
    """Log-probabilities near the old ones, values, and the leaf that both hang on."""
    leaf = torch.randn(3, sum(LENGTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    leaf.requires_grad_()
    policy = RoleOutput(logprobs=batch.old_logprobs + 0.3 * leaf[0], entropy=leaf[2] ** 2)
    return policy, leaf[1], leaf


def test_the_loss_is_the_sum_of_its_weighted_parts() -> None:
    batch = make_batch()
    policy, values, _ = outputs(batch)
    args = settings_of(kl_in="loss", entropy_coef=0.5)
    loss = rollout_loss(batch, policy, values, args, kl_coef=0.25)
    expected = 0.0
    columns = (
        policy.logprobs,
        policy.entropy,
        values,
        *(getattr(batch, name) for name in MEASURED if name != "entropy"),
    )
    for logprob, entropy, value, was, ref, old, advantage, target in zip(*(c.tolist() for c in columns), strict=True):
        ratio = math.exp(logprob - was)
        expected += max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2))
        expected += 0.25 * (logprob - ref) ** 2 / 2 - 0.5 * entropy
        near = min(max(value, old - 0.2), old + 0.2)
        expected += 0.1 * max((value - target) ** 2, (near - target) ** 2) / 2
    assert loss.total.item() == pytest.approx(expected)
    assert set(loss.metrics) >= {"loss", "loss/policy", "loss/kl", "loss/entropy", "loss/value"}


@pytest.mark.parametrize(
    ("average", "weights", "count"),
    [
        ("token", [1, 1, 1, 1, 1, 1], 6),
        ("response", [1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2], 3),
        ("constant", [1 / 4] * 6, 3),
    ],
)
def test_what_the_mean_is_over(average, weights, count) -> None:
    args = settings_of(loss_average=average)
    assert loss_weights(make_batch(), args).tolist() == pytest.approx(weights)
    assert loss_count(make_batch(), args) == count


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 500),
    out=st.integers(0, 2),
    average=st.sampled_from(["token", "response", "constant"]),
    garbage=st.sampled_from([0.0, -1e6, float("nan"), float("inf")]),
)
def test_a_response_that_is_left_out_changes_neither_loss_nor_gradient(seed, out, average, garbage) -> None:
    args = settings_of(kl_in="loss", entropy_coef=0.5, loss_average=average)
    scores = tuple(float("nan") if index == out else 1.0 for index in range(3))
    results = []
    for fill in (1.0, garbage):
        batch = make_batch(seed, scores)
        left_out = ~batch.counted_tokens
        assert int(left_out.sum()) == LENGTHS[out]
        for name in MEASURED:
            getattr(batch, name)[left_out] = fill
        policy, values, leaf = outputs(batch, seed)
        loss = rollout_loss(batch, policy, values, args, kl_coef=0.25)
        (gradient,) = torch.autograd.grad(loss.total, leaf)
        assert not gradient[:, left_out].any()
        results.append((loss.total, gradient, loss_count(batch, args), loss.metrics["policy/ratio"]))
    for one, other in zip(*results, strict=True):
        assert one == other if isinstance(one, int) else one.equal(other)
    assert results[0][2] == (6 - LENGTHS[out] if average == "token" else 2)


def test_a_pass_whose_responses_are_all_left_out_has_a_gradient_of_0() -> None:
    batch = make_batch(scores=(float("nan"),) * 3)
    policy, values, leaf = outputs(batch)
    loss = rollout_loss(batch, policy, values, settings_of(), kl_coef=0.1)
    assert loss.total.item() == 0
    assert not torch.autograd.grad(loss.total, leaf)[0].any()


def test_at_the_reference_the_kl_in_the_loss_is_0_and_pulls_nowhere() -> None:
    batch = make_batch()
    batch.ref_logprobs = batch.old_logprobs.clone()
    for kind in ("k2", "k3"):
        logprobs = batch.old_logprobs.clone().requires_grad_()
        batch.advantages = torch.zeros(6, dtype=torch.float64)
        args = settings_of(kl_in="loss", kl_estimator=kind)
        loss = rollout_loss(batch, RoleOutput(logprobs=logprobs), None, args, kl_coef=1.0)
        assert loss.total.item() == 0
        assert loss.ratio.equal(torch.ones(6, dtype=torch.float64))
        assert not torch.autograd.grad(loss.total, logprobs)[0].any()
