"""Which rows an export has: forms, aggregation, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.export import export_dataset
from annotation.store import Store
from rlhf.data.comparisons import Comparison, DataError, Message, Response, read_comparisons, read_demonstrations
from rlhf.data.wording import wording
from tests.annotation.items import comparison
from tests.annotation.saying import Desk


@pytest.fixture
def url(tmp_path: Path) -> str:
    """SQLite: that PostgreSQL gives the same bytes is a test of test_export_files.py."""
    return f"sqlite:///{tmp_path}/annotations.db"


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest.fixture
def exported(store: Store, tmp_path: Path):
    """Exports with options; the rows of one split as read from the file."""

    def run(split: str = "train", **options: Any) -> list[dict[str, Any]]:
        out = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        export_dataset(store, out, **options)
        return [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]

    return run


def answer(messages: list[dict[str, str]]) -> str:
    (message,) = messages
    assert message["role"] == "assistant"
    return message["content"]


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(answer(row["chosen"]), answer(row["rejected"])) for row in rows]


def labels(rows: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    return [(answer(row["completion"]), row["label"]) for row in rows]


# ---- forms ----------------------------------------------------------------------------------------------------


def test_all_pairs_of_a_ranking_share_its_id_and_its_prompt(desk: Desk, exported) -> None:
    content = comparison(1, 3)
    (item,) = desk.add(content)
    desk.say(item, "ann", (2, 1, 3))
    rows = exported(form="trl")
    assert pairs(rows) == [("1 first", "1 third"), ("1 second", "1 first"), ("1 second", "1 third")]
    assert {row["comparison_id"] for row in rows} == {content.id}
    assert {row["prompt_id"] for row in rows} == {content.prompt_id}
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": "question 1"}]] * 3


def test_a_vote_share_counts_ties_half_and_every_vote_is_a_row(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    for who, ranks, strength in (
        ("ann", (1, 2), 3.0),
        ("bob", (1, 2), None),
        ("cid", (2, 1), 1.0),
        ("dan", (1, 1), None),
    ):
        desk.say(item, who, ranks, strength=strength)
    rows = exported(form="trl")
    # of four votes two and a half say that the first is better
    told = [
        (row["annotator"], answer(row["chosen"]), row["margin"], row["vote_share"], row["num_votes"]) for row in rows
    ]
    assert told == [
        ("ann", "1 first", 3.0, 0.625, 4),
        ("bob", "1 first", 0.0, 0.625, 4),
        ("cid", "1 second", 1.0, 0.375, 4),
    ]


def test_pairs_have_a_margin_only_where_anybody_gave_a_strength(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    desk.say(item, "ann", (1, 2))
    assert "margin" not in exported(form="trl")[0]


def test_kto_takes_both_bad_as_two_negatives_and_leaves_plain_ties_out(desk: Desk, exported) -> None:
    one, two, three, four = desk.add(*(comparison(number) for number in range(1, 5)))
    desk.say(one, "ann", (2, 1))
    desk.say(two, "ann", (1, 1), both_bad=True)
    desk.say(three, "ann", (1, 1))
    desk.say(four, "ann", (1, 2), both_bad=True)
    assert labels(exported(form="kto")) == [
        *(("1 first", False), ("1 second", True)),
        *(("2 first", False), ("2 second", False)),
        *(("4 first", False), ("4 second", False)),
    ]


def test_kto_takes_the_ends_of_a_ranking(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1, 4))
    desk.say(item, "ann", (2, 1, 3, 1))
    assert labels(exported(form="kto")) == [("1 second", True), ("1 third", False), ("1 fourth", True)]


def test_sft_rows_are_the_edits_and_nothing_that_changes_nothing(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    desk.say(item, "ann", (1, 2), edits={"0": "1 first, better", "1": "1 second"})
    desk.say(item, "bob", (1, 2), edits={"0": "1 first, better", "1": " "})
    (row,) = exported(form="sft")
    assert (answer(row["completion"]), row["source"]) == ("1 first, better", "edit")


def test_best_responses_are_demonstrations_unless_edited_cut_off_or_bad(desk: Desk, exported) -> None:
    cut = comparison(3)
    cut = replace(cut, responses=(replace(cut.responses[0], finish_reason="length"), cut.responses[1]))
    plain, edited, cut_off, bad, tied = desk.add(comparison(1), comparison(2), cut, comparison(4), comparison(5))
    desk.say(plain, "ann", (2, 1))
    desk.say(edited, "ann", (1, 2), edits={"0": "2 better"})
    desk.say(cut_off, "ann", (1, 2))
    desk.say(bad, "ann", (1, 2), both_bad=True)
    desk.say(tied, "ann", (1, 1))
    rows = exported(form="sft", best=True)
    assert [(answer(row["completion"]), row["source"]) for row in rows] == [("1 second", "best"), ("2 better", "edit")]


def test_an_edit_is_preferred_over_what_it_replaces(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    desk.say(item, "ann", (2, 1), edits={"1": "1 second, better"}, strength=2.0)
    rows = exported(form="trl", edit_pairs=True)
    assert pairs(rows) == [("1 second", "1 first"), ("1 second, better", "1 second")]
    assert [(row["margin"], row["source"]) for row in rows] == [(2.0, None), (0.0, "edit")]
    (_, native) = exported(form="comparisons", edit_pairs=True)
    assert [response["text"] for response in native["responses"]] == ["1 second, better", "1 second"]
    assert (native["ranks"], native["annotators"], native["source"]) == ([1, 2], ["ann"], "edit")


def test_plain_rows_are_texts_and_refuse_a_conversation(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    desk.say(item, "ann", (1, 2), edits={"0": "better"})
    texts = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in exported(form="trl", plain=True)]
    assert texts == [{"prompt": "question 1", "chosen": "1 first", "rejected": "1 second"}]
    assert [row["completion"] for row in exported(form="kto", plain=True)] == ["1 first", "1 second"]
    assert [row["completion"] for row in exported(form="sft", plain=True)] == ["better"]
    talk = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Go"))
    (item,) = desk.add(Comparison(talk, comparison(2).responses))
    desk.say(item, "ann", (1, 2))
    with pytest.raises(DataError, match="has 3 messages"):
        exported(form="trl", plain=True)


def test_our_readers_take_every_form(desk: Desk, store: Store, tmp_path: Path) -> None:
    one, two = desk.add(comparison(1), comparison(2, 3))
    desk.say(one, "ann", (2, 1), strength=3.0, edits={"1": "better"})
    desk.say(two, "ann", (1, 2, 2))
    for form in ("comparisons", "trl", "sft"):
        export_dataset(store, tmp_path / f"{form}.jsonl", form=form)
    native, _ = read_comparisons(tmp_path / "comparisons.jsonl")
    assert [(row.id, row.ranks, row.strength, row.annotators) for row in native] == [
        (comparison(1).id, (2, 1), 3.0, ("ann",)),
        (comparison(2, 3).id, (1, 2, 2), None, ("ann",)),
    ]
    ranked, _ = read_comparisons(tmp_path / "trl.jsonl")
    assert [tuple(response.text for response in row.responses) for row in ranked] == [
        ("1 second", "1 first"),
        ("2 first", "2 second"),
        ("2 first", "2 third"),
    ]
    assert ranked[0].responses[0].policy == "runs/sft"
    shown, _ = read_demonstrations(tmp_path / "sft.jsonl")
    assert [(row.prompt[-1].content, row.response) for row in shown] == [("question 1", "better")]


# ---- aggregation ----------------------------------------------------------------------------------------------


@pytest.fixture
def three_items(desk: Desk) -> list[int]:
    """One agreed on by two of three, one split, one by one annotator."""
    items = desk.add(comparison(1), comparison(2), comparison(3))
    for who, first, second in (("ann", (1, 2), (1, 2)), ("bob", (1, 2), (2, 1))):
        desk.say(items[0], who, first, strength=2.0 if who == "ann" else 3.0)
        desk.say(items[1], who, second)
    desk.say(items[0], "cid", (2, 1), strength=1.0)
    desk.say(items[2], "cid", (2, 1))
    return items


def test_a_majority_is_one_row_with_the_strength_of_those_who_agree(three_items, exported) -> None:
    rows = exported(form="comparisons", aggregation="majority")
    assert [(row["ranks"], row.get("strength"), row["annotators"]) for row in rows] == [
        ([1, 2], 2.5, ["ann", "bob", "cid"]),
        ([1, 1], None, ["ann", "bob"]),
        ([2, 1], None, ["cid"]),
    ]
    told = [
        (answer(row["chosen"]), row["vote_share"], row["num_votes"])
        for row in exported(form="trl", aggregation="majority")
    ]
    assert told == [("1 first", pytest.approx(2 / 3), 3), ("3 second", 1.0, 1)]


def test_split_votes_are_left_out_where_that_is_asked(three_items, exported, store: Store, tmp_path: Path) -> None:
    done = export_dataset(store, tmp_path / "out", aggregation="majority", when_split="leave_out")
    assert (done.rows, done.left_out) == ({"train": 2}, {"items whose verdict is split": 1})


def test_both_bad_by_majority_is_more_than_half(desk: Desk, exported) -> None:
    half, most = desk.add(comparison(1), comparison(2))
    desk.say(half, "ann", (1, 2), both_bad=True)
    desk.say(half, "bob", (1, 2))
    for who, bad in (("ann", True), ("bob", True), ("cid", False)):
        desk.say(most, who, (1, 2), both_bad=bad)
    assert labels(exported(form="kto")) == [
        *(("1 first", True), ("1 second", False)),
        *(("2 first", False), ("2 second", False)),
    ]


def test_dawid_skene_follows_the_reliable_and_drops_what_is_not_probable(desk: Desk, exported) -> None:
    """Two who always agree with each other and one who contradicts them: where only one of them and the contrary one
    judged, the verdict is that of the reliable one."""
    items = desk.add(*(comparison(number) for number in range(1, 32)))
    for number, item in enumerate(items[:30]):
        right = (1, 2) if number % 2 else (2, 1)
        for who in ("ann", "bob"):
            desk.say(item, who, right)
        desk.say(item, "contrary", right[::-1] if number % 3 else right)
    desk.say(items[30], "ann", (1, 2))
    desk.say(items[30], "contrary", (2, 1))
    rows = exported(form="trl", aggregation="dawid_skene")
    assert len(rows) == 31
    assert answer(rows[-1]["chosen"]) == "31 first"
    assert 0.5 < rows[-1]["probability"] < 1
    certain = exported(form="trl", aggregation="dawid_skene", threshold=rows[-1]["probability"] + 1e-6)
    assert len(certain) == 30


def test_an_adjudication_decides_in_every_aggregation(three_items, desk: Desk, exported) -> None:
    desk.say(three_items[0], "judge", (2, 1), role="adjudication", strength=1.0, edits={"1": "judged better"})
    for aggregation in ("every", "majority", "dawid_skene", "adjudicated"):
        rows = exported(form="trl", aggregation=aggregation, edit_pairs=True)
        of_first = [row for row in rows if row["prompt"][0]["content"] == "question 1"]
        assert pairs(of_first) == [("1 second", "1 first"), ("judged better", "1 second")], aggregation
        assert (of_first[0]["vote_share"], of_first[0]["num_votes"], of_first[0]["annotator"]) == (1.0, 1, "judge")
    assert len(exported(form="comparisons", aggregation="adjudicated")) == 1


# ---- what is left out -----------------------------------------------------------------------------------------


def test_only_rankings_that_stand_go_out(desk: Desk, exported) -> None:
    kept, changed, undone, skipped, flagged = desk.add(*(comparison(number) for number in range(1, 6)))
    desk.say(kept, "ann", (1, 2))
    desk.say(changed, "ann", (2, 1), supersedes=desk.say(changed, "ann", (1, 2)))
    desk.say(undone, "ann", None, kind="undo", supersedes=desk.say(undone, "ann", (1, 2)))
    desk.say(skipped, "ann", None, kind="skip", reason="too long")
    desk.say(flagged, "ann", None, kind="flag", reason="private")
    rows = exported()
    assert [(row["prompt"][0]["content"], row["ranks"]) for row in rows] == [
        ("question 1", [1, 2]),
        ("question 2", [2, 1]),
    ]


def test_gold_and_qualification_never_train(desk: Desk, exported, store: Store, tmp_path: Path) -> None:
    desk.say(*desk.add(comparison(1)), "ann", (1, 2))
    desk.say(*desk.add(comparison(2), kind="gold"), "ann", (1, 2), role="gold")
    desk.say(*desk.add(comparison(3), kind="qualification"), "ann", (1, 2), role="qualification")
    desk.say(*desk.add(comparison(4), kind="gold"), "ann", (1, 2), role="work")  # made gold after it was judged
    desk.say(*desk.add(comparison(5), kind="live"), "ann", (1, 2), role="live")
    desk.say(*desk.add(comparison(6)), "ann", (1, 2), role=None)  # from the first schema
    for form in ("comparisons", "trl", "kto"):
        asked = [row["prompt"][0]["content"] for row in exported(form=form)]
        assert list(dict.fromkeys(asked)) == ["question 1", "question 5", "question 6"]
    export_dataset(store, tmp_path / "out")
    assert "gold and qualification items, which never train: 3" in (tmp_path / "out" / "DATACARD.md").read_text()
    with pytest.raises(DataError, match="csv only"):
        export_dataset(store, tmp_path / "gold", form="trl", include_gold=True)


def test_annotators_are_left_out_by_pseudonym_or_state(desk: Desk, exported) -> None:
    (item,) = desk.add(comparison(1))
    for who in ("ann", "bob", "cid"):
        desk.say(item, who, (1, 2))
    desk.set_state("bob", "paused")
    desk.set_state("cid", "closed")

    def who_is_in(*without: str) -> list[str]:
        return [row["annotators"][0] for row in exported(without_annotators=without)]

    assert who_is_in() == ["ann", "bob", "cid"]
    assert who_is_in("paused", "closed") == ["ann"]
    assert who_is_in("ann") == ["bob", "cid"]
    with pytest.raises(DataError, match="'dan', who is not in the store"):
        who_is_in("dan")


def test_campaigns_are_taken_by_name(desk: Desk, exported) -> None:
    for number, name in enumerate(("one", "two", "three"), start=1):
        desk.say(*desk.add(comparison(number), campaign=name), "ann", (1, 2))
    rows = exported(campaigns=["three", "one"])
    assert [row["prompt"][0]["content"] for row in rows] == ["question 1", "question 3"]
    with pytest.raises(DataError, match="'four' is not in the store, which has one, two, three"):
        exported(campaigns=["four"])


# ---- splits ---------------------------------------------------------------------------------------------------


def test_no_prompt_is_on_both_sides_of_a_split(desk: Desk, store: Store, tmp_path: Path) -> None:
    """Nor one that differs in case and punctuation, nor the same conversation cut at a later turn."""
    for number in range(60):
        words = f"Question {number}"
        beginnings = (
            (Message("user", words),),
            (Message("user", f"{words.upper()}?!"),),
            (Message("user", words), Message("assistant", "Yes?"), Message("user", f"And {number}?")),
        )
        for place, prompt in enumerate(beginnings):
            rows = Comparison(prompt, (Response(f"a{place}"), Response(f"b{place}")))
            desk.say(*desk.add(rows, campaign=f"campaign {place % 2}"), "ann", (1, 2))
    done = export_dataset(store, tmp_path / "out", validation_share=0.3)
    asked = {}
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()]
        asked[split] = {wording(row["prompt"][0]["content"]) for row in rows}
        assert len(rows) == done.rows[split] == 3 * len(asked[split])
    assert asked["train"].isdisjoint(asked["validation"])
    assert len(asked["train"] | asked["validation"]) == 60
    assert 8 <= len(asked["validation"]) <= 28  # 18 expected, 3.5 the standard deviation
    other = export_dataset(store, tmp_path / "other", validation_share=0.3, seed=1)
    assert (tmp_path / "other" / "train.jsonl").read_bytes() != (tmp_path / "out" / "train.jsonl").read_bytes()
    assert sum(other.rows.values()) == 180


# ---- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "argilla"}, "format is 'argilla'"),
        ({"container": "pickle"}, "container is 'pickle'"),
        ({"form": "csv", "container": "parquet"}, "leave container out"),
        ({"container": "csv"}, "leave container out"),
        ({"aggregation": "mean"}, "aggregation is 'mean'"),
        ({"form": "csv", "aggregation": "majority"}, "csv, which has every judgment"),
        ({"when_split": "coin"}, "when_split is 'coin'"),
        ({"threshold": 0.9}, "only dawid_skene has one"),
        ({"threshold": 90.0, "aggregation": "dawid_skene"}, "threshold is 90"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"form": "comparisons", "plain": True}, "plain is set for format 'comparisons'"),
        ({"form": "kto", "edit_pairs": True}, "edit_pairs is set for format 'kto'"),
        ({"form": "trl", "best": True}, "best is set for format 'trl'"),
    ],
)
def test_options_that_do_not_fit_are_refused(store: Store, tmp_path: Path, options, words: str) -> None:
    with pytest.raises(DataError, match=words):
        export_dataset(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
