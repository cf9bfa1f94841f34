"""What is stored: messages, responses, comparisons and demonstrations, valid from the moment they exist.

Every problem is a `FieldError` that names the field by its path in the row ("responses[1].text").
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

from rlhf.data.json_lines import DataError

SCHEMA_VERSION = 1
ROLES = ("system", "user", "assistant")
FINISH_REASONS = ("stop", "length")

Built = TypeVar("Built")


class FieldError(DataError):
    """One field of a record that cannot be used: its path, what was found, and the fix."""

    def __init__(self, path: str, found: str, fix: str):
        super().__init__(path, found, fix)
        self.path, self.found, self.fix = path, found, fix

    def __str__(self) -> str:
        return f"field '{self.path}': {self.found}; {self.fix}" if self.path else f"{self.found}; {self.fix}"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `role` is one of `ROLES`."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise FieldError("role", _describe(self.role), f"use one of {', '.join(ROLES)}")
        _check_text("content", self.content)

    def to_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}

    @classmethod
    def from_dict(cls, row: Any) -> Message:
        """Keys other than `role` and `content` are left out: datasets carry ids, names and weights there."""
        _check_object(row, "a message is an object with role and content")
        return cls(role=_required(row, "role"), content=_required(row, "content"))


@dataclass(frozen=True)
class Response:
    """One answer and where it came from.

    Attributes:
        text: the answer. Blank text may exist (a policy can stop at once) but is neither written nor read.
        policy: the model that gave it.
        sampling: the settings it was sampled with (temperature, top_p, ...), as JSON values.
        seed: the seed it was sampled with.
        finish_reason: "stop" when the policy ended it, "length" when it was cut off, None when not known.
    """

    text: str
    policy: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int | None = None
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        _check_text("text", self.text)
        if self.policy is not None:
            _check_text("policy", self.policy)
        _check_sampling(self.sampling)
        if self.seed is not None and type(self.seed) is not int:
            raise FieldError("seed", _describe(self.seed), "give a whole number or leave it out")
        if self.finish_reason is not None and self.finish_reason not in FINISH_REASONS:
            raise FieldError("finish_reason", _describe(self.finish_reason), "use stop or length, or leave it out")

    def to_dict(self) -> dict[str, Any]:
        # Sorted, so that equal responses are written as equal bytes.
        sampling = json.loads(json.dumps(dict(self.sampling), sort_keys=True))
        optional = {
            "policy": self.policy,
            "sampling": sampling or None,
            "seed": self.seed,
            "finish_reason": self.finish_reason,
        }
        return {"text": self.text, **_present(optional)}

    @classmethod
    def from_dict(cls, row: Any) -> Response:
        _check_object(row, "a response is an object with text")
        _check_known(row, {item.name for item in fields(cls)})
        text = _required(row, "text")
        check_not_blank("text", text)
        return cls(**{"text": text, **_present(row)})


@dataclass(frozen=True)
class Comparison:
    """One prompt with K responses and a ranking of them. Lists are turned into tuples.

    Attributes:
        prompt: the conversation so far; the last message is the user's.
        responses: the K answers; equal texts are allowed.
        ranks: one per response, 1 = best, equal numbers tie; None = not judged.
        strength: how much better the preferred response of a pair is (TRL calls it the margin), >= 0.
        weight: how much the comparison counts in a loss, >= 0.
        annotators: who judged it.
        source: where it came from.

    Raises:
        FieldError: a field has the wrong type or value, or `ranks` and `responses` differ in number.
    """

    prompt: tuple[Message, ...]
    responses: tuple[Response, ...] = ()
    ranks: tuple[int, ...] | None = None
    strength: float | None = None
    weight: float = 1.0
    annotators: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        _set(self, "prompt", _checked_prompt(self.prompt))
        _set(self, "responses", _tuple_of(Response, "responses", self.responses))
        _set(self, "annotators", _tuple_of(str, "annotators", self.annotators))
        for index, annotator in enumerate(self.annotators):
            check_not_blank(f"annotators[{index}]", annotator)
        if self.ranks is not None:
            _set(self, "ranks", _checked_ranks(self.ranks, len(self.responses)))
        if self.strength is not None:
            check_amount("strength", self.strength)
        check_amount("weight", self.weight)
        if self.source is not None:
            _check_text("source", self.source)

    @cached_property
    def id(self) -> str:
        """32 hexadecimal digits from prompt and response texts: a new judgement does not change it."""
        return _content_hash(self.prompt, [response.text for response in self.responses])

    @cached_property
    def prompt_id(self) -> str:
        """32 hexadecimal digits from the prompt alone, equal for all comparisons and demonstrations of it."""
        return _content_hash(self.prompt)

    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs (chosen, rejected) for every two responses of which one is ranked strictly better."""
        ranks = self.ranks or ()
        indices = range(len(ranks))
        return [(chosen, rejected) for chosen in indices for rejected in indices if ranks[chosen] < ranks[rejected]]

    def to_dict(self) -> dict[str, Any]:
        """The native row; fields that hold nothing are left out."""
        optional = {
            "ranks": None if self.ranks is None else list(self.ranks),
            "strength": self.strength,
            "weight": None if self.weight == 1.0 else self.weight,
            "annotators": list(self.annotators) or None,
            "source": self.source,
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "prompt": [message.to_dict() for message in self.prompt],
            "responses": [response.to_dict() for response in self.responses],
            **_present(optional),
        }

    @classmethod
    def from_dict(cls, row: Any) -> Comparison:
        """The comparison of a native row. `schema_version` and `id` may be left out of rows written by hand.

        Raises:
            FieldError: as the class; also for an unknown field, another schema, an id that does not fit.
        """
        _check_object(row, "a comparison is an object with prompt and responses")
        names = {item.name for item in fields(cls)}
        _check_known(row, names | {"schema_version", "id"})
        version = row.get("schema_version", SCHEMA_VERSION)
        if type(version) is not int or version != SCHEMA_VERSION:
            fix = f"use {SCHEMA_VERSION}, or the version of this package that wrote the row"
            raise FieldError("schema_version", _describe(version), fix)
        values = _present({name: row.get(name) for name in names})
        values["prompt"] = parse_list("prompt", _required(row, "prompt"), Message.from_dict)
        values["responses"] = parse_list("responses", row.get("responses", []), Response.from_dict)
        comparison = cls(**values)
        if row.get("id", comparison.id) != comparison.id:
            fix = "the texts were changed after it was set: remove the id, or restore the texts"
            raise FieldError("id", f"{_describe(row['id'])} where the texts give {comparison.id!r}", fix)
        return comparison


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the answer to imitate; the last message of the prompt is the user's."""

    prompt: tuple[Message, ...]
    response: str
    source: str | None = None

    def __post_init__(self) -> None:
        _set(self, "prompt", _checked_prompt(self.prompt))
        check_not_blank("response", self.response)

    @cached_property
    def prompt_id(self) -> str:
        """As `Comparison.prompt_id`."""
        return _content_hash(self.prompt)


