from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from annotation.stats.annotators import SUSPECTS_BEFORE, Suspicion, gold_accuracy, suspicions
from annotation.stats.votes import Vote
from tests.annotation.crowd import crowd, pair

SPAMMERS = ("random", "left", "fast", "alternating")


def is_honest(suspicion: Suspicion) -> bool:
    return suspicion.annotator.startswith("honest")


def of_kind(found: list[Suspicion], kind: str) -> list[Suspicion]:
    return [suspicion for suspicion in found if suspicion.annotator.startswith(kind)]


def area_under_curve(found: list[Suspicion]) -> float:
    return roc_auc_score([not is_honest(one) for one in found], [one.score for one in found])


def test_gold_accuracy_by_hand() -> None:
    gold = {"0": (1, 2), "1": (1, 1), "2": (1, 2, 3)}
    votes = [
        pair("0", "a", "first"),
        pair("1", "a", "second"),
        pair("9", "a", "first"),  # no gold item
        Vote("2", "b", (1, 3, 3), (0, 1, 2)),  # two of three pairs in the order of gold
        pair("9", "c", "first"),
    ]
    found = gold_accuracy(votes, gold)
    assert [*found] == ["a", "b", "c"]
    assert (found["a"].value, found["a"].n) == (0.5, 2)
    assert found["b"].value == pytest.approx(2 / 3)
    assert found["c"].value is None
    # Wilson's interval of 1 of 2
    assert found["a"].low == pytest.approx(0.0945, abs=1e-4)
    assert found["a"].high == pytest.approx(0.9055, abs=1e-4)


def test_gold_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="gold item '0' has 3 ranks for 2 responses"):
        gold_accuracy([pair("0", "a", "tie")], {"0": (1, 2, 3)})


# Three votes an item and no gold leave too little to tell a guesser from somebody who is right in 65 of 100 cases.
@pytest.mark.parametrize("overlap, gold_share, least", [(3, 0.0, 0.93), (3, 0.1, 0.95), (5, 0.0, 0.95), (5, 0.1, 0.95)])
def test_planted_spammers_are_found_after_fifty_items(overlap: int, gold_share: float, least: float) -> None:
    """24 honest annotators of accuracy .65 to .85 and two spammers of each of four kinds; area under the ROC curve."""
    areas = []
    for seed in range(8):
        votes, truth = crowd(seed, {"honest": 24, **dict.fromkeys(SPAMMERS, 2)}, overlap=overlap)
        chosen = np.random.default_rng(seed).random(len(truth)) < gold_share
        gold = {item: ranks for (item, ranks), kept in zip(truth.items(), chosen, strict=True) if kept}
        areas.append(area_under_curve(suspicions(votes, gold)))
    assert np.mean(areas) >= least, areas


def test_gold_items_tell_who_guesses() -> None:
    without, with_gold = [], []
    for seed in range(4):
        votes, truth = crowd(seed, {"honest": 16, "random": 8}, overlap=2)
        without.append(area_under_curve(suspicions(votes)))
        with_gold.append(area_under_curve(suspicions(votes, truth)))
    assert np.mean(with_gold) > max(0.95, np.mean(without))


def test_each_kind_is_named_for_what_it_does() -> None:
    votes, _ = crowd(0, {"honest": 12, "left": 1, "fast": 1, "alternating": 1})
    found = suspicions(votes)
    assert {one.annotator for one in found[:3]} == {"left0", "fast0", "alternating0"}
    assert all(one.score > 0.9 for one in found[:3])
    (left,), (fast,), (alternating,) = (of_kind(found, kind) for kind in ("left", "fast", "alternating"))
    assert any(reason.startswith("chose the left response in 50 of 50 decided votes") for reason in left.reasons)
    assert any(reason.startswith("takes 1.5 s for an item, the others") for reason in fast.reasons)
    assert any(
        reason.startswith("gave the same answer as two votes before in 48 of 48 votes")
        for reason in alternating.reasons
    )
    assert not any("takes" in reason for reason in left.reasons)


def test_honest_annotators_are_not_suspected() -> None:
    scores = []
    for seed in range(4):
        votes, _ = crowd(seed, {"honest": 20})
        scores += [one.score for one in suspicions(votes)]
    assert np.median(scores) < 0.05
    assert np.mean(np.array(scores) > 0.5) < 0.05


def test_somebody_fast_who_agrees_is_not_suspected() -> None:
    votes, truth = crowd(2, {"honest": 10})
    votes += [
        pair(item, "quick", "first" if ranks == (1, 2) else "second", active_ms=1500, at=float(turn))
        for turn, (item, ranks) in enumerate(truth.items())
    ]
    (quick,) = of_kind(suspicions(votes), "quick")
    assert quick.score < SUSPECTS_BEFORE


def test_a_slight_left_bias_over_many_votes_is_human() -> None:
    generator = np.random.default_rng(0)
    votes = []
    for item in range(2000):
        shown = tuple(generator.permutation(2).tolist())
        for annotator in ("usual", "other"):
            place = int(generator.random() < (0.45 if annotator == "usual" else 0.5))
            votes.append(pair(str(item), annotator, "first" if shown[place] == 0 else "second", shown, at=float(item)))
    (usual,) = of_kind(suspicions(votes), "usual")
    assert not any("left" in reason for reason in usual.reasons)


def test_nothing_known_is_neither_for_nor_against() -> None:
    (alone,) = suspicions([pair("0", "a", "first", active_ms=9000)])
    assert alone.score == pytest.approx(SUSPECTS_BEFORE, abs=0.03)
    assert alone.reasons == []
    assert suspicions([]) == []


