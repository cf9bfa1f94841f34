"""Databases of their own for tests and measurements: a SQLite file, and a PostgreSQL server in a folder."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation.store import Store

KINDS = ("sqlite", "postgresql")
NUMBERS = itertools.count(1)


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; Debian keeps them off the path."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def postgres_server(*, durable: bool) -> Iterator[Path]:
    """A server on a socket in a folder, which is given.

    Args:
        durable: whether commits wait for the disk, as they should; tests that need not survive a power cut are faster
            without.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed; apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgres-"))
    # it refuses to run as root
    owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if owner:
        shutil.chown(folder, **owner)
    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=200"
    data = folder / "data"

    def run(*command: object) -> None:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd="/", timeout=120, **owner)
        if done.returncode:
            raise OSError(f"{command[0]} failed: {done.stdout}{done.stderr}")

    run(programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")
    fsync = "" if durable else " -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", settings + fsync, "-w", "start")
    try:
        yield folder
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def new_database(server: Path) -> str:
    """The address of an empty database of a server."""
    import psycopg

    name = f"annotations_{next(NUMBERS)}"
    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={server}"


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty database that keeps what it acknowledges."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/annotations-{next(NUMBERS)}.db"
        return
    with postgres_server(durable=True) as server:
        yield new_database(server)


def content(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in the order of its key."""
    tables = sa.MetaData()
    with store.reading() as connection:
        tables.reflect(connection)
        return {
            table.name: [
                tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in tables.sorted_tables
        }
