"""Rows of all forms as items: which form a row has is told from its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from annotation.formats.argilla import agreed_ranking, is_record, record_settings
from annotation.formats.items import SAMPLE_FIRST, Item, Parsed, checked_item
from annotation.formats.transcripts import is_transcript, parse_transcripts
from rlhf.data.comparisons import Comparison, Message, Response, parse_comparison
from rlhf.data.json_lines import DataError
from rlhf.data.records import FieldError, check_not_blank, parse_list

FORMS = ("comparisons", "trl", "columns", "hh", "argilla", "ultrafeedback")
PROMPTS = ("prompt", "instruction", "question", "input")
NUMBERED = re.compile(
    r"(response|reply|completion|generation|answer|output)([ _-]?[0-9]{1,3}|[ _-][a-z])", re.IGNORECASE | re.ASCII
)
LISTS = ("completions", "generations", "responses")
LISTED_TEXTS = ("response", "text", "content", "completion", "generation")
LISTED_POLICIES = ("model", "policy")


def read_row(row: Mapping[str, Any], form: str | None = None) -> Item:
    """The item of a row.

    Args:
        row: names and JSON values.
        form: one of `FORMS`; None tells it from the fields.

    Raises:
        DataError: the row has no form that is known, or a field cannot be used.
    """
    parsers = {
        "comparisons": _parse_native,
        "trl": _parse_native,
        "columns": _parse_columns,
        "hh": _parse_hh,
        "argilla": _parse_argilla,
        "ultrafeedback": _parse_lists,
    }
    try:
        return checked_item(parsers[form or row_form(row)](row))
    except RecursionError:
        raise DataError("nested too deeply to be read; simplify the row") from None


def row_form(row: Mapping[str, Any]) -> str:
    """Which of `FORMS` a row has.

    Raises:
        FieldError: none; or there is a prompt and nothing to be judged.
    """
    if "fields" in row and is_record(row):
        return "argilla"
    if "completions" in row or "generations" in row or _is_list_of_answers(row):
        return "ultrafeedback"
    if row.get("responses") or "schema_version" in row:
        return "comparisons"
    if "chosen" in row or "rejected" in row:
        return "hh" if is_transcript(row) else "trl"
    if _numbered(row):
        return "argilla" if is_record(row) else "columns"
    if any(name in row for name in PROMPTS):
        raise FieldError("responses", "missing", SAMPLE_FIRST)
    found = ", ".join(repr(name) for name in list(row)[:8]) or "no fields"
    fix = "name them prompt and response_1, response_2, ..., or prompt, chosen and rejected"
    raise FieldError("", f"a row with {found}{', ...' if len(row) > 8 else ''} and no responses", fix)


def _parse_native(row: Mapping[str, Any]) -> Parsed:
    """A row as `read_comparisons` takes it, beside gold and usefulness."""
    plain = {name: value for name, value in row.items() if name not in ("gold", "usefulness")}
    if "responses" in row or "schema_version" in row:
        comparison = parse_comparison(plain)
        return Parsed(comparison, [f"responses[{place}].text" for place in range(len(comparison.responses))], row)
    for name, policy in zip(("chosen_model", "rejected_model"), _policies(row, ("1", "2")), strict=True):
        plain.setdefault(name, policy)
    if isinstance(plain.get("margin"), str):
        plain["margin"] = _number_or_text(plain["margin"])
    return Parsed(parse_comparison(plain), ("chosen", "rejected"), row)


def _parse_hh(row: Mapping[str, Any]) -> Parsed:
    prompt, *texts = parse_transcripts(row)
    policies = _policies(row, ("chosen", "rejected"))
    responses = list(zip(("chosen", "rejected"), texts, policies, strict=True))
    return _parsed(prompt, responses, row, ranks=(1, 2))


def _parse_columns(row: Mapping[str, Any]) -> Parsed:
    if "chosen" in row or "rejected" in row:
        return _parse_native(row)
    columns = _numbered(row)
    policies = _policies(row, [suffix for _, suffix in columns])
    responses = [(name, row[name], policy) for (name, _), policy in zip(columns, policies, strict=True)]
    return _parsed(_prompt(row), responses, row)


def _parse_lists(row: Mapping[str, Any]) -> Parsed:
    """A prompt with its responses in a list: texts, or objects with the text and its model."""
    name = next((name for name in LISTS if name in row), None)
    if name is None:
        raise FieldError("completions", "missing", "a row needs instruction and completions")
    answers = row[name]
    if not isinstance(answers, list):
        raise FieldError(name, type(answers).__name__, "give a list of responses")
    models = next((row[key] for key in ("generation_models", "policies", "models") if key in row), None)
    if not isinstance(models, list) or len(models) != len(answers):
        models = [None] * len(answers)
    responses = [_listed(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(answers, models, strict=True))]
    return _parsed(_prompt(row), responses, row)


def _parse_argilla(row: Mapping[str, Any]) -> Parsed:
    fields = row.get("fields", row)
    if not isinstance(fields, Mapping):
        fix = "give one record with its fields in an object, as records.to_json(path) writes it"
        raise FieldError("fields", type(fields).__name__, fix)
    columns = _numbered(fields) or [(name, name) for name in ("chosen", "rejected") if name in fields]
    if not columns:
        found = ", ".join(str(name) for name in fields) or "none"
        raise FieldError("fields", f"{found}: no responses among them", "name them response1, response2, ...")
    settings = record_settings(row)
    policies = _policies(settings, [suffix for _, suffix in columns])
    responses = [(name, fields[name], policy) for (name, _), policy in zip(columns, policies, strict=True)]
    prompt = _prompt(fields)
    context = fields.get("context")
    if isinstance(context, str) and context.strip():
        prompt = (*prompt[:-1], *(Message(last.role, f"{last.content}\n\n{context}") for last in prompt[-1:]))
    ranks, users = agreed_ranking(row, [name for name, _ in columns])
    return _parsed(prompt, responses, settings, ranks=ranks, annotators=users)


def _parsed(
    prompt: Sequence[Message],
    responses: Sequence[tuple[str, Any, Any]],
    settings: Mapping[str, Any],
    *,
    ranks: tuple[int, ...] | None = None,
    annotators: Sequence[str] = (),
) -> Parsed:
    """A row of responses as (name, text, policy)."""
    built = []
    for name, text, policy in responses:
        check_not_blank(name, text)
        is_blank = isinstance(policy, str) and not policy.strip()
        try:
            built.append(Response(text, policy=None if is_blank else policy))
        except FieldError as error:
            raise FieldError(f"{error.path} of {name}", error.found, error.fix) from None
    comparison = Comparison(
        prompt=tuple(prompt),
        responses=tuple(built),
        ranks=ranks,
        annotators=tuple(annotators),
        source=_text(settings, "source"),
    )
    return Parsed(comparison, [name for name, _, _ in responses], settings)


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        raise FieldError("prompt", "missing", "add it: a text, or a list of messages")
    if isinstance(row[name], list):
        return parse_list(name, row[name], Message.from_dict)
    check_not_blank(name, row[name])
    return (Message("user", row[name]),)


def _numbered(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Columns response_1, response_2, ... or response_a, ... in order, each with what it is numbered by.

    Raises:
        FieldError: a number is left out or used twice.
    """
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for name in row:
        match = NUMBERED.fullmatch(name) if isinstance(name, str) else None
        if match is None or row[name] is None:
            continue
        suffix = match[2].strip(" _-").lower()
        number = int(suffix) if suffix.isdecimal() else ord(suffix) - ord("a") + 1
        known = found.setdefault(match[1].lower(), {})
        if number in known:
            raise FieldError(name, f"the same number as {known[number][0]}", "give each response one column")
        known[number] = (name, suffix)
    if not found:
        return []
    columns = found.get("response") or next(iter(found.values()))
    first = min(min(columns), 1)
    for number in range(first, first + len(columns)):
        if number not in columns:
            name, suffix = next(iter(columns.values()))
            missing = name[: -len(suffix)] + (str(number) if suffix.isdecimal() else chr(ord("a") + number - 1))
            raise FieldError(missing, "missing", "fill the responses from the first one on")
    return [columns[number] for number in sorted(columns)]


