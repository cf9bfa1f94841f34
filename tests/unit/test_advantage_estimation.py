"""From scores and KL to advantages, on a rollout small enough to work out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.engine.packing import Group
from rlhf.training.advantage_estimation import estimate_advantages
from rlhf.training.rollout import RolloutBatch, SampledGroup, pack_rollout

CPU, NAN = torch.device("cpu"), float("nan")


def make_batch(lengths: list[int], kl: list[float], scores: list[float]) -> RolloutBatch:
    """Responses to one prompt, with so many nats of KL at each token."""
    group = Group([5], [[7] * length for length in lengths])
    batch = pack_rollout([SampledGroup((), group, ["x"] * len(lengths), [True] * len(lengths), [[0.0]])], CPU)
    batch.old_logprobs, batch.ref_logprobs = torch.zeros(len(kl)), -torch.tensor(kl)
    batch.old_values = torch.zeros(len(kl))
    batch.scores = torch.tensor(scores)
    return batch


def estimated(batches: list[RolloutBatch], kl_coef: float = 0.5, **changes: Any) -> tuple[list[float], list[float]]:
    """Rewards and advantages of all tokens."""
    defaults = {
        "advantage_estimator": "rloo",
        "kl_in": "reward",
        "kl_estimator": "k1",
        "whiten_rewards": False,
        "grpo_scale": "deviation",
        "gamma": 1.0,
        "gae_lambda": 1.0,
    }
    args: Any = SimpleNamespace(**{**defaults, **changes})
    scores = [batch.scores.nan_to_num() for batch in batches]
    rewards = estimate_advantages(batches, scores, args, kl_coef=kl_coef, reduce=lambda total: total)
    return torch.cat(rewards).tolist(), torch.cat([batch.advantages for batch in batches]).tolist()


def test_the_kl_counts_in_the_reward_of_a_whole_response() -> None:
    # rewards 3 - .5 (1 + 3) = 1 and 2 - .5 x 2 = 1: as good as each other, though the scores are not
    rewards, advantages = estimated([make_batch([2, 1], [1.0, 3.0, 2.0], [3.0, 2.0])])
    assert rewards == [-0.5, 1.5, 1.0]
    assert advantages == [0, 0, 0]


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_a_kl_in_the_loss_is_not_in_the_reward_too(kind) -> None:
    batch = make_batch([2, 1], [1.0, 3.0, 2.0], [3.0, 2.0])
    rewards, advantages = estimated([batch], kl_in="loss", kl_estimator=kind)
    assert rewards == [0, 3, 2]
    assert advantages == [1, 1, -1]


def test_a_token_answers_for_what_comes_after_it_whitened_over_all_batches() -> None:
    # returns 1, 1.5 and 1: mean 7/6, variance 1/18
    batches = [make_batch([2], [1.0, 3.0], [3.0]), make_batch([1], [2.0], [2.0])]
    _, advantages = estimated(batches, advantage_estimator="reinforce_pp")
    low, high = (1 - 7 / 6) * math.sqrt(18), (1.5 - 7 / 6) * math.sqrt(18)
    assert advantages == pytest.approx([low, high, low], abs=1e-5)


def test_gae_at_lambda_1_and_values_of_0_is_the_same_and_gives_the_returns() -> None:
    one, other = (make_batch([2, 1], [1.0, 3.0, 2.0], [3.0, 2.0]) for _ in range(2))
    assert estimated([one], advantage_estimator="gae") == estimated([other], advantage_estimator="reinforce_pp")
    assert one.returns.tolist() == [1, 1.5, 1]
    assert not hasattr(other, "returns")


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo", "reinforce_pp"])
def test_a_response_that_is_left_out_changes_no_advantage_of_another(estimator) -> None:
    found = []
    for kl in (0.0, 50.0):
        batch = make_batch([2, 1, 2], [1.0, 3.0, kl, 2.0, 0.5], [3.0, NAN, 1.0])
        _, advantages = estimated([batch], advantage_estimator=estimator)
        assert all(math.isfinite(value) for value in advantages)
        assert advantages[2] == 0
        found.append(advantages)
    assert found[0] == found[1]
    assert any(found[0])


def test_whitened_rewards_keep_their_mean_and_are_what_the_returns_are_made_of() -> None:
    batch = make_batch([1, 1], [0.0, 0.0], [1.0, 5.0])
    rewards, _ = estimated([batch], advantage_estimator="gae", whiten_rewards=True)
    assert rewards == [1, 5]  # as they are logged
    assert batch.returns.tolist() == pytest.approx([2, 4])  # mean 3, deviation 1
