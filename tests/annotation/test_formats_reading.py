"""Files and folders of other programs as items; what cannot be used is named with its place and the fix."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation.formats.items import Item
from annotation.formats.reading import read_items
from annotation.formats.rows import FORMS
from rlhf.data.comparisons import (
    Comparison,
    DataError,
    Message,
    Response,
    read_comparisons,
    write_comparisons,
    write_preference_rows,
)

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = REPOSITORY / os.environ.get("RLHF_REAL_DATA", "../shared/data")
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data: set RLHF_REAL_DATA to its folder")

WHY = (Message("user", "Why?"),)
BECAUSE = Comparison(WHY, (Response("Because."), Response("No.")))
JUDGED = Comparison(WHY, (Response("Because."), Response("No.")), (1, 2))
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
COLUMNS = {"prompt": "Why?", "response_1": "Because.", "response_2": "No."}

Save = Callable[[str, str | bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def only(items: Sequence[Item]) -> Item:
    (item,) = items
    return item


def refuse(path: object, *, form: str | None = None, split: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_items(path, form=form, split=split)
    return str(caught.value)


# Native rows and pairs


def test_native_rows_come_back_as_they_were_written(save: Save, tmp_path: Path) -> None:
    rows = [
        Comparison(
            (Message("system", "Be brief."), Message("user", "Why?")),
            (Response("a\r\n", "p", {"temperature": 0.5}, 7, "stop"), Response("b"), Response(" ü ")),
            (1, 2, 2),
            annotators=("ann",),
            source="here",
        ),
        BECAUSE,
    ]
    path = tmp_path / "rows.jsonl"
    write_comparisons(path, rows)
    assert read_items(path) == [Item(rows[0]), Item(rows[1])]
    assert read_items(path, form="comparisons") == read_items([str(path)])


def test_pairs_are_read_as_the_trainers_read_them(save: Save, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Why?"}]
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    path = save(
        "pairs.jsonl",
        lines(
            PAIR | {"margin": 2, "chosen_model": "big", "source": "s"},
            {"prompt": talk, **answers},
            {name: talk + answer for name, answer in answers.items()},
        ),
    )
    expected, _ = read_comparisons(path)
    assert [item.comparison for item in read_items(path)] == expected
    assert [item.comparison for item in read_items(path, form="trl")] == expected
    write_preference_rows(tmp_path / "again.jsonl", expected)
    assert [item.comparison.id for item in read_items(tmp_path / "again.jsonl")] == [row.id for row in expected]


def test_other_columns_of_a_pair_are_left_out(save: Save) -> None:
    path = save("rows.jsonl", lines(PAIR | {"answer_2": "x", "turns": 1, "metadata": {"gold": "tie"}}))
    assert read_items(path) == [Item(JUDGED)]


def test_gold_and_usefulness_stand_beside_the_comparison(save: Save) -> None:
    native = {"prompt": "Why?", "responses": [{"text": "Because."}, {"text": "No."}]}
    path = save(
        "rows.jsonl",
        lines(
            native | {"gold": {"ranks": [2, 1]}, "usefulness": 0.25},
            PAIR | {"gold": "first", "usefulness": 3, "chosen": "Since."},
            PAIR | {"gold": "second", "chosen": "Thus."},
            PAIR | {"gold": "tie", "rejected": "Nope."},
            PAIR | {"gold": None, "usefulness": None},
        ),
    )
    items = read_items(path)
    assert [item.gold for item in items] == [(2, 1), (1, 2), (2, 1), (1, 1), None]
    assert [item.usefulness for item in items] == [0.25, 3.0, None, None, None]
    assert items[0].comparison == BECAUSE
    assert items[0].comparison.ranks is None  # gold is not a judgment


def test_gold_ranks_are_counted_without_gaps(save: Save) -> None:
    row = {"prompt": "Why?", "responses": [{"text": text} for text in "abcd"], "gold": {"ranks": [4, 1, 9, 4]}}
    assert only(read_items(save("rows.jsonl", lines(row)))).gold == (2, 1, 3, 2)


@pytest.mark.parametrize(
    ("gold", "found"),
    [
        ({"ranks": [1]}, "1 rank for 2 responses"),
        ({"ranks": [1, 2, 3]}, "3 ranks for 2 responses"),
        ({"ranks": [0, 1]}, "rank int 0"),
        ({"ranks": [True, 1]}, "rank bool True"),
        ({"ranks": ["1", "2"]}, "rank str '1'"),
        ({"ranks": "1;x"}, "str '1;x'"),
        ({"rank": [1, 2]}, "an object with rank"),
        ({}, "an object with nothing"),
        (True, "bool True"),
        (3, "int 3"),
        ("chosen", "str 'chosen'"),
        (1.5, "float 1.5"),
    ],
)
def test_gold_that_is_no_answer_is_refused(save: Save, gold: object, found: str) -> None:
    message = refuse(save("rows.jsonl", lines(PAIR | {"gold": gold})))
    assert "rows.jsonl:1: field 'gold': " in message
    assert found in message


def test_gold_must_tie_equal_texts(save: Save) -> None:
    row = {"prompt": "Why?", "responses": [{"text": "a"}, {"text": "b"}, {"text": "a"}]}
    found = r"responses\[0\].text and responses\[2\].text have the same text and the ranks 1 and 3"
    assert re.search(found, refuse(save("rows.jsonl", lines(row | {"gold": {"ranks": [1, 2, 3]}}))))
    assert only(read_items(save("rows.jsonl", lines(row | {"gold": {"ranks": [1, 2, 1]}})))).gold == (1, 2, 1)


def test_two_gold_answers_to_the_same_texts_are_refused_across_files(save: Save) -> None:
    first = save("a.jsonl", lines(PAIR | {"gold": "first"}, PAIR, PAIR | {"gold": 1}))
    second = save("b.csv", "prompt,response_1,response_2,gold\nWhy?,Because.,No.,tie\n")
    assert len(read_items(first)) == 3  # duplicates stay: the store counts them
    assert "b.csv:2: field 'gold': the same texts have 1;2 in an earlier row" in refuse([first, second])


@pytest.mark.parametrize("value", ["much", True, [1], float("inf"), float("nan"), 10**400])
def test_usefulness_is_a_finite_number(save: Save, value: object) -> None:
    assert ":1: field 'usefulness': " in refuse(save("rows.jsonl", lines(PAIR | {"usefulness": value})))


def test_prompts_without_responses_are_refused_with_the_command_that_gives_them(save: Save) -> None:
    for row in ({"prompt": "Why?"}, {"prompt": "Why?", "responses": []}, BECAUSE.to_dict() | {"id": None}):
        row = {name: value for name, value in row.items() if name not in ("id", "responses")}
        message = refuse(save("prompts.jsonl", lines(row)))
        assert "field 'responses': " in message
        assert "rlhf sample --prompt_file FILE --output_file FILE" in message
    assert "prompts.csv:1: field 'responses'" in refuse(save("prompts.csv", "prompt,topic\nWhy?,x\n"))


def test_an_error_in_row_900_imports_nothing_and_ten_of_many_are_shown(save: Save) -> None:
    rows: list[dict[str, Any]] = [COLUMNS | {"response_1": f"answer {number}"} for number in range(1000)]
    rows[899] = COLUMNS | {"response_1": 5}
    assert refuse(save("rows.jsonl", lines(*rows))).splitlines()[0] == "1 of 1000 lines cannot be used:"
    bad = save("rows.json", json.dumps([COLUMNS] * 3 + [{"prompt": 1}] * 12))
    message = refuse([save("good.jsonl", lines(PAIR)), bad]).splitlines()
    assert message[0] == "12 of 15 rows cannot be used:"
    assert message[1].startswith(f"  {bad}: record 4 (line 1): field 'responses': missing;")
    assert len(message) == 12
    assert message[-1] == "  ... and 2 more"


# CSV


def test_csv_with_quotes_line_ends_and_many_responses(save: Save) -> None:
    text = (
        "\ufeffid,Prompt,Response 1,response_2,response_3,policy_1,policy_3,source,gold,usefulness,notes\r\n"
        'q1,"Why,\r\n""so""?",  a  ,"b\n\nb",c,big,small,books,1;2;2,0.5,=1+1\r\n'
        "\r\n"
        "q2,How?,a,b,,,,,2,,\r\n"
    )
    first, second = read_items(save("rows.csv", text))
    assert first == Item(
        Comparison(
            (Message("user", 'Why,\r\n"so"?'),),
            (Response("  a  ", "big"), Response("b\n\nb"), Response("c", "small")),
            source="books",
        ),
        gold=(1, 2, 2),
        usefulness=0.5,
    )
    assert second == Item(Comparison((Message("user", "How?"),), (Response("a"), Response("b"))), gold=(2, 1))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("prompt,response_a,response_b", BECAUSE),
        ("prompt,response1,response2", BECAUSE),
        ("question,answer_1,answer_2", BECAUSE),
        ("prompt,response_0,response_1", BECAUSE),
        ("prompt,chosen,rejected", JUDGED),
    ],
)
def test_csv_columns_may_be_called(save: Save, header: str, expected: Comparison) -> None:
    assert only(read_items(save("rows.csv", f"{header}\nWhy?,Because.,No.\n"))) == Item(expected)


def test_csv_pairs_keep_policies_and_margin(save: Save) -> None:
    path = save("rows.csv", "prompt,chosen,rejected,policy_1,policy_2,margin\nWhy?,Because.,No.,big,small,1.5\n")
    responses = (Response("Because.", "big"), Response("No.", "small"))
    assert only(read_items(path)).comparison == Comparison(WHY, responses, (1, 2), strength=1.5)
    assert "field 'margin': str 'much'" in refuse(save("rows.csv", path.read_text().replace("1.5", "much")))


def test_csv_cells_may_hold_messages_as_json_and_not_as_python(save: Save, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    for text in (json.dumps(talk), str(talk)):
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["prompt", "response_1", "response_2"], [text, "a", "b"]])
        if text == str(talk):
            assert "rows.csv:2: field 'prompt': messages that are no JSON; write them with json.dumps" in refuse(
                tmp_path / "rows.csv"
            )
        else:
            prompt = only(read_items(tmp_path / "rows.csv")).comparison.prompt
            assert [message.to_dict() for message in prompt] == talk


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,response_1,response_2\na,b\n", ":2: 2 columns where the first line names 3; "),
        ('prompt,response_1,response_2\n"a\n\nb",b,c\na,b,c,d\n', ":5: 4 columns where the first line names 3; "),
        ('prompt,response_1,response_2\na,b,c\nx,"y"z,w\n', ":3: not CSV from here on ("),
        ('prompt,response_1,response_2\na,b,c\nx,"y,w\n\n', ":3: not CSV from here on (unexpected end of data)"),
        (
            "prompt,response_1,response_2\ra,b,c\r",
            ":1: not CSV from here on (new-line character seen in unquoted field); end lines with a line feed",
        ),
        ("prompt;response_1;response_2\na;b;c\n", ":1: one column, 'prompt;response_1;response_2'; separate"),
        ("prompt,response_1,Response 1\na,b,c\n", ":1: columns of the same name: response_1; rename them"),
        ("prompt,response_1,response_3\na,b,c\n", ":1: field 'response_2': missing; "),
        ("prompt,response_1,response_01\na,b,c\n", ":1: field 'response_01': the same number as response_1; "),
        ("text,label\na,b\n", ":1: a row with 'text', 'label' and no responses; name them prompt and response_1"),
        ("prompt,response_1,response_2\na,,c\n", ":2: field 'response_1': missing; "),
        ("prompt,response_1,response_2\na,b,\n", ":2: field 'responses': 1 response; an annotator ranks 2 to 9"),
        ("prompt,response_1,response_2\n,b,c\n", ":2: field 'prompt': missing; "),
        ("prompt,response_1,response_2\na,b, \n", ":2: field 'response_2': only white space; "),
        ("prompt,response_1,response_2\na,b,c\0\n", ":2: field 'response_2': a NUL character"),
        ("prompt,response_1,response_2,gold\na,b,c,1;2;3\n", ":2: field 'gold': 3 ranks for 2 responses; "),
        ("prompt,response_1,response_2\n", ": the file holds no rows"),
        ("", ": the file holds no rows"),
        ("\n \n", ": the file holds no rows"),
    ],
)
def test_csv_that_cannot_be_used_is_named_by_line(save: Save, content: str, message: str) -> None:
    path = save("rows.csv", content)
    assert f"{path}{message}" in refuse(path)


def test_bytes_that_are_no_utf8_are_named_by_line_and_byte(save: Save) -> None:
    bad = b"prompt,response_1,response_2\na,b,c\nx,caf\xe9,z\n"  # byte 40: 29 + 6 + 5
    assert bad[40] == 0xE9
    assert "rows.csv:3: not UTF-8 at byte 40 of the file" in refuse(save("rows.csv", bad))
    assert "rows.csv:3: not UTF-8 at byte 43 of the file" in refuse(save("rows.csv", b"\xef\xbb\xbf" + bad))
    assert "rows.jsonl:2: not UTF-8 at byte 12 of the line" in refuse(
        save("rows.jsonl", lines(PAIR).encode() + b'{"prompt": "\xe9"}\n')
    )
    listed = b'[\n{"prompt": "\xe9"}]'
    assert "rows.json:2: not UTF-8 at byte 14 of the file" in refuse(save("rows.json", listed))
    assert "rows.json:2: not UTF-8 at byte 17 of the file" in refuse(save("rows.json", b"\xef\xbb\xbf" + listed))
    assert "UTF-16 text; save it as UTF-8" in refuse(save("rows.csv", "prompt,a".encode("utf-16")))


def test_texts_up_to_200000_characters_are_read_and_longer_ones_named(save: Save) -> None:
    full = "ü" * 200_000
    path = save("rows.csv", f"prompt,response_1,response_2\nWhy?,{full},b\n")
    assert only(read_items(path)).comparison.responses[0].text == full
    path = save("rows.csv", f"prompt,response_1,response_2\nWhy?,a,{full}x\n")
    assert ":2: field 'response_2': 200001 characters; shorten it: 200000 is the most" in refuse(path)
    long = {"prompt": full + "x", "chosen": "a", "rejected": "b"}
    assert ":1: field 'prompt': 200001 characters" in refuse(save("rows.jsonl", lines(long)))
    talk = [{"role": "system", "content": full + "x"}, {"role": "user", "content": "Why?"}]
    assert ":1: field 'prompt[0].content': 200001" in refuse(save("rows.jsonl", lines(PAIR | {"prompt": talk})))


# What no form allows


def listed(*texts: object) -> dict[str, Any]:
    return {"prompt": "Why?", "responses": [{"text": text} for text in texts]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (listed("a"), "field 'responses': 1 response; an annotator ranks 2 to 9"),
        (listed(*"abcdefghij"), "field 'responses': 10 responses; an annotator ranks 2 to 9"),
        (listed("a", ""), "field 'responses[1].text': no text"),
        (listed("a", "b\0"), "field 'responses[1].text': a NUL character, which databases do not keep; remove it"),
        (listed("a", "\ud800"), "field 'responses[1].text': half a surrogate pair at character 0"),
        (listed("a", 5), "field 'responses[1].text': int 5; give a string"),
        (PAIR | {"source": "a\0"}, "field 'source': a NUL character"),
        (PAIR | {"chosen_model": "a\0"}, "field 'policy of chosen': a NUL character"),
        (PAIR | {"rejected": " \n"}, "field 'rejected': only white space"),
        (COLUMNS | {"response_3": 0.5}, "field 'response_3': float 0.5; give a string"),
        (COLUMNS | {"policy_2": 5}, "field 'policy of response_2': int 5; give a string"),
        (COLUMNS | {"prompt": ["Why?"]}, "field 'prompt[0]': str 'Why?'; a message is an object"),
        (COLUMNS | {"prompt": [{"role": "tool", "content": "x"}]}, "field 'prompt[0].role': str 'tool'"),
        ({"text": "x"}, "a row with 'text' and no responses; name them prompt and response_1, response_2"),
        ({}, "a row with no fields and no responses"),
        ([], "a JSON list where an object belongs"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(save: Save, row: object, message: str) -> None:
    assert f"rows.jsonl:2: {message}" in refuse(save("rows.jsonl", lines(PAIR, row)))


def test_null_is_a_field_that_is_not_there(save: Save) -> None:
    row = COLUMNS | {"response_3": None, "policy_1": None, "gold": None, "source": None}
    assert only(read_items(save("rows.jsonl", lines(row)))) == Item(BECAUSE)


def test_a_policy_without_a_name_is_none(save: Save) -> None:
    listed = {"instruction": "Why?", "completions": [{"model": " ", "response": "Because."}, {"response": "No."}]}
    assert read_items(save("rows.jsonl", lines(COLUMNS | {"policy_1": ""}, listed))) == [Item(BECAUSE)] * 2


def test_equal_responses_are_kept_for_the_store_to_count(save: Save) -> None:
    assert len(read_items(save("rows.jsonl", lines(PAIR | {"rejected": "Because."})))) == 1


def test_deep_nesting_is_an_error_of_its_line(save: Save) -> None:
    for depth in (*range(900, 1000, 7), 100_000):
        nest = "[" * depth + "]" * depth
        assert ":1: " in refuse(save("rows.jsonl", f'{{"prompt": {nest}, "response_1": "a", "response_2": "b"}}\n'))
        assert "record 1" in refuse(save("rows.json", f'[{{"prompt": {nest}, "response_1": "a", "response_2": "b"}}]'))


# HH


def hh(*turns: str) -> str:
    return "".join(f"\n\n{role}: {text}" for role, text in zip(["Human", "Assistant"] * 9, turns, strict=False))


def test_hh_transcripts_share_their_turns_but_the_last(save: Save) -> None:
    row = {"chosen": hh("Hi", "Hello.", "Why?", "Because."), "rejected": hh("Hi", "Hello.", "Why?", "No.")}
    prompt = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))
    expected = Comparison(prompt, (Response("Because."), Response("No.")), (1, 2))
    assert only(read_items(save("rows.jsonl", lines(row)))) == Item(expected)
    prompted = {name: row[name][len(hh("Hi", "Hello.", "Why?")) + len("\n\nAssistant:") :] for name in row}
    prompted["prompt"] = hh("Hi", "Hello.", "Why?") + "\n\nAssistant:"
    assert prompted["chosen"] == " Because."
    assert only(read_items(save("rows.jsonl", lines(prompted)))) == Item(expected)


def test_answers_that_begin_alike_stay_whole(save: Save) -> None:
    row = {"chosen": hh("Why?", "Because of\n\nthe sea."), "rejected": hh("Why?", "Because of\n\nthe air.")}
    answers = only(read_items(save("rows.jsonl", lines(row)))).comparison.responses
    assert [answer.text for answer in answers] == ["Because of\n\nthe sea.", "Because of\n\nthe air."]


def test_role_words_inside_texts_are_text(save: Save) -> None:
    ask = "Translate Human: and\nAssistant: please.\n\nHuman: too"  # it is Human's turn already
    row = {"chosen": hh(ask, "Mensch:\nHuman: x"), "rejected": hh(ask, "Nein.\n\nAssistant: no")}
    expected = Comparison(
        (Message("user", ask),), (Response("Mensch:\nHuman: x"), Response("Nein.\n\nAssistant: no")), (1, 2)
    )
    assert only(read_items(save("rows.jsonl", lines(row)))) == Item(expected)


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        (hh("Hi", "A", "B", "C"), hh("Hi", "X", "B", "C"), "4 and 4 turns that part at turn 2, before the last"),
        (hh("Hi", "A", "B", "C"), hh("Hi", "A"), "4 and 2 turns that part at turn 3, before the last answer"),
        (hh("Hi", "A", "B"), hh("Hi", "A", "B"), "field 'chosen': no answer after the last Human:"),
        (hh("Hi", "A"), hh("Hi", " "), "field 'rejected': only white space"),
        (hh(" ", "A"), hh(" ", "B"), "field 'prompt[0].content': only white space"),
    ],
)
def test_conversations_that_are_no_pair_are_refused(save: Save, chosen: str, rejected: str, message: str) -> None:
    assert message in refuse(save("rows.jsonl", lines({"chosen": chosen, "rejected": rejected})))


def test_a_forced_form_says_what_it_misses(save: Save) -> None:
    path = save("rows.jsonl", lines(PAIR | {"prompt": "\n\nAssistant: Why?"}))
    assert "field 'chosen': no transcript; begin it with a blank line and Human: ..." in refuse(path, form="hh")
    assert "field 'completions': missing" in refuse(path, form="ultrafeedback")
    assert "form is 'csv'; use one of comparisons, trl, columns, hh, argilla, ultrafeedback" in refuse(path, form="csv")
    transcript = save("hh.jsonl", lines({"chosen": hh("Hi", "A"), "rejected": hh("Hi", "B")}))
    assert "field 'prompt': missing, and chosen is no list of messages" in refuse(transcript, form="trl")


# Argilla


ARGILLA_2 = {
    "id": "5a0b",
    "fields": {"prompt": "Why?", "response1": "Because.", "response2": "No."},
    "metadata": {"source": "books", "usefulness": 2},
    "suggestions": {"preference": {"value": ["response2", "response1"], "score": None, "agent": "judge"}},
    "responses": {
        "preference": [
            {"value": ["response2", "response1"], "user_id": "u1"},
            {"value": ["response2", "response1"], "user_id": "u2"},
        ],
        "comment": [{"value": "well", "user_id": "u1"}],
    },
    "vectors": {},
    "_server_id": "77aa",
}
ARGILLA_1 = {
    "fields": {"prompt": "Why?", "response-1": "Because.", "response-2": "No."},
    "responses": [
        {
            "user_id": "u1",
            "values": {"ranking": {"value": [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 1}]}},
            "status": "submitted",
        },
        {
            "user_id": "u2",
            "values": {"ranking": {"value": [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]}},
            "status": "discarded",
        },
    ],
    "suggestions": [],
    "metadata": {"gold": "second"},
    "external_id": None,
}
RANKED = (Response("Because."), Response("No."))


def test_argilla_2_records(save: Save) -> None:
    expected = Comparison(WHY, RANKED, (2, 1), annotators=("u1", "u2"), source="books")
    assert read_items(save("records.json", json.dumps([ARGILLA_2, ARGILLA_2]))) == [Item(expected, usefulness=2.0)] * 2


def test_argilla_1_records_keep_ties_and_leave_out_what_was_discarded(save: Save) -> None:
    expected = Item(Comparison(WHY, RANKED, (1, 1), annotators=("u1",)), gold=(2, 1))
    assert read_items(save("records.json", json.dumps([ARGILLA_1], indent=2))) == [expected]
    assert read_items(save("records.jsonl", lines(ARGILLA_1))) == [expected]


def test_annotators_who_disagree_leave_the_record_unjudged(save: Save) -> None:
    record = json.loads(json.dumps(ARGILLA_2))
    record["responses"]["preference"][1]["value"].reverse()
    assert only(read_items(save("records.json", json.dumps([record])))).comparison == Comparison(
        WHY, RANKED, source="books"
    )


def test_argilla_data_sets_as_parquet(tmp_path: Path) -> None:
    first = {
        "prompt": "Why?",
        "response1": "Because.",
        "response2": "No.",
        "preference": [
            {"user_id": "u1", "value": {"rank": [2, 1], "value": ["response1", "response2"]}, "status": "submitted"}
        ],
        "preference-suggestion": {"rank": [1, 2], "value": ["response1", "response2"]},
        "external_id": None,
        "metadata": '{"source": "books"}',
    }
    second = {
        "id": "5a0b",
        "_server_id": "77aa",
        "prompt": "Why?",
        "response1": "Because.",
        "response2": "No.",
        "preference.responses": [["response2", "response1"]],
        "preference.responses.users": ["u1"],
        "preference.responses.status": ["submitted"],
        "source": "books",
    }
    expected = Item(Comparison(WHY, RANKED, (2, 1), annotators=("u1",), source="books"))
    for row in (first, second):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
        assert read_items(tmp_path / "rows.parquet") == [expected]


def test_argilla_context_follows_the_prompt_and_missing_responses_are_left_out(save: Save) -> None:
    fields = ARGILLA_2["fields"] | {"context": "The sky.", "response3": None}
    record = {"fields": fields, "metadata": {"policy_1": "big"}, "responses": {}}
    comparison = only(read_items(save("records.json", json.dumps([record])))).comparison
    assert comparison == Comparison(
        (Message("user", "Why?\n\nThe sky."),), (Response("Because.", "big"), Response("No."))
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"fields": {"text": "x"}, "responses": {}}, "field 'fields': text: no responses among them"),
        ({"fields": [], "responses": {}}, "field 'fields': list; give one record"),
        ({"fields": {"prompt": "x", "response1": 1, "response2": "b"}}, "field 'response1': int 1"),
        ({"fields": {"response1": "a", "response2": "b"}}, "field 'prompt': missing"),
    ],
)
def test_argilla_records_that_cannot_be_used(save: Save, record: object, message: str) -> None:
    assert message in refuse(save("records.json", json.dumps([record])))


# UltraFeedback and lists


ULTRAFEEDBACK = {
    "source": "sharegpt",
    "instruction": "Why?",
    "models": ["gpt-4", "alpaca-7b"],
    "completions": [
        {"model": "gpt-4", "response": "Because.", "annotations": {"honesty": {"Rating": "5"}}, "overall_score": 8.5},
        {"model": "alpaca-7b", "response": "No.", "annotations": {"honesty": {"Rating": "1"}}, "overall_score": 1.0},
    ],
}
ULTRA = Comparison(WHY, (Response("Because.", "gpt-4"), Response("No.", "alpaca-7b")), source="sharegpt")


@pytest.mark.parametrize(
    "row",
    [
        ULTRAFEEDBACK,
        {"instruction": "Why?", "responses": ULTRAFEEDBACK["completions"], "source": "sharegpt"},
        {
            "instruction": "Why?",
            "generations": ["Because.", "No."],
            "generation_models": ["gpt-4", "alpaca-7b"],
            "source": "sharegpt",
        },
        {"prompt": "Why?", "responses": ["Because.", "No."], "policies": ["gpt-4", "alpaca-7b"], "source": "sharegpt"},
    ],
)
def test_lists_of_completions(save: Save, tmp_path: Path, row: dict[str, Any]) -> None:
    assert read_items(save("rows.jsonl", lines(row))) == [Item(ULTRA)]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert read_items(tmp_path / "rows.parquet") == [Item(ULTRA)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Why?", "completions": []}, "field 'responses': none; have responses sampled first"),
        ({"instruction": "Why?", "completions": "x"}, "field 'completions': str; give a list of responses"),
        (
            {"instruction": "Why?", "completions": [{"response": "a"}, {"score": 1}]},
            "field 'completions[1]': an object",
        ),
        (
            {"instruction": "Why?", "completions": [{"response": "a"}, {"response": ""}]},
            "'completions[1].response': no",
        ),
        ({"completions": ["a", "b"]}, "field 'prompt': missing"),
    ],
)
def test_lists_that_cannot_be_used(save: Save, row: object, message: str) -> None:
    assert message in refuse(save("rows.jsonl", lines(row)))


# JSON lists


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"prompt": "Why?"\n', "rows.json:3: not JSON: "),
        (f"[{json.dumps(PAIR)}", "rows.json:1: the end of the file after record 1 where , or ] belongs"),
        (f"[\n{json.dumps(PAIR)}\n{json.dumps(PAIR)}]", "rows.json:3: '{' after record 1 where , or ] belongs"),
        (f"[{json.dumps(PAIR)},]", "rows.json:1: not JSON: Expecting value at column"),
        (f"[{json.dumps(PAIR)}] x", "rows.json: text after the list"),
        (f"[1, {json.dumps(PAIR)}]", "rows.json: record 1 (line 1): a JSON int where an object belongs"),
        ("[ ]", "rows.json: the file holds no rows"),
        ("[", "rows.json:1: not JSON: "),
        ("[] x", "rows.json: text after the list"),
        ('{"prompt":\n"Why?"}', "rows.json:1: not JSON: "),
        ("prompt", "rows.json:1: not JSON: "),
    ],
)
def test_json_that_cannot_be_used(save: Save, content: str, message: str) -> None:
    assert message in refuse(save("rows.json", content))


def test_json_lists_of_any_rows(save: Save) -> None:
    path = save("rows.json", "\ufeff \n[" + json.dumps(PAIR, indent=1) + "\n,\n" + json.dumps(COLUMNS) + " ]\n\n")
    assert read_items(path) == [Item(JUDGED), Item(BECAUSE)]


# Parquet


def test_parquet_with_texts_and_nested_rows(tmp_path: Path) -> None:
    judged = Comparison(WHY, RANKED, (1, 2), source="s").to_dict()
    rows = [judged | {"gold": None}, BECAUSE.to_dict() | {"gold": {"ranks": [1, 2]}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "native.parquet")
    assert read_items(tmp_path / "native.parquet") == [
        Item(Comparison(WHY, RANKED, (1, 2), source="s")),
        Item(BECAUSE, gold=(1, 2)),
    ]
    table = pa.Table.from_pylist([COLUMNS | {"gold": 1.0, "usefulness": 2.0}, COLUMNS | {"gold": float("nan")}])
    pq.write_table(table.append_column("vector", pa.array([[0.5]] * 2)), tmp_path / "columns.parquet")
    assert read_items(tmp_path / "columns.parquet") == [Item(BECAUSE, (1, 2), 2.0), Item(BECAUSE)]


def test_parquet_that_cannot_be_used(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([COLUMNS, COLUMNS | {"response_2": None}]), path)
    assert f"{path}: row 2: field 'responses': 1 response" in refuse(path)
    whole = path.read_bytes()
    for length in (4, 50, len(whole) - 1):
        assert f"{path}: cannot be read as Parquet (" in refuse(save("rows.parquet", whole[:length]))
    assert "rows.parquet: not Parquet: it does not begin with PAR1" in refuse(save("rows.parquet", b"abc"))
    pq.write_table(pa.Table.from_pylist([COLUMNS]).slice(0, 0), path)
    assert f"{path}: the file holds no rows" in refuse(path)
    pq.write_table(pa.Table.from_pylist([COLUMNS | {"response_1": b"a"}]), path)
    assert "field 'response_1': bytes b'a'; give a string" in refuse(path)
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"prompt": bad, "response_1": ["a"], "response_2": ["b"]}), path)
    assert f"{path}: cannot be read as Parquet (" in refuse(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows"])
def test_parquet_and_packed_files_are_known_by_their_bytes(save: Save, tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_pylist([COLUMNS]), tmp_path / name)
    assert read_items(tmp_path / name) == [Item(BECAUSE)]
    assert "compressed with gzip; unpack it" in refuse(save(name, b"\x1f\x8b\x08"))
    assert "a zip or Excel file" in refuse(save(name, b"PK\x03\x04"))


# Folders


def test_data_sets_saved_by_datasets(tmp_path: Path) -> None:
    code = """
