"""A backup is the store of one moment, whole, and makes the same store again in either database."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from annotation import audit, campaigns
from annotation import store as store_module
from annotation.backup import backup, restore
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import VERSION_TABLE, Store, StoreBusy, StoreError
from benchmarks.annotation.databases import NUMBERS, content, new_database
from tests.annotation.items import comparison


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path):
    """`new_url("postgresql")`: an address where nothing is yet."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/restored-{next(NUMBERS)}.db"
        return new_database(request.getfixturevalue("postgres_server"))

    return make


def judge_some(service: AnnotationService, who: str, count: int) -> None:
    for _ in range(count):
        card = service.next_card(who, "tab").card
        said = Said("ranking", (1, 2), strength=2.0, rationale="why: é 😀", edits={0: "better"})
        service.submit(who, Judgment(f"judgment-{who}-{card.item_id}", card.item_id, said))


@pytest.fixture
def filled(store: Store, service, fill, sign_in) -> Store:
    fill(6, overlap=2)
    with store.writing() as connection:
        campaigns.write_guideline(connection, 1, "Be fair.", actor_id=None, at=1.0)
    for name in ("Ada", "Bob"):
        who = sign_in(name)
        service.accept_guideline(who, 1, 1)
        judge_some(service, who, 3)
    return store


def empty_cells(store: Store) -> dict[str, int]:
    """Of every column, how often the database itself finds nothing in it."""
    tables = sa.MetaData()
    with store.reading() as connection:
        tables.reflect(connection)
        return {
            str(column): connection.execute(sa.select(sa.func.count()).where(column.is_(None))).scalar_one()
            for table in tables.sorted_tables
            for column in table.columns
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_restored_store_is_equal_and_goes_on(filled: Store, new_url, tmp_path: Path, kind: str) -> None:
    done = backup(filled, tmp_path / "backup.jsonl.gz")
    assert done.rows["judgment"] == 6
    url = new_url(kind)
    assert restore(tmp_path / "backup.jsonl.gz", url) == done
    again = Store.open(url)
    assert content(again) == content(filled)
    assert empty_cells(filled)["item.gold"] == 6
    assert empty_cells(again) == empty_cells(filled)
    assert again.id == filled.id
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), again.writing() as connection:
        connection.execute(sa.text("DELETE FROM judgment"))
    service = AnnotationService(again)
    eve = service.annotator_of(service.sign_in("Eve")).id
    service.accept_guideline(eve, 1, 1)
    judge_some(service, eve, 1)  # numbers count on
    with again.reading() as connection:
        assert audit.verify(connection).problems == ()
    again.close()


