"""Config files: a YAML mapping of field names to values, checked against an argument dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

# Fields inherited from transformers.TrainingArguments cannot carry our metadata.
INHERITED_OUTPUT_PATHS = frozenset({"output_dir"})
INHERITED_PATHS = frozenset({"resume_from_checkpoint", "deepspeed", "accelerator_config", "fsdp_config"})

# An environment variable in a path: ${RLHF_REAL_DATA}/sft/train.jsonl
VARIABLE = re.compile(r"\$\{([^{}]*)\}")

# YAML 1.1 reads 1e-5 (no dot, or no sign in the exponent) as a string.
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

SIMPLE_TYPES = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    Path: "a path",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def read_config(path: str | Path, argument_class: type) -> dict[str, Any]:
    """The values of a config file, checked against the fields of `argument_class` and with paths resolved.

    A path in a field with metadata `{"path": True}` is taken from the file's own folder when it starts with
    `./` or `../` or exists there; other values (names of models and data sets) stay as they are. With
    `{"path": True, "output": True}` every path that is not absolute is.

    `${NAME}` in such a field, and in no other, stands for an environment variable; a value that begins with one
    is what the same text is on the command line, not relative to the file.

    Raises ValueError naming file, line, key, the value found and the type expected.
    """
    path = Path(path)
    fields = {field.name: field for field in dataclasses.fields(argument_class) if field.init}
    hints = get_type_hints(argument_class)
    values: dict[str, Any] = {}
    for line, key, value in _read_mapping(path):
        where = f"{path}:{line}"
        if key == "env":
            raise ValueError(f"{where}: a section 'env' is not read; set environment variables in the shell")
        if not isinstance(key, str) or key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}{closest(str(key), fields)}")
        if key in values:
            raise ValueError(f"{where}: key {key!r} is given twice; keep one")
        try:
            checked = convert(value, hints[key])
        except TypeError:
            expected = describe(hints[key])
            hint = _quoting_hint(value, hints[key])
            raise ValueError(f"{where}: {key}: expected {expected}, found {value!r}{hint}") from None
        try:
            values[key] = _resolve_paths(checked, fields[key], path.absolute().parent)
        except LookupError as error:
            raise ValueError(f"{where}: {key}: {error.args[0]}") from None
    return values


def is_path_field(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of an argument class names a file or folder that is read; outputs are none."""
    is_path = bool(field.metadata.get("path")) or field.name in INHERITED_PATHS
    return is_path and not _is_output_field(field)


def closest(name: str, known: Any) -> str:
    """`; did you mean 'x'?` with the name in `known` nearest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, [str(candidate) for candidate in known], n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _read_mapping(path: Path) -> list[tuple[int, Any, Any]]:
    """(line, key, value) for each entry of the file's mapping, in order, duplicates included."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{path}: expected a YAML mapping of field names to values")
        return [
            (
                key.start_mark.line + 1,
                loader.construct_object(key, deep=True),
                loader.construct_object(value, deep=True),
            )
            for key, value in root.value
        ]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the config file is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the config file {path} cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: the config file is not valid YAML: {_one_line(error)}") from None


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def convert(value: Any, hint: Any) -> Any:
    """`value`, as YAML gave it, as the type `hint`; raises TypeError when it is of another type."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_to_one_of(value, get_args(hint))
    if origin is Literal:
        return _member(value, get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member(value, tuple(member.value for member in hint))
    if origin is list and isinstance(value, list | str):
        # one value needs no brackets, as on the command line
        return [convert(item, get_args(hint)[0]) for item in ([value] if isinstance(value, str) else value)]
    if hint is float:
        return _finite_number(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    expected = origin or hint
    if expected not in (bool, int, str, dict, list, type(None)):
        raise TypeError
    # bool is a subclass of int, so isinstance would let `max_steps: true` pass.
    if type(value) is not expected:
        raise TypeError
    return value


def _convert_to_one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    """The first of `hints` that takes `value`; an enumeration beside `str` still limits the strings."""
    if any(isinstance(hint, type) and issubclass(hint, Enum) for hint in hints):
        hints = tuple(hint for hint in hints if hint is not str)
    for hint in hints:
        try:
            return convert(value, hint)
        except TypeError:
            continue
    raise TypeError


def _member(value: Any, allowed: tuple[Any, ...]) -> Any:
    for candidate in allowed:
        if type(value) is type(candidate) and value == candidate:
            return value
    raise TypeError


def _finite_number(value: Any) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def describe(hint: Any) -> str:
    """What `convert` accepts for `hint`, in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        members = get_args(hint)
        if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
            members = tuple(member for member in members if member is not str)
        return " or ".join(describe(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if origin is list:
        return f"a list, each item {describe(get_args(hint)[0])}"
    return SIMPLE_TYPES.get(origin or hint, f"nothing (a {hint} cannot be written in a file)")


def _quoting_hint(value: Any, hint: Any) -> str:
    """Advice when text was meant and YAML read something else."""
    takes_text = any(words in describe(hint) for words in ("a string", "a path", "one of"))
    if not takes_text or isinstance(value, str | list | dict) or value is None:
        return ""
    if isinstance(value, bool):
        return "; YAML reads unquoted yes, no, on and off as true or false: put the word in quotes"
    return "; put it in quotes"


def _resolve_paths(value: Any, field: dataclasses.Field[Any], folder: Path) -> Any:
    """`value` with its relative paths taken from `folder`, when `field` holds paths."""
    is_output = _is_output_field(field)
    if not (is_output or is_path_field(field)):
        return value
    if isinstance(value, list):
        return [_resolve_path(item, folder, is_output) for item in value]
    return _resolve_path(value, folder, is_output)


def _is_output_field(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("output")) or field.name in INHERITED_OUTPUT_PATHS


def _resolve_path(value: Any, folder: Path, is_output: bool) -> Any:
    if not isinstance(value, str | Path) or not str(value):
        return value
    expanded = _expand_variables(str(value))
    if VARIABLE.match(str(value)):
        return type(value)(os.path.normpath(expanded))
    text = os.path.expanduser(expanded)
    resolved = os.path.normpath(folder / text)
    is_relative = str(value).startswith(("./", "../")) or str(value) in (".", "..")
    if is_output or is_relative or os.path.isabs(text) or os.path.exists(resolved):
        return type(value)(resolved)
    return value


def _expand_variables(text: str) -> str:
    """The text with each `${NAME}` replaced; LookupError for a variable that is unset, empty or misnamed."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise LookupError(f"{match[0]} names no environment variable: write ${{NAME}}")
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "not set"
            raise LookupError(f"the environment variable {name} is {state}: it belongs to the path {text!r}")
        return os.environ[name]

    return VARIABLE.sub(value_of, text)
