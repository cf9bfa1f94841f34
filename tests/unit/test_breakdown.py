from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from reward.breakdown import (
    accuracy_by_source,
    accuracy_by_strength,
    correlation,
    ensemble_figures,
    lead,
    length_figures,
    position_figures,
)
from reward.evaluate_reward import with_flags
from reward.evaluated_model import order_change
from reward.evaluation_report import write_evaluation_report
from reward.judged_pairs import MODEL, JudgedPairs, judge_pairs, ordered, pooled, scores_by_name
from rlhf.data.comparisons import Comparison, Message, Response


def comparison(number: int, *texts: str, ranks: tuple[int, ...] = (1, 2), **more: object) -> Comparison:
    prompt = (Message("user", f"question {number}"),)
    return Comparison(prompt, tuple(map(Response, texts or ("good", "bad"))), ranks=ranks, **more)


def judged(comparisons: list[Comparison], scores: list[list[float]]) -> JudgedPairs:
    return judge_pairs("set", comparisons, {MODEL: scores})


def test_every_ordered_pair_of_a_ranking_has_its_margin() -> None:
    pairs = judged([comparison(0, "a", "b", "c", ranks=(2, 1, 2)), comparison(1)], [[1.0, 4.0, 6.0], [0.5, 0.0]])
    assert pairs.pairs == [(1, 0), (1, 2), (0, 1)]
    assert pairs.margins[MODEL] == [3.0, -2.0, 0.5]
    assert [row["margins"][MODEL] for row in pairs.rows()] == [3.0, -2.0, 0.5]
    assert pooled([pairs, pairs]).margins[MODEL] == [3.0, -2.0, 0.5] * 2


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=8))
def test_swapping_a_pair_negates_its_margin(scores) -> None:
    rows = [comparison(number) for number in range(len(scores))]
    turned = [comparison(number, ranks=(2, 1)) for number in range(len(scores))]
    margins, swapped = (judged(each, [list(row) for row in scores]).margins[MODEL] for each in (rows, turned))
    assert swapped == [-margin for margin in margins]


def test_sources_and_strengths_have_accuracies_of_their_own() -> None:
    rows = [
        comparison(0, source="forum", strength=1.0),
        comparison(1, source="forum", strength=2.0),
        comparison(2, source="shop", strength=2.0),
        comparison(3),
    ]
    pairs = judged(rows, [[1, 0], [0, 1], [1, 1], [2, 1]])
    assert {name: one.value for name, one in accuracy_by_source(pairs).items()} == {
        "forum": 0.5,
        "not given": 1.0,
        "shop": 0.5,
    }
    assert {name: (one.value, one.n) for name, one in accuracy_by_strength(pairs).items()} == {
        "1": (1.0, 1),
        "2": (0.25, 2),
        "not given": (1.0, 1),
    }
    plain = judged([comparison(0)], [[1, 0]])
    assert accuracy_by_source(plain) == accuracy_by_strength(plain) == {}


def test_many_strengths_are_put_into_quarters() -> None:
    rows = [comparison(number, strength=float(number)) for number in range(12)]
    found = accuracy_by_strength(judged(rows, [[float(number >= 6), 0.5] for number in range(12)]))
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "0 to 2": (0.0, 3),
        "3 to 5": (0.0, 3),
        "6 to 8": (1.0, 3),
        "9 to 11": (1.0, 3),
    }


def test_length_by_hand() -> None:
    # scores are lengths: every correlation is 1, and the longer response always wins
    rows = [comparison(0, "aaaa", "a"), comparison(1, "b", "bbb"), comparison(2, "cc", "dd")]
    scores = [[4.0, 1.0], [1.0, 3.0], [2.0, 2.0]]
    found = length_figures(judged(rows, scores), rows, scores)
    assert found == {
        "pearson": pytest.approx(1),
        "spearman": pytest.approx(1),
        "pearson_within": pytest.approx(1),
        "longer_preferred": 1.0,
        "longer_chosen": 0.5,
    }


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-3, 3)), min_size=2, max_size=30))
def test_the_rank_correlation_is_that_of_scipy(values) -> None:
    lengths, scores = zip(*values, strict=True)
    rows = [comparison(number, "x" * length, ranks=(1,)) for number, length in enumerate(lengths)]
    given_scores = [[float(score)] for score in scores]
    pairs = JudgedPairs("set", [], [], {MODEL: []})
    found = length_figures(pairs, rows, given_scores)["spearman"]
    if len(set(lengths)) == 1 or len(set(scores)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(lengths, scores).statistic, abs=1e-9)