def test_the_same_store_gives_the_same_bytes(filled: Store, tmp_path: Path) -> None:
    backup(filled, tmp_path / "one")
    backup(filled, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with pytest.raises(FileExistsError, match="choose another name"):
        backup(filled, tmp_path / "one")


def test_a_backup_under_load_is_of_one_moment(store: Store, fill, new_url, tmp_path: Path) -> None:
    fill(400)
    service = AnnotationService(store)
    acknowledged: list[str] = []
    stop = threading.Event()

    def work(name: str) -> None:
        who = service.annotator_of(service.sign_in(name)).id
        while not stop.is_set():
            try:
                card = service.next_card(who, "tab").card
                if card is None:
                    return
                service.submit(who, Judgment(f"judgment-{card.item_id}", card.item_id, Said("ranking", (1, 2))))
                acknowledged.append(f"judgment-{card.item_id}")
            except StoreBusy:
                continue

    threads = [threading.Thread(target=work, args=(f"annotator {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(4):
            while len(acknowledged) < 10 * (number + 1) and any(thread.is_alive() for thread in threads):
                stop.wait(0.01)
            before = list(acknowledged)
            backup(store, tmp_path / f"{number}")
            url = new_url("sqlite")
            restore(tmp_path / f"{number}", url)  # verifies both chains
            restored = Store.open(url)
            rows = content(restored)
            restored.close()
            kept = {row[1] for row in rows["judgment"]}
            assert set(before) <= kept
            names = [column["name"] for column in sa.inspect(store.engine).get_columns("slot")]
            judged = sum(row[names.index("state")] == "judged" for row in rows["slot"])
            assert judged == len(kept)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def change(path: Path, edit) -> Path:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    changed = path.with_name("changed")
    changed.write_bytes(gzip.compress("".join(edit(lines)).encode()))
    return changed


EDITS = {
    "cut off": (lambda lines: lines[:-1], "cut off or was changed"),
    "a row less": (lambda lines: lines[:5] + lines[6:], "cut off or was changed"),
    "a row changed": (lambda lines: [line.replace("why", "who") for line in lines], "cut off or was changed"),
    "another kind": (lambda lines: ['{"format": "other"}\n', *lines[1:]], "is no backup"),
    "no JSON": (lambda lines: [*lines[:3], "{\n", *lines[3:]], "cut off or was changed"),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_is_not_a_whole_backup_is_refused_and_leaves_nothing(
    filled: Store, new_url, tmp_path: Path, what: str
) -> None:
    edit, words = EDITS[what]
    backup(filled, tmp_path / "backup")
    url = new_url(filled.engine.dialect.name)
    with pytest.raises(StoreError, match=words):
        restore(change(tmp_path / "backup", edit), url)
    with Store.connect(url) as empty:
        assert sa.inspect(empty.engine).get_table_names() == []


def test_bytes_that_are_cut_are_refused(filled: Store, new_url, tmp_path: Path) -> None:
    backup(filled, tmp_path / "backup")
    (tmp_path / "cut").write_bytes((tmp_path / "backup").read_bytes()[:-20])
    with pytest.raises(StoreError, match="no whole backup"):
        restore(tmp_path / "cut", new_url("sqlite"))
    with pytest.raises(StoreError, match="is not there"):
        restore(tmp_path / "none", new_url("sqlite"))
    whole = (tmp_path / "backup").read_bytes()
    for place in range(10, len(whole), 7):  # behind the header of gzip
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        with suppress(OSError, EOFError, zlib.error):
            if gzip.decompress(flipped) == gzip.decompress(whole):
                continue  # a bit that fills the last byte up: nothing is lost with it
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(StoreError, match=r"no whole backup|cut off or was changed|is no backup"):
            restore(tmp_path / "flipped", new_url("sqlite"))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"schema": "9999"}, r"later version \(schema 9999\); this one knows up to [0-9]+: update rlhf-loop"),
        ({"schema": "head"}, "later version"),
        ({"schema": None}, "does not say of which store and schema"),
        ({"store": 1}, "does not say of which store and schema"),
    ],
)
def test_a_header_that_cannot_be_used_is_named(new_url, tmp_path: Path, header: dict[str, Any], words: str) -> None:
    store = Store.open(new_url("sqlite"))
    backup(store, tmp_path / "backup")
    store.close()

    def other(lines: list[str]) -> list[str]:
        changed = [json.dumps(json.loads(lines[0]) | header) + "\n", *lines[1:-1]]
        digest = hashlib.sha256("".join(changed).encode()).hexdigest()
        return [*changed, json.dumps(json.loads(lines[-1]) | {"sha256": digest}) + "\n"]

    with pytest.raises(StoreError, match=words):
        restore(change(tmp_path / "backup", other), new_url("sqlite"))


def test_a_judgment_that_was_changed_in_the_store_is_named(filled: Store, new_url, tmp_path: Path) -> None:
    with filled.writing() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("DROP TRIGGER judgment_no_update"))
        else:
            connection.execute(sa.text("ALTER TABLE judgment DISABLE TRIGGER USER"))
        connection.execute(sa.text("UPDATE judgment SET strength = 1 WHERE number = 4"))
    backup(filled, tmp_path / "backup")
    with pytest.raises(StoreError, match="judgment 4 or the one before it was changed"):
        restore(tmp_path / "backup", new_url("sqlite"))


def test_a_store_that_is_there_is_left_alone(filled: Store, url: str, tmp_path: Path) -> None:
    backup(filled, tmp_path / "backup")
    before = content(filled)
    with pytest.raises(StoreError, match="is there already"):
        restore(tmp_path / "backup", url)
    assert content(filled) == before


def test_a_backup_of_an_older_schema_is_brought_up_to_date(new_url, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "old.db"
    upgrade = command.upgrade
    monkeypatch.setattr(store_module.command, "upgrade", lambda config, _: upgrade(config, "0001"))
    old = Store.open(f"sqlite:///{file}")
    monkeypatch.undo()
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO annotator (id, name, name_key, created_at) VALUES ('a1', 'Ada', 'ada', 0)")
        connection.execute("INSERT INTO prompt VALUES ('p', '[]')")
        connection.execute("INSERT INTO campaign VALUES (1, 'main', 1, 0)")
        connection.execute("INSERT INTO item VALUES (1, 1, 'p', 'c', NULL, 0)")
        connection.execute("INSERT INTO slot VALUES (1, 1, 1, 'judged', 'a1', NULL, NULL)")
        row = ("judgment-1", 1, "a1", 1, "ranking", json.dumps([2, 1]), 3.0, json.dumps([0, 1]), 5, "0", 1.5)
        names = "id, item_id, annotator_id, revision, kind, ranks, strength, shown_order, active_ms, app_version"
        connection.execute(f"INSERT INTO judgment ({names}, created_at) VALUES ({', '.join('?' * len(row))})", row)
    assert backup(old, tmp_path / "backup").schema == "0001"
    old.close()
    for kind in ("sqlite", "postgresql"):
        url = new_url(kind)
        restore(tmp_path / "backup", url)
        opened = Store.open(url)
        rows = content(opened)
        assert rows[VERSION_TABLE] != [("0001",)]
        assert len(rows["judgment"]) == 1
        import_comparisons(opened, [comparison(1, 2)], name="another")
        with opened.reading() as connection:
            assert audit.verify(connection).problems == ()
            assert connection.execute(sa.text("SELECT campaign_id FROM slot WHERE id = 1")).scalar() == 1
        opened.close()