import sys
from datasets import Dataset, DatasetDict
rows = [{"prompt": "Why?", "chosen": [{"role": "assistant", "content": "Because."}],
         "rejected": [{"role": "assistant", "content": "No."}], "gold": "tie"}] * 3
Dataset.from_list(rows).save_to_disk(sys.argv[1] + "/one", num_shards=2)
DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:1])).save_to_disk(sys.argv[1] + "/two")
DatasetDict(train=Dataset.from_list(rows)).save_to_disk(sys.argv[1] + "/three")
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, timeout=240)
    expected = [Item(JUDGED, gold=(1, 1))] * 3
    assert read_items(tmp_path / "one") == expected
    assert read_items(tmp_path / "three") == expected
    assert read_items(tmp_path / "two", split="train") == expected
    assert read_items(tmp_path / "two", split="test") == expected[:1]
    assert f"{tmp_path}/two: splits train, test; name one of them as the split" in refuse(tmp_path / "two")
    assert "no split 'dev' but train, test" in refuse(tmp_path / "two", split="dev")
    (part,) = (tmp_path / "three/train").glob("*.arrow")
    part.write_bytes(part.read_bytes()[:-200])
    assert f"{part}: " in refuse(tmp_path / "three")
    part.unlink()
    assert f"{part.name} is missing; copy the folder again" in refuse(tmp_path / "three")


