"""Leakage is found whatever its disguise, cuts are counted, and nothing is found where nothing is."""

from __future__ import annotations

import random

import pytest

from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.training.checks.data_rows import DataRows, check_pairs
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


def test_a_ranking_with_a_tie_has_no_pair_of_the_tied() -> None:
    equal = (Response("So."), Response("So."), Response("Not at all."))
    rows = DataRows.of("train_file", [Comparison((Message("user", "Why?"),), equal, (1, 1, 2))])
    assert list(check_pairs(rows)) == []
