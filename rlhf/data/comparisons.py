"""Comparisons, prompts and demonstrations in JSON Lines files: native rows and the rows TRL reads.

A native row is `Comparison.to_dict()`. A preference row is TRL's: `chosen` and `rejected` as strings or as
lists of messages, with their `prompt` or, for lists, with the prompt as their common beginning; `margin` is
the strength. Of its other columns `source`, `annotator`, `chosen_model` and `rejected_model` are kept where
they hold text. Several files are read as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf.data.json_lines import DataError, Paths, ReadReport, read_json_lines, write_json_lines
from rlhf.data.records import (
    SCHEMA_VERSION,
    Comparison,
    Demonstration,
    FieldError,
    Message,
    Response,
    check_amount,
    check_not_blank,
    parse_list,
)

__all__ = [
    "SCHEMA_VERSION",
    "Comparison",
    "DataError",
    "Demonstration",
    "Message",
    "ReadReport",
    "Response",
    "read_comparisons",
    "read_demonstrations",
    "read_prompts",
    "write_comparisons",
    "write_preference_rows",
]


def read_comparisons(paths: Paths, *, skip_bad_lines: bool = False) -> tuple[list[Comparison], ReadReport]:
    """Comparisons from native and preference rows, which may be mixed.

    Raises:
        DataError: a file is missing or empty, or a line is bad (all bad lines are counted, ten are shown);
            with `skip_bad_lines` bad lines are left out and named in the report.
    """
    return read_json_lines(paths, parse_comparison, skip_bad_lines=skip_bad_lines)


def read_prompts(paths: Paths, *, skip_bad_lines: bool = False) -> tuple[list[Comparison], ReadReport]:
    """Comparisons without responses, from rows with a `prompt` (a string or messages) and any other columns.

    Raises:
        DataError: as `read_comparisons`.
    """
    return read_json_lines(paths, _parse_prompt_row, skip_bad_lines=skip_bad_lines)


def read_demonstrations(paths: Paths, *, skip_bad_lines: bool = False) -> tuple[list[Demonstration], ReadReport]:
    """Demonstrations from rows with `messages` that end with the assistant, or `prompt` and `completion`.

    Only the last assistant message is the response; earlier ones belong to the prompt.

    Raises:
        DataError: as `read_comparisons`.
    """
    return read_json_lines(paths, _parse_demonstration, skip_bad_lines=skip_bad_lines)


def write_comparisons(path: str | os.PathLike[str], comparisons: Iterable[Comparison]) -> int:
    """Writes native rows, all or none, and returns their number.

    Raises:
        DataError: a response has no text: it could not be read back.
    """
    return write_json_lines(path, (_native_row(index, item) for index, item in enumerate(comparisons)))


def write_preference_rows(path: str | os.PathLike[str], comparisons: Iterable[Comparison]) -> int:
    """Writes TRL preference rows, all or none: one for each strictly ordered pair. Returns their number.

    Ties, comparisons that are not judged, weights and annotators have no place in these rows. Where any comparison has
    a strength, those without one get the margin 0: TRL takes a column that all rows have, or none.
    """
    items = list(comparisons)
    margin = 0.0 if any(item.strength is not None and item.pairs() for item in items) else None
    rows = (row for index, item in enumerate(items) for row in _preference_rows(index, item, margin))
    return write_json_lines(path, rows)


def _native_row(index: int, comparison: Comparison) -> dict[str, Any]:
    for number, response in enumerate(comparison.responses):
        check_not_blank(f"comparisons[{index}].responses[{number}].text", response.text)
    return comparison.to_dict()


def _preference_rows(index: int, comparison: Comparison, no_strength: float | None) -> Iterator[dict[str, Any]]:
    row = _native_row(index, comparison)
    strength = no_strength if comparison.strength is None else comparison.strength
    margin = {} if strength is None else {"margin": strength}
    for chosen, rejected in comparison.pairs():
        answers = {
            name: [Message("assistant", comparison.responses[number].text).to_dict()]
            for name, number in (("chosen", chosen), ("rejected", rejected))
        }
        yield {"prompt": row["prompt"], **answers, **margin}


def _is_native(row: Mapping[str, Any]) -> bool:
    return "responses" in row or "schema_version" in row


def parse_comparison(row: dict[str, Any]) -> Comparison:
    """A row of either form that `read_comparisons` takes.

    Raises:
        DataError: the row cannot be used, with the field and the fix.
    """
    return _parse_native(row) if _is_native(row) else _parse_preference_row(row)


def _parse_native(row: dict[str, Any]) -> Comparison:
    """A native row; one written by hand may have a text as its prompt."""
    if isinstance(row.get("prompt"), str):
        row = row | {"prompt": [{"role": "user", "content": row["prompt"]}]}
    return Comparison.from_dict(row)


def _parse_preference_row(row: dict[str, Any]) -> Comparison:
    for name in ("chosen", "rejected"):
        if name not in row:
            raise FieldError(name, "missing", "a row needs prompt, chosen and rejected, or prompt and responses")
    prompt = _parse_prompt(row["prompt"]) if "prompt" in row else _shared_beginning(row)
    responses = tuple(
        Response(text=_parse_answer(name, row[name], prompt), policy=_text_or_none(row, f"{name}_model"))
        for name in ("chosen", "rejected")
    )
    if row.get("margin") is not None:
        check_amount("margin", row["margin"])
    annotator = _text_or_none(row, "annotator")
    return Comparison(
        prompt=prompt,
        responses=responses,
        ranks=(1, 2),
        strength=row.get("margin"),
        annotators=(annotator,) if annotator else (),
        source=_text_or_none(row, "source"),
    )


def _parse_prompt_row(row: dict[str, Any]) -> Comparison:
    if _is_native(row):
        comparison = _parse_native(row)
        return Comparison(prompt=comparison.prompt, source=comparison.source)
    if "prompt" not in row:
        raise FieldError("prompt", "missing", "give each row a prompt: a string or a list of messages")
    return Comparison(prompt=_parse_prompt(row["prompt"]), source=_text_or_none(row, "source"))


def _parse_demonstration(row: dict[str, Any]) -> Demonstration:
    source = _text_or_none(row, "source")
    if "messages" in row:
        messages = parse_list("messages", row["messages"], Message.from_dict)
        if len(messages) < 2 or messages[-1].role != "assistant":
            roles = ", ".join(message.role for message in messages) or "no messages"
            raise FieldError("messages", roles, "give a prompt and end with the assistant's answer")
        check_not_blank(f"messages[{len(messages) - 1}].content", messages[-1].content)
        return Demonstration(messages[:-1], messages[-1].content, source)
    for name in ("prompt", "completion"):
        if name not in row:
            raise FieldError(name, "missing", "a row needs messages, or prompt and completion")
    prompt = _parse_prompt(row["prompt"])
    return Demonstration(prompt, _parse_answer("completion", row["completion"], prompt), source)


def _parse_prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, list):
        return parse_list("prompt", value, Message.from_dict)
    check_not_blank("prompt", value)
    return (Message("user", value),)


def _parse_answer(name: str, value: Any, prompt: tuple[Message, ...]) -> str:
    """The text of `chosen`, `rejected` or `completion`: a string, or messages that may repeat the prompt."""
    if not isinstance(value, list):
        check_not_blank(name, value)
        text: str = value
        return text
    messages = parse_list(name, value, Message.from_dict)
    start = len(prompt) if messages[: len(prompt)] == prompt else 0
    if len(messages) != start + 1 or messages[-1].role != "assistant":
        roles = ", ".join(message.role for message in messages[start:]) or "no messages"
        raise FieldError(name, f"{roles} after the prompt", "leave one assistant message, the answer")
    check_not_blank(f"{name}[{start}].content", messages[-1].content)
    return messages[-1].content


def _shared_beginning(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt of a row without one: what chosen and rejected hold before their last message, if equal."""
    for name in ("chosen", "rejected"):
        if not isinstance(row[name], list):
            fix = "add it: only lists of messages can hold the prompt as their beginning"
            raise FieldError("prompt", f"missing, and {name} is no list of messages", fix)
    chosen = parse_list("chosen", row["chosen"], Message.from_dict)
    rejected = parse_list("rejected", row["rejected"], Message.from_dict)
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        fix = "add it, or begin chosen and rejected with the same messages up to the last"
        raise FieldError("prompt", "missing, and chosen and rejected do not share one", fix)
    return chosen[:-1]


def _text_or_none(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value.strip() else None