def test_who_always_says_tie_is_suspected() -> None:
    votes, truth = crowd(4, {"honest": 12})
    items = sorted(truth)[:50]
    votes += [pair(item, "tied", "tie", active_ms=20_000, at=float(turn)) for turn, item in enumerate(items)]
    assert suspicions(votes)[0].annotator == "tied"
    assert suspicions(votes)[0].reasons[0].startswith("gave the same answer as the vote before in 49 of 49 votes")


def test_who_ranks_as_shown_is_suspected() -> None:
    generator = np.random.default_rng(1)
    votes = []
    for item in range(60):
        quality = generator.normal(size=4)
        for annotator in ("a", "b", "c", "d", "as shown"):
            shown = generator.permutation(4)
            seen = quality + generator.normal(size=4)
            order = shown if annotator == "as shown" else np.argsort(-seen)
            ranks = tuple((np.argsort(order) + 1).tolist())
            votes.append(Vote(str(item), annotator, ranks, tuple(shown.tolist()), active_ms=30_000, at=float(item)))
    found = suspicions(votes)
    assert found[0].annotator == "as shown"
    assert found[0].score > 0.9
    assert all(one.score < 0.1 for one in found[1:])
    assert any("left response in 60 of 60 decided votes (about 15" in reason for reason in found[0].reasons)


def test_items_of_unlike_size_in_turns_are_no_pattern() -> None:
    generator = np.random.default_rng(3)
    votes = []
    for item in range(80):
        size = 2 + 2 * (item % 2)
        quality = generator.normal(size=size)
        for annotator in "abc":
            order = np.argsort(-(quality + 0.5 * generator.normal(size=size)))
            shown = tuple(generator.permutation(size).tolist())
            votes.append(Vote(str(item), annotator, tuple((np.argsort(order) + 1).tolist()), shown, at=float(item)))
    assert all(one.score < 0.05 and not one.reasons for one in suspicions(votes))


def test_new_names_of_annotators_change_nothing_but_names() -> None:
    votes, truth = crowd(8, {"honest": 6, "random": 1, "left": 1})
    gold = {item: truth[item] for item in sorted(truth)[:8]}
    names = sorted({vote.annotator for vote in votes})
    name = dict(zip(names, names[3:] + names[:3], strict=True))
    renamed = [
        Vote(vote.item, name[vote.annotator], vote.ranks, vote.shown_order, active_ms=vote.active_ms, at=vote.at)
        for vote in votes
    ]
    before = {name[one.annotator]: one for one in suspicions(votes, gold)}
    after = {one.annotator: one for one in suspicions(renamed, gold)}
    assert before.keys() == after.keys()
    for annotator, expected in before.items():
        assert after[annotator].score == pytest.approx(expected.score, abs=1e-6)
        assert after[annotator].reasons == expected.reasons


def labelled(answers: dict[str, str]) -> list[Vote]:
    """Votes of annotators on pairs 0, 1, ..., a letter each: f, s and t for the first, the second and a tie."""
    words = {"f": "first", "t": "tie", "s": "second"}
    return [
        pair(str(item), who, words[letter], (item % 2, 1 - item % 2), active_ms=9000, at=float(item))
        for who, letters in answers.items()
        for item, letter in enumerate(letters)
    ]


def test_agreement_as_usual_is_no_reason_and_few_cases_are_called_so() -> None:
    """Two agree in 5 of 18 cases, which is usual of both, and one is wrong on the one gold item."""
    votes = labelled({"ann": "fsftfssftsfsfftsfs", "bob": "sfftsffssftfstfsfs"})
    agreeing = sum(a == b for a, b in zip("fsftfssftsfsfftsfs", "sfftsffssftfstfsfs", strict=True))
    assert agreeing == 5
    found = {one.annotator: one for one in suspicions([*votes, pair("gold", "ann", "second")], {"gold": (1, 2)})}
    assert found["ann"].reasons == ["too few cases to tell: 18 that others judged too, 1 gold items"]


def test_reasons_name_what_is_out_of_line_alone() -> None:
    same = "fsfftsfssf" * 4
    crowd_of_four = labelled({"a": same, "b": same, "c": same, "other": "sffsftsfts" * 4})
    other = next(one for one in suspicions(crowd_of_four) if one.annotator == "other")
    # 1 of 10 is as the three say, who agree with two of three in the others
    assert "agrees with the others in 10% of 40 cases (usual: 70%)" in other.reasons
    assert not any("gold" in reason or "few" in reason for reason in other.reasons)


def test_gold_is_a_reason_where_chance_does_not_explain_it() -> None:
    votes = labelled({"ann": "fsftfssftsfsfftsfs", "bob": "sfftsffssftfstfsfs"})
    gold = {f"gold {number}": (1, 2) for number in range(10)}
    wrong = [pair(item, "ann", "second", active_ms=9000, at=100.0) for item in gold]
    ann = next(one for one in suspicions([*votes, *wrong], gold) if one.annotator == "ann")
    assert "is right on 0% of 10 gold items" in ann.reasons
    assert not any("agrees" in reason for reason in ann.reasons)


def test_scores_are_between_nothing_and_one_and_sorted() -> None:
    votes, _ = crowd(9, {"honest": 5, **dict.fromkeys(SPAMMERS, 2)})
    scores = [one.score for one in suspicions(votes)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 and math.isfinite(score) for score in scores)
