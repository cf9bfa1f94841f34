"""Items of files and folders in any of the forms that `docs/annotation_formats.md` shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from annotation.formats.folders import folder_files
from annotation.formats.items import Item
from annotation.formats.rows import FORMS, read_row
from annotation.formats.tables import Row, arrow_rows, csv_rows, json_rows, parquet_rows
from rlhf.data.json_lines import NUM_ERRORS_SHOWN, DataError, Paths, read_json_lines

# What files begin with that hold no rows, or hold them in another form.
OTHER_FILES = {
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"PK\x03\x04": "a zip or Excel file; unpack it, or save the table as CSV (UTF-8)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with unzstd",
    b"ARROW1": "an Arrow file; name the folder that datasets saved, or write Parquet",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}


def read_items(paths: Paths, *, form: str | None = None, split: str | None = None) -> list[Item]:
    """All items of all files and folders, or none.

    Args:
        paths: JSON Lines, JSON, CSV and Parquet files, and folders of them or saved by `datasets`; on this machine.
        form: what the rows are, one of `FORMS`; None tells it from the fields of each row.
        split: which split of the folders.

    Raises:
        DataError: something cannot be read; every bad row of a file is counted, and ten are shown with place, field
            and fix. Also when the same texts come with two gold answers.
    """
    if form is not None and form not in FORMS:
        raise DataError(f"form is {form!r}; use one of {', '.join(FORMS)}, or leave it out")
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not named:
        raise DataError("nothing to import was given; name at least one file or folder")
    if split is not None and not any(os.path.isdir(path) for path in named):
        raise DataError(f"split is {split!r}, and no folder was named; leave it out")
    golds: dict[str, tuple[int, ...]] = {}

    def parse(row: Mapping[str, Any]) -> Item:
        item = read_row(row, form)
        if item.gold is not None and golds.setdefault(item.comparison.id, item.gold) != item.gold:
            known = ";".join(map(str, golds[item.comparison.id]))
            raise DataError(f"field 'gold': the same texts have {known} in an earlier row; keep one of the two")
        return item

    return [item for path in named for file in _files(path, split) for item in _file_items(file, parse)]


def _files(path: str | os.PathLike[str], split: str | None) -> list[str]:
    name = os.fspath(path)
    if "\0" not in name and os.path.isdir(name):
        return folder_files(name, split)
    if "\0" in name or not os.path.isfile(name):
        found = "no such file or folder" if "\0" in name or not os.path.exists(name) else "neither file nor folder"
        raise DataError(f"{name}: {found}; name one on this machine")
    return [name]


def _file_items(file: str, parse: Callable[[Mapping[str, Any]], Item]) -> list[Item]:
    try:
        with open(file, "rb") as content:
            start = content.read(4096)
        rows = _rows(file, start)
        if rows is None:
            return read_json_lines(file, parse, skip_bad_lines=False)[0]
        return _all_items(file, rows, parse)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); name a file that can") from None


def _rows(file: str, start: bytes) -> Iterator[Row] | None:
    """The rows of a file, by what it begins with and, where that leaves it open, its name; None of JSON Lines."""
    ending = Path(file).suffix.lower()
    if start.startswith(b"PAR1"):
        return parquet_rows(file)
    for mark, found in OTHER_FILES.items():
        if start.startswith(mark):
            raise DataError(f"{file}: {found}")
    if ending == ".arrow":
        return arrow_rows(file)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and len(start) < 4096:
        raise DataError(f"{file}: the file holds no rows; write one JSON object per line, or CSV with column names")
    if ending == ".parquet":
        raise DataError(f"{file}: not Parquet: it does not begin with PAR1; write or copy it again")
    if ending == ".csv":
        return csv_rows(file)
    if text.startswith(b"["):
        return json_rows(file)
    if text.startswith(b"{") or ending in (".json", ".jsonl", ".ndjson"):
        return None
    return csv_rows(file)


def _all_items(file: str, rows: Iterator[Row], parse: Callable[[Mapping[str, Any]], Item]) -> list[Item]:
    items, errors, num_bad = [], [], 0
    for place, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            items.append(parse(row))
        except DataError as error:
            num_bad += 1
            if num_bad <= NUM_ERRORS_SHOWN:
                errors.append(f"  {place}: {error}")
    if errors:
        more = [f"  ... and {num_bad - NUM_ERRORS_SHOWN} more"] if num_bad > NUM_ERRORS_SHOWN else []
        raise DataError("\n".join([f"{num_bad} of {len(items) + num_bad} rows cannot be used:", *errors, *more]))
    if not items:
        raise DataError(f"{file}: the file holds no rows; leave it out")
    return items