def test_a_saved_folder_names_nothing_outside_itself(save: Save, tmp_path: Path) -> None:
    save("secret.arrow", b"x")
    for name in ("../secret.arrow", str(tmp_path / "secret.arrow"), "", "..", 5):
        save("set/state.json", json.dumps({"_data_files": [{"filename": name}]}))
        assert "names no files beside it" in refuse(tmp_path / "set")
    save("set/state.json", json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "rows chosen by an index" in refuse(tmp_path / "set")
    save("dict/dataset_dict.json", json.dumps({"splits": ["../set"]}))
    assert "no splits in this folder" in refuse(tmp_path / "dict")
    save("dict/dataset_dict.json", "{")
    assert "dataset_dict.json: cannot be read" in refuse(tmp_path / "dict")


def test_folders_of_files_are_read_in_order_without_scripts(save: Save, tmp_path: Path) -> None:
    save("plain/b.jsonl", lines(PAIR))
    save("plain/a/x.csv", "prompt,response_1,response_2\nWhy?,Because.,No.\n")
    save("plain/load.py", "raise SystemExit('was run')")
    save("plain/rows.pkl", b"cos\nsystem\n(S'false'\ntR.")
    save("plain/README.md", "text")
    save("plain/.cache/c.jsonl", "not read")
    assert read_items(tmp_path / "plain") == [Item(BECAUSE), Item(JUDGED)]
    assert "its files" not in refuse(tmp_path / "plain", split="train")
    (tmp_path / "empty").mkdir()
    assert "no data in this folder" in refuse(tmp_path / "empty")


def test_files_that_are_named_by_split_need_one_named(save: Save, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([COLUMNS]), save("hub/data/train-00000-of-00002.parquet", b""))
    pq.write_table(pa.Table.from_pylist([COLUMNS]), save("hub/data/train-00001-of-00002.parquet", b""))
    assert len(read_items(tmp_path / "hub")) == 2
    save("hub/data/test-00000-of-00001-3f2a.jsonl", lines(PAIR))
    assert "splits test, train; name one of them as the split" in refuse(tmp_path / "hub")
    assert read_items(tmp_path / "hub", split="test") == [Item(JUDGED)]
    save("hub/more.jsonl", lines(PAIR))
    assert "more.jsonl'] beside the splits" in refuse(tmp_path / "hub")
    assert len(read_items(tmp_path / "hub", split="train")) == 2


def test_only_paths_on_this_machine_are_read(save: Save, tmp_path: Path) -> None:
    for path in ("https://example.org/rows.jsonl", "hf://datasets/a/b", "a/b", "", "a\0b"):
        assert "no such file or folder; name one on this machine" in refuse(path)
    assert "nothing to import was given" in refuse([])
    assert "neither file nor folder" in refuse("/dev/null")
    assert "split is 'train', and no folder was named" in refuse(save("a.jsonl", lines(PAIR)), split="train")


def test_the_examples_of_the_page_are_read(save: Save) -> None:
    page = (REPOSITORY / "docs/annotation_formats.md").read_text(encoding="utf-8")
    examples = re.findall(r"\*\*`(\w+)`\*\*.*?```(json|csv)\n(.*?)```", page.split("## Out")[0], re.DOTALL)
    assert [form for form, _, _ in examples] == list(FORMS)
    for form, ending, text in examples:
        item = only(read_items(save(f"rows.{ending}l" if ending == "json" else "rows.csv", text)))
        assert item == only(read_items(save(f"{form}.{ending}", text if ending == "csv" else f"[{text}]"), form=form))
        assert item.comparison.prompt == (Message("user", "Why is the sky blue?"),)
        assert item.comparison.responses[0].text == "Air scatters blue light."


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "prompt chosen rejected response_1 response_2 response_a policy_1 gold usefulness responses completions fields "
    "generations generation_models instruction schema_version id metadata external_id margin source annotators ranks "
    "preference preference.responses preference.responses.users model text response value rank user_id values status "
    "role content context"
).split()
known_texts = st.sampled_from(["Why?", "\n\nHuman: a\n\nAssistant: b", "1;2", "tie", "submitted", "user", "response_1"])
near_rows = st.recursive(
    known_texts | json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=25,
)
rows_of_any_kind = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), near_rows, max_size=7)
any_time = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(path: Path, form: str | None) -> None:
    try:
        items = read_items(path, form=form)
    except DataError:
        return
    assert all(2 <= len(item.comparison.responses) <= 9 for item in items)


