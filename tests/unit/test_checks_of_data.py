"""Leakage is found whatever its disguise, cuts are counted, and nothing is found where nothing is."""

from __future__ import annotations

import random

import pytest

from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.training.checks import leakage
from rlhf.training.checks.data_rows import DataRows, check_pairs, check_rows
from rlhf.training.checks.findings import by_share
from rlhf.training.checks.leakage import check_leakage, near_duplicates

WORDS = [f"{first}{second}" for first in "b c d f g h k l m n p r s t".split() for second in "an ek il or um".split()]


def texts(count: int, *, seed: int, words: tuple[int, int] = (12, 60)) -> list[str]:
    """Texts of random words, no two alike."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(*words))) for _ in range(count)]


def prompts(field: str, contents: list[str]) -> DataRows:
    return DataRows.of(field, [Comparison((Message("user", content),)) for content in contents])


def edited(text: str, share: float, draw: random.Random) -> str:
    """The text with a share of its words replaced, left out or doubled, at least one."""
    words = text.split()
    for place in draw.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = draw.choice([draw.choice(WORDS), "", f"{words[place]} {words[place]}"])
    return " ".join(word for word in words if word)


def test_exact_leakage_is_found_in_every_row_whatever_case_and_punctuation() -> None:
    seen = texts(300, seed=1)
    disguised = [f"  {text.upper()} ?!" if number % 2 else text.replace(" ", ",  ") for number, text in enumerate(seen)]
    (finding,) = check_leakage(prompts("train_file", seen), prompts("eval_file", disguised[:200]))
    assert (finding.name, finding.severity) == ("leakage", "fatal")
    assert finding.found.startswith("200 of 200 rows of eval_file")


def test_95_percent_of_near_duplicates_are_found() -> None:
    draw = random.Random(2)
    seen = texts(500, seed=3)
    copies = [edited(text, 0.08, draw) for text in seen]
    found = near_duplicates(copies, seen)
    assert len(found) >= 0.95 * len(copies)
    assert all(place == index for index, (place, _) in found.items())


def test_unlike_texts_are_not_near_duplicates() -> None:
    assert near_duplicates(texts(500, seed=4), texts(500, seed=5)) == {}


def test_similarity_is_that_of_all_pairs_compared_one_by_one() -> None:
    draw = random.Random(6)
    seen = texts(60, seed=7, words=(3, 12))
    asked = [edited(draw.choice(seen), draw.choice([0.1, 0.3, 0.6]), draw) for _ in range(120)]

    def shingles(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}

    def jaccard(one: str, other: str) -> float:
        a, b = shingles(one), shingles(other)
        return len(a & b) / len(a | b) if a | b else 0.0

    best = {index: max(jaccard(text, other) for other in seen) for index, text in enumerate(asked)}
    expected = {index: similarity for index, similarity in best.items() if similarity >= 0.5}
    found = near_duplicates(asked, seen)
    assert 10 < len(expected) < 110
    assert {index: similarity for index, (_, similarity) in found.items()} == pytest.approx(expected)


def test_a_common_system_message_makes_no_prompts_alike() -> None:
    system = Message("system", " ".join(WORDS))
    rows = [
        DataRows.of(field, [Comparison((system, Message("user", text))) for text in texts(20, seed=seed)])
        for field, seed in (("train_file", 8), ("eval_file", 9))
    ]
    assert list(check_leakage(*rows)) == []


def test_prompts_with_other_system_messages_are_near_and_not_one() -> None:
    """What is asked may be in the system message, as where it holds a document."""
    seen, held_out = (
        DataRows.of(field, [Comparison((Message("system", text), Message("user", "Sum it up in a line.")))])
        for field, text in (("train_file", "About bread."), ("eval_file", "About rain."))
    )
    assert [finding.name for finding in check_leakage(seen, held_out)] == ["near_leakage"]
    assert [finding.name for finding in check_leakage(seen, seen)] == ["leakage"]


def test_of_very_many_words_evenly_taken_rows_are_looked_at(monkeypatch) -> None:
    """Every other row on one side, then on both."""
    seen = prompts("train_file", texts(40, seed=12, words=(20, 20)))
    copies = [f"{row.prompt[0].content} anew" for row in seen.rows]
    monkeypatch.setattr(leakage, "MOST_WORDS_SEEN", 500)
    (finding,) = check_leakage(seen, prompts("eval_file", copies))
    assert finding.found.startswith("20 of 40 other prompts of eval_file")
    monkeypatch.setattr(leakage, "MOST_WORDS_HELD_OUT", 500)
    (finding,) = check_leakage(seen, prompts("eval_file", ["So be it, at last.", *reversed(copies)]))
    assert finding.found.startswith("20 of 21 other prompts of eval_file")
    assert finding.example is not None
    assert finding.example.startswith("row 3 of eval_file and row 39 of train_file")


def test_a_form_that_all_prompts_are_made_from_costs_no_comparison_of_all() -> None:
    form = "please write a short and friendly letter to {0} about {0}"
    names = [f"name{number}" for number in range(leakage.FORM + 1)]
    asked = [form.format(name) for name in names]
    assert near_duplicates(asked, [form.format("nobody")]) == {}
    assert set(near_duplicates(asked[:-1], [form.format("nobody")])) == set(range(leakage.FORM))


def test_a_row_in_a_hundred_decides_whether_leakage_is_fatal() -> None:
    seen, held_out = texts(10, seed=10), texts(400, seed=11)
    (mild,) = check_leakage(prompts("train_file", seen), prompts("eval_file", [*held_out, *seen[:3]]))
    (fatal,) = check_leakage(prompts("train_file", seen), prompts("eval_file", [*held_out, *seen[:5]]))
    assert (mild.severity, fatal.severity) == ("warning", "fatal")


def test_a_leaked_response_is_counted_too() -> None:
    def pair(text: str, answer: str) -> Comparison:
        return Comparison((Message("user", text),), (Response(answer), Response("No.")), (1, 2))

    train = DataRows.of("train_file", [pair("Why?", "So."), pair("How?", "Thus.")])
    (finding,) = check_leakage(train, DataRows.of("eval_file", [pair("Why?", "So."), pair("When?", "Now.")]))
    assert "1 of 2 rows" in finding.found
    assert "1 of them a response" in finding.found
    assert finding.example is not None
    assert "row 1 of eval_file and row 1 of train_file" in finding.example


@pytest.mark.parametrize(("share", "severity"), [(0.004, "note"), (0.01, "warning"), (0.49, "warning"), (0.5, "fatal")])
def test_the_severity_of_a_share(share: float, severity: str) -> None:
    assert by_share(share, warning=0.01, fatal=0.5) == severity


def judged(text: str, ranks: tuple[int, int], *annotators: str) -> Comparison:
    return Comparison((Message("user", text),), (Response("So."), Response("No.")), ranks, annotators=annotators)


def test_judgments_of_several_annotators_are_no_duplicates_and_may_differ() -> None:
    """Five for each of 40 prompts, of whom one or two see it otherwise, as the annotation app exports them."""
    names = ("ann", "bo", "cy", "di", "ed")
    rows = [
        judged(text, (2, 1) if place < 1 + number % 2 else (1, 2), name)
        for number, text in enumerate(texts(40, seed=13))
        for place, name in enumerate(names)
    ]
    (finding,) = check_rows(DataRows.of("train_file", rows))
    assert (finding.name, finding.severity) == ("contradictory_pairs", "warning")
    assert finding.found.startswith("60 of 200 pairs of train_file")  # 1 of 5 in 20 prompts, 2 of 5 in 20
    nameless = [judged(row.prompt[0].content, row.ranks or (1, 2)) for row in rows]
    assert [f.name for f in check_rows(DataRows.of("train_file", nameless)) if f.severity == "fatal"] == [
        "duplicated_rows"
    ]


def test_pairs_as_often_one_way_as_the_other_stop_a_run() -> None:
    rows = [judged(text, ranks) for text in texts(30, seed=14) for ranks in ((1, 2), (2, 1))]
    (finding,) = check_rows(DataRows.of("train_file", rows))
    assert (finding.name, finding.severity) == ("contradictory_pairs", "fatal")
    assert finding.found.startswith("30 of 60 pairs")


def test_a_ranking_with_a_tie_has_no_pair_of_the_tied() -> None:
    equal = (Response("So."), Response("So."), Response("Not at all."))
    rows = DataRows.of("train_file", [Comparison((Message("user", "Why?"),), equal, (1, 1, 2))])
    assert list(check_pairs(rows)) == []