def test_a_correlation_with_what_does_not_vary_is_none() -> None:
    assert correlation(np.ones(3), np.arange(3.0)) is None
    assert correlation(np.array([1.0]), np.array([2.0])) is None


def test_position_by_hand() -> None:
    rows = [comparison(0), comparison(1), comparison(2, ranks=(2, 1)), comparison(3)]
    found = position_figures(judged(rows, [[1, 0], [0, 1], [1, 0], [1, 1]]))
    assert found["chosen_first"]["value"] == 0.5  # right, wrong, equal
    assert found["chosen_second"]["value"] == 0.0
    assert found["first_preferred"] == (1 + 0 + 1 + 0.5) / 4
    assert found["first_chosen"] == 0.75


class Reader:
    """Scores like a classifier does; `drift` makes a score depend on how many were scored before it."""

    name = "reader"

    def __init__(self, drift: float):
        self.drift = drift

    def score(self, prompts, responses) -> list[float]:
        return [float(len(text)) + self.drift * place for place, text in enumerate(responses)]


@pytest.mark.parametrize(("drift", "change"), [(0.0, 0.0), (0.5, 1.5)])
def test_a_score_that_goes_with_the_place_shows_in_the_order(drift, change) -> None:
    rows = [comparison(0, "aaa", "a"), comparison(1, "bb", "b")]
    scores = [[3.0, 1.0 + drift], [2.0 + 2 * drift, 1.0 + 3 * drift]]
    deviation = np.std(np.concatenate(scores))
    assert order_change(Reader(drift), rows, [scores]) == pytest.approx(change / deviation)


def test_members_and_their_doubt_by_hand() -> None:
    rows = [comparison(0), comparison(1)]
    members = [[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 5.0]]]
    pairs = judge_pairs("set", rows, scores_by_name(members))
    found = ensemble_figures(pairs, members)
    # margins 1 and 3 where the mean is right, -1 and -5 where it is wrong
    assert found["margin_deviation"] == {"right": 1.0, "wrong": 2.0}
    assert found["deviation"] == (1 + 0 + 0 + 2) / 4
    assert {name: row["value"] for name, row in found["accuracy"].items()} == dict.fromkeys(
        ("reward model", "minimum", "mean less deviation", "member 1", "member 2"), 0.5
    )
    assert found["lead_over_member_1"]["value"] == 0
    assert found["margin_correlation"][0][1] == pytest.approx(1)


def test_a_lead_is_paired() -> None:
    found = lead([1.0, -1.0, 0.0], [1.0, 1.0, -1.0], ["a", "b", "c"])
    assert found.value == pytest.approx((0 - 1 + 0.5) / 3)


def test_files_that_order_nothing_are_refused() -> None:
    tied, alone = comparison(0, ranks=(1, 1)), comparison(1, "only", ranks=(1,))
    weightless = comparison(2, weight=0.0)
    with pytest.raises(ValueError, match=r"file: no comparison orders two responses \(3 read, 1 of them with fewer"):
        ordered([tied, alone, weightless], "file")
    assert ordered([tied, comparison(3)], "file") == [comparison(3)]


def test_model_and_files_stand_before_the_flags() -> None:
    assert with_flags(["m", "a", "b", "--folds", "3"]) == [
        "--reward_model",
        "m",
        "--eval_file",
        "a",
        "b",
        "--folds",
        "3",
    ]
    assert with_flags(["--reward_model", "m"]) == ["--reward_model", "m"]
    assert with_flags(["m"]) == ["--reward_model", "m"]
    assert with_flags([]) == []


def test_a_page_shows_texts_and_runs_nothing(tmp_path) -> None:
    """One pair of one prompt: no interval, no correlation, no second position."""
    from reward.calibration import calibration
    from reward.evaluate_reward import by_file, judge, over_all

    rows = [comparison(0, "<script>alert(1)</script>", "bad")]
    members = [[[0.0, 1.0]]]
    pairs = judge("set", rows, members, None)
    metrics = by_file([pairs]) | over_all(pairs, rows, members) | {"order_change": 0.0}
    assert metrics["calibration"] == calibration([-1.0], [rows[0].prompt_id])
    page = write_evaluation_report(tmp_path / "page.html", model="m", metrics=metrics, pairs=pairs).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "scored 1.00 higher" in page
    assert "settle no temperature, for margins say nothing of the order; 1000 is the end" in page
    assert "in 1 bin of" in page
