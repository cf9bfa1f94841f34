"""Files of an export: the same bytes for the same content, all or nothing, and readable by others."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation import export as exporting
from annotation.export import export_dataset
from annotation.export_command import export_main
from annotation.exporting.rows import FORMULA_STARTS, cell
from annotation.importing import PolicyOrigin, import_comparisons
from annotation.store import Store
from annotation.tables import judgment
from rlhf import __version__
from rlhf.data.comparisons import Comparison, DataError, Message, Response, read_comparisons
from tests.annotation.items import comparison
from tests.annotation.saying import Desk, copy_content

FORMS = ("comparisons", "trl", "kto", "sft", "csv")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """SQLite: that PostgreSQL gives the same bytes is a test of its own."""
    return f"sqlite:///{tmp_path}/annotations.db"


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def fill(desk: Desk) -> None:
    """Items with everything that judgments can have."""
    sampling = {"top_p": 0.9, "temperature": 0.7}
    responses = (
        Response("first ünïcödé \N{PILE OF POO}", "runs/ppo", sampling, 2**70, "stop"),
        Response("=second\r\n,;\t", "runs/ä", sampling, 1, "length"),
    )
    talk = (Message("system", "Be kind."), Message("user", "Why?"))
    one, two, three = desk.add(Comparison(talk, responses, source="logs"), comparison(2, 3), comparison(3))
    desk.say(one, "ann", (1, 2), strength=2.0, rationale="+clear", aspects={"true": [5, 1]}, guideline_version=2)
    desk.say(one, "bob", (2, 1), strength=1.0, edits={"1": "second, better"})
    desk.say(two, "ann", (1, 3, 2))
    desk.say(two, "bob", (1, 3, 3))
    desk.say(three, "bob", (1, 1), both_bad=True)
    desk.say(three, "cid", (2, 1), strength=3.0)
    for number in range(4, 12):
        desk.say(*desk.add(comparison(number)), "cid", (1, 2), edits={"0": f"{number} better"})


def fill_with_what_is_left_out(desk: Desk) -> None:
    """Skips, flags, what was replaced or taken back, gold and an adjudication."""
    kept, changed, undone, gold = desk.add(*(comparison(number) for number in range(40, 44)))
    desk.say(kept, "ann", (1, 2))
    desk.say(kept, "bob", (2, 1))
    desk.say(kept, "judge", (2, 1), role="adjudication", strength=1.0)
    desk.say(changed, "ann", (2, 1), supersedes=desk.say(changed, "ann", (1, 2)))
    desk.say(changed, "bob", None, kind="skip", reason="too long")
    desk.say(undone, "ann", None, kind="undo", supersedes=desk.say(undone, "ann", (1, 2)))
    desk.say(undone, "cid", None, kind="flag", reason="private")
    desk.say(gold, "ann", (1, 2), role="gold")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- the same bytes -------------------------------------------------------------------------------------------


def test_the_same_content_gives_the_same_bytes_from_both_databases(postgres_server: Path, tmp_path: Path) -> None:
    one = Store.open(f"sqlite:///{tmp_path}/one.db")
    desk = Desk(one)
    fill(desk)
    fill_with_what_is_left_out(desk)
    other = Store.open(_empty_postgres(postgres_server))
    copy_content(one, other)
    number = 0
    for form in FORMS:
        for container in ("csv",) if form == "csv" else ("jsonl", "parquet", "datasets"):
            for share in (0.0, 0.4):
                number += 1
                outs = [tmp_path / f"{name}-{number}" for name in ("sqlite", "again", "postgresql")]
                for out, store, at in zip(outs, (one, one, other), (1.0, 2.0, 1.0), strict=True):
                    export_dataset(store, out, form=form, container=container, validation_share=share, at=at)
                first, again, elsewhere = (contents(out) for out in outs)
                assert first == elsewhere
                manifests = [json.loads(files.pop("manifest.json")) for files in (first, again)]
                assert [manifest.pop("created_at") for manifest in manifests] == [
                    "1970-01-01T00:00:01+00:00",
                    "1970-01-01T00:00:02+00:00",
                ]
                assert manifests[0] == manifests[1]
                assert first == again
    one.close()
    other.close()
    assert number == 26


def _empty_postgres(server: Path) -> str:
    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS exports")
        connection.execute("CREATE DATABASE exports")
    return f"postgresql://postgres@/exports?host={server}"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_judgment_given_meanwhile_is_in_no_part_of_an_export(request, tmp_path: Path, database: str) -> None:
    """Counts, rows and the head of the chain are of one moment."""
    local = database == "sqlite"
    store = Store.open(
        f"sqlite:///{tmp_path}/one.db" if local else _empty_postgres(request.getfixturevalue("postgres_server"))
    )
    desk = Desk(store)
    (item,) = desk.add(comparison(1))
    desk.say(item, "ann", (1, 2))
    with exporting._snapshot(store) as connection:
        query = sa.select(sa.func.count()).select_from(judgment)
        assert connection.execute(query).scalar() == 1
        desk.say(item, "bob", (1, 2))
        assert connection.execute(query).scalar() == 1
    store.close()


# ---- manifest and card ----------------------------------------------------------------------------------------


def test_the_manifest_names_store_options_files_policies_and_the_last_judgment(
    desk: Desk, store: Store, tmp_path: Path
) -> None:
    made_by = {"stage": "ppo", "parents": {"reward_model": {"sha256": "abc"}}}
    origins = {"runs/sft": PolicyOrigin("f" * 64, made_by)}
    import_comparisons(store, [comparison(1)], origins=origins)
    with store.reading() as connection:
        item = connection.execute(sa.text("SELECT id FROM item")).scalar_one()
    desk.say(item, "ann", (1, 2))
    number = desk.say(item, "bob", None, kind="skip")
    done = export_dataset(store, tmp_path / "out", form="trl", aggregation="majority", at=0.0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    with store.reading() as connection:
        last = connection.execute(sa.select(judgment.c.hash).where(judgment.c.number == number)).scalar_one()
    assert manifest["judgments"] == {"count": 2, "hash": last}
    assert (manifest["store_id"], manifest["app_version"]) == (store.id, __version__)
    assert manifest["created_at"] == "1970-01-01T00:00:00+00:00"
    assert manifest["options"]["aggregation"] == "majority"
    assert manifest["policies"] == [
        {"name": "runs/sft", "sha256": "f" * 64, "num_responses": 2, "manifest": made_by},
    ]
    hashes = {
        name: hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
        for name in ("train.jsonl", "DATACARD.md")
    }
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == hashes
    assert [path.name for path in done.files] == ["train.jsonl", "DATACARD.md", "manifest.json"]


def test_the_card_counts_what_was_judged(desk: Desk, store: Store, tmp_path: Path) -> None:
    fill(desk)
    (skipped,) = desk.add(comparison(20))
    desk.say(skipped, "ann", None, kind="skip")
    desk.say(skipped, "bob", None, kind="flag", reason="private")
    first = desk.say(skipped, "cid", (1, 2))
    desk.say(skipped, "cid", None, kind="undo", supersedes=first)
    export_dataset(store, tmp_path / "out", form="trl")
    card = (tmp_path / "out" / "DATACARD.md").read_text()
    for line in (
        *("| items with a ranking | 11 |", "| rankings | 14 |", "| ties | 1 |", "| both bad | 1 |"),
        *(
            "| with a strength | 3 |",
            "| with a rationale | 1 |",
            "| with an edit | 9 |",
            "| skips | 1 |",
            "| flags | 1 |",
        ),
        *("| replaced or taken back | 2 |", "| ann | 2 |", "| bob | 3 |", "| cid | 9 |"),
        *("0 for 13 rankings, 2 for 1 rankings", "License: *not stated", "- ties, which prefer nothing: 1"),
        # of three items with two annotators one says first and second, one agrees on two of three pairs, one has a tie
        "in 0.400 (",
    ):
        assert line in card, line


def test_names_of_campaigns_are_no_markup_in_the_card(desk: Desk, store: Store, tmp_path: Path) -> None:
    desk.say(*desk.add(comparison(1), campaign="<b>`a`</b>\n# x"), "ann", (1, 2))
    export_dataset(store, tmp_path / "out")
    assert "campaigns `` <b>`a`</b> # x ``, exported" in (tmp_path / "out" / "DATACARD.md").read_text()


# ---- all or nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_nothing_is_overwritten(desk: Desk, store: Store, tmp_path: Path, name: str) -> None:
    fill(desk)
    (tmp_path / name).write_text("kept")
    with pytest.raises(FileExistsError, match="choose another"):
        export_dataset(store, tmp_path / name)
    assert (tmp_path / name).read_text() == "kept"


def test_a_single_file_does_not_overwrite_a_manifest_either(desk: Desk, store: Store, tmp_path: Path) -> None:
    fill(desk)
    (tmp_path / "out.jsonl.manifest.json").write_text("kept")
    with pytest.raises(FileExistsError, match=r"manifest\.json exists"):
        export_dataset(store, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_failure_leaves_nothing(desk: Desk, store: Store, tmp_path: Path, name: str) -> None:
    """A conversation comes after many texts, which plain rows hold: the file is half written then."""
    fill(desk)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="has 2 messages"):
        export_dataset(store, tmp_path / name, form="trl", plain=True)
    assert [path for path in sorted(tmp_path.iterdir()) if path.name.startswith((".", "out"))] == []
    assert [path for path in before if not path.exists() and "-wal" not in path.name] == []


def test_a_name_taken_meanwhile_stays_as_it_is(
    desk: Desk, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports to one file: the first one that is done has it."""
    fill(desk)
    card = exporting.data_card

    def taking(*arguments: object) -> str:
        (tmp_path / "out.jsonl").write_text("another one's")
        return card(*arguments)

    monkeypatch.setattr(exporting, "data_card", taking)
    with pytest.raises(FileExistsError):
        export_dataset(store, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "another one's"
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.jsonl"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "sft"}, "--best"),
        ({"form": "trl"}, "are ties, which TRL's rows cannot say"),
        ({"form": "kto"}, "give no row as kto by majority"),
        ({"aggregation": "adjudicated"}, "give no row as comparisons by adjudicated"),
        ({"validation_share": 0.5}, "without rows"),
    ],
)
def test_an_export_without_rows_is_an_error_and_no_file(
    desk: Desk, store: Store, tmp_path: Path, options, words: str
) -> None:
    desk.say(*desk.add(comparison(1)), "ann", (1, 1))
    with pytest.raises(DataError, match=words):
        export_dataset(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("out.jsonl", {"validation_share": 0.5}, "name a folder"),
        ("out.jsonl", {"container": "parquet"}, "make them fit"),
        ("out.parquet", {"container": "datasets"}, "make them fit"),
        ("out.csv", {}, "make them fit"),
    ],
)
def test_a_file_name_must_fit_its_container(store: Store, tmp_path: Path, name: str, options, words: str) -> None:
    with pytest.raises(DataError, match=words):
        export_dataset(store, tmp_path / name, **options)


