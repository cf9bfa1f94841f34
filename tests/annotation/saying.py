"""Judgments put straight into a store, each as exactly as a test needs it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sqlalchemy as sa

from annotation import audit
from annotation.importing import import_comparisons
from annotation.store import Store
from annotation.tables import annotator, item, judgment, metadata
from rlhf.data.comparisons import Comparison


class Desk:
    """A store with items, and annotators who say what they are told to."""

    def __init__(self, store: Store):
        self.store = store
        self.numbers = itertools.count(1)

    def add(self, *comparisons: Comparison, campaign: str = "main", kind: str = "work") -> list[int]:
        """Numbers of the items that these become."""
        import_comparisons(self.store, comparisons, name=campaign)
        ids = [comparison.id for comparison in comparisons]
        with self.store.writing() as connection:
            rows = connection.execute(sa.select(item.c.id, item.c.comparison_id).order_by(item.c.id)).all()
            number_of = {row.comparison_id: row.id for row in rows}
            found = [number_of[comparison_id] for comparison_id in ids]
            connection.execute(sa.update(item).where(item.c.id.in_(found)).values(kind=kind))
        return found

    def say(
        self,
        item_id: int,
        who: str,
        ranks: Sequence[int] | None = (1, 2),
        *,
        kind: str = "ranking",
        role: str | None = "work",
        supersedes: int | None = None,
        **columns: object,
    ) -> int:
        """One judgment; its number. Further columns are those of the table."""
        number = next(self.numbers)

        def keep(connection: sa.Connection) -> int:
            if connection.execute(sa.select(annotator.c.id).where(annotator.c.id == who)).first() is None:
                connection.execute(sa.insert(annotator).values(id=who, name=who, name_key=who, created_at=1.0))
            values = {column.name: None for column in judgment.c if column.name not in ("number", "hash")}
            size = len(ranks or (1, 2))
            values |= {"id": f"judgment-{number:04}", "item_id": item_id, "annotator_id": who, "kind": kind}
            values |= {"role": role, "ranks": None if ranks is None else list(ranks), "supersedes": supersedes}
            values |= {"revision": number, "shown_order": list(range(size)), "active_ms": 1000}
            values |= {"app_version": "0", "created_at": float(number), **columns}
            audit.add_judgment(connection, values)
            newest = sa.select(judgment.c.number).where(judgment.c.id == values["id"])
            return connection.execute(newest).scalar_one()

        return self.store.write(keep)

    def set_state(self, who: str, state: str) -> None:
        with self.store.writing() as connection:
            connection.execute(sa.update(annotator).where(annotator.c.id == who).values(state=state))


def copy_content(source: Store, target: Store) -> None:
    """All rows of a store but its audit into an empty one, of another database too."""
    with source.reading() as old, target.writing() as new:
        for table in metadata.sorted_tables:
            if table.name == "audit":  # begins by itself, and lets nothing be removed
                continue
            if table.name in ("identity", "chain"):
                new.execute(sa.delete(table))
            rows = [dict(row) for row in old.execute(sa.select(table)).mappings()]
            if rows:
                new.execute(sa.insert(table), rows)
    with target.reading() as connection:
        target.id = connection.execute(sa.text("SELECT id FROM identity")).scalar_one()
