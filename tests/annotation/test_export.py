"""Into the store and out of it again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import audit
from annotation.export import export, export_dataset, judged_comparisons
from annotation.export_command import export_main
from annotation.importing import PolicyOrigin, import_comparisons
from annotation.managing import Archives
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store, StoreBusy
from annotation.tables import audit as audit_entry
from rlhf.data.comparisons import Comparison, DataError, Message, Response, read_comparisons
from tests.annotation.items import comparison


def judge_all(service: AnnotationService, name: str, *preferred: str) -> str:
    """Rank every item by the words its responses end with; the annotator's id."""
    annotator_id = service.annotator_of(service.sign_in(name)).id
    while (card := service.next_card(annotator_id, "tab").card) is not None:
        ranks = tuple(preferred.index(text.split()[-1]) + 1 for text in card.responses)
        strength = 2 if len(ranks) == 2 else None
        said = Judgment(f"{annotator_id}-{card.item_id}", card.item_id, Said("ranking", ranks, strength))
        service.submit(annotator_id, said)
    return annotator_id


def test_what_goes_in_comes_out_ranked(store: Store, service, tmp_path: Path) -> None:
    sampling = {"temperature": 0.7, "top_k": None}
    responses = tuple(
        Response(text, policy, sampling, seed, reason)
        for text, policy, seed, reason in (
            ("  leading space and ünïcödé \N{PILE OF POO} first", "runs/ppo", 2**70, "stop"),
            ("```\ncode\n```\n second", "runs/ppo", None, "length"),
            ("third", None, 3, None),
        )
    )
    prompt = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Go"))
    import_comparisons(store, [Comparison(prompt, responses, source="sampled")])
    ada = judge_all(service, "Ada", "second", "third", "first")
    assert export(store, tmp_path / "out.jsonl") == 1
    (read,), _ = read_comparisons(tmp_path / "out.jsonl")
    assert read == Comparison(prompt, responses, (3, 1, 2), annotators=(ada,), source="sampled")


