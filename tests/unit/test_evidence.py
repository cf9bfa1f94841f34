"""The evidence: what its numbers are made of, and that its runs are made once."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.evidence import (
    equal_time,
    frontier,
    judge,
    over_optimisation,
    ranking,
    report,
    reward_models,
    small_data,
    small_model,
    tables,
)
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


def test_openings_to_measure_on_are_none_of_those_trained_on() -> None:
    words = [f"one two three four five{number} six seven eight nine" for number in range(6)]
    train, test = small_data.prompts_of(
        [Sentence(text, 1) for text in (*words[:4], "too short to be cut")], [Sentence(text, 0) for text in words[3:]]
    )
    assert sorted(train) == [f"one two three four five{number}" for number in range(4)]
    assert sorted(test) == [f"one two three four five{number}" for number in (4, 5)]
    (row, *_) = small_data.demonstrations(words)
    assert row["completion"][0]["content"] == "six seven eight nine"


def test_sentences_of_reviews_are_whole_and_of_the_training_split(tmp_path) -> None:
    rows = [
        {"prefix": "it begins", "continuation": "here . one is whole . two is too . three is", "split": split}
        for split in ("train", "test")
    ]
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(small_data.review_sentences(file)) == ["one is whole .", "two is too ."]


def test_ranks_follow_scores_and_equal_scores_share_one() -> None:
    assert ranking.ranks([0.5, 2.0, -1.0, 2.0]) == (2, 1, 3, 1)


# ---- the small model ----------------------------------------------------------------------------------------


def test_the_small_model_s_loss_leaves_padding_out() -> None:
    tokenizer = small_model.train_tokenizer(["a good film about people", "a bad film"] * 5)
    torch.manual_seed(0)
    model = small_model.build(tokenizer, small_model.Shape(hidden_size=16, num_layers=1, num_heads=2))
    rows = [[1, 5, 9, 4, 7], [1, 8, 3]]
    alone = [F.cross_entropy(model(torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:])) for row in rows]
    assert small_model.loss_of(model, rows).item() == pytest.approx((4 * alone[0] + 2 * alone[1]).item() / 6, rel=1e-5)
    assert small_model.perplexity(model, rows[:1]) == pytest.approx(alone[0].exp().item(), rel=1e-5)


def test_every_row_is_in_one_batch_and_the_rate_rises_and_falls() -> None:
    rows = [[number] * (number % 7 + 1) for number in range(100)]
    found = list(small_model.batches(rows, random.Random(0)))
    assert sorted(row for batch in found for row in batch) == sorted(rows)
    assert all(len(batch) <= small_model.BATCH for batch in found)
    rates = [small_model.rate_at(progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


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


def courses(gold: list[float], alarm: int | None = None) -> dict:
    """The course of a run whose score and KL rise by 1 and 2 at a step."""
    rows = [
        {"step": step, "objective/score": float(step), "objective/judge_score": value, "objective/kl": 2.0 * step}
        for step, value in enumerate(gold, start=1)
    ]
    return over_optimisation.course(rows, alarm)


def test_the_course_of_gold_by_hand() -> None:
    gold = [0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3]
    found = courses(gold, alarm=7)
    assert (found["start"], found["peak"], found["end"]) == pytest.approx((0.3, 0.6, 0.3))
    assert found["peak_step"] == 5
    assert found["peak_kl"] == pytest.approx(10.0)
    assert found["at_alarm_of_peak"] == pytest.approx(0.5 / 0.6)
    assert found["kept_of_peak"] == 1.0
    assert found["kept_step_at_alarm"] == 4  # the rollout of step 5 samples the policy after four updates
    early = courses(gold, alarm=5)  # stopped before the peak: (.3 + .6 + .6) / 3
    assert early["kept_of_peak"] == pytest.approx(0.5 / 0.6)
    assert early["kept_step_at_alarm"] == 3
    with pytest.raises(ValueError, match="at least 3"):
        courses(gold[:2])


def test_what_the_minimum_does_is_paired_by_seed_and_said_only_where_the_interval_says_so() -> None:
    def run(peak_step: int) -> dict:
        gold = [0.3 if abs(step - peak_step) > 1 else 0.6 for step in range(1, 13)]
        policies = {policy: {"gold": {"value": value}} for policy, value in (("kept", 0.5), ("last", 0.2))}
        return courses(gold, alarm=peak_step + 3) | {"kept_step": peak_step - 1, "measured": policies}

    peaks = {"single": (4, 5, 6), "minimum of 3": (7, 8, 9)}
    found = {(arm, seed): run(step) for arm, steps in peaks.items() for seed, step in enumerate(steps)}
    said = over_optimisation.verdict(found)
    assert "the gold peak lies +6.0 [+6.0, +6.0] nats further out, which is outward" in said
    assert "alarms in 6 of 6 runs" in said
    assert "95% of the gold peak of the whole run in 6 of 6; in 6 it is the policy" in said
    assert "the kept policy has 0.30 [0.30, 0.30] more gold than the last" in said
    assert "single: gold ends under its peak by 0.50 [0.50, 0.50] of it; the score gains 9.00 [9.00, 9.00]" in said
    found["minimum of 3", 0] = run(4)  # +0, +6, +6
    assert "no verdict" in over_optimisation.verdict(found)


def test_an_interval_over_seeds_by_hand() -> None:
    found = tables.over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)  # t of 4 degrees of freedom
    assert (found["low"], found["value"], found["high"]) == pytest.approx((3 - half, 3.0, 3 + half), abs=1e-5)
    assert tables.over_seeds([2.0])["low"] is None
    assert tables.estimate(found, digits=1, sign="+") == "+3.0 [+1.0, +5.0]"


def test_arms_at_equal_time_are_compared_by_objective_paired_by_seed() -> None:
    def policies(objectives: list[float]) -> dict[int, dict]:
        kl = 2.0
        return {
            seed: {"score": {"value": value + kl * float(equal_time.KL_COEF)}, "kl": {"value": kl}}
            for seed, value in enumerate(objectives)
        }

    found = {"a": policies([1.0, 2.0, 3.1]), "b": policies([0.5, 1.5, 2.5]), "c": policies([1.5, 1.5, 3.1])}
    assert "a less b: objective +0.53 [+0.39, +0.68], paired over 3 seeds: a is ahead" in equal_time.verdict(
        found, "a", "b"
    )
    assert "no verdict" in equal_time.verdict(found, "a", "c")
    assert equal_time.verdict(found, "a", "d") == ""


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


def test_the_experiments_on_the_small_model_are_written_from_what_has_finished(place, tmp_path) -> None:
    plan = Plan([run for module in MODULES for run in module.runs()], place)
    share = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9}
    policy = dict.fromkeys(("gold", "positive", "fit", "kl", "score"), share) | {"num_responses": 740}
    finish(plan, "small/model", {"num_weights": 900_000, "held_out_perplexity": 61.0})
    finish(plan, "small/ranked", {"accuracy": share})
    finish(plan, "small/measured", {"policies": [policy]})
    for name in ("small/reward", "over_optimisation/reward-seed0"):
        (finish(plan, name, {}) / "model").mkdir()
        (place.folder(name) / "model" / "metrics.json").write_text(json.dumps({"eval_accuracy": share}))
    for arm in over_optimisation.ARMS:
        found = courses([0.3, 0.4, 0.5, 0.6, 0.5, 0.4], alarm=6) | {"kept_step": 3}
        measured_policies = dict.fromkeys(over_optimisation.POLICIES, policy)
        finish(plan, over_optimisation.ppo_run(arm, 0).name, found | {"measured": measured_policies})
    for arm in equal_time.ARMS:
        finish(plan, equal_time.calibration(arm).name, {"steps": 40, "step_seconds": 0.75})
        for seed in (0, 1):
            finish(plan, equal_time.arm_run(arm, seed).name, {"policies": [policy]})
    docs = tmp_path / "docs"
    page = page_of_another_time(docs)
    report.write_report(plan, docs)
    text = page.read_text()
    assert [f"{name} of another time" in text for name in report.EXPERIMENTS] == [True, False, False, True]
    assert "0.9 million weights" in text
    assert "| minimum of 3 | 0 | 0.40 | 0.53 | 0.50 |" in text  # means of three rollouts, at the end (.6 + .5 + .4) / 3
    assert "| RLOO | 40 | 0.75 | 0.63, 0.63 |" in text  # .7 less a tenth of .7
    assert f"7 of {5 + 3 * len(over_optimisation.SEEDS)} runs" in text  # the shared runs are counted with it
    assert (docs / "images" / over_optimisation.PLOT).is_file()


def test_a_page_without_the_marks_is_refused(place, tmp_path) -> None:
    with pytest.raises(ValueError, match="lacks the marks of frontier"):
        report.write_report(Plan([], place), tmp_path)


def test_a_page_is_left_as_it_is_where_nothing_has_been_run(place, tmp_path) -> None:
    page = page_of_another_time(tmp_path / "docs")
    before = page.read_text()
    said = report.write_report(Plan([run for module in MODULES for run in module.runs()], place), page.parent)
    assert "is left as it is" in said
    assert page.read_text() == before
