"""Rows of CSV, Parquet, Arrow and JSON files, one by one, each with where it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from annotation.formats.rows import row_form
from rlhf.data.json_lines import DataError

Row = tuple[str, Any]  # where it is, and the row: names and values, or the DataError that is wrong with it
LONGEST_CELL = 2**31 - 1
ROWS_AT_ONCE = 500
CSV_FIX = 'separate by commas and put texts in double quotes, a quote within as ""'
LINES_FIX = "end lines with a line feed, and put texts that hold a carriage return in double quotes"
UTF8_FIX = "save the file as UTF-8"


def csv_rows(path: str) -> Iterator[Row]:
    """Rows of a CSV file (RFC 4180, UTF-8) whose first line names the columns; empty cells are left out.

    Names count without regard to case, and with spaces as underscores.

    Raises:
        DataError: the file cannot be read as CSV, or its columns are not those of a form.
    """
    # The limit is the process's. It is only ever raised: what is too long is found by name later.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with closing(_decoded_lines(path)) as text:
        reader = csv.reader(text, strict=True)
        names: list[str] | None = None
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                found = str(error).split(" - ")[0]
                fix = LINES_FIX if found.startswith("new-line") else CSV_FIX
                raise DataError(f"{place}: not CSV from here on ({found}); {fix}") from None
            if not cells:
                continue
            if names is None:
                names = _header(place, cells)
            elif len(cells) != len(names):
                found = f"{len(cells)} column{'' if len(cells) == 1 else 's'} where the first line names {len(names)}"
                yield place, DataError(f"{found}; {CSV_FIX}")
            else:
                filled = {name: cell for name, cell in zip(names, cells, strict=True) if name and cell}
                try:
                    yield place, filled | _messages(filled)
                except DataError as error:
                    yield place, error


def parquet_rows(path: str) -> Iterator[Row]:
    """Rows of a Parquet file; what is null is left out.

    Raises:
        DataError: the file cannot be read as Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _batch_rows(path, file.iter_batches(batch_size=ROWS_AT_ONCE))
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({_first_line(error)}); write or copy it again") from None


def arrow_rows(path: str) -> Iterator[Row]:
    """Rows of an Arrow stream, as `datasets` saves them; what is null is left out.

    Raises:
        DataError: the file cannot be read as an Arrow stream.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(path) as source, pa.ipc.open_stream(source) as reader:
            yield from _batch_rows(path, reader)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as Arrow ({_first_line(error)}); save or copy it again") from None


def json_rows(path: str) -> Iterator[Row]:
    """Objects of a JSON file that is one list.

    Raises:
        DataError: the file cannot be read as a list of JSON values.
    """
    text = _decoded(path)
    decoder = json.JSONDecoder()
    position = _after_space(text, 0) + 1  # behind the bracket
    line, counted = 1, 0
    number = 0
    while True:
        position = _after_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if number == 0 and text[position : position + 1] == "]":
            break
        number += 1
        place = f"{path}: record {number} (line {line})"
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            found = f"not JSON: {error.msg} at column {error.colno}"
            raise DataError(f"{path}:{error.lineno}: {found}; write a list of objects") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: JSON that cannot be read ({error}); simplify the record") from None
        if isinstance(row, dict):
            yield place, row
        else:
            yield place, DataError(f"a JSON {type(row).__name__} where an object belongs; write a list of objects")
        position = _after_space(text, position)
        separator = text[position : position + 1]
        position += 1
        if separator == "]":
            break
        if separator != ",":
            line += text.count("\n", counted, position)
            found = repr(separator) if separator else "the end of the file"
            raise DataError(
                f"{path}:{line}: {found} after record {number} where , or ] belongs; write a list of objects"
            )
    if _after_space(text, position + (number == 0)) != len(text):
        raise DataError(f"{path}: text after the list; write one list of objects, or one object per line")


def _batch_rows(path: str, batches: Iterable[Any]) -> Iterator[Row]:
    """Rows of record batches, without columns of vectors."""
    number = 0
    for batch in batches:
        batch.validate(full=True)
        names = batch.schema.names
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DataError(f"{path}: columns of the same name: {', '.join(twice)}; rename them")
        columns = [place for place, field in enumerate(batch.schema) if not _is_vector(field.type)]
        for row in batch.select(columns).to_pylist():
            number += 1
            yield f"{path}: row {number}", _without_nulls(row)


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _without_nulls(value: Any) -> Any:
    """Tables hold null where a row has no such field, and pandas writes NaN for it."""
    if isinstance(value, dict):
        kept = {name: _without_nulls(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner is not None and inner == inner}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _header(place: str, cells: Sequence[str]) -> list[str]:
    names = [cell.strip().casefold().replace(" ", "_") for cell in cells]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise DataError(f"{place}: one column, {names[0]!r}; separate columns by commas")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{place}: columns of the same name: {', '.join(twice)}; rename them")
    try:
        row_form(dict.fromkeys(names, "text"))
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return names


def _messages(cells: dict[str, str]) -> dict[str, Any]:
    """The cells of a prompt or a pair that hold a list of messages as JSON."""
    found = {}
    for name in ("prompt", "chosen", "rejected"):
        start = "".join(cells.get(name, "")[:40].split())
        if not start.startswith(('[{"role":', '[{"content":', "[{'role':", "[{'content':")):
            continue
        try:
            found[name] = json.loads(cells[name])
        except (ValueError, RecursionError):
            fix = "write them with json.dumps, or use JSON Lines or Parquet"
            raise DataError(f"field '{name}': messages that are no JSON; {fix}") from None
    return found


def _decoded_lines(path: str) -> Generator[str, None, None]:
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            offset += len(line)
            try:
                yield content.decode("utf-8")
            except UnicodeDecodeError as error:
                place = offset - len(content) + error.start
                raise DataError(f"{path}:{number}: not UTF-8 at byte {place} of the file; {UTF8_FIX}") from None


def _decoded(path: str) -> str:
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the codec does not count the three bytes of the mark that it takes off
        place = error.start + 3 * content.startswith(b"\xef\xbb\xbf")
        line = content.count(b"\n", 0, place) + 1
        raise DataError(f"{path}:{line}: not UTF-8 at byte {place} of the file; {UTF8_FIX}") from None


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
