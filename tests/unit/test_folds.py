from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.data.folds import fold_of, held_out_fold
from rlhf.data.wording import wording
from rlhf.training.checks.data_rows import DataRows
from rlhf.training.checks.leakage import check_leakage


def comparison(question: str, *later: str, answers: tuple[str, str] = ("yes", "no")) -> Comparison:
    roles = ("assistant", "user")
    prompt = [Message("user", question), *(Message(roles[i % 2], text) for i, text in enumerate(later))]
    return Comparison(tuple(prompt), tuple(map(Response, answers)), ranks=(1, 2))


QUESTIONS = st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(QUESTIONS, st.integers(2, 6), st.randoms())
def test_a_fold_is_the_same_in_whatever_order_the_data_comes(questions, num_folds, draw) -> None:
    def folds(rows: list[Comparison]) -> list[set[str]]:
        found = []
        for fold in range(num_folds):
            try:
                found.append({row.id for row in held_out_fold(rows, num_folds, fold)[1]})
            except ValueError:
                found.append({row.id for row in rows if fold_of(wording(row.prompt[0].content), num_folds) == fold})
        return found

    rows = [comparison(question) for question in questions]
    shuffled = draw.sample(rows, len(rows))
    assert folds(shuffled) == folds(rows)
    # every comparison is in one fold
    assert sorted(item for fold in folds(rows) for item in fold) == sorted({row.id for row in rows})


def test_the_fold_is_the_hash_and_nothing_else() -> None:
    digest = int(hashlib.sha256(b"why?").hexdigest()[:16], 16)
    assert [fold_of("why?", k) for k in (2, 5, 7)] == [digest % k for k in (2, 5, 7)]


def test_a_question_in_other_case_and_punctuation_is_in_the_same_fold() -> None:
    rows = [comparison(text) for n in range(20) for text in (f"Why {n}?", f"why, {n}", f"  WHY {n} ...")]
    for fold in range(4):
        kept, held_out = held_out_fold(rows, 4, fold)
        assert len(held_out) % 3 == 0
        parts = [DataRows.of(name, rows) for name, rows in (("train_file", kept), ("eval_file", held_out))]
        assert list(check_leakage(*parts)) == []


def test_the_wording_is_what_is_left_without_case_and_punctuation() -> None:
    assert wording("  Why, THEN -- is  it\nso?!") == "why then is it so"
    assert wording("Ça va, Straße ÉTÉ 東京?") == "ça va straße été 東京"
    assert wording(" ?! ") == "?!"


def test_cuts_of_one_conversation_stay_together() -> None:
    rows = [comparison(f"question {n}") for n in range(20)]
    rows += [comparison(f"question {n}", "answer", "and then?") for n in range(20)]
    for fold in range(4):
        kept, held_out = held_out_fold(rows, 4, fold)
        assert not {row.prompt[0] for row in kept} & {row.prompt[0] for row in held_out}
        assert len(kept) + len(held_out) == 40


def test_an_empty_part_is_refused() -> None:
    rows = [comparison("why?")]
    fold = fold_of("why", 3)
    with pytest.raises(ValueError, match="leaves none for training"):
        held_out_fold(rows, 3, fold)
    with pytest.raises(ValueError, match="leaves none for measurement"):
        held_out_fold(rows, 3, (fold + 1) % 3)
