"""Records, their files, and the problems that readers name."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.comparisons import (
    Comparison,
    DataError,
    Demonstration,
    Message,
    Response,
    read_comparisons,
    read_demonstrations,
    read_prompts,
    write_comparisons,
    write_preference_rows,
)

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = REPOSITORY / os.environ.get("RLHF_REAL_DATA", "../shared/data")

QUESTION = (Message("user", "Name a colour."),)
PREFERENCE = {
    "prompt": [{"role": "user", "content": "Name a colour."}],
    "chosen": [{"role": "assistant", "content": "Blue."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
NATIVE = {
    "prompt": [{"role": "user", "content": "Name a colour."}],
    "responses": [{"text": "Blue."}, {"text": "No."}],
    "ranks": [1, 2],
}

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20))
prompts = st.builds(lambda head, last: (*head, Message("user", last)), st.lists(messages, max_size=3), texts)
samplings = st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False))
responses = st.builds(
    Response,
    text=texts,
    policy=st.none() | texts,
    sampling=samplings,
    seed=st.none() | st.integers(),
    finish_reason=st.sampled_from([None, "stop", "length"]),
)
amounts = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    answers = draw(st.lists(responses, max_size=4))
    ranks = st.lists(st.integers(1, 3), min_size=len(answers), max_size=len(answers))
    return Comparison(
        prompt=draw(prompts),
        responses=tuple(answers),
        ranks=draw(st.none() | ranks.map(tuple)),
        strength=draw(st.none() | amounts),
        weight=draw(amounts),
        annotators=tuple(draw(st.lists(texts, max_size=2))),
        source=draw(st.none() | texts),
    )


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_import_needs_the_standard_library_only() -> None:
    code = (
        "import sys, rlhf.data.comparisons\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'transformers', 'numpy', 'datasets', 'yaml', 'jinja2'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(comparisons(), min_size=1, max_size=4))
def test_what_is_written_is_read_back_equal_and_written_again_byte_for_byte(
    rows: list[Comparison], tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = tmp_path_factory.mktemp("rows") / "first.jsonl"
    assert write_comparisons(first, rows) == len(rows)
    back, report = read_comparisons(first)
    assert back == rows
    assert (report.num_read, report.num_bad, report.errors) == (len(rows), 0, [])
    second = first.with_name("second.jsonl")
    write_comparisons(second, back)
    assert second.read_bytes() == first.read_bytes()


@given(comparison=comparisons(), data=st.data())
def test_id_does_not_depend_on_the_order_of_keys(comparison: Comparison, data: st.DataObject) -> None:
    row = comparison.to_dict()
    shuffled = {name: row[name] for name in data.draw(st.permutations(sorted(row)))}
    shuffled["prompt"] = [dict(reversed(message.items())) for message in row["prompt"]]
    again = Comparison.from_dict(json.loads(json.dumps(shuffled)))
    assert (again.id, again.prompt_id) == (comparison.id, comparison.prompt_id)


@given(comparison=comparisons())
def test_pairs_are_antisymmetric_and_leave_out_exactly_the_ties(comparison: Comparison) -> None:
    pairs = comparison.pairs()
    assert not set(pairs) & {(rejected, chosen) for chosen, rejected in pairs}
    ranks = comparison.ranks or ()
    num_ties = sum(ranks[a] == ranks[b] for a in range(len(ranks)) for b in range(a))
    assert len(pairs) == len(set(pairs)) == len(ranks) * (len(ranks) - 1) // 2 - num_ties


def test_pairs_of_a_ranking_with_a_tie() -> None:
    comparison = Comparison(QUESTION, tuple(map(Response, "abc")), ranks=(2, 1, 2))
    assert comparison.pairs() == [(1, 0), (1, 2)]
    assert Comparison(QUESTION, tuple(map(Response, "abc"))).pairs() == []


def test_id_follows_texts_and_not_judgement() -> None:
    first = Comparison(QUESTION, (Response("a"), Response("b")), ranks=(1, 2))
    assert first.id == Comparison(QUESTION, (Response("a", policy="p"), Response("b")), ranks=(2, 1), weight=3).id
    assert first.id != Comparison(QUESTION, (Response("b"), Response("a"))).id
    assert first.prompt_id == Comparison(QUESTION).prompt_id == Demonstration(QUESTION, "a").prompt_id
    assert first.prompt_id != Comparison((Message("system", "x"), *QUESTION)).prompt_id
    # Stored ids must survive new versions: this value may never change.
    assert first.id == "73e9a9c258a06701c06bb1e19f12b823"


def test_preference_rows_of_every_form_give_the_same_comparison(tmp_path: Path) -> None:
    turn = PREFERENCE["prompt"]
    rows = [
        PREFERENCE,
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."},
        {"chosen": turn + PREFERENCE["chosen"], "rejected": turn + PREFERENCE["rejected"]},
        {
            "prompt": "Name a colour.",
            "chosen": turn + PREFERENCE["chosen"],
            "rejected": turn + PREFERENCE["rejected"],
        },
        NATIVE,
    ]
    expected = Comparison(QUESTION, (Response("Blue."), Response("No.")), ranks=(1, 2))
    assert read_comparisons(write_rows(tmp_path / "rows.jsonl", *rows))[0] == [expected] * len(rows)


def test_preference_row_keeps_margin_source_annotator_and_models(tmp_path: Path) -> None:
    more = {
        "margin": 0.5,
        "source": "s",
        "annotator": "a",
        "chosen_model": "m",
        "rejected_model": None,
        "turns": 1,
    }
    (comparison,), _ = read_comparisons(write_rows(tmp_path / "rows.jsonl", {**PREFERENCE, **more}))
    assert (comparison.strength, comparison.source, comparison.annotators) == (0.5, "s", ("a",))
    assert [response.policy for response in comparison.responses] == ["m", None]


def test_preference_rows_are_one_per_strictly_ordered_pair(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ranked = Comparison(QUESTION, tuple(map(Response, "abc")), ranks=(2, 1, 2))
    judged = Comparison(QUESTION, (Response("Blue."), Response("No.")), ranks=(1, 2), strength=2.0)
    unjudged = Comparison(QUESTION, (Response("a"), Response("b")))
    assert write_preference_rows(path, [ranked, judged, unjudged]) == 3
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows[:2]] == [
        ("b", "a"),
        ("b", "c"),
    ]
    assert rows[2] == {**PREFERENCE, "margin": 2.0}
    assert read_comparisons(path)[0][2] == judged


BAD_ROWS = [
    ({**PREFERENCE, "chosen": [{"role": "assistant"}]}, "chosen[0].content", "missing"),
    ({**PREFERENCE, "chosen": ""}, "chosen", "no text"),
    ({**PREFERENCE, "chosen": None}, "chosen", "null"),
    (
        {**PREFERENCE, "rejected": [{"role": "assistant", "content": " \n"}]},
        "rejected[0].content",
        "only white space",
    ),
    ({**PREFERENCE, "rejected": 5}, "rejected", "int 5"),
    ({**PREFERENCE, "rejected": [{"role": "user", "content": "x"}]}, "rejected", "user after the prompt"),
    ({**PREFERENCE, "rejected": []}, "rejected", "no messages"),
    ({**PREFERENCE, "margin": "big"}, "margin", "'big'"),
    ({**PREFERENCE, "margin": -1}, "margin", "-1"),
    ({**PREFERENCE, "margin": math.nan}, "margin", "nan"),
    ({**PREFERENCE, "prompt": [{"role": "human", "content": "x"}]}, "prompt[0].role", "'human'"),
    ({**PREFERENCE, "prompt": [{"role": "user", "content": ["x"]}]}, "prompt[0].content", "list ['x']"),
    ({**PREFERENCE, "prompt": []}, "prompt", "no messages"),
    ({**PREFERENCE, "prompt": "\ud800"}, "prompt", "surrogate"),
    ({**PREFERENCE, "prompt": PREFERENCE["prompt"] + PREFERENCE["chosen"]}, "prompt[1].role", "'assistant'"),
    ({"chosen": "a", "rejected": "b"}, "prompt", "missing"),
    ({"chosen": PREFERENCE["chosen"], "rejected": PREFERENCE["rejected"]}, "prompt", "do not share one"),
    ({"prompt": "a", "completion": "b"}, "chosen", "missing"),
    ({**NATIVE, "responses": [{"text": "a"}, {"text": ""}]}, "responses[1].text", "no text"),
    ({**NATIVE, "responses": [{"text": "a"}, {}]}, "responses[1].text", "missing"),
    ({**NATIVE, "responses": [{"text": "a"}, "b"]}, "responses[1]", "str 'b'"),
    ({**NATIVE, "responses": {"text": "a"}}, "responses", "dict"),
    ({**NATIVE, "responses": [{"text": "a", "seed": "1"}, {"text": "b"}]}, "responses[0].seed", "str '1'"),
    (
        {**NATIVE, "responses": [{"text": "a", "sampling": [1]}, {"text": "b"}]},
        "responses[0].sampling",
        "list [1]",
    ),
    (
        {**NATIVE, "responses": [{"text": "a"}, {"text": "b", "finish_reason": "eos"}]},
        "responses[1].finish_reason",
        "eos",
    ),
    (
        {**NATIVE, "responses": [{"text": "a", "modle": "x"}, {"text": "b"}]},
        "responses[0].modle",
        "no such field",
    ),
    ({**NATIVE, "ranks": [1]}, "ranks", "1 ranks for 2 responses"),
    ({**NATIVE, "ranks": [0, 1]}, "ranks[0]", "int 0"),
    ({**NATIVE, "ranks": [1, 2.0]}, "ranks[1]", "float 2.0"),
    ({**NATIVE, "ranks": [True, 2]}, "ranks[0]", "bool True"),
    ({**NATIVE, "ranks": "12"}, "ranks", "str '12'"),
    ({**NATIVE, "rank": [1, 2]}, "rank", "no such field"),
    ({**NATIVE, "weight": math.nan}, "weight", "nan"),
    ({**NATIVE, "weight": True}, "weight", "bool True"),
    ({**NATIVE, "strength": math.inf}, "strength", "inf"),
    ({**NATIVE, "annotators": "me"}, "annotators", "str 'me'"),
    ({**NATIVE, "source": 3}, "source", "int 3"),
    ({**NATIVE, "schema_version": 2}, "schema_version", "int 2"),
    ({**NATIVE, "id": "abc"}, "id", "'abc'"),
]


@pytest.mark.parametrize(("row", "field", "found"), BAD_ROWS)
def test_bad_row_names_file_line_field_and_what_was_found(tmp_path: Path, row: object, field: str, found: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", PREFERENCE, row)
    with pytest.raises(DataError) as caught:
        read_comparisons(path)
    assert f"{path}:2: field '{field}': " in str(caught.value)
    assert found in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "field 'prompt': it stands there more than once; keep one of them"),
        (b'{"prompt": "a", "more": {"x": 1, "x": 1}}', "field 'x': it stands there more than once"),
        (b"[]", "a JSON list"),
        (b'"text"', "a JSON str"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"x": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_line_that_is_no_json_object_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(PREFERENCE).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=found) as caught:
        read_comparisons(path)
    assert f"{path}:3: " in str(caught.value)


def test_all_bad_lines_are_counted_and_ten_are_shown(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", PREFERENCE, *[{"chosen": "x"}] * 13)
    with pytest.raises(DataError) as caught:
        read_comparisons(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "13 of 14 lines cannot be used:"
    assert len(lines) == 12
    assert f"{path}:11: " in lines[10]
    assert lines[11].strip() == "... and 3 more"


def test_skipped_lines_are_in_the_report(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"chosen": "x"}, PREFERENCE)
    rows, report = read_comparisons(path, skip_bad_lines=True)
    assert (len(rows), report.num_read, report.num_bad, report.files) == (1, 1, 1, [str(path)])
    assert str(report).splitlines() == [f"read 1 rows from {path}, skipped 1 bad lines", report.errors[0]]
    assert report.errors[0].startswith(f"{path}:1: field 'rejected': ")


@pytest.mark.parametrize("skip_bad_lines", [False, True])
def test_missing_empty_and_wholly_bad_files_are_errors(tmp_path: Path, skip_bad_lines: bool) -> None:
    good = write_rows(tmp_path / "good.jsonl", PREFERENCE)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n \n")
    bad = write_rows(tmp_path / "bad.jsonl", {})
    for paths, found in [
        (tmp_path / "absent.jsonl", "absent.jsonl: cannot be read"),
        (tmp_path, "cannot be read"),
        ([good, empty], "empty.jsonl: the file holds no rows"),
        (bad, "1 of 1 lines"),
        ([], "no data file"),
    ]:
        with pytest.raises(DataError, match=found):
            read_comparisons(paths, skip_bad_lines=skip_bad_lines)


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PREFERENCE).encode() + b"\r\n" + json.dumps(NATIVE).encode())
    assert len(read_comparisons(path)[0]) == 2


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", {"prompt": "1"})
    second = write_rows(tmp_path / "b.jsonl", {"prompt": "2"})
    rows, report = read_prompts([str(second), first])
    assert [row.prompt[0].content for row in rows] == ["2", "1"]
    assert report.files == [str(second), str(first)]


def test_prompts_are_read_from_strings_messages_and_native_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "Name a colour.", "kwargs": [1]}, {"prompt": NATIVE["prompt"]}, NATIVE, PREFERENCE]
    assert read_prompts(write_rows(tmp_path / "rows.jsonl", *rows))[0] == [Comparison(QUESTION)] * 4
    with pytest.raises(DataError, match="field 'prompt': missing"):
        read_prompts(write_rows(tmp_path / "rows.jsonl", {"question": "x"}))


def test_demonstrations_are_read_from_messages_and_from_completions(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "Blue."}
    rows = [
        {"messages": [*NATIVE["prompt"], answer]},
        {"prompt": "Name a colour.", "completion": "Blue."},
        {"prompt": NATIVE["prompt"], "completion": [answer]},
    ]
    expected = Demonstration(QUESTION, "Blue.")
    assert read_demonstrations(write_rows(tmp_path / "rows.jsonl", *rows))[0] == [expected] * 3


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": NATIVE["prompt"]}, "field 'messages': user;"),
        ({"messages": []}, "field 'messages': no messages"),
        (
            {"messages": [*NATIVE["prompt"], {"role": "assistant", "content": ""}]},
            r"field 'messages\[1\].content'",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "field 'messages': assistant"),
        ({"prompt": "x"}, "field 'completion': missing"),
        ({"prompt": "x", "completion": ["y"]}, r"field 'completion\[0\]': str 'y'"),
    ],
)
def test_bad_demonstrations_are_named(tmp_path: Path, row: object, found: str) -> None:
    with pytest.raises(DataError, match=found):
        read_demonstrations(write_rows(tmp_path / "rows.jsonl", row))


def test_records_are_checked_when_made() -> None:
    with pytest.raises(DataError, match="field 'ranks'"):
        Comparison(QUESTION, (Response("a"),), ranks=(1, 2))
    with pytest.raises(DataError, match="field 'role'"):
        Message("tool", "x")
    with pytest.raises(DataError, match="field 'weight'"):
        Comparison(QUESTION, weight=-1)
    with pytest.raises(DataError, match="field 'sampling'"):
        Response("a", sampling={"temperature": math.nan})


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = Comparison(QUESTION, (Response("a"), Response("b")))
    write_comparisons(path, [good])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"comparisons\[1\].responses\[0\].text"):
        write_comparisons(path, [good, Comparison(QUESTION, (Response(""),))])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data: set RLHF_REAL_DATA to its folder")
@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("preference/*/*.jsonl", read_comparisons),
        ("prompts/*.jsonl", read_prompts),
        ("sft/*.jsonl", read_demonstrations),
    ],
    ids=["preference", "prompts", "sft"],
)
def test_every_real_row_is_read(pattern: str, read: object) -> None:
    files = sorted(REAL_DATA.glob(pattern))
    assert files
    num_lines = sum(len(file.read_bytes().splitlines()) for file in files)
    rows, report = read(files)
    assert (len(rows), report.num_bad) == (num_lines, 0)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data: set RLHF_REAL_DATA to its folder")
def test_real_preferences_survive_both_written_forms(tmp_path: Path) -> None:
    rows, _ = read_comparisons(REAL_DATA / "preference/human_chat/validation.jsonl")
    write_comparisons(tmp_path / "native.jsonl", rows)
    assert read_comparisons(tmp_path / "native.jsonl")[0] == rows
    write_preference_rows(tmp_path / "trl.jsonl", rows)
    back, _ = read_comparisons(tmp_path / "trl.jsonl")
    assert [(row.id, row.ranks, row.strength) for row in back] == [(row.id, row.ranks, row.strength) for row in rows]


def test_a_row_written_by_hand_may_have_a_text_as_its_prompt(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Why?", "responses": [{"text": "Because."}, {"text": "No."}], "ranks": [1, 2]}\n')
    (row,), _ = read_comparisons(file)
    assert row == Comparison((Message("user", "Why?"),), (Response("Because."), Response("No.")), (1, 2))


def test_a_margin_is_in_every_row_or_in_none(tmp_path: Path) -> None:
    prompt, responses = (Message("user", "Why?"),), (Response("Because."), Response("No."))
    plain, strong = (Comparison(prompt, responses, (1, 2), strength=strength) for strength in (None, 2.0))
    margins = []
    for rows in ([plain, plain], [plain, strong]):
        write_preference_rows(tmp_path / "rows.jsonl", rows)
        lines = (tmp_path / "rows.jsonl").read_text().splitlines()
        margins.append([json.loads(line).get("margin") for line in lines])
    assert margins == [[None, None], [0.0, 2.0]]
