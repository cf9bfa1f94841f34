"""What is imported: a comparison to be judged, with its known answer and its usefulness where they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotation.importing import FEWEST_RESPONSES, MOST_RESPONSES
from rlhf.data.comparisons import Comparison
from rlhf.data.records import FieldError

LONGEST_TEXT = 200_000  # characters of one message, response or name
SAMPLE_FIRST = "have responses sampled first: rlhf sample --prompt_file FILE --output_file FILE"
GOLD_FIX = 'give {"ranks": [1, 2]} with a rank for each response, or of a pair first, second or tie; in a table 1;2'
PAIR_ANSWERS = {"1": (1, 2), "first": (1, 2), "2": (2, 1), "second": (2, 1), "tie": (1, 1)}
RANKS = re.compile(r"[0-9]{1,3}( *; *[0-9]{1,3})+", re.ASCII)


@dataclass(frozen=True)
class Item:
    """One comparison of an import.

    Attributes:
        comparison: prompt with 2 to 9 responses. Judgments that it carries are somebody's, and no gold.
        gold: the known answer, one rank per response: 1 is the best, equal numbers tie, no number is left out.
        usefulness: how much a judgment of it would tell; more is sooner.
    """

    comparison: Comparison
    gold: tuple[int, ...] | None = None
    usefulness: float | None = None


@dataclass(frozen=True)
class Parsed:
    """A row as a comparison.

    Attributes:
        comparison: what it holds.
        names: what the row calls the responses, for messages.
        settings: where its gold and usefulness are.
    """

    comparison: Comparison
    names: Sequence[str]
    settings: Mapping[str, Any]


def checked_item(parsed: Parsed) -> Item:
    """The item of a row.

    Raises:
        FieldError: the responses are too few or too many, a text is blank, too long or holds NUL, or gold or
            usefulness are none.
    """
    comparison = parsed.comparison
    count = len(comparison.responses)
    if count == 0:
        raise FieldError("responses", "none", SAMPLE_FIRST)
    if not FEWEST_RESPONSES <= count <= MOST_RESPONSES:
        fix = f"an annotator ranks {FEWEST_RESPONSES} to {MOST_RESPONSES}"
        raise FieldError("responses", f"{count} response{'' if count == 1 else 's'}", fix)
    for name, text in _texts(parsed):
        if len(text) > LONGEST_TEXT:
            raise FieldError(name, f"{len(text)} characters", f"shorten it: {LONGEST_TEXT} is the most")
        if "\0" in text:
            raise FieldError(name, "a NUL character, which databases do not keep", "remove it")
    for name, response in zip(parsed.names, comparison.responses, strict=True):
        if not response.text.strip():
            raise FieldError(name, "no text", "give the text, or leave the response out")
    gold = parse_gold(parsed.settings.get("gold"), count)
    if gold is not None:
        _check_same_texts_tie(comparison, gold, parsed.names)
    return Item(comparison, gold, parse_usefulness(parsed.settings.get("usefulness")))


def parse_gold(value: Any, num_responses: int) -> tuple[int, ...] | None:
    """The known ranks, counted without gaps from 1; None where there are none.

    Raises:
        FieldError: it is neither ranks for all responses nor, of a pair, first, second or tie.
    """
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        if set(value) != {"ranks"}:
            raise FieldError("gold", f"an object with {', '.join(map(str, value)) or 'nothing'}", GOLD_FIX)
        value = value["ranks"]
    ranks: Sequence[Any]
    if isinstance(value, list | tuple):
        ranks = [_whole(rank) for rank in value]
    else:
        text = str(_whole(value)).strip().casefold()
        if num_responses == 2 and text in PAIR_ANSWERS:
            return PAIR_ANSWERS[text]
        if not RANKS.fullmatch(text):
            raise FieldError("gold", _shown(value), GOLD_FIX)
        ranks = [int(rank) for rank in text.split(";")]
    for rank in ranks:
        if type(rank) is not int or rank < 1:
            raise FieldError("gold", f"rank {_shown(rank)}", "count from 1 (best); equal numbers tie")
    if len(ranks) != num_responses:
        plural = "" if len(ranks) == 1 else "s"
        raise FieldError(
            "gold", f"{len(ranks)} rank{plural} for {num_responses} responses", "give one rank per response"
        )
    order = sorted(set(ranks))
    return tuple(order.index(rank) + 1 for rank in ranks)


def parse_usefulness(value: Any) -> float | None:
    """A finite number, also as digits; None where there is none.

    Raises:
        FieldError: it is something else.
    """
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not abs(number) < float("inf"):
        raise FieldError("usefulness", _shown(value), "give a finite number, or leave it out")
    return number


def _texts(parsed: Parsed) -> Iterator[tuple[str, str]]:
    comparison = parsed.comparison
    is_long = len(comparison.prompt) > 1
    for index, message in enumerate(comparison.prompt):
        yield f"prompt[{index}].content" if is_long else "prompt", message.content
    for name, response in zip(parsed.names, comparison.responses, strict=True):
        yield name, response.text
        yield f"policy of {name}", response.policy or ""
    yield "source", comparison.source or ""


def _check_same_texts_tie(comparison: Comparison, gold: Sequence[int], names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for index, response in enumerate(comparison.responses):
        first = seen.setdefault(response.text, index)
        if gold[first] != gold[index]:
            found = (
                f"{names[first]} and {names[index]} have the same text and the ranks {gold[first]} and {gold[index]}"
            )
            raise FieldError("gold", found, "give equal texts equal ranks, or leave gold out")


def _whole(value: Any) -> Any:
    """Tables keep whole numbers as 1.0 where some rows have none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
