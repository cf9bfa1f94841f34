"""The annotation store: a SQLite file or a PostgreSQL database, migrated when it is opened.

SQLite runs with a write-ahead log, full synchronisation and immediate write transactions: what was acknowledged
is on the disk. All else is one code path for both.
"""

from __future__ import annotations

import math
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from annotation.tables import identity

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "rlhf_annotation_version"
WAIT_SECONDS = 5  # for another writer
CONFLICT_TRIES = 5
CLOSE_SECONDS = 2.0
IDLE_SECONDS = 1.0  # after which a connection to PostgreSQL is tried before it is used
NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs.*|cifs|smb.*|afs|9p|ceph|lustre|gpfs|glusterfs|beegfs|fuse\.(sshfs|glusterfs|s3fs|rclone)"
)
URL_HELP = (
    "use sqlite:///annotations.db (a file here), sqlite:////data/annotations.db, or postgresql://user@host/database"
)

Result = TypeVar("Result")


class StoreError(ValueError):
    """A store that cannot be used: its address, what is wrong, and the fix."""


class StoreUnavailable(Exception):
    """The store could not do it now; nothing was changed, and the same request may go through later."""


class StoreBusy(StoreUnavailable):
    """Another writer held the store for longer than `WAIT_SECONDS`, or the database is away."""


class StoreFull(StoreUnavailable):
    """No room on the disk."""


