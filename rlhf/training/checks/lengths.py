"""How long prompts and responses are as tokens, against what a run cuts and what the model reaches."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rlhf.data.chat import Chat, Truncation
from rlhf.training.checks.data_rows import DataRow, DataRows
from rlhf.training.checks.findings import FATAL, WARNING, Finding, by_share
from rlhf.training.checks.model_files import ModelSettings

MEASURED_ROWS = 2000  # evenly taken, where there are more
CUT_WARNING, CUT_FATAL = 0.05, 0.5


@dataclass(frozen=True)
class Lengths:
    """What tokenising rows showed.

    Attributes:
        truncation: what was tokenised and cut.
        longest: most tokens of a prompt with one of its responses, after cutting.
        num_whole: responses that were not cut off by the sampler, as far as their rows say.
        num_ended: responses that end with the token that ends a turn.
        every: of so many rows one was tokenised.
    """

    truncation: Truncation
    longest: int
    num_whole: int
    num_ended: int
    every: int


def measure_lengths(chat: Chat, rows: Sequence[DataRow], *, response_length: int = 0) -> Lengths:
    """Tokenise rows; of more than `MEASURED_ROWS` as many, evenly taken.

    Args:
        chat: its own counts stay as they are.
        rows: to tokenise.
        response_length: tokens to reckon with where a row has no responses, such as `max_new_tokens`.
    """
    counting = copy.copy(chat)
    counting.truncation = Truncation()
    longest = num_ended = num_whole = 0
    every = -(-len(rows) // MEASURED_ROWS) or 1
    with _quiet():
        for row in rows[::every]:
            prompt = len(counting.encode_prompt(row.prompt))
            encoded = [
                counting.encode_response(
                    response.text, finished=response.finish_reason != "length" or not response.text
                )
                for response in row.responses
            ]
            longest = max(longest, prompt + max(map(len, encoded), default=response_length))
            num_whole += sum(response.finish_reason != "length" for response in row.responses)
            num_ended += sum(ids[-1] == chat.end_of_turn_id for ids in encoded)
    return Lengths(counting.truncation, longest, num_whole, num_ended, every)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the line that the first cut of each kind would log: cuts are findings here."""
    logger = logging.getLogger(Chat.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def check_lengths(
    data: DataRows, lengths: Lengths, chat: Chat, settings: ModelSettings, *, learns_ends: bool
) -> Iterator[Finding]:
    """Shares that are cut, sequences beyond the model's positions, and responses of which none ends its turn.

    Args:
        data: what was tokenised, for messages.
        lengths: of `data`.
        chat: with the maximum lengths.
        settings: of the model.
        learns_ends: whether the run learns from these responses.
    """
    counted = lengths.truncation
    limits = (
        ("prompt", "beginning", counted.prompts_cut, counted.prompts, chat.max_prompt_length),
        ("response", "end", counted.responses_cut, counted.responses, chat.max_response_length),
    )
    for what, lost, num_cut, number, limit in limits:
        if number and num_cut / number > CUT_WARNING:
            yield Finding(
                f"{what}s_cut",
                by_share(num_cut / number, warning=0, fatal=CUT_FATAL),
                f"{num_cut} of {number} {what}s of {data.field}{_sampled(lengths)} are longer than {limit} tokens and "
                f"lose their {lost}",
                f"raise --max_{what}_length, or remove them from the data",
            )
    if settings.longest is not None and lengths.longest > settings.longest:
        yield Finding(
            "longer_than_model",
            FATAL,
            f"a prompt of {data.field} with its response has {lengths.longest} tokens, the model "
            f"{settings.longest} positions",
            "lower --max_prompt_length and --max_response_length (PPO: --max_new_tokens) to fit together",
        )
    if learns_ends and counted.responses and not lengths.num_ended:
        yield Finding(
            "responses_never_end",
            FATAL if lengths.num_whole else WARNING,
            f"none of {counted.responses} responses of {data.field}{_sampled(lengths)} ends with the token that ends a "
            f"turn: all were cut off, {'here' if lengths.num_whole else 'by the sampler (finish_reason length)'}; a "
            "policy cannot learn to stop, a reward model never sees an end",
            "raise --max_response_length" if lengths.num_whole else "sample with a larger --max_new_tokens",
        )


def _sampled(lengths: Lengths) -> str:
    return f" (one row in {lengths.every})" if lengths.every > 1 else ""