def parse_list(path: str, value: Any, parse: Callable[[Any], Built]) -> tuple[Built, ...]:
    """Each element of a JSON list through `parse`; its errors are placed at `path[index]`."""
    if not isinstance(value, list | tuple):
        raise FieldError(path, _describe(value), "give a list of objects")
    built = []
    for index, element in enumerate(value):
        try:
            built.append(parse(element))
        except FieldError as error:
            inner = f"{path}[{index}].{error.path}" if error.path else f"{path}[{index}]"
            raise FieldError(inner, error.found, error.fix) from None
    return tuple(built)


def check_not_blank(path: str, value: Any) -> None:
    """Raises FieldError unless `value` is text with something in it."""
    _check_text(path, value)
    if not value.strip():
        raise FieldError(path, "no text" if not value else "only white space", "give the text, or remove the row")


def check_amount(path: str, value: Any) -> None:
    """Raises FieldError unless `value` is a finite number >= 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= sys.float_info.max:
        raise FieldError(path, _describe(value), "give a finite number >= 0, or leave it out")


def _checked_prompt(prompt: Any) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = _tuple_of(Message, "prompt", prompt)
    if not messages:
        raise FieldError("prompt", "no messages", "give at least the user's message")
    path = f"prompt[{len(messages) - 1}]"
    if messages[-1].role != "user":
        raise FieldError(f"{path}.role", f"{messages[-1].role!r} in the last message", "end the prompt with the user")
    check_not_blank(f"{path}.content", messages[-1].content)
    return messages


def _checked_ranks(ranks: Any, num_responses: int) -> tuple[int, ...]:
    checked: tuple[int, ...] = _tuple_of(int, "ranks", ranks)
    if len(checked) != num_responses:
        raise FieldError("ranks", f"{len(checked)} ranks for {num_responses} responses", "give one rank per response")
    for index, rank in enumerate(checked):
        if rank < 1:
            raise FieldError(f"ranks[{index}]", _describe(rank), "count from 1 (best)")
    return checked


def _tuple_of(kind: type, path: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise FieldError(path, _describe(values), f"give a list of {kind.__name__}")
    for index, value in enumerate(values):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FieldError(f"{path}[{index}]", _describe(value), f"give {kind.__name__} only")
    return tuple(values)


def _check_text(path: str, value: Any) -> None:
    if not isinstance(value, str):
        raise FieldError(path, _describe(value), "give a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"half a surrogate pair at character {error.start}"
        raise FieldError(path, found, "repair the text: it is no valid Unicode") from None


def _check_sampling(sampling: Any) -> None:
    if not isinstance(sampling, Mapping) or not all(isinstance(key, str) for key in sampling):
        raise FieldError("sampling", _describe(sampling), "give an object with string keys, or leave it out")
    try:
        json.dumps(dict(sampling), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise FieldError("sampling", str(error), "use JSON values only: strings, finite numbers, lists") from None


def _check_object(row: Any, fix: str) -> None:
    if not isinstance(row, Mapping):
        raise FieldError("", _describe(row), fix)


def _check_known(row: Mapping[str, Any], names: set[str]) -> None:
    for name in row:
        if name not in names:
            raise FieldError(str(name), "no such field", f"remove it, or use one of {', '.join(sorted(names))}")


def _required(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise FieldError(name, "missing", "add it, or remove the row")
    return row[name]


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _set(record: Any, name: str, value: Any) -> None:
    object.__setattr__(record, name, value)


def _describe(value: Any) -> str:
    shown = repr(value)
    return "null" if value is None else f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _content_hash(prompt: tuple[Message, ...], response_texts: list[str] | None = None) -> str:
    content: dict[str, Any] = {"prompt": [[message.role, message.content] for message in prompt]}
    if response_texts is not None:
        content["responses"] = response_texts
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
