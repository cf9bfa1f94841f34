"""What is kept: edits behind the app's back show in the chains, and a backup of a store in use is that store."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation import audit
from annotation.backup import backup, restore
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from annotation.tables import audit as entry
from annotation.tables import chain, judgment
from benchmarks.annotation.databases import (
    NUMBERS,
    content,
    database,
    new_database,
    postgres_programs,
    postgres_server,
)
from benchmarks.annotation.durability import any_wrong, counted, fill, items, run_at_once
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.server import Annotator, Server

EDITS = {
    "cell": 6,
    "delete": 2,
    "swap of cells": 2,
    "swap of rows": 2,
    "copy": 1,
    "end of a chain": 1,
}  # how often each


def edits(kind: str, folder: Path, *, count: int = 1_000) -> Figure:
    """So many edits of one cell or row, or swaps of two, by somebody who has the database; each is taken back."""
    with database(kind, folder) as url:
        store = Store.open(url)
        judge_a_little(store)
        draw = random.Random(0)
        unlock(store)
        made, missed = Counter[str](), []
        while made.total() < count:
            name, where, shows = one_edit(store, draw)
            if shows is None:  # the keys of the database refuse it, or it would change nothing
                continue
            made[name] += 1
            if not shows:
                missed.append(f"{name} of {where}")
        with store.reading() as connection:
            clean = not audit.verify(connection).problems
        store.close()
    text = f"{made.total() - len(missed)} of {made.total()} edits found"
    return Figure("edits show", kind, text, not missed and clean, {"edits": dict(made), "missed": missed[:10]})


def judge_a_little(store: Store) -> None:
    """Judgments with all that they can have, second opinions, skips and some that were taken back."""
    import_comparisons(store, items(12), overlap=3)
    service = AnnotationService(store)
    for name in ("Ada", "Bob", "Cid"):
        who = service.annotator_of(service.sign_in(name))
        assert who is not None
        for number in range(12):
            card = service.next_card(who.id, name).card
            assert card is not None
            said = Said("ranking", (1, 2), strength=1.0, rationale="why: é 😀", edits={0: f"better {number}"})
            for each in (said, Said("ranking", (2, 1), both_bad=True)) if number % 4 == 0 else (said,):
                service.submit(who.id, Judgment(str(uuid.uuid4()), card.item_id, each, active_ms=900))
            if number % 6 == 5:
                service.undo(who.id, name, str(uuid.uuid4()))
                service.submit(who.id, Judgment(str(uuid.uuid4()), card.item_id, Said("skip", reason="too long")))


def unlock(store: Store) -> None:
    """Remove the triggers that refuse changes, where they belong to the database and not to a session."""
    if store.engine.dialect.name == "sqlite":
        with store.writing() as connection:
            for name in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars():
                connection.execute(sa.text(f"DROP TRIGGER {name}"))


def one_edit(store: Store, draw: random.Random) -> tuple[str, str, bool | None]:
    """What was tried, where, and whether it shows; None where there was no edit. Afterwards all is as before."""
    with store.engine.connect() as connection:
        bind_nothing(connection)
        name = draw.choices(list(EDITS), list(EDITS.values()))[0]
        where, shows = "", None
        try:
            where = edit(connection, name, draw)
            shows = bool(audit.verify(connection).problems) if where else None
        except sa.exc.IntegrityError:
            pass
        connection.rollback()
    return name, where, shows


def bind_nothing(connection: sa.Connection) -> None:
    """Let neither triggers nor references hold up this transaction."""
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
    else:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))


def edit(connection: sa.Connection, name: str, draw: random.Random) -> str:
    """Make an edit; where. Nothing where it would leave all as it was."""
    table = draw.choice((judgment, judgment, entry))
    rows = connection.execute(sa.select(table)).all()
    one, other = draw.sample(rows, 2)
    column = draw.choice([column for column in table.c if column.name != "number"])
    at, then = table.c.number == one.number, table.c.number == other.number
    where = f"{table.name} {one.number}, {other.number} {column.name}"
    if name == "cell":
        value = another_value(column, getattr(one, column.name), draw)
        connection.execute(sa.update(table).where(at).values({column.name: value}))
    elif name == "delete":
        connection.execute(sa.delete(table).where(at))
    elif name == "swap of cells":
        values = getattr(one, column.name), getattr(other, column.name)
        if values[0] == values[1]:
            return ""
        free = another_value(column, values[0], draw)
        for row, value in ((at, free), (then, values[0]), (at, values[1])):
            connection.execute(sa.update(table).where(row).values({column.name: value}))
    elif name == "swap of rows":
        for before, after in ((one.number, 0), (other.number, one.number), (0, other.number)):
            connection.execute(sa.update(table).where(table.c.number == before).values(number=after))
    elif name == "copy":
        copied = one._asdict() | {"number": max(row.number for row in rows) + 1}
        fresh = {"id": str(uuid.UUID(int=draw.getrandbits(128))), "revision": 99, "supersedes": None}
        connection.execute(sa.insert(table).values(copied | (fresh if table is judgment else {})))
    else:
        own = chain.c.name == table.name
        length, last = connection.execute(sa.select(chain.c.length, chain.c.hash).where(own)).one()
        changed = draw.choice(({"length": length + draw.choice((-1, 1))}, {"hash": last[::-1]}))
        connection.execute(sa.update(chain).where(own).values(changed))
    return where


def another_value(column: sa.Column[Any], value: Any, draw: random.Random) -> Any:
    """A value of the column's type that is not the one it has."""
    if value is not None and column.nullable and draw.random() < 0.3:
        return None
    if isinstance(column.type, sa.JSON):
        return {"other": draw.random()} if column.name in ("details", "edits", "aspects") else [draw.randint(3, 9)]
    if isinstance(column.type, sa.Boolean):
        return not value
    if isinstance(column.type, sa.Double):
        return (value or 0.0) + draw.choice((-1, 1)) * draw.choice((0.001, 1, 1000))
    if isinstance(column.type, sa.Integer):  # small ones are taken
        return draw.randint(10_000, 10**6)
    return f"{value or ''}x{draw.random()}"


