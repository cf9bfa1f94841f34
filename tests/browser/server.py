"""The app as its own process, and its database read from outside."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from annotation import campaigns
from annotation.importing import import_comparisons
from annotation.store import Store
from rlhf.data.comparisons import Comparison

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


class Server:
    """`rlhf annotate` on a SQLite file of its own, always on the same port."""

    def __init__(self, folder: Path):
        self.file = folder / "annotations.db"
        self.store_url = f"sqlite:///{self.file}"
        self.log = folder / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

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

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = Store.open(self.store_url)
        try:
            yield store
        finally:
            store.close()

    def start(self) -> None:
        """Start the process and return when it answers."""
        command = [sys.executable, "-m", "rlhf.cli", "annotate", "--store", self.store_url, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/health", timeout=5) as answer:
                return json.load(answer)["status"] == "ok"
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C or a service manager would; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=START_SECONDS)

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
