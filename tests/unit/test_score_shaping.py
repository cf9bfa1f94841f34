"""Scores on their way into the reward: from whom, in which order, and who is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.data.comparisons import Message
from rlhf.engine.backbone import RoleOutput, reward_roles
from rlhf.engine.packing import Group
from rlhf.training.response_scores import ScoreSources
from rlhf.training.rollout import RolloutBatch, SampledGroup, pack_rollout
from rlhf.training.score_shaping import ScoreShaper
from rlhf.training.stopping import ScorerError

NAN = float("nan")


def make_batch(lengths: Sequence[int], finished: Sequence[bool], scores: Sequence[float] = ()) -> RolloutBatch:
    group = Group([5], [[7] * length for length in lengths])
    sampled = SampledGroup((Message("user", "Q"),), group, ["x" * n for n in lengths], list(finished), [[0.0]])
    batch = pack_rollout([sampled], torch.device("cpu"))
    if scores:
        batch.scores = torch.tensor(scores)
    return batch


def shaper(**changes: Any) -> ScoreShaper:
    defaults = {
        "normalize_scores": False,
        "score_clip": None,
        "missing_eos": "subtract",
        "missing_eos_penalty": 1.0,
        "length_penalty": 0.0,
        "length_soft_limit": None,
        "max_new_tokens": 8,
    }
    args: Any = SimpleNamespace(**{**defaults, **changes})
    return ScoreShaper(args)


def shaped(batch: RolloutBatch, **changes: Any) -> list[float]:
    return shaper(**changes).shape([batch], torch.as_tensor)[0].tolist()


def test_normalise_then_clip_then_end_then_length() -> None:
    batch = make_batch([2, 6, 8, 4], [True, True, False, True], [0.0, 0.0, 0.0, 8.0])
    # mean 2, deviation sqrt(12): -.577 three times and 1.732, clipped at 1.5; the third was cut off: -1; lengths 6
    # and 8 are half and all of the way from 4 to 8: -.25 and -.5
    low = -2 / math.sqrt(12)
    expected = [low, low - 0.25, low - 1.0 - 0.5, 1.5]
    settings = {"normalize_scores": True, "score_clip": 1.5, "length_penalty": 0.5, "length_soft_limit": 4}
    assert shaped(batch, **settings) == pytest.approx(expected, abs=1e-6)
    expected[2] = -1.0 - 0.5
    assert shaped(batch, **settings, missing_eos="replace") == pytest.approx(expected, abs=1e-6)


def test_scores_pass_as_they_are_where_nothing_is_asked() -> None:
    assert shaped(make_batch([1, 2], [True, True], [3.0, -70.0])) == [3.0, -70.0]


def test_a_response_that_is_left_out_gets_0_and_enters_no_moments() -> None:
    one = shaper(normalize_scores=True, missing_eos="replace")
    batch = make_batch([1, 1, 8], [True, True, False], [1.0, 3.0, NAN])
    assert one.shape([batch], torch.as_tensor)[0].tolist() == [-1.0, 1.0, 0.0]
    assert (one.moments.count, one.moments.mean, one.moments.variance) == (2, 2, 1)


# ---- from whom ------------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, name: str, scores: list[float]):
        self.name, self.scores = name, scores

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        assert len(prompts) == len(responses) == len(self.scores)
        return self.scores


def sources(scorers: Sequence[Any], num_models: int = 0, **changes: Any) -> ScoreSources:
    defaults = {
        "scorer_weights": [],
        "reward_model_weight": 1.0,
        "ensemble_penalty": 0.0,
        "ensemble_rule": "mean",
        "failed_scores": "stop",
    }
    args: Any = SimpleNamespace(**{**defaults, **changes})
    return ScoreSources(args, reward_roles(num_models), scorers)


def test_a_score_is_the_weighted_sum_of_reward_model_and_scorers() -> None:
    batches = [make_batch([1, 2], [True, True]), make_batch([3], [True])]
    found = sources(
        [Fixed("a", [1.0, 2.0, 3.0]), Fixed("b", [10.0, 20.0, 30.0])],
        num_models=2,
        scorer_weights=[2.0, -0.1],
        reward_model_weight=0.5,
        ensemble_rule="min",
    )
    for batch, values in zip(batches, ([4.0, 6.0], [8.0]), strict=True):
        outputs = {"reward": torch.tensor(values), "reward_2": torch.tensor(values) + 2}
        deviation = found.read(batch, {name: RoleOutput(scores=scores) for name, scores in outputs.items()})
        assert deviation.tolist() == [1.0] * len(values)
    found.ask(batches, torch.as_tensor)
    assert torch.cat([batch.scores for batch in batches]).tolist() == pytest.approx([2 + 2 - 1, 3 + 4 - 2, 4 + 6 - 3])
    assert batches[1].scores_by_name["b"].tolist() == [30.0]
    assert batches[0].scores_by_name["reward_model"].tolist() == [4.0, 6.0]


def test_where_one_part_is_missing_the_response_is_left_out() -> None:
    batch = make_batch([1, 2], [True, True])
    sources([Fixed("a", [1.0, NAN]), Fixed("b", [2.0, 2.0])], failed_scores="leave_out").ask([batch], torch.as_tensor)
    assert batch.counts.tolist() == [True, False]
    assert batch.scores[0].item() == 3
    assert batch.counted_tokens.tolist() == [True, False, False]


def test_all_processes_stop_where_one_of_them_must() -> None:
    batch, failing = make_batch([1], [True]), sources([Fixed("a", [NAN])])
    with pytest.raises(ScorerError, match="scorer a gave nan"):
        failing.ask([batch], torch.as_tensor)
    asked = []

    def another_failed(mine: torch.Tensor | int) -> torch.Tensor:
        asked.append(mine)
        return torch.as_tensor(mine + 1)

    with pytest.raises(ScorerError, match="in another process"):
        sources([Fixed("a", [1.0])]).ask([batch], another_failed)
    assert asked == [0]


def test_parts_without_a_name_of_their_own_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        sources([Fixed("reward_model", [1.0])], num_models=1)
    with pytest.raises(ValueError, match="2 weights for 1 scorers"):
        sources([Fixed("a", [1.0])], scorer_weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="neither is set"):
        sources([])
