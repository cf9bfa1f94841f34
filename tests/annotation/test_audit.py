"""The chains: what was written verifies, and every change of it shows."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from annotation import audit
from annotation.api import create_app
from annotation.records import Judgment, Said
from annotation.routes.access import cookie_name
from annotation.store import Store
from tests.annotation.items import comparison


def said(number: int, item_id: int, annotator_id: str, **fields: object) -> dict[str, object]:
    row = {"id": f"judgment-{number}", "item_id": item_id, "annotator_id": annotator_id, "revision": 1}
    row |= {"kind": "ranking", "ranks": [1, 2], "strength": 2, "shown_order": [1, 0], "active_ms": 900}
    return row | {"app_version": "0", "created_at": 1000 + number, "role": "work", "rationale": "é 😀"} | fields


@pytest.fixture
def chained(store: Store, sign_in, fill) -> Store:
    """A store with 20 judgments and 5 entries."""
    fill(20)
    ann = sign_in("Ann")
    with store.writing() as connection:
        for number in range(20):
            audit.add_judgment(connection, said(number, number + 1, ann))
        for number in range(5):
            audit.record(connection, f"did {number}", None, {"share": 0.1 * number}, at=2000 + number)
    return store


def problems(store: Store) -> tuple[str, ...]:
    with store.reading() as connection:
        return audit.verify(connection).problems


def test_what_was_written_verifies(chained: Store) -> None:
    with chained.reading() as connection:
        found = audit.verify(connection)
    assert found.problems == ()
    assert (found.judgments.length, found.audit.length) == (20, 7)  # the beginning, an account, and five


def test_a_judgment_that_comes_in_meanwhile_is_no_change(chained: Store, service) -> None:
    mara = service.accounts.add("Mara", "manager", "a long enough passphrase", by=None).id
    came = 0

    def judge_meanwhile(connection, cursor, statement, *_: object) -> None:
        nonlocal came
        if "FROM chain" in statement and came == 0:
            came += 1
            with chained.writing() as other:
                audit.add_judgment(other, said(20, 1, mara))

    client = TestClient(create_app(service), base_url="http://127.0.0.1")
    client.cookies.set(cookie_name(service), service.sign_in("Mara", "a long enough passphrase"))
    sa.event.listen(chained.engine, "before_cursor_execute", judge_meanwhile)
    found = client.get("/api/v1/manage/audit/verify").json()
    assert came == 1
    assert found["problems"] == []
    assert found["judgments"]["length"] == 20


def unlock(connection: sa.Connection) -> None:
    """What somebody with the database in their hands can do."""
    if connection.dialect.name == "sqlite":
        names = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
        for name in names:
            connection.execute(sa.text(f"DROP TRIGGER {name}"))
    else:
        connection.execute(sa.text("SET session_replication_role = replica"))


CHANGES = {
    "a rank": "UPDATE judgment SET ranks = '[2, 1]' WHERE number = 7",
    "a time": "UPDATE judgment SET created_at = created_at + 0.001 WHERE number = 20",
    "a hash": "UPDATE judgment SET hash = 'x' WHERE number = 3",
    "an author": "UPDATE judgment SET annotator_id = 'somebody' WHERE number = 3",
    "the first one removed": "DELETE FROM judgment WHERE number = 1",
    "one removed": "DELETE FROM judgment WHERE number = 11",
    "the last one removed": "DELETE FROM judgment WHERE number = 20",
    "an entry": "UPDATE audit SET action = 'nothing' WHERE number = 4",
    "its details": "UPDATE audit SET details = '{}' WHERE number = 4",
    "the last entry removed": "DELETE FROM audit WHERE number = 7",
    "the beginning": "UPDATE audit SET details = '{\"judgments_before\": 20}' WHERE number = 1",
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_shows(chained: Store, what: str) -> None:
    with chained.writing() as connection:
        unlock(connection)
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        if what == "an author" and connection.dialect.name == "sqlite":
            connection.execute(sa.text("INSERT INTO annotator (id, created_at) VALUES ('somebody', 0)"))
        connection.execute(sa.text(CHANGES[what]))
    assert problems(chained) != ()


def test_an_entry_can_be_neither_changed_nor_removed(chained: Store) -> None:
    for statement in ("UPDATE audit SET action = 'x'", "DELETE FROM audit"):
        with pytest.raises(sa.exc.DatabaseError, match="append-only"), chained.writing() as connection:
            connection.execute(sa.text(statement))


def test_judgments_of_before_the_chain_are_held_by_its_first_entry(tmp_path: Path, monkeypatch) -> None:
    from alembic import command

    from annotation import store as store_module
    from annotation.importing import import_comparisons

    file = tmp_path / "old.db"
    upgrade = command.upgrade
    monkeypatch.setattr(store_module.command, "upgrade", lambda config, _: upgrade(config, "0001"))
    Store.open(f"sqlite:///{file}").close()
    monkeypatch.undo()
    with sqlite3.connect(file) as old:
        old.execute("INSERT INTO annotator (id, created_at) VALUES ('a1', 0)")
        old.execute("INSERT INTO prompt VALUES ('p', '[]')")
        old.execute("INSERT INTO campaign VALUES (1, 'main', 1, 0)")
        old.execute("INSERT INTO item VALUES (1, 1, 'p', 'c', NULL, 0)")
        row = ("judgment-1", 1, "a1", 1, "ranking", json.dumps([2, 1]), 3.0, json.dumps([0, 1]), 5, "0", 1.5)
        names = "id, item_id, annotator_id, revision, kind, ranks, strength, shown_order, active_ms, app_version"
        old.execute(f"INSERT INTO judgment ({names}, created_at) VALUES ({', '.join('?' * len(row))})", row)
    opened = Store.open(f"sqlite:///{file}")
    import_comparisons(opened, [comparison(1, 2)], name="another")
    with opened.writing() as connection:
        audit.add_judgment(connection, said(2, 2, "a1"))
    assert problems(opened) == ()
    with opened.writing() as connection:
        unlock(connection)
        connection.execute(sa.text("UPDATE judgment SET strength = 1 WHERE number = 1"))
    assert problems(opened) == ("the first 1 judgments are not what they were when the chain began",)
    opened.close()


def test_a_number_that_others_name_cannot_be_given_away(store: Store, service, sign_in, fill) -> None:
    """Else the first of two judgments of an item would stand again; the order of the rows is what it was."""
    fill(1)
    ann = sign_in("Ann")
    assert service.next_card(ann, "tab").card is not None
    for number, ranks in enumerate(((1, 2), (2, 1))):
        service.submit(ann, Judgment(f"judgment-{number}", "1", Said("ranking", ranks)))
    with store.writing() as connection:
        unlock(connection)
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(sa.text("UPDATE judgment SET number = 0 WHERE number = 1"))
        assert audit.verify(connection).problems == ("what judgment 2 replaces was given another number",)
        connection.rollback()
