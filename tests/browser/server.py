"""The app as its own process, and its database read from outside."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from annotation import campaigns
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from benchmarks.annotation import server
from rlhf.data.comparisons import Comparison
from tests.browser.forked import Fork


class Server(server.Server):
    """`rlhf annotate` on a SQLite file of its own; where it is `forked`, its process has imported what it needs."""

    forked = True

    def __init__(self, folder: Path):
        self.file = folder / "annotations.db"
        super().__init__(f"sqlite:///{self.file}", folder / "server.log")

    def run(self, arguments: Sequence[str]) -> subprocess.Popen[bytes] | Fork:
        return Fork(arguments, self.log, self.environment or os.environ) if self.forked else super().run(arguments)

    def fill(
        self, comparisons: Sequence[Comparison], *, name: str = "Plain words", overlap: int = 1, **more: Any
    ) -> None:
        with self._store() as store:
            import_comparisons(store, comparisons, name=name, overlap=overlap, **more)
        self.ask_for()

    def ask_for(self, **settings: Any) -> None:
        """Change what the campaign asks for; its items come in order, none drawn at random."""
        wanted = campaigns.CampaignSettings.from_dict({"random_share": 0.0, **settings})
        with self._store() as store:
            numbers = [found.id for found in store.write(campaigns.all_campaigns)]
            for number in numbers:
                change = partial(campaigns.change, actor_id=None, at=time.time(), settings=wanted)
                store.write(lambda connection, number=number, change=change: change(connection, number))

    def write_guideline(self, text: str) -> None:
        with self._store() as store:
            store.write(
                lambda connection: campaigns.write_guideline(connection, 1, text, actor_id=None, at=time.time())
            )

    def disagree(self, names: Sequence[str], rationale: str) -> None:
        """Let people judge all items, each with another response on top."""
        with self._store() as store:
            service = AnnotationService(store)
            for number, name in enumerate(names):
                who = service.annotator_of(service.sign_in(name))
                while (card := service.next_card(who.id, "tab").card) is not None:
                    best = sorted(card.responses)[number]
                    ranks = tuple(1 if text == best else 2 for text in card.responses)
                    said = Said("ranking", ranks, rationale=rationale)
                    service.submit(who.id, Judgment(str(uuid.uuid4()), card.item_id, said))

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = Store.open(self.store_url)
        try:
            yield store
        finally:
            store.close()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def change(self, statement: str, *values: Any) -> None:
        connection = sqlite3.connect(self.file, timeout=20)
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()

    def ranked(self, number: int = -1) -> dict[str, int]:
        """A judgment in the order they came: the rank of each response's text."""
        item_id, ranks = self.rows("SELECT item_id, ranks FROM judgment ORDER BY number")[number]
        texts = self.rows("SELECT text FROM completion WHERE item_id = ? ORDER BY position", item_id)
        return {text: rank for (text,), rank in zip(texts, json.loads(ranks), strict=True)}
