"""The evidence: what its numbers are made of, and that its runs are made once."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence import equal_time, frontier, judge, over_optimisation, ranking, report, reward_models
from benchmarks.evidence.__main__ import MODULES
from benchmarks.evidence.runner import run_plan
from benchmarks.evidence.runs import (
    FAILED,
    FINISHED,
    HERE,
    RESPONSES,
    STEPS,
    WAITING,
    Place,
    Plan,
    Run,
    record,
    write_result,
)
from benchmarks.evidence.sentiment_data import Sentence, calibration_split, comparisons, demonstrations, halves
from rlhf.data.comparisons import Comparison, Message
from rlhf.evaluation.metrics import Estimate

# ---- runs ---------------------------------------------------------------------------------------------------

COUNT = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


def counting(name: str, counter: Path, **settings) -> Run:
    """A run that adds a letter to a file beside all runs."""
    return Run(name, (("python", "-c", COUNT, str(counter)),), **settings)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path / "runs", tmp_path / "data")


def run_all(plan: Plan) -> list[str]:
    plan.place.runs.mkdir(exist_ok=True)
    with (plan.place.runs / ".lock").open("w") as lock:
        return run_plan(plan, [], lock.fileno())


def test_a_finished_run_is_skipped_and_a_killed_one_is_made_again(place, tmp_path) -> None:
    plan = Plan([counting("a/one", tmp_path / "one"), counting("a/two", tmp_path / "two")], place)
    assert run_all(plan) == []
    state = place.folder("a/two") / "run.json"
    state.write_text(state.read_text().replace('"finished"', '"started"'))  # as SIGKILL leaves it
    (place.folder("a/two") / "half").touch()
    assert [plan.status(run) for run in plan.runs] == [FINISHED, WAITING]
    assert run_all(plan) == []
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("x", "xx")
    assert not (place.folder("a/two") / "half").exists()


def test_a_run_is_made_again_when_what_it_needs_has_changed_and_its_old_folder_is_kept(place, tmp_path) -> None:
    after = counting("b/after", tmp_path / "after", needs=("a/before",))
    run_all(Plan([counting("a/before", tmp_path / "before"), after], place))
    run_all(Plan([counting("a/before", tmp_path / "elsewhere"), after], place))
    assert (tmp_path / "after").read_text() == "xx"
    assert len(list((place.runs / "b").glob("after*"))) == 2


def test_a_changed_data_file_changes_the_key_of_all_that_is_made_from_it(place) -> None:
    place.data.mkdir()
    (place.data / "x.jsonl").write_text("1")
    runs = [Run("a/made", (("rlhf", "sft", "${data}/x.jsonl"),)), Run("a/later", (), needs=("a/made",))]
    keys = Plan(runs, place).keys
    (place.data / "x.jsonl").write_text("2")
    changed = Plan(runs, place).keys
    assert [keys[name] == changed[name] for name in keys] == [False, False]


def test_a_failed_run_stops_only_what_needs_it(place, tmp_path) -> None:
    failing = Run("a/bad", (("python", "-c", "raise SystemExit(3)"),))
    needing = counting("a/needing", tmp_path / "needing", needs=("a/bad",))
    plan = Plan([failing, needing, counting("a/other", tmp_path / "other")], place)
    assert run_all(plan) == ["a/bad", "a/needing"]
    assert [plan.status(run) for run in plan.runs] == [FAILED, WAITING, FINISHED]
    summary = json.loads((place.runs / "a" / "summary.json").read_text())
    assert summary["finished"] == 1
    assert summary["runs"]["a/bad"]["exit_status"] == 3


def test_cost_is_recorded_and_a_variable_is_set_for_its_command_alone(place) -> None:
    write = "import os, pathlib; p = os.environ['PLACE']; sum(range(10**7)); pathlib.Path(p, 'said').write_text(p)"
    run = Run("a/one", ((f"PLACE={HERE}", "python", "-c", write),), settings={"seed": 4})
    run_all(Plan([run], place))
    row = json.loads((place.runs / "a" / "summary.json").read_text())["runs"]["a/one"]
    assert (place.folder(run) / "said").read_text() == str(place.folder(run))
    assert "PLACE" not in os.environ
    assert row["settings"] == {"seed": 4}
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0  # ten million additions take more than the tenth of a second that is recorded
    assert row["peak_gb"] > 0


def test_a_run_without_a_state_is_not_overwritten(place, tmp_path) -> None:
    place.folder("a/one").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not made here"):
        run_all(Plan([counting("a/one", tmp_path / "one")], place))


def test_steps_come_from_the_run_that_measured_them(place) -> None:
    measuring = Run("a/measuring", ())
    run = Run("a/run", (("python", "-c", "pass", STEPS),), steps_from="a/measuring")
    plan = Plan([measuring, run], place)
    with pytest.raises(ValueError, match="has measured none"):
        place.command(run, run.commands[0])
    place.folder(measuring).mkdir(parents=True)
    write_result(place.folder(measuring), {"steps": 12})
    assert place.command(run, run.commands[0])[-1] == "12"
    assert plan.with_needs(["a"]) == [measuring, run]


def test_what_is_recorded_is_not_made_again_but_what_it_was_made_from_is_when_others_need_it(place, tmp_path) -> None:
    def runs(*, with_other: bool) -> list[Run]:
        made = [
            counting("a/base", tmp_path / "base"),
            counting("b/leaf", tmp_path / "leaf", needs=("a/base",), records=("responses.jsonl",)),
        ]
        return [*made, counting("b/other", tmp_path / "other", needs=("a/base",))] if with_other else made

    plan = Plan(runs(with_other=False), place)
    assert run_all(plan) == []
    row = {"prompt_id": "p", "reward": 0.123456, "text": "what was said"}
    (place.folder("b/leaf") / RESPONSES).write_text(json.dumps(row) + "\n")
    write_result(place.folder("b/leaf"), {"value": 7})
    assert record(plan, tmp_path / "recorded") == 2
    (kept,) = (tmp_path / "recorded" / "b" / "leaf" / RESPONSES).read_text().splitlines()
    assert json.loads(kept) == {"prompt_id": "p", "reward": 0.1235}

    elsewhere = Place(tmp_path / "elsewhere", place.data, tmp_path / "recorded")
    again = Plan(runs(with_other=False), elsewhere)
    assert again.to_make([]) == set()
    assert elsewhere.result("b/leaf") == {"value": 7}
    more = Plan(runs(with_other=True), elsewhere)
    assert more.to_make([]) == {"a/base", "b/other"}
    assert run_all(more) == []
    assert [(tmp_path / name).read_text() for name in ("base", "leaf", "other")] == ["xx", "x", "x"]
    assert Plan(runs(with_other=True), Place(tmp_path / "third", place.data)).to_make(["b"]) == {
        *("a/base", "b/leaf", "b/other")
    }


def test_a_plan_refuses_a_name_twice_and_a_need_that_comes_later(place) -> None:
    with pytest.raises(ValueError, match="two runs are named a/x"):
        Plan([Run("a/x", ()), Run("a/x", ())], place)
    with pytest.raises(ValueError, match="needs a/y, which does not stand before it"):
        Plan([Run("a/x", (), needs=("a/y",)), Run("a/y", ())], place)


def test_every_run_of_the_evidence_is_planned_with_a_seed_of_its_own(place) -> None:
    plan = Plan([run for module in MODULES for run in module.runs()], place)
    settings = [json.dumps([run.experiment, dict(run.settings)]) for run in plan.runs if "seed" in run.settings]
    assert len(set(settings)) == len(settings) > 30
    assert {run.settings["seed"] for run in plan.runs if run.experiment == "frontier"} == {0, 1, 2}


# ---- data ---------------------------------------------------------------------------------------------------


def test_halves_are_disjoint_and_decided_by_the_text_alone() -> None:
    sentences = [Sentence(f"sentence {number}", number % 2) for number in range(200)]
    half_a, half_b = halves(sentences)
    assert sorted(half_a + half_b, key=lambda s: s.text) == sorted(sentences, key=lambda s: s.text)
    assert 60 < len(half_a) < 140
    again, _ = halves(reversed(sentences))
    assert set(again) == set(half_a)
    trained, kept = calibration_split(half_b)
    assert set(trained).isdisjoint(kept)
    assert set(trained) | set(kept) == set(half_b)
    assert 0 < len(kept) < len(trained)


def test_each_sentence_is_compared_once_and_positive_ones_lead() -> None:
    sentences = [Sentence(f"sentence {number}", number % 2) for number in range(22)]
    found = list(comparisons(sentences, [(Message("user", "a"),), (Message("user", "b"),)], seed=0))
    labels = {sentence.text: sentence.label for sentence in sentences}
    texts = [response.text for item in found for response in item.responses]
    assert len(texts) == len(set(texts)) == 20
    for item in found:
        assert [labels[item.responses[better].text] for better, _ in item.pairs()] == [1] * 4
        assert {response.finish_reason for response in item.responses} == {"stop"}


def test_demonstrations_are_of_the_training_split_and_sentences_alternate() -> None:
    reviews = [{"prefix": f"p{i}", "continuation": f"c{i}", "split": ("train", "test")[i % 2]} for i in range(8)]
    sentences = [Sentence(f"sentence {number}", number % 2) for number in range(8)]
    rows = list(demonstrations(reviews, sentences, seed=0))
    answers = [row["completion"][0]["content"] for row in rows]
    assert answers[::2] == ["c0", "c2", "c4", "c6"]
    labels = {sentence.text: sentence.label for sentence in sentences}
    assert [labels[answer] for answer in answers[1::2]] == [0, 1, 0, 1]
    assert len(set(answers)) == 8


def test_ranks_follow_scores_and_equal_scores_share_one() -> None:
    assert ranking.ranks([0.5, 2.0, -1.0, 2.0]) == (2, 1, 3, 1)


# ---- the judge ----------------------------------------------------------------------------------------------


def test_platt_recovers_the_logistic_that_drew_the_labels() -> None:
    drawn = np.random.default_rng(0)
    scores = drawn.normal(size=20000)
    labels = drawn.random(20000) < 1 / (1 + np.exp(-(1.5 * scores - 0.4)))
    slope, offset = judge.platt(scores.tolist(), labels.astype(int).tolist())
    assert slope == pytest.approx(1.5, abs=0.06)
    assert offset == pytest.approx(-0.4, abs=0.06)


def test_calibration_error_by_hand() -> None:
    # two bins: .25 predicted and .5 seen, .95 predicted and 1 seen
    assert judge.calibration_error([0.25, 0.25, 0.95, 0.95], [0, 1, 1, 1]) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


def test_accuracy_and_distinct_bigrams_by_hand() -> None:
    assert judge.accuracy([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 0]).value == 0.75
    assert judge.distinct_bigrams(["a b a b", "a b"]) == 0.5
    assert judge.distinct_bigrams(["one"]) == 0.0


# ---- what is read off runs --------------------------------------------------------------------------------


def point(method: str, weight: float, seed: int, reward: float, kl: float, lead: float = 0.3) -> frontier.Point:
    sure = {"low": math.nan, "high": math.nan, "n": 1}
    return frontier.Point(
        method, weight, seed, Estimate(reward, **sure), Estimate(lead, **sure), Estimate(kl, **sure), 0.9, 100.0
    )


def test_a_method_reaches_the_lead_only_under_the_kl_that_is_allowed() -> None:
    points = [
        point("PPO", 0.1, 0, 0.8, 5, lead=0.3),
        point("PPO", 0.1, 1, 0.8, 11, lead=0.4),  # too far
        point("PPO", 0.5, 1, 0.7, 3, lead=0.2),  # too little
        point("PPO", 0.1, 2, 0.8, 9.9, lead=0.25),
    ]
    assert frontier.verdict(points, "PPO").endswith("in 2 of 3 seeds.")


def test_dominance_is_read_at_equal_kl() -> None:
    ppo = [point("PPO", weight, seed, 0.5 + kl / 10, kl) for seed in (0, 1) for weight, kl in ((0.1, 4), (0.5, 2))]
    dpo = [point("DPO", weight, seed, 0.4 + kl / 10, kl) for seed in (0, 1) for weight, kl in ((0.1, 5), (0.3, 3))]
    found = frontier.dominance(ppo + dpo)
    assert "+0.10 (+0.10 to +0.10) at 3.0 nats" in found
    assert "at 4.0 nats: PPO dominates" in found
    far = [point("DPO", weight, seed, 0.9, kl) for seed in (0, 1) for weight, kl in ((0.1, 9), (0.3, 8))]
    assert "do not overlap" in frontier.dominance(ppo + far)


def test_the_course_of_gold_by_hand() -> None:
    gold = [0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3]
    rows = [
        {"step": step, "objective/score": float(step), "objective/judge_score": value, "objective/kl": 2.0 * step}
        for step, value in enumerate(gold, start=1)
    ]
    found = over_optimisation.course(rows, alarm=7)
    assert (found["start"], found["peak"], found["end"]) == pytest.approx((0.3, 0.6, 0.3))
    assert found["peak_step"] == 5
    assert found["peak_kl"] == pytest.approx(10.0)
    assert found["at_alarm_of_peak"] == pytest.approx(0.5 / 0.6)
    assert found["kept_of_peak"] == 1.0
    early = over_optimisation.course(rows, alarm=5)  # stopped before the peak: (.3 + .6 + .6) / 3
    assert early["kept_of_peak"] == pytest.approx(0.5 / 0.6)
    assert early["kept_gained_of_peak"] == pytest.approx(0.2 / 0.3)
    with pytest.raises(ValueError, match="at least 3"):
        over_optimisation.course(rows[:2], alarm=None)


def test_steps_are_those_of_the_faster_half_without_the_first(tmp_path) -> None:
    seconds = [50.0, 3.0, 9.0, 5.0, 30.0]
    rows = [{"step": step, "time/rollout": value - 2, "time/scoring": 1, "time/update": 1} for step, value in
            enumerate(seconds)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert equal_time.step_seconds(tmp_path) == 4.0
    assert equal_time.steps_that_fit(4.0, 150) == 38
    assert equal_time.steps_that_fit(400.0, 150) == 1


def test_a_draw_of_pairs_does_not_depend_on_their_order() -> None:
    items = [Comparison((Message("user", f"question {number}"),)) for number in range(50)]
    drawn = reward_models.drawn(items, 20)
    assert len(drawn) == 20
    assert [item for item in items if item in drawn] == drawn
    assert {item.id for item in reward_models.drawn(items[::-1], 20)} == {item.id for item in drawn}
    assert reward_models.drawn(items, 100) == items


def test_leads_of_reward_models_are_paired() -> None:
    rows = [
        {"prompt_id": str(number), "margins": {"ensemble": 1.0, "single": a, "longer wins": b, "bag of words": 0.0}}
        for number, (a, b) in enumerate(itertools.product((1.0, -1.0), (1.0, -1.0)))
    ]
    found = reward_models.accuracies(rows)
    assert {name: value["value"] for name, value in found["accuracy"].items()} == {
        "ensemble": 1.0, "single": 0.5, "longer wins": 0.5, "bag of words": 0.5,
    }  # fmt: skip
    assert found["lead"]["ensemble over single"]["value"] == 0.5
    assert found["lead"]["single over longer wins"]["value"] == 0.0
    text = reward_models.verdict("set", found)
    assert "beats bag of words, 0.500 [0.500, 0.500]" in text


# ---- the report ---------------------------------------------------------------------------------------------


def finish(plan: Plan, name: str, result: dict) -> Path:
    """A finished run as the runner leaves it."""
    run = plan.by_name[name]
    folder = plan.place.folder(run)
    folder.mkdir(parents=True)
    state = {"key": plan.keys[name], "status": FINISHED, "seconds": 500.0, "cpu_seconds": 60.0, "peak_gb": 2.5}
    (folder / "run.json").write_text(json.dumps(state))
    write_result(folder, result)
    return folder


def measured(reward: float, kl: float) -> dict:
    value = {"low": reward - 0.05, "high": reward + 0.05, "n": 4}
    return {
        "reward": {"value": reward, **value},
        "kl": {"value": kl, **value},
        "score": {"value": 0.1, **value},
        "distinct_bigrams": 0.8,
        "num_responses": 4,
    }


def page_of_another_time(docs: Path) -> Path:
    """A results page whose every experiment says something."""
    docs.mkdir()
    page = docs / report.PAGE
    sections = [
        f"{begin}\n{name} of another time\n{end}" for name in report.EXPERIMENTS for begin, end in [report.marks(name)]
    ]
    page.write_text("before\n\n" + "\n\n".join(sections) + "\n\nafter\n")
    return page


def test_the_report_replaces_what_has_been_run_alone_and_says_what_is_missing(place, tmp_path) -> None:
    plan = Plan([run for module in MODULES for run in module.runs()], place)
    accuracy = {"value": 0.86, "low": 0.84, "high": 0.88, "n": 846}
    finish(
        plan,
        "sentiment/judge",
        {"accuracy": accuracy, "accuracy_of_bag_of_words": accuracy | {"value": 0.74}, "calibration_error": 0.03},
    )
    rewards = {"sentiment/sft_measured": 0.5}
    rewards |= {run.name: 0.8 for run in frontier.runs() if run.settings["seed"] == 0}
    for number, (name, reward) in enumerate(rewards.items()):
        folder = finish(plan, name, measured(reward, float(number)))
        rows = [{"prompt_id": str(prompt), "reward": reward + prompt / 100} for prompt in range(4)]
        (folder / RESPONSES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    docs = tmp_path / "docs"
    page = page_of_another_time(docs)
    said = report.write_report(plan, docs)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\n\nafter\n")
    assert "frontier of another time" not in text
    assert [f"{name} of another time" in text for name in report.EXPERIMENTS] == [False, True, True, True]
    assert "PPO leads SFT by at least 0.25 at a KL under 10 nats in 1 of 1 seeds" in text
    assert "0.30 [0.30, 0.30]" in text  # the lead is paired by prompt
    assert "8 of 24 runs, 67 minutes (8 of processor time), the longest 500 s (8 over 480 s), at most 2.5 GB" in text
    assert (docs / "images" / frontier.PLOT).read_text().startswith("<?xml")
    assert f"{len(plan.runs) - 8} of {len(plan.runs)} runs are missing: sentiment/data" in said
    before = (docs / "images" / frontier.PLOT).read_bytes()
    report.write_report(plan, docs)
    assert (page.read_text(), (docs / "images" / frontier.PLOT).read_bytes()) == (text, before)


def test_a_page_without_the_marks_is_refused(place, tmp_path) -> None:
    with pytest.raises(ValueError, match="lacks the marks of frontier"):
        report.write_report(Plan([], place), tmp_path)


def test_a_page_is_left_as_it_is_where_nothing_has_been_run(place, tmp_path) -> None:
    page = page_of_another_time(tmp_path / "docs")
    before = page.read_text()
    said = report.write_report(Plan([run for module in MODULES for run in module.runs()], place), page.parent)
    assert "is left as it is" in said
    assert page.read_text() == before
