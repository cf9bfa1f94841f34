"""The kept policy is the best by the smoothed judge, and a resumed run keeps the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rlhf.training.kept_policy import Judged, KeptPolicy


def adapter(step: int) -> dict[str, torch.Tensor]:
    return {"lora_A": torch.full((2, 3), float(step))}


def followed(judge_scores: list[float], kept: KeptPolicy | None = None, first: int = 0) -> KeptPolicy:
    kept = KeptPolicy() if kept is None else kept
    for step, judge_score in enumerate(judge_scores, first):
        kept.observe(Judged(step, judge_score, score=float(step)), adapter(step))
    return kept


def test_the_middle_of_the_best_three_is_kept() -> None:
    kept = followed([0.0, 0.2, 0.5, 0.6, 0.5, 0.1, 0.0])
    assert kept.best == Judged(3, pytest.approx(0.5 / 4 + 0.6 / 2 + 0.5 / 4), 3.0)
    assert kept.adapter["lora_A"].equal(adapter(3)["lora_A"])
    assert kept.metrics() == {
        "kept/step": 3,
        "kept/judge_score": pytest.approx(0.55),
        "kept/score": 3.0,
        "last/judge_score": 0.0,
        "last/score": 6.0,
    }


def test_a_lucky_rollout_does_not_win_over_three_good_ones() -> None:
    # .45 for the lucky one, .6 for step 5
    kept = followed([0.0, 0.9, 0.0, 0.0, 0.6, 0.6, 0.6, 0.0])
    assert kept.best is not None
    assert kept.best.step == 5


def test_fewer_than_three_rollouts_keep_nothing() -> None:
    assert followed([1.0, 2.0]).best is None
    assert followed([1.0, 2.0]).metrics() == {}


def test_equal_policies_keep_the_earlier() -> None:
    best = followed([0.5] * 8).best
    assert best is not None
    assert best.step == 1


def test_a_rollout_that_was_not_judged_starts_the_window_anew() -> None:
    best = followed([0.1, 0.1, 0.1, 5.0, math.nan, 5.0, 5.0, 0.2, 0.1]).best
    assert best is not None
    assert best.step == 6  # not 3, between .1 and nothing


@pytest.mark.parametrize("at", range(1, 8))
def test_a_resumed_run_keeps_the_same_policy(at: int, tmp_path: Path) -> None:
    judge_scores = [0.0, 0.2, 0.5, 0.6, 0.5, 0.1, 0.9, 0.0]
    whole, before = followed(judge_scores), followed(judge_scores[:at])
    before.save(tmp_path)
    after = KeptPolicy()
    after.load(tmp_path)
    followed(judge_scores[at:], after, first=at)
    assert after.state() == whole.state()
    assert after.adapter["lora_A"].equal(whole.adapter["lora_A"])


def test_a_checkpoint_without_a_judge_starts_anew(tmp_path: Path) -> None:
    kept = KeptPolicy()
    kept.load(tmp_path)
    assert kept.best is None


def test_it_says_in_words_what_is_kept() -> None:
    assert str(followed([0.0, 0.25, 0.5, 0.25])) == (
        "kept the policy after 2 updates: judge 0.375, score 2; at the last rollout 0.25 and 3"
    )
    assert "fewer than 3" in str(followed([1.0]))
