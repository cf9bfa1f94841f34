"""Records of Argilla: a prompt and numbered responses among the fields, and rankings where people gave some.

Written by `records.to_json` and `records.to_datasets` of Argilla 2, and as the records or the data set of a
`FeedbackDataset` of Argilla 1. Argilla 2 writes a ranking as the names of the responses from the best on, and loses
ties by that; Argilla 1 writes names with ranks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Argilla 1 keeps the answers to a question in a column of its own, and beside it what was suggested.
MARKS = ("external_id", "_server_id", "metadata")
MARKED = (".responses", "-suggestion", "-suggestion-metadata")


def is_record(row: Mapping[str, Any]) -> bool:
    """Whether a row is a record: with its fields in an object, or flat with Argilla's own columns."""
    is_flat = any(name in row for name in MARKS) or any(name.endswith(MARKED) for name in row)
    return isinstance(row.get("fields"), Mapping) or ("fields" in row and "responses" in row) or is_flat


def record_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata say beside the record's own columns; Argilla 1 keeps them as JSON in a text."""
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            metadata = None
    return {**(metadata if isinstance(metadata, Mapping) else {}), **row}


def agreed_ranking(row: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Ranks and annotators, where all that was submitted ranks all responses in one and the same way.

    Otherwise None and nobody: the record is to be judged again.
    """
    places = {_plain(name): place for place, name in enumerate(names)}
    rankings, users = set(), []
    for user, value, status in _answers(row):
        ranks = _ranks(value, places)
        if ranks is not None and status in (None, "submitted"):
            rankings.add(ranks)
            users.append(user)
    if len(rankings) != 1:
        return None, ()
    known = (user for user in users if isinstance(user, str) and user.strip() and user.isprintable())
    return rankings.pop(), tuple(dict.fromkeys(known))


def _answers(row: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """User, value and status of every answer to every question, in the four layouts there are."""
    responses = row.get("responses")
    if isinstance(responses, Mapping):
        for answers in responses.values():
            yield from _of_question(answers)
    for response in responses if isinstance(responses, list) else []:
        values = response.get("values") if isinstance(response, Mapping) else None
        for answer in values.values() if isinstance(values, Mapping) else []:
            if isinstance(answer, Mapping):
                yield response.get("user_id"), answer.get("value"), response.get("status")
    for name, column in row.items():
        if name == "responses" or not isinstance(column, list):
            continue
        if name.endswith(".responses"):
            users, statuses = (_column(row, f"{name}.{kind}", len(column)) for kind in ("users", "status"))
            yield from zip(users, column, statuses, strict=True)
        else:
            yield from _of_question(column)


def _of_question(answers: Any) -> Iterator[tuple[Any, Any, Any]]:
    for answer in answers if isinstance(answers, list) else []:
        if isinstance(answer, Mapping) and "value" in answer:
            yield answer.get("user_id"), answer["value"], answer.get("status")


def _column(row: Mapping[str, Any], name: str, length: int) -> list[Any]:
    column = row.get(name)
    return column if isinstance(column, list) and len(column) == length else [None] * length


def _ranks(value: Any, places: Mapping[str, int]) -> tuple[int, ...] | None:
    """One rank per response, without gaps from 1; None unless the value ranks each response once."""
    if isinstance(value, Mapping) and isinstance(value.get("value"), list) and isinstance(value.get("rank"), list):
        named = list(zip(value["value"], value["rank"], strict=False))
    elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        named = [(name, place) for place, name in enumerate(value)]
    elif isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        named = [(entry.get("value"), entry.get("rank")) for entry in value]
    else:
        return None
    ranked = {
        places[_plain(name)]: rank
        for name, rank in named
        if isinstance(name, str) and _plain(name) in places and type(rank) is int
    }
    if len(ranked) != len(places) or len(named) != len(places):
        return None
    order = sorted(set(ranked.values()))
    return tuple(order.index(ranked[place]) + 1 for place in range(len(places)))


def _plain(name: str) -> str:
    """Questions call response_1 also "Response 1"."""
    return "".join(character for character in name.casefold() if character.isalnum())
