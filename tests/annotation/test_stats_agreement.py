from __future__ import annotations

from collections import Counter
from itertools import permutations

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from annotation.stats.agreement import (
    ORDINARY_AGREEMENT,
    alpha,
    kappa_matrix,
    percent_agreement,
    preference_alpha,
    strength_alpha,
)
from annotation.stats.labels import labels_of
from annotation.stats.votes import Vote
from tests.annotation.crowd import crowd, pair, votes_table

# Four observers and twelve units (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"); 0 is missing.
PUBLISHED = ["123321412000", "123322412503", "033323422510", "123324412510"]
PUBLISHED_ALPHA = {"nominal": 0.743, "ordinal": 0.815}

tables = st.lists(st.text("fts.", min_size=6, max_size=6), min_size=2, max_size=4)


def observations(rows: list[str]) -> list[tuple[str, str, int]]:
    return [
        (f"unit {unit}", f"observer {row}", int(value))
        for row, values in enumerate(rows)
        for unit, value in enumerate(values)
        if value != "0"
    ]


def alpha_by_definition(triples: list[tuple[str, str, int]], level: str) -> float | None:
    """1 - observed / expected disagreement, over all ordered pairs of values, one by one."""
    by_unit: dict[str, list[int]] = {}
    for unit, _, value in triples:
        by_unit.setdefault(unit, []).append(value)
    units = [values for values in by_unit.values() if len(values) > 1]
    everything = [value for values in units for value in values]
    frequency = Counter(everything)

    def distance(one: int, other: int) -> float:
        if level == "nominal":
            return float(one != other)
        low, high = sorted((one, other))
        between = sum(count for value, count in frequency.items() if low <= value <= high)
        return (between - (frequency[low] + frequency[high]) / 2) ** 2

    observed = sum(sum(distance(*two) for two in permutations(values, 2)) / (len(values) - 1) for values in units)
    expected = sum(distance(*two) for two in permutations(everything, 2)) / max(len(everything) - 1, 1)
    return None if expected == 0 else 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_alpha_gives_the_published_example(level: str) -> None:
    triples = observations(PUBLISHED)
    found = alpha(labels_of(triples, [1, 2, 3, 4, 5]), level)
    assert found.value == pytest.approx(PUBLISHED_ALPHA[level], abs=5e-4)
    assert found.value == pytest.approx(alpha_by_definition(triples, level))
    assert found.n == 11  # the last unit but two has one observer only
    assert found.low < found.value < found.high


@given(rows=st.lists(st.text("0123", min_size=5, max_size=5), min_size=2, max_size=4))
@settings(deadline=None, max_examples=60)
def test_alpha_is_its_definition(rows: list[str]) -> None:
    triples = observations(rows)
    for level in ("nominal", "ordinal"):
        expected = alpha_by_definition(triples, level)
        found = alpha(labels_of(triples, [1, 2, 3]), level, resamples=20)
        assert found.value == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_everyone_agreed_is_said_where_alpha_is_not_defined() -> None:
    found = preference_alpha(votes_table(["fff", "fff"]))
    assert (found.value, found.low, found.high, found.n) == (None, None, None, 3)
    assert found.note == "everyone agreed: all votes say first"


def test_alpha_is_one_where_all_agree_and_answers_vary() -> None:
    found = preference_alpha(votes_table(["fsts", "fsts", "fs.s"]))
    assert found.value == pytest.approx(1)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)


def test_unanimous_resamples_are_left_out_and_counted() -> None:
    found = preference_alpha(votes_table(["fs", "fs"]), resamples=400)
    # two items drawn twice are the same item in half of all cases
    left_out = int(found.note.split()[0])
    assert 150 < left_out < 250
    assert found.low == pytest.approx(1)


@pytest.mark.parametrize("measure", [preference_alpha, strength_alpha, percent_agreement])
@pytest.mark.parametrize("rows", [[], ["f"], ["f.", ".s"]])
def test_without_two_annotators_of_an_item_there_is_no_agreement(measure: object, rows: list[str]) -> None:
    found = measure(votes_table(rows))
    assert (found.value, found.n, found.note) == (None, 0, "no item was judged by two annotators")


def test_strengths_are_ordinal() -> None:
    near = [pair(str(n), "a", "first", strength=3) for n in range(3)]
    near += [pair(str(n), "b", "first", strength=2) for n in range(3)]
    far = [*near[:3], *(pair(str(n), "b", "second", strength=3) for n in range(3))]
    both = [pair("9", "a", "second", strength=3), pair("9", "b", "second", strength=3)]
    spread = [pair("8", name, "first", strength=2) for name in "ab"]
    assert strength_alpha(near + both + spread).value > strength_alpha(far + both + spread).value