# ---- containers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["comparisons", "trl", "kto", "sft"])
def test_parquet_and_datasets_hold_the_rows_of_json_lines(desk: Desk, store: Store, tmp_path: Path, form: str) -> None:
    from datasets import load_dataset

    fill(desk)
    for container in ("jsonl", "parquet", "datasets"):
        export_dataset(store, tmp_path / container, form=form, container=container, validation_share=0.4)
    found = load_dataset(str(tmp_path / "datasets"), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "validation"):
        lines = (tmp_path / "jsonl" / f"{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row.setdefault("source", None)
            if form == "comparisons":
                row.setdefault("strength", None)
                for response in row["responses"]:
                    response.pop("sampling", None)
                    response.pop("seed", None)
                    response.setdefault("finish_reason", None)
        if form == "kto":
            rows = [{name: value for name, value in row.items() if name != "source"} for row in rows]
        assert found[split].to_list() == rows
        assert pq.read_table(tmp_path / "parquet" / f"{split}.parquet").to_pylist() == rows
    if form in ("comparisons", "trl"):
        native = tmp_path / "back.jsonl"
        native.write_text("".join(json.dumps(row) + "\n" for row in found["train"].to_list()))
        again, _ = read_comparisons(native)
        straight, _ = read_comparisons(tmp_path / "jsonl" / "train.jsonl")
        assert [(row.id, row.ranks) for row in again] == [(row.id, row.ranks) for row in straight]


def test_an_export_of_no_kind_holds_a_pickle(desk: Desk, store: Store, tmp_path: Path) -> None:
    fill(desk)
    for container in ("jsonl", "parquet", "datasets"):
        export_dataset(store, tmp_path / "outs" / container, container=container)
    suffixes = {path.suffix for path in (tmp_path / "outs").rglob("*") if path.is_file()}
    assert suffixes == {".jsonl", ".parquet", ".json", ".md"}


# ---- tables ---------------------------------------------------------------------------------------------------

HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "=cmd|' /C calc'!A0", "'", "'=1+1", "''", "\uff1d1"),
    *(
        'a","=1',
        "a\r\n=1",
        'a"\n"=1',
        ";=1",
        '=HYPERLINK("http://x","y")',
        " =1",
        "-",
        "ünï=ö",
        '"',
        ",",
        "\N{PILE OF POO}",
    ),
)