@any_time
@given(rows=st.lists(rows_of_any_kind | json_values, min_size=1, max_size=3), form=st.sampled_from([None, *FORMS]))
def test_any_json_is_read_or_refused(tmp_path: Path, rows: list[Any], form: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*rows), encoding="utf-8")
    read_or_refuse(path, form)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    read_or_refuse(path, form)


@any_time
@given(
    content=st.binary(max_size=200)
    | st.builds(
        lambda head, body: ",".join(head).encode() + b"\n" + body,
        st.lists(st.sampled_from(FIELDS), max_size=5),
        st.binary(max_size=60) | st.text(alphabet='ab",;\n\r\0 é[{1', max_size=60).map(str.encode),
    ),
    name=st.sampled_from(["rows.csv", "rows.json", "rows.jsonl", "rows.arrow", "rows"]),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    read_or_refuse(tmp_path / name, None)


@any_time
@given(cut=st.integers(0, 3000), at=st.integers(0, 3000), byte=st.integers(0, 255))
def test_any_damage_to_parquet_is_read_or_refused(tmp_path: Path, cut: int, at: int, byte: int) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([ULTRAFEEDBACK, ULTRAFEEDBACK]), path)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content[: max(1, len(content) - cut if cut < 40 else len(content))])
    read_or_refuse(path, None)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)


