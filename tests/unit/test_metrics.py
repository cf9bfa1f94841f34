from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlhf.evaluation.judges import load_judge
from rlhf.evaluation.metrics import Estimate, bootstrap_mean, pair_accuracy, win_rate


def test_interval_of_four_values_agrees_with_all_resamples_counted_out() -> None:
    values = [0.0, 1.0, 1.0, 3.0]
    every_mean = sorted(sum(drawn) / 4 for drawn in itertools.product(values, repeat=4))
    estimate = bootstrap_mean(values, num_resamples=40_000, confidence=0.8)
    assert estimate.value == 1.25
    assert estimate.n == 4
    assert estimate.low == every_mean[int(0.1 * len(every_mean))]
    assert estimate.high == every_mean[int(0.9 * len(every_mean))]


def test_groups_are_drawn_whole_and_weigh_by_their_size() -> None:
    # Groups a = (1, 1, 1) and b = (0,): the four equally likely draws have means 1, 3/4, 3/4 and 0.
    estimate = bootstrap_mean([1, 1, 0, 1], groups=["a", "a", "b", "a"], num_resamples=4000, confidence=0.4)
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0.75, 0.75)
    wide = bootstrap_mean([1, 1, 0, 1], groups=["a", "a", "b", "a"], num_resamples=4000, confidence=0.9)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_copies_within_groups_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=40)
    alone = bootstrap_mean(values)
    copied = bootstrap_mean(np.repeat(values, 10), groups=np.repeat(np.arange(40), 10).tolist())
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert copied.n == 400
    without_groups = bootstrap_mean(np.repeat(values, 10))
    assert without_groups.high - without_groups.low < 0.5 * (copied.high - copied.low)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    num_trials, held = 300, 0
    for trial in range(num_trials):
        by_prompt = generator.normal(0.3, 1.0, size=50)
        values = np.repeat(by_prompt, 4) + generator.normal(0, 0.5, size=200)
        prompts = np.repeat(np.arange(50), 4).tolist()
        estimate = bootstrap_mean(values, groups=prompts, num_resamples=300, seed=trial)
        held += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= held / num_trials <= 0.98


def test_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(2).normal(size=400)
    estimate = bootstrap_mean(values, num_resamples=8000)
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.05)


def test_same_arguments_give_same_numbers_whatever_the_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values, num_resamples=500)
    assert bootstrap_mean(values, num_resamples=500) == whole
    monkeypatch.setattr("rlhf.evaluation.metrics.RESAMPLES_AT_ONCE", 120)
    assert bootstrap_mean(values, num_resamples=500) == whole


def test_one_group_gives_no_interval_and_json_null() -> None:
    estimate = bootstrap_mean([1, 0, 1], groups=["p", "p", "p"])
    assert estimate.value == pytest.approx(2 / 3)
    assert math.isnan(estimate.low)
    assert estimate.to_dict() == {"value": estimate.value, "low": None, "high": None, "n": 3}
    assert str(estimate) == "0.667 (n=3)"


def test_win_rate_counts_a_tie_as_half() -> None:
    assert win_rate([1, 0.5, 0, 1]).value == 0.625


def test_pair_accuracy_counts_signs_and_half_for_equal_scores() -> None:
    assert pair_accuracy([2.0, -1.0, 0.0, 1e-9], groups=["p", "p", "q", "q"]).value == 0.625
    assert pair_accuracy([math.inf, -math.inf]).value == 0.5


def test_estimate_prints_its_interval() -> None:
    assert str(Estimate(0.6123, 0.5, 0.7, 120)) == "0.612 [0.500, 0.700] (n=120)"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap_mean([]), "at least one number"),
        (lambda: bootstrap_mean([[1.0, 2.0]]), "flat sequence"),
        (lambda: bootstrap_mean([1.0, math.nan]), r"values\[1\] is nan"),
        (lambda: bootstrap_mean([1.0, 2.0], groups=["a"]), "1 entries for 2 values"),
        (lambda: bootstrap_mean([1.0], confidence=95), "confidence is 95"),
        (lambda: win_rate([1, 2]), r"outcomes\[1\] is 2"),
        (lambda: win_rate([math.nan]), r"outcomes\[0\] is nan"),
        (lambda: pair_accuracy([math.nan]), r"margins\[0\] is nan"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("annotation.simulated", "not of the form module:attribute"),
        ("annotation/simulated.py:Judge", "not of the form module:attribute"),
        ("annotation.simulatd:SimulatedAnnotator", "no module 'annotation.simulatd'"),
        ("nowhere_at_all.judge:Judge", "no module 'nowhere_at_all'"),
        ("annotation.simulated:Simulated", "it offers .*SimulatedAnnotator"),
        ("annotation.simulated:TIE_MARGIN", "is a float without a compare method"),
        ("annotation.simulated:Judgment", "needs the arguments total, parts, reasons"),
    ],
)
def test_judge_that_cannot_be_loaded_is_named_with_the_fix(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_judge(name)


def test_missing_dependency_of_a_judge_is_not_taken_for_a_missing_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_judge.py").write_text("import a_package_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_not_installed"):
        load_judge("needy_judge:Judge")


def test_ready_object_and_maker_both_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_judge.py").write_text(
        "class Always:\n"
        "    def __init__(self, outcome): self.outcome = outcome\n"
        "    def compare(self, prompt, a, b): return self.outcome\n"
        "READY = Always(1.0)\n"
        "def make(): return Always(0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_judge("made_judge:READY").compare((), None, None) == 1.0
    assert load_judge("made_judge:make").compare((), None, None) == 0.5
