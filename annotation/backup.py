"""Backups: all rows of a store in one file, taken while it is in use, and put into a new store of either database.

The file is gzipped JSON Lines: a header, every row as `[table, {column: value}]`, and a last line with the number of
rows and a hash of all lines before it, without which a file is refused as cut off. So a store also moves from SQLite to
PostgreSQL, or the other way.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation import audit
from annotation.store import VERSION_TABLE, Store, StoreError, check_schema, migrate

FORMAT = "rlhf annotation backup 1"
ROWS_AT_A_TIME = 500


@dataclass(frozen=True)
class Backup:
    """What a file holds: the id of the store, its schema, the number of rows by table."""

    store_id: str
    schema: str
    rows: dict[str, int]

    def __str__(self) -> str:
        judgments = self.rows.get("judgment", 0)
        return f"{sum(self.rows.values())} rows, {judgments} of them judgments (store {self.store_id})"


def backup(store: Store, path: str | Path) -> Backup:
    """Write a store as it is at one moment; those who work with it do not wait.

    Written beside and renamed, so that a file of this name is a whole one.

    Raises:
        FileExistsError: the file is there already.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"file {target} exists; choose another name")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
            with store.snapshot() as connection:
                done = _write(connection, store.id, file.write)
            file.close()
            raw.flush()
            os.fsync(raw.fileno())
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)
    return done


def restore(path: str | Path, url: str) -> Backup:
    """Put a backup into a store that is not there yet; all or nothing. Older schemas are brought up to date.

    Raises:
        StoreError: the file is no backup or not whole, the store is there already, or the chains do not verify.
    """
    file = Path(path)
    header = _check_whole(file)
    with Store.connect(url) as store, store.writing() as connection:
        if sa.inspect(connection).get_table_names():
            raise StoreError(f"store {store.address} is there already; restore into a new one")
        migrate(connection, store.address, header["schema"])
        counts = _load(connection, _rows(file))
        migrate(connection, store.address)
        problems = audit.verify(connection).problems
        if problems:
            raise StoreError(f"backup {path} was changed after it was written: {problems[0]}; nothing was restored")
    return Backup(header["store"], header["schema"], counts)


def _write(connection: sa.Connection, store_id: str, write: Callable[[bytes], Any]) -> Backup:
    """Header, rows in the order in which they can be put in again, and the end."""
    schema = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one()
    digest = hashlib.sha256()
    counts: dict[str, int] = {}

    def line(content: Any) -> None:
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        digest.update(data)
        write(data)

    line({"format": FORMAT, "store": store_id, "schema": schema})
    for table in _tables(connection):
        counts[table.name] = 0
        query = sa.select(table).order_by(*table.primary_key.columns)
        for row in connection.execution_options(yield_per=ROWS_AT_A_TIME).execute(query).mappings():
            line([table.name, dict(row)])
            counts[table.name] += 1
    write(json.dumps({"rows": counts, "sha256": digest.hexdigest()}).encode() + b"\n")
    return Backup(store_id, schema, counts)


def _check_whole(path: Path) -> dict[str, Any]:
    """Read a file to its end before anything of it is used, and give its header.

    Raises:
        StoreError: the file cannot be read, is of another kind, of a later version, cut off or changed.
    """
    digest, first, last = hashlib.sha256(), b"", b""
    try:
        with gzip.open(path, "rb") as file:
            for data in file:
                digest.update(last)
                first, last = first or data, data
        header, end = json.loads(first), json.loads(last)
    except FileNotFoundError:
        raise StoreError(f"file {path} is not there; name a file that rlhf annotate backup wrote") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise StoreError(f"file {path} is no whole backup ({error}); use another one") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"file {path} is no backup of an annotation store; name one")
    if not isinstance(end, dict) or end.get("sha256") != digest.hexdigest():
        raise StoreError(f"file {path} is cut off or was changed; use another one")
    if not all(isinstance(header.get(name), str) for name in ("store", "schema")):
        raise StoreError(f"file {path} does not say of which store and schema it is; use another one")
    check_schema(header["schema"], f"backup {path}")
    return header


def _rows(path: Path) -> Iterator[Any]:
    """What stands between the header and the end."""
    with gzip.open(path, "rb") as file:
        next(file)
        for data, _ in pairwise(file):
            yield json.loads(data)


def _load(connection: sa.Connection, rows: Iterator[Any]) -> dict[str, int]:
    tables = {table.name: table for table in _tables(connection)}
    with _without_triggers(connection):
        for table in reversed(tables.values()):  # what the migrations put there
            connection.execute(sa.delete(table))
        counts = dict.fromkeys(tables, 0)
        for name, group in _grouped(rows):
            if name not in tables:
                raise StoreError(f"backup has rows of {name!r}, which this version does not know: update rlhf-loop")
            connection.execute(sa.insert(tables[name]), group)
            counts[name] += len(group)
    if connection.dialect.name == "postgresql":
        _move_counters(connection, tables.values())
    return counts


def _grouped(lines: Iterator[Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows that follow each other, of one table, a few hundred at a time."""
    name = ""
    rows: list[dict[str, Any]] = []
    for table, row in lines:
        if rows and (table != name or len(rows) == ROWS_AT_A_TIME):
            yield name, rows
            rows = []
        name = table
        rows.append(row)
    if rows:
        yield name, rows


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """The tables as they are there, each after those that it refers to."""
    found = sa.MetaData()
    found.reflect(connection)
    tables = [table for table in found.sorted_tables if table.name != VERSION_TABLE]
    for column in (column for table in tables for column in table.columns):
        if isinstance(column.type, sa.JSON):
            column.type = sa.JSON(none_as_null=True)  # nothing, and not JSON's own null
    return tables


@contextmanager
def _without_triggers(connection: sa.Connection) -> Iterator[None]:
    """Let what a migration wrote make room for what the backup has; if this fails, so does the transaction."""
    if connection.dialect.name == "sqlite":
        query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [(row.name, row.sql) for row in connection.execute(query)]
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, statement in triggers:
            connection.exec_driver_sql(statement)
        return
    guarded = [name for name in ("judgment", "audit") if sa.inspect(connection).has_table(name)]
    for name in guarded:
        connection.execute(sa.text(f"ALTER TABLE {name} DISABLE TRIGGER USER"))
    yield
    for name in guarded:
        connection.execute(sa.text(f"ALTER TABLE {name} ENABLE TRIGGER USER"))


def _move_counters(connection: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Let PostgreSQL count on after the highest number that was put in."""
    for table in tables:
        for column in table.primary_key.columns:
            query = sa.text("SELECT pg_get_serial_sequence(:table, :column)")
            sequence = connection.execute(query, {"table": f'"{table.name}"', "column": column.name}).scalar()
            if sequence:
                highest = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(sequence, highest, False)))