def test_every_judgment_that_stands_is_a_row_and_the_same_store_gives_the_same_bytes(
    store: Store, service, fill, tmp_path: Path
) -> None:
    fill(3, overlap=2)
    ada, bob = judge_all(service, "Ada", "first", "second"), judge_all(service, "Bob", "second", "first")
    service.undo(bob, "tab", "undo-0001")
    for name in ("a", "b"):
        export(store, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rows = [(row.prompt[0].content, row.annotators[0], row.ranks, row.strength) for row in judged_comparisons(store)]
    assert rows == [
        ("question 1", ada, (1, 2), 2),
        ("question 1", bob, (2, 1), 2),
        ("question 2", ada, (1, 2), 2),
        ("question 2", bob, (2, 1), 2),
        ("question 3", ada, (1, 2), 2),
    ]


def exports_in_audit(store: Store) -> list[sa.Row]:
    with store.reading() as connection:
        assert audit.verify(connection).problems == ()
        query = sa.select(audit_entry).where(audit_entry.c.action == "export made").order_by(audit_entry.c.number)
        return list(connection.execute(query))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_export_is_in_the_audit_with_the_hash_of_what_was_written(
    url: str, store: Store, service, fill, clock, tmp_path: Path
) -> None:
    fill(2)
    import_comparisons(store, [comparison(3)], name="other")
    ada = judge_all(service, "Ada", "first", "second")
    out = tmp_path / "exports"
    export_main(["--store", url, "--out", str(out / "human.jsonl"), "--format", "trl", "--campaign", "main"])
    export_dataset(store, tmp_path / "all", form="csv", by=ada, at=7.0)
    by_command, by_manager = exports_in_audit(store)
    assert (by_command.actor_id, by_manager.actor_id, by_manager.at) == (None, ada, 7.0)
    assert by_command.details["campaigns"] == [1]
    assert by_command.details["options"]["form"] == "trl"
    assert by_command.details["rows"] == {"train": 2}
    assert by_command.details["sha256"] == hashes(out)
    assert set(hashes(out)) == {"human.jsonl", "human.jsonl.DATACARD.md", "human.jsonl.manifest.json"}
    assert by_manager.details["campaigns"] == [1, 2]
    assert by_manager.details["sha256"] == hashes(tmp_path / "all")


def test_what_the_page_gives_out_is_in_the_audit_too(store: Store, service, fill, clock) -> None:
    fill(1)
    ada = judge_all(service, "Ada", "first", "second")
    archives = Archives(store, clock=clock)
    try:
        made = archives.make({"form": "trl"}, by=ada)
        with zipfile.ZipFile(made.path) as packed:
            found = {
                name.partition("/")[2]: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()
            }
    finally:
        archives.close()
    (entry,) = exports_in_audit(store)
    assert (entry.actor_id, entry.at, entry.details["sha256"]) == (ada, clock.now, found)


def test_nothing_goes_out_that_the_audit_cannot_take(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("annotation.store.WAIT_SECONDS", 0)
    store = Store.open(f"sqlite:///{tmp_path}/a.db")
    import_comparisons(store, [comparison(1)])
    judge_all(AnnotationService(store), "Ada", "first", "second")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        export(store, tmp_path / "out" / "human.jsonl")
    assert list((tmp_path / "out").iterdir()) == []
    other.execute("ROLLBACK")
    other.close()
    assert export(store, tmp_path / "out" / "human.jsonl") == 1
    assert len(exports_in_audit(store)) == 1
    store.close()


def test_trl_rows_hold_each_ordered_pair_and_leave_ties_out(store: Store, service, tmp_path: Path) -> None:
    import_comparisons(store, [comparison(1, 3), comparison(2, 2)])
    ada = service.annotator_of(service.sign_in("Ada")).id
    card = service.next_card(ada, "tab").card
    best = tuple(1 if text.endswith("first") else 2 for text in card.responses)
    service.submit(ada, Judgment("judgment-1", card.item_id, Said("ranking", best)))
    card = service.next_card(ada, "tab").card
    better = tuple(1 if text.endswith("second") else 2 for text in card.responses)
    service.submit(ada, Judgment("judgment-2", card.item_id, Said("ranking", better, strength=3)))
    assert export(store, tmp_path / "trl.jsonl", form="trl") == 3
    rows = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
    texts = [(row["chosen"][0]["content"], row["rejected"][0]["content"], row.get("margin")) for row in rows]
    # a margin in every row or in none: TRL cannot read a column with holes
    assert texts == [("1 first", "1 second", 0), ("1 first", "1 third", 0), ("2 second", "2 first", 3)]


def test_nothing_judged_is_an_error_and_no_file(store: Store, service, fill, tmp_path: Path) -> None:
    fill(1)
    with pytest.raises(DataError, match="no judgments yet"):
        export(store, tmp_path / "out.jsonl")
    ada = service.annotator_of(service.sign_in("Ada")).id
    service.submit(ada, Judgment("judgment-1", service.next_card(ada, "tab").card.item_id, Said("ranking", (1, 1))))
    with pytest.raises(DataError, match="are ties"):
        export(store, tmp_path / "out.jsonl", form="trl")
    assert list(tmp_path.glob("out*")) == []
    export(store, tmp_path / "out.jsonl")
    with pytest.raises(FileExistsError, match="choose another"):
        export(store, tmp_path / "out.jsonl")


def test_campaigns_are_exported_apart(store: Store, service) -> None:
    import_comparisons(store, [comparison(1)], name="one")
    import_comparisons(store, [comparison(1), comparison(2)], name="two")
    judge_all(service, "Ada", "first", "second")
    assert [len(judged_comparisons(store, name=name)) for name in ("one", "two", None)] == [1, 2, 3]
    with pytest.raises(DataError, match="'three' is not in the store, which has one, two"):
        judged_comparisons(store, name="three")


def test_importing_again_adds_nothing(store: Store) -> None:
    rows = [comparison(1), comparison(2), comparison(1)]
    first, second = import_comparisons(store, rows), import_comparisons(store, rows)
    assert (first.num_added, first.num_known) == (2, 1)
    assert (second.num_added, second.num_known) == (0, 3)


def test_what_leaves_no_choice_is_left_out(store: Store) -> None:
    same = Comparison((Message("user", "q"),), (Response("yes"), Response("yes")))
    done = import_comparisons(store, [comparison(1), same])
    assert str(done) == "1 items added, 1 left out: all responses the same"


def test_a_text_that_names_a_nul_holds_none(store: Store) -> None:
    pair = Comparison((Message("user", "q"),), (Response("write \\u0000"), Response("b")))
    assert import_comparisons(store, [pair]).num_added == 1


def test_imports_at_once_add_everything_once(store: Store) -> None:
    rows, barrier, done = [comparison(number) for number in range(20)], threading.Barrier(4), []

    def add() -> None:
        barrier.wait()
        done.append(import_comparisons(store, rows))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.num_added for result in done) == [0, 0, 0, 20]
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM completion")).scalar() == 40


def test_a_policy_is_known_by_name_and_weights(store: Store) -> None:
    manifest = {"stage": "ppo", "parents": {"backbone": {"sha256": "b"}}}
    import_comparisons(store, [comparison(1)], origins={"runs/sft": PolicyOrigin("abc", manifest)})
    import_comparisons(store, [comparison(2)], origins={"runs/sft": PolicyOrigin("abc", manifest)})
    import_comparisons(store, [comparison(3)], origins={"runs/sft": PolicyOrigin("def", manifest)})
    with store.reading() as connection:
        rows = connection.execute(sa.text("SELECT name, sha256 FROM policy ORDER BY id")).all()
    assert rows == [("runs/sft", "abc"), ("runs/sft", "def")]


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([comparison(1), comparison(2, 1)], {}, "comparison 2 has 1 response;"),
        ([Comparison((Message("user", "q"),))], {}, "comparison 1 has 0 responses"),
        ([Comparison((Message("user", "q"),), (Response("a"),) * 10)], {}, "has 10 responses"),
        ([Comparison((Message("user", "q"),), (Response("a\0"), Response("b")))], {}, "NUL"),
        ([Comparison((Message("user", "q"),), (Response("a", policy="a\0"), Response("b")))], {}, "NUL"),
        ([Comparison((Message("user", "q"),), (Response(" "), Response("b")))], {}, "without text"),
        ([comparison(1)], {"overlap": 0}, "overlap is 0"),
    ],
)
def test_what_cannot_be_shown_is_refused_whole(store: Store, rows, settings, words: str) -> None:
    with pytest.raises(DataError, match=words):
        import_comparisons(store, rows, **settings)
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM item")).scalar() == 0


def test_another_overlap_needs_another_campaign(store: Store) -> None:
    import_comparisons(store, [comparison(1)])
    with pytest.raises(DataError, match=r"to 1 annotators, set when it was made, not 2"):
        import_comparisons(store, [comparison(2)], overlap=2)
    import_comparisons(store, [comparison(1)], name="twice", overlap=2)
    import_comparisons(store, [comparison(2)], name="twice")
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM slot")).scalar() == 5


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS.filter(str.strip), min_size=3, max_size=3, unique=True))
def test_texts_come_back_to_the_byte(store: Store, service, texts: list[str]) -> None:
    question, *answers = texts
    given_one = Comparison((Message("user", question),), tuple(Response(text) for text in answers))
    import_comparisons(store, [given_one])
    ada = service.annotator_of(service.sign_in("Ada")).id
    while (card := service.next_card(ada, "tab").card) is not None:
        said = Judgment(f"judgment-{card.item_id}", card.item_id, Said("ranking", (1, 2)))
        service.submit(ada, said)
    found = next(row for row in judged_comparisons(store) if row.id == given_one.id)
    assert [response.text.encode() for response in found.responses] == [text.encode() for text in answers]
    assert found.prompt[0].content.encode() == question.encode()
