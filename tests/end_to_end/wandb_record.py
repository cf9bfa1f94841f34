"""Reads what W&B wrote to a run's `.wandb` file, and plays the part of its server that a run needs.

A `.wandb` file is a LevelDB log after a header of seven bytes: blocks of 32 KiB of chunks, each with checksum,
length and type; the chunks of a record joined are a `wandb_internal_pb2.Record`. wandb 0.31 has no reader in Python.
"""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FULL, LAST = 1, 4
HEADER_BYTES = 7
NO_METRIC = ("_", "histograms/")


@dataclass
class Recorded:
    """One session of a run, as its `.wandb` file tells it."""

    file: Path
    run_id: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    exit_code: int | None = None

    def metric_rows(self) -> list[dict[str, Any]]:
        """The logged rows without tables, histograms and W&B's own clocks."""
        own = [{name: value for name, value in row.items() if not name.startswith(NO_METRIC)} for row in self.rows]
        return [row for row in own if "samples" not in row]

    def histograms(self) -> list[dict[str, Any]]:
        """Steps with the histograms of their rows, by name."""
        found = []
        for row in self.rows:
            drawn = {name.removeprefix("histograms/"): row[name] for name in row if name.startswith("histograms/")}
            found += [{"step": row["step"], **drawn}] if drawn else []
        return found


def sessions(folder: Path) -> list[Recorded]:
    """All sessions below a `wandb` folder, oldest first; empty files are passed over."""
    files = sorted(folder.glob("*run-*/run-*.wandb"))
    files = [file for file in files if not file.parent.is_symlink() and file.stat().st_size > HEADER_BYTES]
    return [read_session(file) for file in files]


def read_session(file: Path) -> Recorded:
    """Everything in one `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    session = Recorded(file)
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        session.kinds.add(kind)
        if kind == "run":
            session.run_id, session.job_type = record.run.run_id, record.run.job_type
            assert record.run.host == ""
            assert not record.run.HasField("git")
            session.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            session.rows.append(_nested(record.history.item))
        elif kind == "summary":
            session.summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        elif kind == "alert":
            session.alerts.append((record.alert.title, record.alert.text, record.alert.level))
        elif kind == "artifact":
            session.artifacts[record.artifact.name] = record.artifact
        elif kind == "exit":
            session.exit_code = record.exit.exit_code
    for row in session.rows:
        if "samples" in row:
            session.tables += _table(file.parent, row["samples"])
        if "samples_by_prompt" in row:
            session.comparisons = _table(file.parent, row["samples_by_prompt"])
    return session


def _table(folder: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    table = json.loads((folder / "files" / entry["path"]).read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]


def _records(data: bytes) -> Iterator[bytes]:
    assert data.startswith(b":W&B")
    position, record = HEADER_BYTES, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < 7:  # too short for a chunk: filled up
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        chunk = data[position + 7 : position + 7 + length]
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == checksum
        position += 7 + length
        record += chunk
        if kind in (FULL, LAST):
            yield record
            record = b""


def _nested(items: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        inside = row
        for name in path:
            inside = inside.setdefault(name, {})
        inside[last] = json.loads(item.value_json)
    return row


@dataclass
class Server:
    """What the server took in: rows by run, the names of GraphQL queries with their variables, the keys shown."""

    url: str = ""
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)
    queries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine that opens and resumes runs and stores their rows; it refuses artifacts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            state.authorizations.add(self.headers.get("Authorization", ""))
            answer: dict[str, Any] = {}  # other requests are W&B's reports on itself
            if self.path == "/graphql":
                answer = _answer(state, json.loads(data))
            elif self.path.endswith("/file_stream"):
                _store(state, self.path, json.loads(data))
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _store(state: Server, path: str, body: dict[str, Any]) -> None:
    run, files = path.split("/")[-2], body.get("files") or {}
    rows = state.rows.setdefault(run, [])
    if history := files.get("wandb-history.jsonl"):
        rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
    if summary := files.get("wandb-summary.json"):
        state.summaries[run] = summary["content"][-1]


def _answer(state: Server, body: dict[str, Any]) -> dict[str, Any]:
    name, variables = body.get("operationName") or "", body.get("variables") or {}
    state.queries.append((name, variables))
    run = variables.get("name")
    project = {"id": "P", "name": variables.get("project"), "entity": {"id": "E", "name": "team"}}
    if name == "Viewer":
        viewer = {"id": "V", "entity": "team", "flags": "{}", "teams": {"edges": []}, "username": "u", "email": "u@u"}
        return {"data": {"viewer": viewer}}
    if name == "ServerFeaturesQuery":
        return {"data": {"serverInfo": {"features": []}}}
    if name == "RunResumeStatus":
        bucket = None
        if run in state.rows:
            bucket = {
                "id": f"S-{run}",
                "name": run,
                "displayName": run,
                "config": "{}",
                "summaryMetrics": state.summaries.get(run, "{}"),
                "historyLineCount": len(state.rows[run]),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps([json.dumps(row) for row in state.rows[run][-1:]]),
                "eventsTail": "[]",
                "wandbConfig": '{"t": 1}',
                "tags": [],
            }
        return {"data": {"model": {**project, "bucket": bucket}}}
    if name == "UpsertBucket":
        bucket = {"id": f"S-{run}", "name": run, "displayName": run, "config": variables.get("config")}
        bucket |= {"description": None, "sweepName": None, "project": project}
        bucket["historyLineCount"] = len(state.rows.setdefault(run, []))
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": False}}}
    return {"errors": [{"message": f"{name} is not served here"}]}
