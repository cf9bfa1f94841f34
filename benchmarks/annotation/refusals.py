"""What is refused: texts that no database keeps, and texts and bodies that are too long."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from annotation.api import create_app
from annotation.formats.items import LONGEST_TEXT
from annotation.guard import MAX_BODY
from annotation.judgments import LONGEST_EDIT, LONGEST_RATIONALE, LONGEST_REASON
from annotation.live import LONGEST_PROMPT
from annotation.service import AnnotationService
from annotation.store import Store
from benchmarks.annotation.access import SAFE, filled
from benchmarks.annotation.databases import content
from benchmarks.annotation.roles import routes_of
from benchmarks.annotation.server import Annotator, run_command


def refused_texts(annotator: Annotator) -> Iterator[tuple[str, bool]]:
    """Texts with a NUL, half a pair or a character too many in requests, and whether the status is as promised."""
    judged = annotator.http.get("/api/v1/history").json()["rows"][0]["item_id"]
    ranking = {"item_id": judged, "kind": "ranking", "ranks": [1, 2]}
    fields: tuple[tuple[str, dict[str, Any], int, Callable[[str], dict[str, Any]]], ...] = (
        ("/api/v1/judgments", ranking, LONGEST_RATIONALE, lambda text: {"rationale": text}),
        ("/api/v1/judgments", ranking, LONGEST_EDIT, lambda text: {"edits": {"0": text}}),
        ("/api/v1/judgments", {"item_id": judged, "kind": "skip"}, LONGEST_REASON, lambda text: {"reason": text}),
        ("/api/v1/live", {"campaign_id": 1}, LONGEST_PROMPT, lambda text: {"messages": [message("user", text)]}),
        (
            "/api/v1/live",
            {"campaign_id": 1},
            LONGEST_PROMPT,
            lambda text: {"messages": [message("system", text), message("user", "So?")]},
        ),
    )
    for url, common, longest, field in fields:
        long = ("x" * (longest + 1), "é" * (longest + 1), "x" * (3 * longest))
        for text, status in (("a\0b", 422), ("a\ud800b", 422), *((text, 413) for text in long)):
            body = {"client": "tab", "id": str(uuid.uuid4()), **common, **field(text)}
            answer = annotator.http.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
            named = answer.status_code == 413 or "\0" not in text or "NUL" in answer.text
            yield f"{url} {list(field(''))} {text[:3]!r} {answer.status_code}", answer.status_code == status and named


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def refused_bodies(annotator: Annotator, store_url: str) -> Iterator[tuple[str, bool]]:
    """Bodies that are larger than any may be, declared and not, at every route that takes one; nothing is changed."""
    store = Store.open(store_url)
    before = content(store)
    for path, method in routes_of(create_app(AnnotationService(store))):
        for size in (MAX_BODY + 1, 8 * MAX_BODY) if method not in SAFE else ():
            for body in (b" " * size, parts(size)):
                answer = annotator.http.request(method, filled(path), content=body)
                yield f"{path} {size} {answer.status_code}", answer.status_code == 413
    yield "rows are as they were", content(store) == before
    store.close()


def parts(size: int) -> Iterator[bytes]:
    for _ in range(-(-size // 50_000)):
        yield b" " * 50_000


def refused_files(url: str, folder: Path) -> Iterator[tuple[str, bool]]:
    """Files with a text that cannot be kept: the command says so, and nothing of them is added."""
    row = {"prompt": "p", "response_1": "one", "response_2": "two"}
    for field, text, words in (("prompt", "a\0b", "NUL"), ("response_1", "x" * (LONGEST_TEXT + 1), "200000")):
        path = folder / f"{words}.jsonl"
        path.write_text(f"{json.dumps(row)}\n{json.dumps(row | {field: text})}\n", encoding="utf-8")
        store = Store.open(url)
        before = content(store)["item"]
        done = run_command("import", url, "--file", str(path))
        right = done.returncode == 2 and words in done.stderr.replace(",", "") and content(store)["item"] == before
        store.close()
        yield f"{path.name}: {done.stderr[:200]}", right
