"""Each monitor on series made by hand: it alarms at the step worked out here, and keeps quiet on the clean one."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from rlhf.training.monitor_settings import LIMITS, STOPS_BY_DEFAULT, build_monitors
from rlhf.training.monitors import COOL_DOWN, Alarm, MonitorSet, RolloutSummary, error_of

ROOT = Path(__file__).parents[2]
CLEAN = {
    "objective/score": 1.0,
    "objective/judge_score": 1.0,
    "objective/kl": 2.0,
    "objective/kl_per_token": 0.1,
    "objective/entropy": 2.0,
    "objective/eos_rate": 0.9,
    "objective/response_length": 20.0,
    "objective/distinct_2": 0.9,
    "objective/distinct_responses": 1.0,
    "reward/length_correlation": 0.3,
    "value/explained_variance": 0.2,
    "policy/sampler_gap": 0.001,
    "policy/max_ratio": 1.0,
}
# monitor: metric, its value from step 11 on, the step of the alarm
FAULTS = {
    "kl_target": ("objective/kl", 8.5, 12),  # twice the target of 4 is 8, for 2 updates
    "kl_budget": ("objective/kl", 12.5, 11),
    "kl_per_token": ("objective/kl_per_token", 3.1, 12),
    "kl_negative": ("objective/kl", -1.1, 11),
    "ratio": ("policy/max_ratio", 11.0, 11),
    "entropy": ("objective/entropy", 0.39, 11),  # a fifth of 2 is .4
    "eos": ("objective/eos_rate", 0.44, 13),  # half of .9 is .45, for 3 updates
    "length": ("objective/response_length", 30.5, 13),
    "repetition": ("objective/distinct_2", 0.53, 13),  # .6 of .9 is .54
    "duplicates": ("objective/distinct_responses", 0.49, 13),
    "length_correlation": ("reward/length_correlation", 0.75, 15),
    "explained_variance": ("value/explained_variance", -0.2, 20),  # ten to warm up, then ten in a row
    "sampler_gap": ("policy/sampler_gap", 0.011, 13),
}


def monitors(mode: str = "default", **settings: list[str]) -> MonitorSet:
    return build_monitors(mode, kl_target=4.0, kl_budget=12.0, **settings)


def observed(
    monitor_set: MonitorSet, series: list[dict[str, float]], errors: dict[str, float] | None = None, first: int = 1
) -> list[Alarm]:
    given = dict.fromkeys(CLEAN, 0.0) if errors is None else errors
    alarms = []
    for step, means in enumerate(series, first):
        alarms += monitor_set.observe(RolloutSummary(step, means, given), list)
    return alarms


def faulty(name: str, num_steps: int = 30) -> list[dict[str, float]]:
    metric, value, _ = FAULTS[name]
    return [CLEAN if step <= 10 else CLEAN | {metric: value} for step in range(1, num_steps + 1)]


def test_a_clean_series_alarms_nobody() -> None:
    assert observed(monitors(), [CLEAN] * 60) == []


def test_every_monitor_has_its_fault_here() -> None:
    assert {*FAULTS, "over_optimisation"} == set(LIMITS)


@pytest.mark.parametrize("name", FAULTS)
def test_alarms_at_the_step_of_its_fault(name: str) -> None:
    alarms = [alarm for alarm in observed(monitors(), faulty(name)) if alarm.monitor == name]
    metric, value, step = FAULTS[name]
    assert [alarm.step for alarm in alarms] == [step]
    assert alarms[0].value == pytest.approx(value)
    assert alarms[0].severity == ("stop" if name in STOPS_BY_DEFAULT else "warn")
    assert alarms[0].message.startswith(f"{metric} is {value:.4g} in the last ")


def test_an_alarm_says_what_was_seen_from_where_and_what_to_do() -> None:
    (alarm,) = observed(monitors(), faulty("entropy"))
    assert (alarm.limit, alarm.start) == (pytest.approx(0.4), pytest.approx(2.0))
    assert alarm.message == (
        "objective/entropy is 0.39 in the last rollout, below 0.2 times its start of 2: the policy says almost one "
        "thing only, and no longer explores; lower --learning_rate, or raise --kl_coef"
    )


def test_a_lasting_fault_alarms_once_in_a_cool_down() -> None:
    alarms = observed(monitors(), faulty("length", num_steps=60))
    assert [alarm.step for alarm in alarms] == [13, 13 + COOL_DOWN, 13 + 2 * COOL_DOWN]


def test_an_interrupted_fault_does_not_persist() -> None:
    series = [CLEAN if step <= 10 or step % 3 == 0 else CLEAN | {"objective/eos_rate": 0.1} for step in range(1, 40)]
    assert observed(monitors(), series) == []


def test_a_mean_within_two_standard_errors_of_the_limit_does_not_count() -> None:
    # the error of a mean of three is that of one over sqrt 3; the limit has that of the start, times 1.5
    length = "objective/response_length"
    one = 2.0
    error = (one**2 / 3 + (1.5 * one) ** 2 / 3) ** 0.5
    for excess, expected in ((1.9, []), (2.1, ["length"])):
        series = [CLEAN] * 10 + [CLEAN | {length: 30 + excess * error}] * 5
        assert [alarm.monitor for alarm in observed(monitors(), series, {length: one})] == expected


def test_the_gap_that_rounding_makes_is_no_alarm_in_bfloat16() -> None:
    for gap, dtype, expected in ((0.02, "float32", True), (0.02, "bfloat16", False), (0.06, "bfloat16", True)):
        series = [CLEAN | {"policy/sampler_gap": gap}] * 13
        assert bool(observed(build_monitors("default", dtype=dtype), series)) == expected
    lower = build_monitors("default", dtype="bfloat16", limits=["sampler_gap=0.01"])
    assert observed(lower, [CLEAN | {"policy/sampler_gap": 0.02}] * 13)


def test_without_standard_errors_the_spread_of_the_values_counts() -> None:
    assert error_of([(1.0, float("nan")), (2.0, float("nan")), (6.0, 0.5)]) == pytest.approx((14 / 6) ** 0.5)
    assert error_of([(1.0, float("nan"))]) == 0
    assert error_of([(1.0, 0.3), (5.0, 0.4)]) == pytest.approx(0.25)


def test_what_is_not_measured_is_not_watched() -> None:
    series = [{"objective/score": 1.0, "value/explained_variance": float("nan")}] * 40
    assert observed(monitors(), series) == []


def test_a_run_without_kl_target_and_budget_has_no_such_monitors() -> None:
    names = {monitor.name for monitor in build_monitors("default").monitors}
    assert set(LIMITS) - names == {"kl_target", "kl_budget"}


# ---- over-optimisation ----------------------------------------------------------------------------------


def hacked(num_steps: int = 14) -> list[dict[str, float]]:
    """The judge climbs from 0 by .1 a step to .5 at step 6 and falls as fast; the score climbs on."""
    judge = [0.1 * (step - 1) if step <= 6 else 0.5 - 0.1 * (step - 6) for step in range(1, num_steps + 1)]
    return [
        CLEAN | {"objective/judge_score": value, "objective/score": 0.1 * step} for step, value in enumerate(judge, 1)
    ]


@pytest.mark.parametrize(
    ("error", "step"),
    [
        # best window: steps 5 to 7, mean .4333; steps 7 to 9 have mean .3, a fall of .1333; the difference has the
        # error e sqrt(2/3), four of which are .0653 for e = .02, .1306 for e = .04 and .196 for e = .06
        (0.02, 9),
        (0.04, 9),
        # steps 8 to 10: a fall of .2333
        (0.06, 10),
    ],
)
def test_over_optimisation_alarms_soon_after_the_peak(error: float, step: int) -> None:
    errors = dict.fromkeys(CLEAN, 0.0) | {"objective/judge_score": error}
    (alarm,) = observed(monitors(), hacked(), errors)
    assert (alarm.step, alarm.monitor, alarm.severity) == (step, "over_optimisation", "stop")
    assert alarm.start == pytest.approx(0.1)


def test_a_judge_that_falls_with_the_score_is_another_failure() -> None:
    series = [means | {"objective/score": means["objective/judge_score"]} for means in hacked()]
    assert observed(monitors(), series) == []


def test_a_fall_of_less_than_a_tenth_of_the_gain_is_left_alone() -> None:
    series = hacked(7) + [CLEAN | {"objective/judge_score": 0.41, "objective/score": 2.0}] * 20
    assert observed(monitors(), series) == []  # .4367 - .4067 and .4367 - .41 are under .0337


# ---- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "severities"), [("stop", {"stop"}), ("warn", {"warn"}), ("default", {"stop", "warn"}), ("off", set())]
)
def test_the_mode_is_for_all_monitors(mode: str, severities: set[str]) -> None:
    alarms = [alarm for name in FAULTS for alarm in observed(monitors(mode), faulty(name))]
    assert {alarm.severity for alarm in alarms} == severities


def test_a_reaction_by_name_wins_over_the_mode() -> None:
    settings = ["length=off", "eos=stop", "ratio=warn"]
    assert observed(monitors(reactions=settings), faulty("length")) == []
    assert observed(monitors(reactions=settings), faulty("eos"))[0].severity == "stop"
    assert observed(monitors(reactions=settings), faulty("ratio"))[0].severity == "warn"
    assert observed(monitors("off", reactions=settings), faulty("eos"))[0].severity == "stop"


def test_a_limit_by_name_moves_the_alarm() -> None:
    assert observed(monitors(limits=["length=1.6"]), faulty("length")) == []
    assert observed(monitors(limits=["kl_target=4"]), faulty("kl_target")) == []
    assert observed(monitors(limits=["entropy=.1"]), faulty("entropy")) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "loud"}, "monitors is 'loud': choose default, stop, warn, off"),
        ({"reactions": ["lenght=off"]}, "monitor_reactions has 'lenght=off': write name=value, with one of kl_target"),
        ({"reactions": ["length"]}, "write name=value"),
        ({"reactions": ["length=loud"]}, "choose length=stop, length=warn or length=off"),
        ({"limits": ["length=long"]}, "monitor_limits has 'length=long': give a number, such as length=1.5"),
        ({"limits": ["length=nan"]}, "give a number"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        monitors(**settings)


# ---- samples and resume ---------------------------------------------------------------------------------

ROWS = [
    {"response": "short", "score": 0.1, "kl": 1.0, "length": 3, "entropy": 2.0, "distinct_2": 1.0, "copies": 1},
    {"response": "long", "score": 0.9, "kl": -3.0, "length": 90, "entropy": 1.0, "distinct_2": 0.5, "copies": 1},
    {"response": "no no no", "score": 0.5, "kl": 9.0, "length": 5, "entropy": 0.1, "distinct_2": 0.1, "copies": 7},
]


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("kl_target", "no no no"),
        ("kl_negative", "long"),
        ("entropy", "no no no"),
        ("eos", "long"),
        ("length", "long"),
        ("repetition", "no no no"),
        ("duplicates", "no no no"),
        ("length_correlation", "long"),
    ],
)
def test_the_alarm_names_the_sample_that_shows_it(name: str, response: str) -> None:
    monitor_set = monitors()
    alarms = []
    for step, means in enumerate(faulty(name), 1):
        alarms += monitor_set.observe(RolloutSummary(step, means, dict.fromkeys(CLEAN, 0.0)), lambda: ROWS)
    (sample,) = [alarm.sample for alarm in alarms if alarm.monitor == name]
    assert sample is not None
    assert sample["response"] == response


def test_samples_are_not_asked_for_without_an_alarm() -> None:
    for step in range(1, 20):
        assert monitors().observe(RolloutSummary(step, CLEAN), lambda: pytest.fail("asked")) == []


@pytest.mark.parametrize("at", range(1, 40, 3))
def test_a_resumed_run_alarms_at_the_same_steps(at: int) -> None:
    draw = random.Random(0)
    noisy = [{name: value * draw.choice([0.1, 1, 1.5, 4]) for name, value in CLEAN.items()} for _ in range(25)]
    series = hacked(20) + noisy
    errors = dict.fromkeys(CLEAN, 0.01) | {"policy/sampler_gap": float("nan")}
    whole = monitors()
    expected = observed(whole, series, errors)
    assert {alarm.monitor for alarm in expected} >= {"entropy", "over_optimisation"}
    before = monitors()
    first = observed(before, series[:at], errors)
    after = monitors()
    after.load_state(json.loads(json.dumps(before.state())))
    found = first + observed(after, series[at:], errors, first=at + 1)
    assert [asdict(alarm) for alarm in found] == [asdict(alarm) for alarm in expected]
    assert json.dumps(after.state()) == json.dumps(whole.state())


# ---- documentation --------------------------------------------------------------------------------------


def test_the_page_lists_the_monitors_that_exist_with_their_limits() -> None:
    text = (ROOT / "docs" / "monitors.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    listed = {cells[1].strip(" `"): cells for cells in rows}
    assert list(listed) == list(LIMITS)
    for name, cells in listed.items():
        assert cells[4].strip() == ("stops" if name in STOPS_BY_DEFAULT else "warns"), name
        assert f"**{LIMITS[name]:g}**" in cells[3], name