def _policies(row: Mapping[str, Any], suffixes: Sequence[str]) -> Iterator[Any]:
    """What policy_1, policy_2, ... say; a column may also be called policy1 or, by its rank, chosen_model."""
    for suffix in suffixes:
        names = (f"policy_{suffix}", f"policy{suffix}", f"policy-{suffix}", f"{suffix}_model")
        yield next((row[name] for name in names if name in row), None)


def _is_list_of_answers(row: Mapping[str, Any]) -> bool:
    """Whether `responses` are texts or have their text as `response`; native ones have it as `text`."""
    answers = row.get("responses")
    if not isinstance(answers, list) or not answers or "schema_version" in row:
        return False
    return all(isinstance(answer, str) or (isinstance(answer, Mapping) and "response" in answer) for answer in answers)


def _listed(name: str, answer: Any, model: Any) -> tuple[str, Any, Any]:
    if not isinstance(answer, Mapping):
        return name, answer, model
    text = next((key for key in LISTED_TEXTS if key in answer), None)
    if text is None:
        found = ", ".join(str(key) for key in answer) or "nothing"
        raise FieldError(name, f"an object with {found}", "give the text as response")
    return f"{name}.{text}", answer[text], next((answer[key] for key in LISTED_POLICIES if key in answer), model)


def _text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value.strip() else None


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
