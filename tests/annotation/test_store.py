"""The store: what it opens, what it refuses, and what the database itself forbids."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from annotation.records import Judgment, Said
from annotation.store import CONFLICT_TRIES, VERSION_TABLE, Store, StoreBusy, StoreError, file_system, kind_of_mount
from annotation.tables import metadata
from benchmarks.annotation.databases import new_database


def test_migrations_end_at_the_tables(store: Store) -> None:
    with store.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_opening_again_keeps_what_is_there(url: str, store: Store, service) -> None:
    token = service.sign_in("Ada")
    again = Store.open(url)
    with again.reading() as connection:
        assert connection.execute(sa.text("SELECT name FROM annotator")).scalars().all() == ["Ada"]
    again.close()
    assert service.annotator_of(token).name == "Ada"


def test_two_that_open_an_empty_store_at_once_both_get_it(url: str) -> None:
    problems: list[Exception] = []
    barrier = threading.Barrier(4)

    def open_it() -> None:
        barrier.wait()
        try:
            Store.open(url).close()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


COLUMNS = (
    "number, id, item_id, annotator_id, revision, supersedes, kind, shown_order, active_ms, app_version, created_at"
)
REPLACE = f"REPLACE INTO judgment ({COLUMNS}) SELECT "
CHANGES = {
    "sqlite": {
        "update": "UPDATE judgment SET kind = 'undo'",
        "delete": "DELETE FROM judgment",
        "replace by number": REPLACE
        + "number, 'another id', item_id, annotator_id, 9, NULL, 'undo', shown_order, 0, '', 0 FROM judgment",
        "replace by revision": REPLACE
        + "99, 'another id', item_id, annotator_id, revision, NULL, 'undo', shown_order, 0, '', 0 FROM judgment",
    },
    "postgresql": {
        "update": "UPDATE judgment SET kind = 'undo'",
        "delete": "DELETE FROM judgment",
        "truncate": "TRUNCATE judgment",
    },
}


def test_judgments_can_be_neither_changed_nor_removed(store: Store, service, fill, sign_in) -> None:
    fill(1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    service.submit(ada, Judgment("judgment-1", card.item_id, Said("ranking", (1, 2))))
    for change in CHANGES[store.engine.dialect.name].values():
        with pytest.raises(sa.exc.DatabaseError, match="append-only"), store.writing() as connection:
            connection.execute(sa.text(change))
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT kind FROM judgment")).scalars().all() == ["ranking"]


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/a.db")
    with store.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    store.close()


def test_a_store_that_is_held_by_another_says_so_and_goes_on_later(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("annotation.store.WAIT_SECONDS", 0)
    store = Store.open(f"sqlite:///{tmp_path}/a.db")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="another writer"), store.writing():
        pass
    other.execute("ROLLBACK")
    with store.writing() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM annotator")).scalar() == 0
    other.close()
    store.close()


def test_a_write_is_tried_again_only_where_another_one_wrote_the_same_key(store: Store) -> None:
    tries: list[str] = []

    def write(statement: str) -> None:
        def action(connection: sa.Connection) -> None:
            tries.append(statement)
            connection.execute(sa.text(statement))

        store.write(action)

    write("INSERT INTO prompt VALUES ('p', '[]')")
    with pytest.raises(StoreBusy, match="the same rows") as busy:
        write("INSERT INTO prompt VALUES ('p', '[]')")
    assert isinstance(busy.value.__cause__, sa.exc.IntegrityError)
    assert len(tries) == 1 + CONFLICT_TRIES
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)foreign key"):
        write("INSERT INTO completion (item_id, position, text, sampling) VALUES (9, 0, '', '{}')")
    assert len(tries) == 2 + CONFLICT_TRIES


def test_a_later_version_is_refused_and_left_as_it_is(url: str) -> None:
    store = Store.open(url)
    with store.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"later version \(schema 9999\).*update rlhf-loop"):
        Store.open(url)
    with store.reading() as connection:
        assert connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "9999"
    store.close()


def test_a_database_of_something_else_is_refused(url: str) -> None:
    store = Store.open(url)
    with store.writing() as connection:
        connection.execute(sa.text(f"DROP TABLE {VERSION_TABLE}"))
    store.close()
    with pytest.raises(StoreError, match="something else"):
        Store.open(url)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("annotations.db", "no URL"),
        ("mysql://host/db", "of kind 'mysql'"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///{folder}/a.db?mode=ro", "settings after a question mark"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/text.db/a.db", "folder cannot be made"),
        ("sqlite:///{folder}/text.db", "not a database"),
        ("postgresql://nobody@127.0.0.1:1/nothing", "did not answer|refused"),
    ],
)
def test_an_address_that_leads_nowhere_is_named(tmp_path: Path, address: str, words: str) -> None:
    (tmp_path / "text.db").write_text("These are words, and no pages of a database.\n" * 100)
    with pytest.raises(StoreError, match=words):
        Store.open(address.format(folder=tmp_path))
    assert (tmp_path / "text.db").read_text().startswith("These are words")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ada:canary@127.0.0.1:1/nothing",
        "postgresql://ada:canary@127.0.0.1:notaport/nothing",
        "postgresql://ada@127.0.0.1:1/nothing?password=canary",
        "sqlite://ada:canary@host/a.db",
        "mysql://ada:canary@host/db",
    ],
)
def test_a_password_is_not_shown(address: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(address)
    assert "canary" not in str(caught.value)


def test_a_store_knows_itself_by_an_id(url: str, store: Store) -> None:
    again = Store.open(url)
    assert again.id == store.id
    assert len(store.id) == 12
    again.close()


def test_reading_does_not_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        Store.open(f"sqlite:///{tmp_path}/a.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("annotation.store.file_system", lambda folder: "nfs4")
    with pytest.raises(StoreError, match="network file system"):
        Store.open(f"sqlite:///{tmp_path}/a.db")


def test_the_kind_of_a_file_system_is_found() -> None:
    assert file_system(Path("/proc")) == "proc"


@pytest.mark.parametrize("name", ["daten", "donn\u00e9es", "my data", "a\u00a0b", "back\\slash", "\U0001f600"])
def test_a_mount_is_found_by_any_name(name: str) -> None:
    written = name.replace("\\", "\\134").replace(" ", "\\040")  # as Linux does
    mounts = f"25 0 8:1 / / rw - ext4 /dev/sda1 rw\n36 25 0:41 / /mnt/{written} rw,noatime - nfs4 host:/x rw\n"
    assert kind_of_mount(mounts, Path("/mnt", name, "inner")) == "nfs4"
    assert kind_of_mount(mounts, Path("/mnt/other")) == "ext4"


def test_options_of_an_address_reach_postgresql(postgres_server: Path) -> None:
    address = new_database(postgres_server)
    address += "&options=-c%20search_path%3Dmine%20-c%20lock_timeout%3D1"
    with Store.connect(address) as store, store.reading() as connection:
        found = [connection.execute(sa.text(f"SHOW {name}")).scalar() for name in ("search_path", "lock_timeout")]
    assert found == ["mine", "5s"]


def test_a_connection_that_died_while_it_rested_is_replaced(postgres_server: Path, monkeypatch) -> None:
    url = new_database(postgres_server)
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        number = sa.text("SELECT pg_backend_pid()")
        with store.reading() as connection:
            died = connection.execute(number).scalar_one()
        with other.writing() as connection:
            assert connection.execute(sa.text("SELECT pg_terminate_backend(:number, 5000)"), {"number": died}).scalar()
        # used a moment ago it is not tried first; whoever asks hears that the store is away, and asks again
        with pytest.raises(StoreBusy), store.reading() as connection:
            connection.execute(number)
        with store.reading() as connection:
            died = connection.execute(number).scalar_one()
        with other.writing() as connection:
            assert connection.execute(sa.text("SELECT pg_terminate_backend(:number, 5000)"), {"number": died}).scalar()
        monkeypatch.setattr("annotation.store.IDLE_SECONDS", 0.0)
        with store.reading() as connection:
            assert connection.execute(number).scalar_one() != died
