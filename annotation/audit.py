"""Two chains of hashes, over all judgments and over what managers and the app did: a change of either shows.

Each hash is over the one before and the row, so that whoever changes, removes or inserts a row has to change all hashes
after it. Nothing secret goes in: who can write to the database can make a whole new chain. Compare the head with one
that was kept elsewhere, such as that of an export's manifest, against that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from annotation.tables import audit, chain, judgment

# What migration 0002 found is hashed as one, over the columns of then.
OLD_COLUMNS = (
    *("number", "id", "item_id", "annotator_id", "revision", "supersedes", "kind", "ranks", "strength", "reason"),
    *("shown_order", "active_ms", "app_version", "created_at"),
)
JUDGMENT_COLUMNS = tuple(column.name for column in judgment.c if column.name not in ("number", "hash"))
AUDIT_COLUMNS = ("at", "actor_id", "action", "details")
# made once: it takes longer than running it
_CHAIN = sa.select(chain).where(chain.c.name == sa.bindparam("chain")).with_for_update()
_MOVED_ON = sa.update(chain).where(chain.c.name == sa.bindparam("chain"))
_MOVED_ON = _MOVED_ON.values(length=sa.bindparam("new_length"), hash=sa.bindparam("new_hash"))
FLOATS = ("strength", "created_at", "probability", "at")  # a whole number comes back from the database as a float


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many rows it has, and its last hash."""

    length: int
    hash: str


@dataclass(frozen=True)
class Verified:
    """What `verify` found: the heads of both chains, and what is wrong, in words; nothing if all is well."""

    judgments: Head
    audit: Head
    problems: tuple[str, ...]


def record(
    connection: sa.Connection, action: str, actor_id: str | None, details: Mapping[str, Any], *, at: float
) -> None:
    """Add an entry to the audit, in the transaction of the caller.

    Args:
        connection: of a transaction that writes.
        action: what was done, in a few words: "campaign paused".
        actor_id: the annotator who did it; None for the app itself or the command line.
        details: JSON values; no names and no secrets, since entries cannot be erased.
        at: seconds since 1970.
    """
    values = {"at": at, "actor_id": actor_id, "action": action, "details": dict(details)}
    link = _extend(connection, "audit", values, AUDIT_COLUMNS)
    connection.execute(sa.insert(audit).values(values | {"hash": link}))


def add_judgment(connection: sa.Connection, values: Mapping[str, Any]) -> None:
    """Insert a judgment at the end of its chain, in the transaction of the caller; who adds another one waits."""
    link = _extend(connection, "judgment", values, JUDGMENT_COLUMNS)
    connection.execute(sa.insert(judgment), dict(values) | {"hash": link})


def head(connection: sa.Connection, name: str) -> Head:
    """The end of the chain "judgment" or "audit"."""
    row = connection.execute(sa.select(chain).where(chain.c.name == name)).one()
    return Head(row.length, row.hash)


def verify(connection: sa.Connection) -> Verified:
    """Compute both chains anew."""
    problems = [*_judgment_problems(connection), *_audit_problems(connection)]
    return Verified(head(connection, "judgment"), head(connection, "audit"), tuple(problems))


def _extend(connection: sa.Connection, name: str, values: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    """Move the end of a chain on by one row, and give its hash."""
    row = connection.execute(_CHAIN, {"chain": name}).one()
    link = _link(row.hash, values, columns)
    connection.execute(_MOVED_ON, {"chain": name, "new_length": row.length + 1, "new_hash": link})
    return link


def _link(before: str | None, values: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    content = {"before": before} | {name: _plain(name, values.get(name)) for name in columns}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _plain(name: str, value: Any) -> Any:
    return float(value) if name in FLOATS and value is not None else value


def _canonical(values: Mapping[str, Any]) -> bytes:
    """One text for equal values, whatever the database they come from."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _judgment_problems(connection: sa.Connection) -> Iterator[str]:
    begun = connection.execute(sa.select(audit.c.details).order_by(audit.c.number).limit(1)).scalar() or {}
    num_old = begun.get("judgments_before", 0)
    rows = _stream(connection, sa.select(judgment).order_by(judgment.c.number))
    digest, count = hashlib.sha256(), 0
    for row in islice(rows, num_old):
        count += 1
        digest.update(_canonical({name: _plain(name, row[name]) for name in OLD_COLUMNS}) + b"\n")
    before = begun.get("sha256", "")
    if digest.hexdigest() != before:
        yield f"the first {num_old} judgments are not what they were when the chain began"
    for row in rows:
        count += 1
        if row["hash"] != _link(before, row, JUDGMENT_COLUMNS):
            yield f"judgment {row['number']} or the one before it was changed, removed or put in"
        before = row["hash"]
    yield from _end_problems("judgment", count, before, head(connection, "judgment"))
    yield from _replacing_problems(connection)


def _replacing_problems(connection: sa.Connection) -> Iterator[str]:
    """What a judgment replaces is named by its number, and the chain holds the order of numbers alone."""
    replaced = judgment.alias()
    other = sa.or_(
        replaced.c.number.is_(None),
        replaced.c.number >= judgment.c.number,
        replaced.c.item_id != judgment.c.item_id,
        replaced.c.annotator_id != judgment.c.annotator_id,
    )
    pairs = judgment.outerjoin(replaced, replaced.c.number == judgment.c.supersedes)
    query = sa.select(judgment.c.number).select_from(pairs).where(judgment.c.supersedes.is_not(None), other)
    for number in connection.execute(query.order_by(judgment.c.number)).scalars():
        yield f"what judgment {number} replaces was given another number"


def _audit_problems(connection: sa.Connection) -> Iterator[str]:
    before, count = "", 0
    for row in _stream(connection, sa.select(audit).order_by(audit.c.number)):
        count += 1
        if row["hash"] != _link(before, row, AUDIT_COLUMNS):
            yield f"audit entry {row['number']} or the one before it was changed, removed or put in"
        before = row["hash"]
    yield from _end_problems("audit", count, before, head(connection, "audit"))


def _end_problems(name: str, count: int, last: str, end: Head) -> Iterator[str]:
    if count != end.length:
        yield f"the {name} chain has {count} rows where {end.length} were written"
    elif last != end.hash:
        yield f"the {name} chain ends otherwise than it was written"


def _stream(connection: sa.Connection, query: sa.Select) -> Iterator[Any]:
    yield from connection.execution_options(yield_per=1000).execute(query).mappings()
