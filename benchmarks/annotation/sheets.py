"""Formulas in everything that people write, and every CSV file that the app makes of it."""

from __future__ import annotations

import csv
import io
import re
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotation import campaigns
from annotation.importing import import_comparisons
from annotation.store import Store
from benchmarks.annotation.databases import database
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.server import Annotator, Server, run_command
from rlhf.data.comparisons import Comparison, Message, Response

FORMULAS = (
    '=HYPERLINK("http://outside.invalid/","x")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "\uff0b1+1",
    "\uff0d1+1",
    "\uff20SUM(A1)",
    "'=1+1",
    "x;=1+1",
    'x",=1+1',
    'x";=1+1',
)
STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
# A text is quoted; a number needs no quotes and is no formula.
CELLS = re.compile(r'(?:(?:"(?:[^"]|"")*"|-?[0-9.]+(?:e[+-]?[0-9]+)?|nan|)(?:,|\r\n))*')
NUMBER = re.compile(r"-?[0-9.]+(e[+-]?[0-9]+)?")


def formulas(kind: str, folder: Path) -> Figure:
    """Formulas as names of people, campaigns, policies and aspects, as texts and reasons; then each CSV file."""
    with database(kind, folder) as url:
        fill_with_formulas(url)
        with Server(url, folder / f"formulas-{kind}.log") as server:
            for name in dict.fromkeys(formula.strip() for formula in FORMULAS):
                judge(server.url, name)
            with Annotator(server.url, "manager") as manager:
                files = dict(fetched(manager))
        out = folder / "judged.csv"
        done = run_command("export", url, "--out", str(out), "--format", "csv")
        assert done.returncode == 0, done.stderr
        files["rlhf annotate export"] = out.read_bytes().decode("utf-8-sig")
    unquoted = [name for name, text in files.items() if CELLS.fullmatch(text) is None]
    cells = [(name, cell) for name, text in files.items() for row in read(text) for cell in row]
    live = [f"{name}: {cell!r}" for name, cell in cells if cell.startswith(STARTS) and not NUMBER.fullmatch(cell)]
    escaped = [cell for _, cell in cells if cell.startswith("'")]
    missing = [formula for formula in FORMULAS if not any(formula.strip() in cell for _, cell in cells)]
    text = f"{len(live)} formulas in {len(cells)} cells of {len(files)} CSV files, {len(escaped)} made texts"
    kept = not (live or unquoted or missing) and len(escaped) > 5 * len(FORMULAS)
    details = {
        "live": live[:5],
        "unquoted": unquoted,
        "missing": missing,
        "files": {n: len(t) for n, t in files.items()},
    }
    return Figure("formulas in CSV files", kind, text, kept, details)


def fill_with_formulas(url: str) -> None:
    store = Store.open(url)
    items = [
        Comparison(
            (Message("user", f"{formula} prompt"),),
            tuple(Response(f"{formula} {word}", policy=f"{formula} {word}") for word in ("first", "second")),
            source=formula.strip(),
        )
        for formula in FORMULAS
    ]
    import_comparisons(store, items, name=FORMULAS[0], overlap=3)
    asked = {"aspects": [{"name": formula} for formula in FORMULAS[:2]], "random_share": 0.0}
    settings = campaigns.CampaignSettings.from_dict(asked)
    store.write(lambda connection: campaigns.change(connection, 1, settings=settings, actor_id=None, at=time.time()))
    store.close()


def judge(url: str, name: str) -> None:
    """Leave one item out and judge a few, with a formula wherever there is a text."""
    with Annotator(url, name) as annotator:
        for number in range(5):
            card = annotator.next_card()
            if card is None:
                return
            said: dict[str, Any] = {"kind": "skip" if number else "flag", "reason": name}
            if number > 1:
                said = {"kind": "ranking", "ranks": [1, 2], "rationale": name, "edits": {"0": f"{name} edited"}}
                said["aspects"] = {aspect: [1, 2] for aspect in FORMULAS[:2]}
            body = {"id": str(uuid.uuid4()), "item_id": card["item_id"], "active_ms": 900}
            answer = annotator.post("judgments", body | said)
            assert answer.status_code == 201, answer.text


def fetched(manager: Annotator) -> Iterator[tuple[str, str]]:
    """Every CSV file of the REST interface, by where it is."""
    at = "/api/v1/manage"
    tables = manager.http.get(f"{at}/campaigns/1/tables/none.csv").json()["detail"].partition("use one of ")[2]
    for path in ("users.csv", "audit.csv", *(f"campaigns/1/tables/{name}.csv" for name in tables.split(", "))):
        answer = manager.http.get(f"{at}/{path}")
        assert answer.status_code == 200, answer.text
        yield path, answer.content.decode("utf-8")
    made = manager.http.post(f"{at}/exports", json={"form": "csv"}).json()
    with zipfile.ZipFile(io.BytesIO(manager.http.get(f"{at}/exports/{made['id']}").content)) as archive:
        for name in archive.namelist():
            if name.endswith(".csv"):
                yield f"exports: {Path(name).name}", archive.read(name).decode("utf-8-sig")


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))
