"""JSON Lines files: read with every problem named by file and line, written in one piece or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Row = TypeVar("Row")

NUM_ERRORS_SHOWN = 10


class DataError(ValueError):
    """Data that cannot be used. Reads "file:line: field 'x': what was found; fix"."""


@dataclass
class ReadReport:
    """What reading gave: the files, the rows that are good and bad, and one message for each bad one."""

    files: list[str]
    num_read: int = 0
    num_bad: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        summary = f"read {self.num_read} rows from {', '.join(self.files)}"
        return "\n".join([f"{summary}, skipped {self.num_bad} bad lines" if self.num_bad else summary, *self.errors])


def read_json_lines(
    paths: Paths, parse: Callable[[dict[str, Any]], Row], *, skip_bad_lines: bool
) -> tuple[list[Row], ReadReport]:
    """All lines of all files, each turned into a row by `parse`; blank lines do not count.

    Args:
        paths: one file or several, UTF-8.
        parse: turns the JSON object of a line into a row, or raises DataError.
        skip_bad_lines: leave bad lines out and name them in the report, instead of raising.

    Raises:
        DataError: a file is missing or empty, no line is good, or a line is bad and `skip_bad_lines` is
            False; then all lines are read first, and the message counts the bad ones and shows ten.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not files:
        raise DataError("no data file was given; name at least one JSON Lines file")
    report = ReadReport(files=[os.fspath(file) for file in files])
    rows: list[Row] = []
    for file in report.files:
        for number, line in _numbered_lines(file):
            try:
                rows.append(parse(_parse_object(line)))
            except DataError as error:
                report.errors.append(f"{file}:{number}: {error}")
    report.num_read, report.num_bad = len(rows), len(report.errors)
    if report.errors and (not rows or not skip_bad_lines):
        raise DataError(_summary(report))
    return rows, report


def write_json_lines(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object per line and returns their number; equal rows give equal bytes.

    A reader sees the old file or the new one, never a part: the rows go to a file beside it that then takes
    its name. When `rows` raises, the old file stays as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    num_written = 0
    try:
        with partial.open("wb") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                num_written += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return num_written


def _numbered_lines(file: str) -> Iterator[tuple[int, bytes]]:
    is_empty = True
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if content.strip():
                    is_empty = False
                    yield number, content
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); name a JSON Lines file that exists") from None
    if is_empty:
        raise DataError(f"{file}: the file holds no rows; write one JSON object per line")


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}; write one JSON object per line") from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON that cannot be read ({error}); simplify the row") from None
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__} where an object belongs; write one JSON object per line")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What Python's reader gives, but that of two values under one name it drops none."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"field {twice!r}: it stands there more than once; keep one of them")
    return found


def _summary(report: ReadReport) -> str:
    total = report.num_read + report.num_bad
    shown = report.errors[:NUM_ERRORS_SHOWN]
    more = report.num_bad - len(shown)
    lines = [f"{report.num_bad} of {total} lines cannot be used:", *(f"  {error}" for error in shown)]
    if more:
        lines.append(f"  ... and {more} more")
    return "\n".join(lines)