def backups(kind: str, folder: Path, *, clients: int = 20, submissions: int = 50, copies: int = 4) -> Figure:
    """Copies taken by another process while so many clients submit, and one when they are done, put into new stores."""
    wanted = clients * submissions
    with database(kind, folder) as url, new_stores(folder) as addresses:
        fill(url, wanted, overlap=1)
        store = Store.open(url)
        with Server(url, folder / f"backups-{kind}.log") as server:
            annotators = [Annotator(server.url, f"annotator {number}") for number in range(clients)]
            taken, problems = copied_meanwhile(store, annotators, submissions, copies, folder)
        taken.append(copied(store, annotators, folder))
        found = [put_back(path, before, addresses(), folder) for path, before in taken]
        last = content(store)
        store.close()
    equal = sum(each["equal"] for each in found)
    during = sum(len(before) < wanted for _, before in taken)
    wrong = Counter[str]()
    for each in found:
        wrong.update(each["wrong"])
    same_end = all(rows == last for rows in found[-1]["contents"])
    kinds = " and ".join(found[-1]["kinds"])
    text = (
        f"{during} copies while {clients} clients submitted {len(taken[-1][1])} judgments, into {kinds}: {equal} of "
        f"{len(found)} equal, {wrong['lost']} acknowledged lost; the last one {'equal to' if same_end else 'unlike'} "
        "the store"
    )
    kept = equal == len(found) and during == copies and same_end and not any_wrong(wrong) and not problems
    details = dict(wrong) | {"sizes": [len(before) for _, before in taken], "problems": [str(p) for p in problems[:3]]}
    return Figure("a backup under load", kind, text, kept, details)


def copied_meanwhile(
    store: Store, annotators: Sequence[Annotator], submissions: int, copies: int, folder: Path
) -> tuple[list[tuple[Path, list[str]]], list[BaseException]]:
    """Let all submit at once; the copies taken of it, and what went wrong."""
    wanted = len(annotators) * submissions
    taken: list[tuple[Path, list[str]]] = []
    done = threading.Event()

    def work(annotator: Annotator) -> None:
        try:
            with annotator:
                while len(annotator.acknowledged) < submissions and (card := annotator.next_card()) is not None:
                    annotator.judge(card)
        finally:
            done.set()

    def copy() -> None:
        for number in range(1, copies + 1):
            due = 0.8 * wanted * number / copies
            while sum(len(each.acknowledged) for each in annotators) < due and not done.wait(0.01):
                pass
            taken.append(copied(store, annotators, folder))

    problems = run_at_once([copy, *(lambda each=each: work(each) for each in annotators)])
    return taken, problems


def copied(store: Store, annotators: Sequence[Annotator], folder: Path) -> tuple[Path, list[str]]:
    """A backup, and what had been acknowledged when it was begun."""
    before = [name for annotator in annotators for name in list(annotator.acknowledged)]
    path = folder / f"backup-{next(NUMBERS)}"
    backup(store, path)
    return path, before


@contextmanager
def new_stores(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """A function that gives addresses where nothing is yet, one of each database that is installed."""
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server(durable=False)) if postgres_programs() else None

        def addresses() -> list[str]:
            file = f"sqlite:///{folder}/restored-{next(NUMBERS)}.db"
            return [file] if server is None else [file, new_database(server)]

        yield addresses


def put_back(path: Path, before: Sequence[str], addresses: Sequence[str], folder: Path) -> dict[str, Any]:
    """Restore a backup to each address: what is there, whether its own backup is the same file, and what is wrong."""
    contents, equal, wrong = [], [], Counter[str]()
    for address in addresses:
        restore(path, address)  # which verifies the chains
        store = Store.open(address)
        again = folder / f"again-{next(NUMBERS)}"
        backup(store, again)
        contents.append(content(store))
        store.close()
        equal.append(again.read_bytes() == path.read_bytes())
        wrong.update(counted(address, before, 1))
    same = all(equal) and all(rows == contents[0] for rows in contents)
    kinds = [address.partition(":")[0] for address in addresses]
    return {"contents": contents, "equal": same, "wrong": wrong, "kinds": kinds}