class Store:
    """A database of the newest schema. Made by `Store.open`.

    Attributes:
        engine: SQLAlchemy's engine.
        address: the URL without a password.
        id: tells this store from others; the same as long as it lives.
    """

    id: str

    def __init__(self, engine: sa.Engine):
        self.engine = engine
        self.address = engine.url.render_as_string(hide_password=True)
        self._writer = engine.execution_options(rlhf_writes=True)
        self._asker = engine
        if engine.dialect.name == "postgresql":
            self._asker = engine.execution_options(isolation_level="AUTOCOMMIT")
        # SQLite lets one write at a time and serves those who wait in no order; a lock of ours is fair enough
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else None

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """Connect and bring the tables up to date.

        `create=False` refuses a SQLite file that is not there.

        Raises:
            StoreError: the URL is of another kind, the file is no database, the database belongs to something else
                or was written by a later version, or it cannot be reached.
        """
        store = cls._connected(url, create=create)
        try:
            with store.writing() as connection:
                migrate(connection, store.address)
                store.id = connection.execute(sa.select(identity.c.id)).scalar_one()
        except (StoreError, StoreUnavailable) as error:
            store.close()
            raise error if isinstance(error, StoreError) else StoreError(f"store {store.address}: {error}") from None
        except sa.exc.DatabaseError as error:
            store.close()
            raise _unusable(store.address, error) from None
        return store

    @classmethod
    @contextmanager
    def connect(cls, url: str) -> Iterator[Store]:
        """A database as it is, its tables not brought up to date, or not there yet; closed at the end.

        Raises:
            StoreError: as `open`.
        """
        store = cls._connected(url, create=True)
        try:
            yield store
        except sa.exc.DatabaseError as error:
            raise _unusable(store.address, error) from None
        finally:
            store.close()

    @classmethod
    def _connected(cls, url: str, *, create: bool) -> Store:
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            _check_file(Path(str(parsed.database)), create=create)
        return cls(_engine(parsed))

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A transaction that reads, all of it as of one moment, however long it takes.

        Raises:
            StoreUnavailable: the database is busy or away.
        """
        engine = self.engine
        if engine.dialect.name == "postgresql":  # SQLite's reading transactions are so anyway
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with _named_troubles(), engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads.

        Raises:
            StoreUnavailable: the database is busy or away.
        """
        with _named_troubles(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def asking(self) -> Iterator[sa.Connection]:
        """A connection for the few small questions of every request; PostgreSQL is spared BEGIN and COMMIT.

        Raises:
            StoreUnavailable: the database is busy or away.
        """
        with _named_troubles(), self._asker.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed and on the disk when the block ends, undone when it raises.

        Raises:
            StoreUnavailable: the database is busy, away or full.
        """
        with _named_troubles(), self._own_turn(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=2 * WAIT_SECONDS):
            raise StoreBusy("too many writers at once; try again")
        try:
            yield
        finally:
            self._turn.release()

    def write(self, action: Callable[[sa.Connection], Result]) -> Result:
        """Run `action` in a transaction that writes, anew where another one wrote a row of the same key meanwhile.

        Raises:
            StoreUnavailable: as `writing`; also when this happens `CONFLICT_TRIES` times.
        """
        for _ in range(CONFLICT_TRIES):
            try:
                with self.writing() as connection:
                    return action(connection)
            except sa.exc.IntegrityError as error:
                if not _is_of_same_key(error):
                    raise
                last = error
        raise StoreBusy("others keep writing the same rows; try again") from last

    def close(self) -> None:
        """Close all connections; those in use by another thread get a moment to come back."""
        deadline = time.monotonic() + CLOSE_SECONDS
        pool = self.engine.pool
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.engine.dispose()


def _unusable(address: str, error: sa.exc.DatabaseError) -> StoreError:
    reason = str(error.orig).strip().partition("\n")[0]
    return StoreError(f"store {address}: {reason}; name an annotation store, or a new file")


def _parse(url: str) -> sa.URL:
    """The URL of a store. Errors show none of it but its kind: it may hold a password."""
    kind, colon, _ = url.partition("://")
    if not colon:
        raise StoreError(f"store is {url!r}, which is no URL; {URL_HELP}")
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(f"store {kind}://... cannot be read as the URL of a database; {URL_HELP}") from None
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.host:
            raise StoreError(f"store sqlite://... names no file; {URL_HELP}")
        if parsed.query:
            raise StoreError("store sqlite:///... has settings after a question mark, which do nothing; leave them out")
        return parsed.set(database=str(Path(parsed.database).absolute()))
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise StoreError(f"store is of kind {parsed.drivername!r}; {URL_HELP}")
    if "password" in parsed.query:
        raise StoreError("store has a password after its question mark, where it is shown; set PGPASSWORD instead")
    return parsed.set(drivername="postgresql+psycopg")


def _check_file(file: Path, *, create: bool) -> None:
    if file.is_dir():
        raise StoreError(f"store {file} is a folder; name a file in it")
    if not create and not file.exists():
        raise StoreError(f"store {file} is not there; name the one that `rlhf annotate` or `rlhf sample` filled")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"store {file}: its folder cannot be made ({error.strerror}); name another one") from None
    kind = file_system(file.parent)
    if NETWORK_FILE_SYSTEMS.fullmatch(kind):
        fix = "put it on a local disk, or use PostgreSQL"
        raise StoreError(f"store {file} lies on a network file system ({kind}), where SQLite loses data; {fix}")


def file_system(folder: Path) -> str:
    """Kind of the file system that a folder lies on ("ext4", "nfs4"); empty where the system does not say."""
    try:
        return kind_of_mount(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"), folder)
    except OSError:
        return ""


def kind_of_mount(mounts: str, folder: Path) -> str:
    """As `file_system`, by what Linux writes to `/proc/self/mountinfo`."""
    found = ("", "")
    for line in mounts.rstrip("\n").split("\n"):
        fields, _, tail = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), fields.split(" ")[4])
        if len(mount) >= len(found[0]) and folder.resolve().is_relative_to(mount):
            found = (mount, tail.split()[0])
    return found[1]


def _engine(url: sa.URL) -> sa.Engine:
    # a web server's threads share these; SQLite lets one of them write at a time
    pool: dict[str, Any] = {"pool_size": 16, "max_overflow": 32, "pool_timeout": 10}
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": WAIT_SECONDS}, **pool)
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        given = url.query.get("options", ())
        own = f"-c lock_timeout={WAIT_SECONDS * 1000} -c synchronous_commit=on"  # the last of two counts
        options = " ".join([given, own] if isinstance(given, str) else [*given, own])
        engine = sa.create_engine(url, connect_args={"options": options, "connect_timeout": WAIT_SECONDS}, **pool)
    except ModuleNotFoundError:
        raise StoreError("a PostgreSQL store needs psycopg: pip install 'rlhf-loop[postgres]'") from None
    sa.event.listen(engine, "checkin", _note_time)
    sa.event.listen(engine, "checkout", _check_if_idle)
    return engine


def _note_time(_: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["last_used"] = time.monotonic()


def _check_if_idle(connection: Any, record: sa.pool.ConnectionPoolEntry, _: Any) -> None:
    """Whether a connection that rested still lives, as `pool_pre_ping` asks each time: that is one way more."""
    if time.monotonic() - record.info.get("last_used", math.inf) < IDLE_SECONDS:
        return
    try:
        connection.execute("")
        connection.rollback()
    except Exception as error:  # psycopg need not be installed, so its own cannot be named
        raise sa.exc.DisconnectionError from error


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, below
    connection.execute("PRAGMA busy_timeout = " + str(WAIT_SECONDS * 1000))
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _write_ahead(connection: Any) -> None:
    """Switch a file to its write-ahead log. While another connection does, SQLite refuses at once, without waiting."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    # a transaction that reads first and writes later fails at once where another wrote between: lock first
    writes = connection.get_execution_options().get("rlhf_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migrate(connection: sa.Connection, address: str, to: str = "head") -> None:
    """Run the migrations that the database has not seen, in the transaction of the caller.

    Raises:
        StoreError: the database belongs to something else, or a later version wrote it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": VERSION_TABLE})
    tables = sa.inspect(connection).get_table_names()
    if tables and VERSION_TABLE not in tables:
        found = ", ".join(sorted(tables)[:3])
        raise StoreError(f"store {address} is a database of something else (it holds {found}); name another one")
    config = _migrations()
    config.attributes["connection"] = connection
    if tables:
        (current,) = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).one()
        newest = check_schema(current, f"store {address}")
        if current in (to, newest):
            return
    command.upgrade(config, to)


def check_schema(schema: str, what: str) -> str | None:
    """Refuse what has a schema that this version does not know; the newest that it knows is given.

    Raises:
        StoreError: a later version wrote it.
    """
    scripts = ScriptDirectory.from_config(_migrations())
    newest = scripts.get_current_head()
    if schema not in {script.revision for script in scripts.walk_revisions()}:
        fix = f"this one knows up to {newest}: update rlhf-loop"
        raise StoreError(f"{what} was written by a later version (schema {schema}); {fix}")
    return newest


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("version_table", VERSION_TABLE)
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _named_troubles() -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError:
        raise StoreBusy("too many requests at once; try again") from None
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, sqlite3.OperationalError):
            _raise_sqlite_trouble(error, error.orig)
        state = getattr(error.orig, "sqlstate", None) or ""
        if state.startswith("53100"):
            raise StoreFull("the database has no room left; free some") from error
        reason = str(error.orig).strip().partition("\n")[0]
        raise StoreBusy(f"the database did not answer in time or is away ({reason}); try again") from error


def _is_of_same_key(error: sa.exc.IntegrityError) -> bool:
    if isinstance(error.orig, sqlite3.IntegrityError):
        return error.orig.sqlite_errorcode in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
    return getattr(error.orig, "sqlstate", None) == "23505"


def _raise_sqlite_trouble(error: sa.exc.OperationalError, reason: sqlite3.OperationalError) -> None:
    code = reason.sqlite_errorcode & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise StoreBusy(f"another writer held the store for over {WAIT_SECONDS} s; try again") from error
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        raise StoreFull(f"the store cannot be written ({reason}); free some room on its disk") from error
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        raise StoreBusy(f"the store's file cannot be opened for writing ({reason}); see its permissions") from error
    raise error
