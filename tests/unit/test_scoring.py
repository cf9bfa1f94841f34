"""What a scorer gives is checked; a response without a score stops the run or is left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.data.comparisons import Message
from rlhf.training.scoring import ScoringFailure, score_responses
from rlhf.training.stopping import ScorerError

RESPONSES = ["alpha", "beta", "gamma", "delta", "epsilon"]
PROMPTS = [(Message("user", f"Question {index}"),) for index in range(5)]


class Scorer:
    """Calls a function of the responses; remembers how many it was asked for at a time."""

    name = "picky"

    def __init__(self, function: Callable[[list[str]], Any]):
        self.function = function
        self.calls: list[int] = []

    def score(self, prompts, responses):
        self.calls.append(len(responses))
        assert len(prompts) == len(responses)
        return self.function(list(responses))


def lengths(responses: list[str]) -> list[int]:
    return [len(response) for response in responses]


def same(scores: list[float], expected: list[float]) -> bool:
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(scores, expected, strict=True))


@pytest.mark.parametrize("failed", ["stop", "leave_out"])
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, iter, lambda values: np.array(values, np.float32)]
)
def test_numbers_of_any_kind_come_back_as_floats(kind, failed) -> None:
    scores = score_responses(Scorer(lambda r: kind(lengths(r))), PROMPTS, RESPONSES, failed=failed)
    assert scores == [5.0, 4.0, 5.0, 5.0, 7.0]
    assert {type(score) for score in scores} == {float}


def test_nothing_is_asked_for_no_responses() -> None:
    scorer = Scorer(lengths)
    assert score_responses(scorer, [], [], failed="stop") == []
    assert scorer.calls == []


WRONG_VALUES = [
    math.nan,
    math.inf,
    -math.inf,
    None,
    "0.5",
    [1.0],
    1j,
    10**400,
    1e39,
    np.array([1.0]),
    torch.tensor(math.nan),
]


@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
def test_a_value_that_is_no_finite_number_stops_the_run_and_is_shown(value) -> None:
    scorer = Scorer(lambda r: [value if text == "gamma" else 1.0 for text in r])
    with pytest.raises(ScorerError) as caught:
        score_responses(scorer, PROMPTS, RESPONSES, failed="stop")
    text = str(caught.value)
    assert "scorer picky gave" in text
    assert repr(value)[:100] in text
    assert "response 3 of 5, 'gamma'" in text
    assert "'Question 2'" in text


@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
def test_a_value_that_is_no_finite_number_is_left_out_alone(value, caplog) -> None:
    scorer = Scorer(lambda r: [value if text == "gamma" else 1.0 for text in r])
    with caplog.at_level(logging.WARNING):
        scores = score_responses(scorer, PROMPTS, RESPONSES, failed="leave_out")
    assert same(scores, [1.0, 1.0, math.nan, 1.0, 1.0])
    assert scorer.calls == [5]
    assert len(caplog.records) == 1
    assert "1 of 5 responses left out" in caplog.text
    assert "'gamma'" in caplog.text


def raising(responses: list[str]) -> list[float]:
    if "delta" in responses:
        raise TimeoutError("no answer in 3 s")
    return [1.0] * len(responses)


def miscounting(responses: list[str]) -> list[float]:
    return [1.0] * (len(responses) + ("delta" in responses))


def mapping(responses: list[str]) -> Any:
    return dict.fromkeys(range(len(responses)), 1.0) if "delta" in responses else [1.0] * len(responses)


def nothing(responses: list[str]) -> Any:
    return None if "delta" in responses else [1.0] * len(responses)


FAULTS = [
    (raising, "raised TimeoutError: no answer in 3 s"),
    (miscounting, "gave 6 scores for 5 responses"),
    (mapping, "gave a dict where a list of numbers is expected"),
    (nothing, "gave a NoneType where a list of numbers is expected"),
]


@pytest.mark.parametrize("function, what", FAULTS)
def test_a_call_that_fails_stops_the_run(function, what) -> None:
    with pytest.raises(ScorerError, match=f"scorer picky {what}.*response 1 of 5, 'alpha'"):
        score_responses(Scorer(function), PROMPTS, RESPONSES, failed="stop")


@pytest.mark.parametrize("function, what", FAULTS)
def test_a_call_that_fails_leaves_out_only_the_responses_that_make_it_fail(function, what, caplog) -> None:
    scorer = Scorer(function)
    scores = score_responses(scorer, PROMPTS, RESPONSES, failed="leave_out")
    assert same(scores, [1.0, 1.0, 1.0, math.nan, 1.0])
    assert scorer.calls == [5, 1, 1, 1, 1, 1]
    assert what.replace("6", "2").replace("5", "1") in caplog.text or what in caplog.text


def down(responses: list[str]) -> list[float]:
    raise ConnectionError("refused")


def test_a_scorer_that_is_down_is_given_up_after_three_single_calls() -> None:
    scorer = Scorer(down)
    scores = score_responses(scorer, PROMPTS * 20, RESPONSES * 20, failed="leave_out")
    assert same(scores, [math.nan] * 100)
    assert scorer.calls == [100, 1, 1, 1]


def test_a_single_response_is_not_asked_for_twice() -> None:
    scorer = Scorer(down)
    assert same(score_responses(scorer, PROMPTS[:1], RESPONSES[:1], failed="leave_out"), [math.nan])
    assert scorer.calls == [1]


def test_a_scorer_names_the_batch_that_failed() -> None:
    def in_batches(responses: list[str]) -> list[float]:
        raise ScoringFailure("raised ReadTimeout: timed out", first=3)

    with pytest.raises(ScorerError, match=r"raised ReadTimeout: timed out.*response 4 of 5, 'delta'"):
        score_responses(Scorer(in_batches), PROMPTS, RESPONSES, failed="stop")


def test_what_is_shown_of_a_response_and_its_prompt_is_short() -> None:
    prompts = [(Message("user", "x" * 5000 + "the end"),)]
    with pytest.raises(ScorerError) as caught:
        score_responses(Scorer(lambda r: [math.nan]), prompts, ["y" * 5000], failed="stop")
    assert len(str(caught.value)) < 600
    assert "the end'" in str(caught.value)


def test_a_run_cannot_ask_for_another_way_out() -> None:
    with pytest.raises(ValueError, match="failed is 'zero': choose stop or leave_out"):
        score_responses(Scorer(lengths), PROMPTS, RESPONSES, failed="zero")
