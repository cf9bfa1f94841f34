"""The promises that `make faults-annotation` tries at full size, small; and that a broken one is said."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.annotation import __main__ as command
from benchmarks.annotation import access, durability, fuzzing, injection, keeping, sheets, texts
from benchmarks.annotation.databases import KINDS, postgres_programs
from benchmarks.annotation.figures import Figure, quantiles, table
from benchmarks.annotation.server import Annotator

SMALL = {
    "killed": (durability.killed, {"clients": 4, "submissions": 6, "kills": 2}),
    "identical": (durability.identical, {"times": 20}),
    "clock": (durability.clock, {"jumps": 10}),
    "locked": (durability.locked, {"short": 1.0, "long": 8.0}),
    "edits": (keeping.edits, {"count": 100}),
}

# Each with a server of its own, and on one of the databases here.
SMALL_ON = {
    "fuzz": ("sqlite", fuzzing.fuzz, {"cases": 120}),
    "texts": ("postgresql", texts.texts, {"count": 50, "longest": 0, "annotators": 2}),
    "sql": ("postgresql", injection.sql, {"payloads": injection.SQL[:1]}),
    "formulas": ("sqlite", sheets.formulas, {}),
    "login": ("sqlite", access.login, {"tries": 12, "sign_ins": 2, "with_pages": False}),
    "backups": ("sqlite", keeping.backups, {"clients": 3, "submissions": 4, "copies": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_a_promise_is_kept(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "postgresql" and postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    measure, sizes = SMALL[name]
    figure = measure(kind, tmp_path, **sizes)
    assert figure.kept, figure


@pytest.mark.parametrize("name", SMALL_ON)
def test_an_attack_fails(name: str, tmp_path: Path) -> None:
    kind, measure, sizes = SMALL_ON[name]
    if kind == "postgresql" and postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    figure = measure(kind, tmp_path, **sizes)
    assert figure.kept, figure


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    figure = durability.full(tmp_path)
    assert figure.kept, figure


def test_what_is_lost_or_doubled_is_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    durability.fill(url, 1, overlap=1)
    found = durability.counted(url, ["never written"], 1)
    assert found["lost"] == 1
    assert durability.any_wrong(found)


def test_a_promise_that_is_not_kept_fails_the_command_and_stands_in_the_file(tmp_path: Path, monkeypatch) -> None:
    def broken(kind: str, folder: Path) -> Figure:
        raise RuntimeError("the roof fell in")

    monkeypatch.setattr(command, "MEASURES", {"broken": (("sqlite",), broken)})
    assert command.main(["--output_file", str(tmp_path / "out" / "figures.json")]) == 1
    (figure,) = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (figure["kept"], figure["found"]) == (False, "RuntimeError: the roof fell in")


def test_quantiles_are_of_sorted_milliseconds() -> None:
    seconds = [0.001 * number for number in range(100, 0, -1)]
    assert quantiles(seconds) == pytest.approx({"p50_ms": 51.0, "p95_ms": 96.0})


def test_the_table_says_what_was_not_tried() -> None:
    assert "not tried" in table([Figure("a", "postgresql", "PostgreSQL is not installed", None)])


class BusyAtFirst(BaseHTTPRequestHandler):
    """Answers 503 to the first of the requests that are timed, and 200 to all others."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(self.path)
        self.send_response(503 if self.asked == ["/login", "/api/v1/next"] else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_the_time_of_a_request_is_that_of_all_its_tries() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyAtFirst) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with Annotator(f"http://127.0.0.1:{server.server_port}", "Ann") as ann:
            ann.post("next", {})
            ann.post("judgments", {})
        server.shutdown()
        thread.join()
    assert BusyAtFirst.asked == ["/login", "/api/v1/next", "/api/v1/next", "/api/v1/judgments"]
    tried_twice, _ = ann.seconds
    assert tried_twice >= 0.1  # what it waits before it asks again