def test_alpha_of_rankings_takes_pairs_of_responses_as_units() -> None:
    rankings = [
        Vote("0", "a", (1, 2, 3), (0, 1, 2)),
        Vote("0", "b", (1, 3, 2), (0, 1, 2)),
        Vote("1", "a", (3, 2, 1), (0, 1, 2)),
        Vote("1", "b", (3, 1, 1), (0, 1, 2)),
    ]
    triples = [
        *((f"0{unit}", "a", value) for unit, value in zip("xyz", (1, 1, 1), strict=True)),
        *((f"0{unit}", "b", value) for unit, value in zip("xyz", (1, 1, 3), strict=True)),
        *((f"1{unit}", "a", value) for unit, value in zip("xyz", (3, 3, 3), strict=True)),
        *((f"1{unit}", "b", value) for unit, value in zip("xyz", (3, 3, 2), strict=True)),
    ]
    found = preference_alpha(rankings)
    assert found.value == pytest.approx(alpha_by_definition(triples, "nominal"))
    assert found.n == 2


def test_interval_is_that_of_resampling_items_one_by_one() -> None:
    votes, _ = crowd(0, {"honest": 9}, each=60, overlap=3)
    found = preference_alpha(votes, resamples=2000)
    by_item: dict[str, list[int]] = {}
    for vote in votes:
        by_item.setdefault(vote.item, [0, 0, 0])[("first", "tie", "second").index(vote.label)] += 1
    table = np.array([*by_item.values()])
    generator = np.random.default_rng(7)
    samples = [
        krippendorff.alpha(
            value_counts=table[generator.integers(0, len(table), len(table))], level_of_measurement="nominal"
        )
        for _ in range(1000)
    ]
    assert found.low == pytest.approx(np.quantile(samples, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(samples, 0.975), abs=0.02)


def test_the_same_seed_gives_the_same_interval() -> None:
    votes, _ = crowd(1, {"honest": 5})
    assert preference_alpha(votes, seed=3) == preference_alpha(votes, seed=3)
    assert preference_alpha(votes, seed=3).low != preference_alpha(votes, seed=4).low


@given(rows=tables)
@settings(deadline=None, max_examples=60)
def test_kappa_is_that_of_scikit_learn(rows: list[str]) -> None:
    votes = votes_table(rows)
    found = kappa_matrix(votes)
    said = {(vote.annotator, vote.item): vote.label for vote in votes}
    for row, one in enumerate(found.annotators):
        for column, other in enumerate(found.annotators):
            both = [item for item in "012345" if (one, item) in said and (other, item) in said]
            assert found.shared[row][column] == len(both)
            left, right = [said[one, item] for item in both], [said[other, item] for item in both]
            if len(both) < 2 or len({*left, *right}) == 1:
                assert found.kappa[row][column] is None
            else:
                assert found.kappa[row][column] == pytest.approx(cohen_kappa_score(left, right))


def test_kappa_by_hand() -> None:
    # both say first on 2, second on 1, and differ on 1: (3/4 - 1/2) / (1 - 1/2), with shares 3/4, 1/4 and 1/2, 1/2
    found = kappa_matrix(votes_table(["fffs", "ffss"]))
    assert found.annotators == ("a", "b")
    assert found.kappa == ((1.0, pytest.approx(0.5)), (pytest.approx(0.5), 1.0))


def test_percent_agreement_by_hand() -> None:
    votes = votes_table(["ffts", "fst.", "fft."])
    # all three, one pair of three, all three, judged once
    found = percent_agreement(votes)
    assert found.value == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert found.n == 3
    assert found.low <= found.value <= found.high
    assert percent_agreement(votes, decided_only=True).value == pytest.approx((1 + 1 / 3) / 2)
    assert percent_agreement(votes, decided_only=True).n == 2


def test_agreement_of_ordinary_people_lies_in_the_ordinary_band() -> None:
    votes, _ = crowd(3, {"honest": 30}, ties=0.0)
    # two who are right in 3 of 4 cases agree in 9/16 + 1/16
    assert percent_agreement(votes).value == pytest.approx(0.625, abs=0.03)
    assert ORDINARY_AGREEMENT == (0.63, 0.81)


@given(rows=tables, order=st.permutations("abcd"))
@settings(deadline=None, max_examples=40)
def test_new_names_of_annotators_change_nothing_but_names(rows: list[str], order: list[str]) -> None:
    votes = votes_table(rows)
    name = dict(zip("abcd", order, strict=True))
    renamed = [Vote(vote.item, name[vote.annotator], vote.ranks, vote.shown_order) for vote in votes]
    assert preference_alpha(renamed, resamples=10) == preference_alpha(votes, resamples=10)
    assert percent_agreement(renamed, resamples=10) == percent_agreement(votes, resamples=10)
    before, after = kappa_matrix(votes), kappa_matrix(renamed)
    for row, one in enumerate(before.annotators):
        for column, other in enumerate(before.annotators):
            places = after.annotators.index(name[one]), after.annotators.index(name[other])
            assert before.shared[row][column] == after.shared[places[0]][places[1]]
            expected = before.kappa[row][column]
            assert after.kappa[places[0]][places[1]] == (None if expected is None else pytest.approx(expected))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level is 'ratio'; use nominal or ordinal"):
        alpha(labels_of([], []), "ratio")
