"""Files of rows: JSON Lines, Parquet and CSV; the same rows give the same bytes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from annotation.exporting.options import Options

SUFFIXES = {"jsonl": ".jsonl", "parquet": ".parquet", "datasets": ".parquet", "csv": ".csv"}
ROWS_AT_ONCE = 2000  # a row group of a Parquet file


class RowFile(Protocol):
    """A file that takes rows one by one."""

    def write(self, row: dict[str, Any]) -> None: ...


@contextmanager
def row_file(path: Path, options: Options, *, columns: Sequence[str], with_margin: bool) -> Iterator[RowFile]:
    """Open a new file for rows; it is on the disk when the block ends.

    Args:
        path: of the file, in a folder that is there.
        options: name its container and the form of the rows.
        columns: of a table.
        with_margin: pairs have a margin.
    """
    if options.container == "jsonl":
        with path.open("xb") as binary:
            yield _Lines(binary)
            _to_disk(binary)
    elif options.container == "csv":
        # the mark at the beginning tells spreadsheets that this is UTF-8
        with path.open("x", encoding="utf-8-sig", newline="") as text:
            yield _Sheet(text, columns)
            _to_disk(text)
    else:
        with path.open("xb") as binary:
            table = _Table(binary, schema(options, with_margin=with_margin))
            yield table
            table.close()
            _to_disk(binary)


def schema(options: Options, *, with_margin: bool) -> pa.Schema:
    """Columns of a form in Parquet, with types that do not depend on what is in them."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    text = pa.string() if options.plain else pa.list_(message)
    ids = [("prompt_id", pa.string()), ("comparison_id", pa.string())]
    if options.form == "comparisons":
        # sampling settings differ from response to response and have no common type
        response = pa.struct([("text", pa.string()), ("policy", pa.string()), ("finish_reason", pa.string())])
        names = [("schema_version", pa.int64()), ("id", pa.string()), ("prompt", pa.list_(message))]
        judged = [("responses", pa.list_(response)), ("ranks", pa.list_(pa.int64())), ("strength", pa.float64())]
        return pa.schema([*names, *judged, ("annotators", pa.list_(pa.string())), ("source", pa.string())])
    if options.form == "kto":
        answer = [("prompt", text), ("completion", text), ("label", pa.bool_())]
        return pa.schema([*answer, *ids, ("model", pa.string())])
    if options.form == "sft":
        return pa.schema([("prompt", text), ("completion", text), *ids, ("source", pa.string())])
    pair = [("prompt", text), ("chosen", text), ("rejected", text), *ids]
    models = [("chosen_model", pa.string()), ("rejected_model", pa.string())]
    margin = [("margin", pa.float64())] if with_margin else []
    votes = [("vote_share", pa.float64()), ("num_votes", pa.int64())]
    probability = [("probability", pa.float64())] if options.aggregation == "dawid_skene" else []
    origin = [("annotator", pa.string()), ("source", pa.string())]
    return pa.schema([*pair, *models, *margin, *votes, *probability, *origin])


def write_text(path: Path, text: str) -> None:
    """Write a new text file and bring it to the disk."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        _to_disk(file)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Lines:
    def __init__(self, file: IO[bytes]):
        self.file = file

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


class _Sheet:
    def __init__(self, file: IO[str], columns: Sequence[str]):
        # all quoted: where a semicolon parts cells, none in a text begins a new one
        self.writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        self.writer.writeheader()

    def write(self, row: dict[str, Any]) -> None:
        self.writer.writerow(row)


class _Table:
    def __init__(self, file: IO[bytes], columns: pa.Schema):
        import pyarrow.parquet

        self.columns = columns
        self.writer = pyarrow.parquet.ParquetWriter(file, columns, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.columns))
            self.rows = []


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