def read_sheet(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def unquoted(text: str) -> str:
    return text.removeprefix("'")


def test_every_formula_cell_is_escaped_and_hostile_texts_survive(desk: Desk, store: Store, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        rows = Comparison((Message("user", text),), (Response(text, policy=text), Response(f"{number}"), Response("c")))
        (item,) = desk.add(rows, campaign=f"{text} {number}")
        told = {"rationale": text, "edits": {"0": f"{text}!"}, "aspects": {text: [1, 2, 3]}, "app_version": text}
        desk.say(item, f"{text}{number}", (1, 2, 3), **told)
    export_dataset(store, tmp_path / "out.csv", form="csv")
    found = read_sheet(tmp_path / "out.csv")
    assert len(found) == len(HOSTILE)
    for text, row in zip(HOSTILE, found, strict=True):
        assert not any(value.startswith(FORMULA_STARTS) for value in row.values())
        assert [unquoted(row[name]) for name in ("prompt", "response_1", "policy_1", "rationale")] == [text] * 4
        assert json.loads(unquoted(row["edits"])) == {"1": f"{text}!"}
        assert json.loads(unquoted(row["aspects"])) == {text: [1, 2, 3]}


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_no_cell_begins_a_formula_and_each_can_be_read_back(text: str) -> None:
    for value in (text, *(start + text for start in "=+-@\t\r'")):
        told = cell(value)
        assert not told.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert (told[1:] if told.startswith("'") else told) == value


def test_a_table_has_every_judgment_by_position(desk: Desk, store: Store, tmp_path: Path) -> None:
    fill(desk)
    desk.say(*desk.add(comparison(30), kind="gold"), "ann", (1, 2), role="gold")
    export_dataset(store, tmp_path / "out.csv", form="csv")
    rows = read_sheet(tmp_path / "out.csv")
    assert len(rows) == 14
    first = rows[0]
    assert (first["ranks"], first["strength"], first["both_bad"], first["shown_order"]) == ("1;2", "2", "no", "1;2")
    assert first["prompt"] == "[system]\nBe kind.\n\n[user]\nWhy?"
    assert (first["response_2"], first["response_3"]) == ("'=second\r\n,;\t", "")
    assert (first["rationale"], first["guideline_version"]) == ("'+clear", "2")
    assert (rows[2]["ranks"], rows[2]["response_3"], rows[2]["policy_3"]) == ("1;3;2", "2 third", "runs/sft")
    export_dataset(store, tmp_path / "gold.csv", form="csv", include_gold=True)
    assert [row["role"] for row in read_sheet(tmp_path / "gold.csv")] == ["work"] * 14 + ["gold"]


# ---- the command ----------------------------------------------------------------------------------------------


def test_the_command_writes_one_file_with_its_manifest_beside(
    desk: Desk, store: Store, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(desk)
    export_main(["--store", url, "--out", str(tmp_path / "ranked.jsonl")])
    assert capsys.readouterr().out == f"14 rows: {tmp_path / 'ranked.jsonl'}\n"
    written = sorted(path.name for path in tmp_path.iterdir() if "ranked" in path.name)
    assert written == ["ranked.jsonl", "ranked.jsonl.DATACARD.md", "ranked.jsonl.manifest.json"]
    manifest = json.loads((tmp_path / "ranked.jsonl.manifest.json").read_text())
    assert sorted(manifest["files"]) == ["ranked.jsonl", "ranked.jsonl.DATACARD.md"]
    export_main(["--store", url, "--out", str(tmp_path / "pairs.jsonl"), "--format", "trl", "--campaign", "main"])
    assert capsys.readouterr().out.startswith("16 rows: ")


def test_the_command_passes_every_option_on(
    desk: Desk, store: Store, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(desk)
    out = tmp_path / "out"
    chosen = ["--format", "trl", "--container", "datasets", "--campaign", "main", "--aggregation", "dawid_skene"]
    chosen += ["--when_split", "leave_out", "--threshold", "0.4", "--validation_share", "0.3", "--seed", "2"]
    chosen += ["--edit_pairs", "--without_annotators", "closed", "bob"]
    export_main(["--store", url, "--out", str(out), *chosen])
    assert json.loads((out / "manifest.json").read_text())["options"] == {
        "form": "trl",
        "container": "datasets",
        "campaigns": ["main"],
        "aggregation": "dawid_skene",
        "when_split": "leave_out",
        "threshold": 0.4,
        "validation_share": 0.3,
        "seed": 2,
        "plain": False,
        "edit_pairs": True,
        "best": False,
        "include_gold": False,
        "without_annotators": ["closed", "bob"],
    }
    assert " train, " in capsys.readouterr().out
    export_main(["--store", url, "--out", str(tmp_path / "sft"), "--format", "sft", "--best", "--campaign", "main"])
    export_main(["--store", url, "--out", str(tmp_path / "t.csv"), "--format", "csv", "--include_gold"])
