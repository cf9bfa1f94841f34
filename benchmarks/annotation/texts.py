"""Texts of every kind there and back: from a file, through the REST interface, into exports."""

from __future__ import annotations

import csv
import io
import json
import random
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotation.formats.items import LONGEST_TEXT
from annotation.judgments import LONGEST_RATIONALE
from benchmarks.annotation.databases import database
from benchmarks.annotation.durability import run_at_once
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.refusals import refused_bodies, refused_files, refused_texts
from benchmarks.annotation.server import Annotator, Server, run_command

TEXTS_OF_ITEM = 5
NEWLINES = ("\n", "\r", "\r\n", "\n\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = "\ufeff\ufffe\uffff\u200b\u200c\u200d\u2060\u00ad\u180e\ufe0e\ufe0f\U000e0041\U000e007f\U0010ffff"
MARKS = "\u0300\u0301\u0489\u05b0\u064b\u0e31\u20dd\u3099\ufe20\U0001d165"
LETTERS = ("a", "é", "e\u0301", "ß", "İ", "\u1100\u1161", "각", "क्ष", "👩‍👩‍👧", "🇩🇪", "\U00020000", "عربي", "עברית")
SIGNS = (
    '"',
    '""',
    "'",
    ",",
    ";",
    "\\",
    "\\n",
    "=",
    "+",
    "-",
    "@",
    "\t",
    "|",
    "[",
    "{",
    "{{value}}",
    "${x}",
    "</script>",
)
FORMS = (("comparisons", "jsonl"), ("comparisons", "parquet"), ("sft", "jsonl"), ("csv", ""))


@dataclass(frozen=True)
class Sent:
    """The texts of an item and of what is said of it."""

    prompt: str
    responses: tuple[str, str]
    rationale: str
    edit: str

    @property
    def shown(self) -> tuple[str, frozenset[str]]:
        """What it is found again by, whatever the order of its responses."""
        return self.prompt, frozenset(self.responses)


def texts(kind: str, folder: Path, *, count: int = 10_000, longest: int = 3, annotators: int = 4) -> Figure:
    """Random texts as prompts, responses, rationales and edits: which come back byte by byte, and which are refused.

    Args:
        kind, folder: of the database.
        count: of texts, five to an item.
        longest: of the items have texts as long as they may be.
        annotators: at once.
    """
    sent = some_items(random.Random(0), count // TEXTS_OF_ITEM, longest)
    with database(kind, folder) as url:
        imported = run_command("import", url, "--file", *map(str, write_files(sent, folder)))
        expected = {each.shown: each for each in sent}
        seen: dict[tuple[str, frozenset[str]], Sent] = {}
        with Server(url, folder / f"texts-{kind}.log") as server:
            problems = run_at_once(
                [lambda number=number: judge_all(server.url, number, expected, seen) for number in range(annotators)]
            )
            with Annotator(server.url, "annotator 0") as manager:
                exported = [read_export(manager, form, container) for form, container in FORMS]
                refusals = [*refused_texts(manager), *refused_bodies(manager, url), *refused_files(url, folder)]
    back = [
        {sent for shown, sent in expected.items() if seen.get(shown) == sent},
        *({sent for sent in expected.values() if wanted(sent) in found} for wanted, found in exported),
    ]
    exact = len(set.intersection(*back)) * TEXTS_OF_ITEM
    wrong = [name for name, right in refusals if not right]
    text = (
        f"{exact} of {len(sent) * TEXTS_OF_ITEM} texts byte-exact through file, REST and exports; "
        f"{len(refusals) - len(wrong)} of {len(refusals)} with NUL or too long refused as promised"
    )
    kept = exact == len(sent) * TEXTS_OF_ITEM and not wrong and not problems and imported.returncode == 0
    steps = dict(zip(("REST", *map("-".join, FORMS)), map(len, back), strict=True))
    details = {"items": steps, "wrong": wrong[:10], "problems": [str(p) for p in problems[:3]], "said": imported.stderr}
    return Figure("texts come back, and too long ones do not come in", kind, text, kept, details)


# ---- texts ----------------------------------------------------------------------------------------------------


def some_items(draw: random.Random, count: int, longest: int) -> list[Sent]:
    """Items that differ, the first ones with texts as long as they may be."""
    found: dict[tuple[str, frozenset[str]], Sent] = {}
    while len(found) < count:
        full = len(found) < longest
        size = LONGEST_TEXT if full else draw.choice((1, 1, 2, 5, 20, 100, 1000))
        prompt, one, other, edit = (a_text(draw, size, exactly=full) for _ in range(4))
        if len({one, other, edit}) == 3:
            rationale = a_text(draw, min(size, LONGEST_RATIONALE), exactly=full)
            each = Sent(prompt, (one, other), rationale, edit)
            found[each.shown] = each
    return list(found.values())


def a_text(draw: random.Random, size: int, *, exactly: bool) -> str:
    """Up to so many characters, or exactly so many; never blank, which is refused."""
    while True:
        number = size if exactly else draw.randint(1, size)
        text = "".join(a_piece(draw) for _ in range(number))[:number]
        if text.strip():
            return text


def a_piece(draw: random.Random) -> str:
    """A character, or some that go together: of any plane, or of those that files and programs stumble over."""
    kind = draw.randrange(8)
    if kind == 0:
        code = draw.randrange(17) * 0x10000 + draw.randrange(0x10000)
        return chr(code) if code and not 0xD800 <= code < 0xE000 else "\ufffd"
    if kind == 1:
        return draw.choice(NEWLINES)
    if kind == 2:
        return draw.choice(DIRECTIONS)
    if kind == 3:
        return "o" + "".join(draw.choices(MARKS, k=draw.randint(1, 20)))
    if kind == 4:
        return draw.choice(UNSEEN)
    if kind == 5:
        return chr(draw.choice((draw.randint(1, 31), draw.randint(127, 159))))
    return draw.choice(SIGNS if kind == 6 else LETTERS)


# ---- in -------------------------------------------------------------------------------------------------------


def write_files(sent: Sequence[Sent], folder: Path) -> list[Path]:
    """The items by turns in JSON Lines, CSV and Parquet."""
    files = [folder / f"items.{ending}" for ending in ("jsonl", "csv", "parquet")]
    rows = [{"prompt": each.prompt, "response_1": each.responses[0], "response_2": each.responses[1]} for each in sent]
    with files[0].open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[0::3])
    with files[1].open("w", encoding="utf-8", newline="") as sheet:
        writer = csv.DictWriter(sheet, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows[1::3])
    pq.write_table(pa.Table.from_pylist(rows[2::3]), files[2])
    return files


# ---- through --------------------------------------------------------------------------------------------------


def judge_all(
    url: str,
    number: int,
    expected: dict[tuple[str, frozenset[str]], Sent],
    seen: dict[tuple[str, frozenset[str]], Sent],
) -> None:
    """Judge what the app gives, and keep its texts as they came, the rationale and the edit read back."""
    with Annotator(url, f"annotator {number}") as annotator:
        while (card := annotator.next_card()) is not None:
            shown = card["prompt"][0]["content"], frozenset(card["responses"])
            meant = expected.get(shown, Sent("", ("", ""), "unknown", "unknown"))
            body = {"id": str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking", "ranks": [1, 2]}
            body |= {"rationale": meant.rationale, "edits": {"0": meant.edit}}
            answer = annotator.post("judgments", body)
            assert answer.status_code == 201, answer.text
            again = annotator.post("history/open", {"item_id": card["item_id"]}).json()
            said = again["previous"]
            kept = again["card"]["prompt"][0]["content"], frozenset(again["card"]["responses"])
            seen[kept] = Sent(kept[0], meant.responses, said["rationale"], said["edits"]["0"])


# ---- out ------------------------------------------------------------------------------------------------------


def read_export(manager: Annotator, form: str, container: str) -> tuple[Callable[[Sent], Any], set[Any]]:
    """What of an item is in an export of this form, and what was found there."""
    options = {"form": form, "container": container, "aggregation": "every" if form != "sft" else ""}
    made = manager.http.post("/api/v1/manage/exports", json=options)
    assert made.status_code == 201, made.text
    packed = manager.http.get(f"/api/v1/manage/exports/{made.json()['id']}").content
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        name = next(name for name in archive.namelist() if Path(name).stem == "train")
        data = archive.read(name)
    if form == "csv":
        rows = [{name: cell_text(cell) for name, cell in row.items()} for row in sheet(data.decode("utf-8-sig"))]
        return _judged, {
            (row["prompt"], frozenset((row["response_1"], row["response_2"])), row["rationale"], edit)
            for row in rows
            for edit in json.loads(row["edits"]).values()
        }
    rows = pq.read_table(io.BytesIO(data)).to_pylist() if container == "parquet" else json_lines(data)
    if form == "sft":
        return _edited, {(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows}
    return _shown, {
        (row["prompt"][0]["content"], frozenset(response["text"] for response in row["responses"])) for row in rows
    }


def _shown(sent: Sent) -> Any:
    return sent.shown


def _edited(sent: Sent) -> Any:
    return sent.prompt, sent.edit


def _judged(sent: Sent) -> Any:
    return *sent.shown, sent.rationale, sent.edit


def json_lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.split(b"\n") if line]


def sheet(text: str) -> list[dict[str, str]]:
    csv.field_size_limit(max(csv.field_size_limit(), 10 * LONGEST_TEXT))
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def cell_text(cell: str) -> str:
    """What a cell of ours says: one apostrophe at its beginning is a sign that it is a text."""
    return cell.removeprefix("'")
