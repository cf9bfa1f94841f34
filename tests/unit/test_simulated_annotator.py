from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.simulated import SimulatedAnnotator, stem, varied, words
from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.evaluation.judges import load_judge

QUESTION = "How do I keep cut flowers fresh for longer?"
GOOD = (
    "To keep cut flowers fresh for longer, trim the stems and change the water every two days. "
    "Place the vase away from sunlight and ripe fruit."
)
ANNOTATOR = SimulatedAnnotator()


def prompt(text: str = QUESTION) -> tuple[Message, ...]:
    return (Message("user", text),)


def total(text: str, finish_reason: str | None = "stop", question: str = QUESTION) -> float:
    return ANNOTATOR.score(prompt(question), Response(text, finish_reason=finish_reason)).total


@pytest.mark.parametrize(
    ("name", "trivial"),
    [
        ("echo", QUESTION),
        ("echo and filler", f"{QUESTION} That is a good question, and I am glad to help you with it today."),
        ("keywords", "keep cut flowers fresh longer."),
        (
            "keyword pile",
            "Keep flowers fresh. Cut flowers longer. Fresh flowers keep. Longer cut. Fresh cut.",
        ),
        ("polite phrase", "Thank you for your question. I am happy to help you with it in any way I can."),
        ("one word", "Yes."),
        ("one word repeated", "flowers " * 20 + "."),
        ("repeated sentence", "Flowers stay fresh when cut. " * 6),
        ("function words", "It is what it is, and so it can be that it was."),
        ("punctuation", "... !!! ???"),
    ],
)
def test_trivial_strings_get_less_than_half_of_a_real_answer(name: str, trivial: str) -> None:
    assert total(trivial) < 0.5 * total(GOOD), name


def test_a_good_short_answer_gets_nearly_everything() -> None:
    assert total(GOOD) > 0.95


@pytest.mark.parametrize("text", ["", " \n", "!?", "\u200b"])
def test_response_without_words_gets_zero(text: str) -> None:
    judgment = ANNOTATOR.score(prompt(), Response(text, finish_reason="stop"))
    assert judgment.total == 0
    assert set(judgment.parts.values()) == {0.0}


def test_answer_cut_off_is_worse_than_one_that_ended_and_unpunctuated_lies_between() -> None:
    assert total(GOOD, "length") < total(GOOD[:-1]) < total(GOOD)
    assert total(GOOD, None) == total(GOOD)


def test_rambling_loses_more_the_longer_it_gets() -> None:
    more = [
        "Tulips drink a lot, so look at them each morning. Roses like a spoon of sugar in their vase. ",
        "Lilies drop dust that stains clothes and walls. A florist can tell you which kinds last best. ",
        "Some people use a coin, though nobody has shown that copper makes any difference to the petals. ",
    ]
    totals = [total(GOOD + " " + "".join(more[:count])) for count in range(1, 4)]
    assert totals[0] > totals[1] > totals[2]
    assert totals[2] < 0.8 * totals[0]


def test_answer_to_another_question_loses_to_an_answer_to_this_one() -> None:
    other = "The capital of Australia is Canberra. It lies inland between Sydney and Melbourne."
    assert total(other) < 0.5 * total(GOOD)


def test_material_after_the_question_may_be_used_but_not_said_back_whole() -> None:
    question = 'What is the dog called? "Every morning Julia takes her dog Bruno to the old park."'
    answer = "The dog is called Bruno, and Julia walks him to the park in the morning."
    said_back = "Every morning Julia takes her dog Bruno to the old park."
    assert total(answer, question=question) > 2 * total(said_back, question=question)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(min_size=1, max_size=80), st.sampled_from(["stop", "length", None]))
def test_any_text_gets_a_total_and_parts_between_zero_and_one(text: str, question: str, reason: str | None) -> None:
    judgment = ANNOTATOR.score(prompt(question), Response(text, finish_reason=reason))
    for value in (judgment.total, *judgment.parts.values()):
        assert 0 <= value <= 1