@any_time
@given(prompt=texts, answers=st.lists(texts, min_size=2, max_size=9), source=st.none() | texts)
def test_texts_come_back_byte_for_byte(tmp_path: Path, prompt: str, answers: list[str], source: str | None) -> None:
    expected = Comparison((Message("user", prompt),), tuple(map(Response, answers)), source=source)
    write_comparisons(tmp_path / "rows.jsonl", [expected])
    names = ["prompt", *(f"response_{number}" for number in range(1, len(answers) + 1)), "source"]
    cells = [prompt, *answers, source or ""]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([names, cells])
    pq.write_table(pa.Table.from_pylist([dict(zip(names, cells, strict=True))]), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        assert read_items(tmp_path / name) == [Item(expected)]


@needs_real_data
@pytest.mark.parametrize("name", ["human_chat", "hh_harmless", "fgrlhf_qa", "alpacaeval_gpt4"])
def test_real_preferences_are_read(name: str) -> None:
    folder = REAL_DATA / "preference" / name
    num_lines = len((folder / "validation.jsonl").read_bytes().splitlines())
    assert len(read_items(folder, split="validation")) == num_lines


@needs_real_data
def test_real_transcripts_are_read_as_their_messages_are(tmp_path: Path) -> None:
    rows, _ = read_comparisons(REAL_DATA / "preference/hh_harmless/validation.jsonl")
    transcripts = [
        {
            name: hh(*(message.content for message in row.prompt), response.text)
            for name, response in zip(("chosen", "rejected"), row.responses, strict=True)
        }
        for row in rows
    ]
    path = tmp_path / "hh.jsonl"
    path.write_text(lines(*transcripts), encoding="utf-8")
    assert [item.comparison.id for item in read_items(path)] == [row.id for row in rows]
