"""Scores as a scorer that a user brings gives them: checked, and where wrong left out or stopping the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from rlhf.data.comparisons import Message
from rlhf.training.rollout import ResponseScorer
from rlhf.training.stopping import RunStopped, ScorerError

logger = logging.getLogger(__name__)

FAILED = ("stop", "leave_out")
# Single calls that may fail before the scorer is taken to be down, and not the responses to be at fault.
FIRST_CALLS = 3
SHOWN_CHARACTERS = 120
LARGEST_SCORE = 3.4028234663852886e38  # of a float32, in which training goes on with it


class ScoringFailure(Exception):
    """A call gave no scores; a scorer that calls in batches raises it to name the batch.

    Args:
        message: what happened.
        first: index of the first response concerned.
    """

    def __init__(self, message: str, first: int = 0):
        super().__init__(message)
        self.first = first


def score_responses(
    scorer: ResponseScorer, prompts: Sequence[Sequence[Message]], responses: Sequence[str], *, failed: str
) -> list[float]:
    """`[n]` scores of `[n]` responses, each a number that is finite in float32 or, if `failed` is "leave_out", NaN.

    Args:
        scorer: what is asked.
        prompts: `[n]` conversations.
        responses: `[n]` texts.
        failed: "stop" ends the run at the first response without a score. "leave_out" gives it NaN: where the whole
            call failed (it raised, timed out or gave the wrong number of scores), the responses are asked for one by
            one, and if the first three calls fail as well, all are given up.

    Raises:
        ScorerError: `failed` is "stop" and a response has no score; names the scorer, what it gave and the response.
    """
    if failed not in FAILED:
        raise ValueError(f"failed is {failed!r}: choose {' or '.join(FAILED)}")
    assert len(prompts) == len(responses)
    if not responses:
        return []
    try:
        given = _ask(scorer, prompts, responses)
    except ScoringFailure as failure:
        if failed == "stop":
            raise _error(scorer, str(failure), prompts, responses, failure.first) from failure
        given = _ask_one_by_one(scorer, prompts, responses, failure)
    scores = [_number(value) for value in given]
    wrong = [index for index, score in enumerate(scores) if not math.isfinite(score)]
    if not wrong:
        return scores
    first = wrong[0]
    what = str(given[first]) if isinstance(given[first], ScoringFailure) else f"gave {_shown(repr(given[first]))}"
    if failed == "stop":
        raise _error(scorer, f"{what} for a response", prompts, responses, first)
    place = _place(prompts, responses, first)
    logger.warning("scorer %s %s; %d of %d responses left out; %s", scorer.name, what, len(wrong), len(scores), place)
    return [score if math.isfinite(score) else math.nan for score in scores]


def _ask(scorer: ResponseScorer, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[Any]:
    """`[n]` values that are not looked at yet."""
    try:
        given: Any = scorer.score(prompts, responses)
        values = None if isinstance(given, str | bytes | Mapping | Set | None) else list(given)
    except (RunStopped, ScoringFailure):
        raise
    except Exception as error:  # whatever a user's code raises is what it gave
        raise ScoringFailure(f"raised {type(error).__name__}: {_shown(str(error), 500)}") from error
    if values is None:
        raise ScoringFailure(f"gave a {type(given).__name__} where a list of numbers is expected")
    if len(values) != len(responses):
        raise ScoringFailure(f"gave {len(values)} scores for {len(responses)} responses")
    return values


def _ask_one_by_one(
    scorer: ResponseScorer, prompts: Sequence[Sequence[Message]], responses: Sequence[str], failure: ScoringFailure
) -> list[Any]:
    """`[n]` values, a `ScoringFailure` for those that could not be had."""
    if len(responses) == 1:
        return [failure]
    values: list[Any] = []
    for prompt, response in zip(prompts, responses, strict=True):
        if len(values) == FIRST_CALLS and all(isinstance(value, ScoringFailure) for value in values):
            return values + [values[-1]] * (len(responses) - len(values))
        try:
            values += _ask(scorer, [prompt], [response])
        except ScoringFailure as error:
            values.append(error)
    return values


def _number(value: Any) -> float:
    """The value as a float, NaN for what is no single finite number; text is none, whatever it says."""
    if value is None or isinstance(value, str | bytes | ScoringFailure) or getattr(value, "ndim", False):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= LARGEST_SCORE else math.nan


def _error(
    scorer: ResponseScorer, what: str, prompts: Sequence[Sequence[Message]], responses: Sequence[str], index: int
) -> ScorerError:
    return ScorerError(
        f"scorer {scorer.name} {what}; {_place(prompts, responses, index)}. It must give one number, finite in "
        "single precision, for each response: mend it and go on with --resume_from_checkpoint latest, or leave such "
        "responses out with --failed_scores leave_out"
    )


def _place(prompts: Sequence[Sequence[Message]], responses: Sequence[str], index: int) -> str:
    prompt_end = prompts[index][-1].content[-SHOWN_CHARACTERS:] if prompts[index] else ""
    return (
        f"first concerned is response {index + 1} of {len(responses)}, {_shown(responses[index])!r}, "
        f"to a prompt that ends {prompt_end!r}"
    )


def _shown(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    return text if len(text) <= characters else f"{text[:characters]}..."