def test_total_is_the_documented_formula() -> None:
    # 16 words, all parts known by hand: form = 0.45 * 0.5 + 0.25 + 0.30 = 0.775; of the five asked stems
    # keep, cut, flow, fresh, long the response takes up cut and flow: (2 / 5) / 0.8 = 0.5.
    text = "If you have cut the stems of the flowers, put them into water that is not cold"
    judgment = ANNOTATOR.score(prompt(), Response(text, finish_reason="stop"))
    assert judgment.parts["answers"] == pytest.approx(0.5)
    assert judgment.total == pytest.approx(0.775 * (0.25 + 0.75 * 0.5))


def test_rank_orders_ties_and_signs() -> None:
    responses = (Response("Yes."), Response(GOOD), Response(GOOD), Response(GOOD, finish_reason="length"))
    ranked = ANNOTATOR.rank(Comparison(prompt(), responses, ranks=(1, 2, 3, 4), annotators=("someone",)))
    assert ranked.ranks == (3, 1, 1, 2)
    assert ranked.annotators == (SimulatedAnnotator.NAME,)
    assert ranked.responses == responses
    assert "simulated" in SimulatedAnnotator.NAME


def test_chain_of_small_steps_does_not_tie_best_with_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = {"a": 0.50, "b": 0.46, "c": 0.42, "d": 0.38}

    def fixed_score(self: SimulatedAnnotator, messages: object, response: Response) -> object:
        return type("Judged", (), {"total": totals[response.text]})

    monkeypatch.setattr(SimulatedAnnotator, "score", fixed_score)
    ranked = ANNOTATOR.rank(Comparison(prompt(), tuple(Response(text) for text in "dcba")))
    assert ranked.ranks == (2, 2, 1, 1)


def test_compare_is_antisymmetric_and_ties_within_the_margin() -> None:
    good, bad = Response(GOOD), Response("Yes.")
    assert ANNOTATOR.compare(prompt(), good, bad) == 1.0
    assert ANNOTATOR.compare(prompt(), bad, good) == 0.0
    assert ANNOTATOR.compare(prompt(), good, Response(GOOD)) == 0.5


def test_last_user_message_is_the_one_that_is_answered() -> None:
    messages = (
        Message("user", "What is the capital of Australia?"),
        Message("assistant", "Canberra is the capital of Australia."),
        Message("user", QUESTION),
    )
    assert ANNOTATOR.score(messages, Response(GOOD)) == ANNOTATOR.score(prompt(), Response(GOOD))


def test_nothing_to_rank_and_bad_margins_are_refused() -> None:
    with pytest.raises(ValueError, match="no responses to rank"):
        ANNOTATOR.rank(Comparison(prompt()))
    with pytest.raises(ValueError, match=r"tie_margin is -0\.1"):
        SimulatedAnnotator(tie_margin=-0.1)
    with pytest.raises(ValueError, match="no user message"):
        ANNOTATOR.score((Message("system", "Be kind."),), Response(GOOD))


@pytest.mark.parametrize(
    ("word", "root"),
    [
        ("stopping", "stop"),
        ("stopped", "stop"),
        ("stops", "stop"),
        ("making", "mak"),
        ("make", "mak"),
        ("is", "is"),
    ],
)
def test_inflected_forms_share_a_stem(word: str, root: str) -> None:
    assert stem(word) == root


def test_varied_counts_repeated_sentences() -> None:
    text = "It is late. Go home. It is late. Go home."
    assert varied(text, words(text)) == 0  # two of four sentences are distinct


def test_annotator_is_a_judge_by_name_and_loads_without_torch() -> None:
    assert isinstance(load_judge("annotation.simulated:SimulatedAnnotator"), SimulatedAnnotator)
    code = "import annotation.simulated, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
