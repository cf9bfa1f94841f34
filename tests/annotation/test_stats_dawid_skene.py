from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.stats.dawid_skene import fit_dawid_skene
from annotation.stats.labels import Labels, labels_of
from annotation.stats.table import pair_labels
from tests.annotation.crowd import crowd, votes_table

# Dawid & Skene 1979, table 1: how 45 patients were graded, by the first anaesthetist three times, by four others once.
PATIENTS = """
    111 1 1 1 1|333 4 3 3 4|112 2 1 2 2|222 3 1 2 1|222 3 2 2 2|222 3 3 2 2|122 2 1 1 1|333 3 4 3 3|222 2 2 2 3|
    232 2 2 2 3|444 4 4 4 4|222 3 3 4 3|111 1 1 1 1|222 3 2 1 2|121 1 1 1 1|111 2 1 1 1|111 1 1 1 1|111 1 1 1 1|
    222 2 2 2 1|222 1 3 2 2|222 2 2 2 2|222 2 2 2 1|222 3 2 2 2|221 2 2 2 2|111 1 1 1 1|111 1 1 1 1|232 2 2 2 2|
    111 1 1 1 1|111 1 1 1 1|112 1 1 2 1|111 1 1 1 1|333 3 2 3 3|111 1 1 1 1|222 2 2 2 2|222 3 2 3 2|433 4 3 4 3|
    221 2 2 3 2|232 3 2 3 3|333 3 4 3 2|111 1 1 1 1|111 1 1 1 1|121 2 1 1 1|232 2 2 2 2|121 1 1 1 1|222 2 2 2 2
"""


def published_labels() -> Labels:
    triples = [
        (f"patient {number}", f"anaesthetist {observer}", int(grade))
        for number, patient in enumerate(PATIENTS.split("|"), start=1)
        for observer, grades in enumerate(patient.split(), start=1)
        for grade in grades
    ]
    assert len(triples) == 45 * 7
    return labels_of(triples, [1, 2, 3, 4])


def em_in_plain_loops(
    labels: Labels, smoothing: float, rounds: int
) -> tuple[list[list[float]], list[float], list[list[list[float]]], list[float]]:
    """Posterior, priors, confusions and the objective after each round, written from the paper's equations."""
    votes = [*zip(labels.unit.tolist(), labels.annotator.tolist(), labels.label.tolist(), strict=True)]
    units, people, classes = (range(len(part)) for part in (labels.units, labels.annotators, labels.classes))
    truth = [[0.0] * len(classes) for _ in units]
    for unit, _, label in votes:
        truth[unit][label] += 1 / sum(other == unit for other, _, _ in votes)
    objective = []
    for _ in range(rounds):
        priors = [sum(truth[unit][true] for unit in units) / len(units) for true in classes]
        confusion = []
        for person in people:
            rows = []
            for true in classes:
                row = [smoothing * (1 + len(classes) * (said == true)) for said in classes]
                for unit, annotator, said in votes:
                    if annotator == person:
                        row[said] += truth[unit][true]
                rows.append([share / sum(row) if sum(row) else 1 / len(classes) for share in row])
            confusion.append(rows)
        total = 0.0
        for unit in units:
            joint = list(priors)
            for of_unit, annotator, said in votes:
                if of_unit == unit:
                    joint = [joint[true] * confusion[annotator][true][said] for true in classes]
            truth[unit] = [part / sum(joint) for part in joint]
            total += math.log(sum(joint))
        if smoothing:
            total += sum(
                smoothing * (1 + len(classes) * (said == true)) * math.log(confusion[person][true][said])
                for person in people
                for true in classes
                for said in classes
            )
        objective.append(total)
    return truth, priors, confusion, objective


def test_the_anaesthetists_come_out_as_published() -> None:
    found = fit_dawid_skene(published_labels(), smoothing=0, tolerance=1e-12)
    # the paper's table 2, to two decimals
    assert found.priors.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]
    assert found.confusion[0].round(2).tolist() == [
        [0.89, 0.11, 0.00, 0.00],
        [0.07, 0.88, 0.05, 0.00],
        [0.00, 0.34, 0.66, 0.00],
        [0.00, 0.00, 0.56, 0.44],
    ]
    assert found.converged


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_the_anaesthetists_come_out_as_by_plain_loops(smoothing: float) -> None:
    labels = published_labels()
    found = fit_dawid_skene(labels, smoothing=smoothing, tolerance=-1, max_rounds=12)
    truth, priors, confusion, objective = em_in_plain_loops(labels, smoothing, 12)
    assert np.allclose(found.posterior, truth, atol=1e-9)
    assert np.allclose(found.priors, priors, atol=1e-9)
    assert np.allclose(found.confusion, confusion, atol=1e-9)
    assert np.allclose(found.log_likelihood, objective, atol=1e-7)
    reliability = [sum(priors[true] * rows[true][true] for true in range(4)) for rows in confusion]
    assert np.allclose(found.reliability, reliability)


@given(
    rows=st.lists(st.text("fts.", min_size=5, max_size=5), min_size=1, max_size=4), smoothing=st.sampled_from([0, 1])
)
@settings(deadline=None, max_examples=50)
def test_likelihood_never_falls_and_probabilities_stay_probabilities(rows: list[str], smoothing: float) -> None:
    votes = votes_table(rows)
    if not votes:
        return
    found = fit_dawid_skene(pair_labels(votes), smoothing=smoothing, max_rounds=60)
    assert (np.diff(found.log_likelihood) >= -1e-9).all()
    assert np.allclose(found.posterior.sum(axis=1), 1)
    assert np.allclose(found.confusion.sum(axis=2), 1)
    assert found.priors.sum() == pytest.approx(1)
    assert ((found.reliability >= 0) & (found.reliability <= 1 + 1e-12)).all()


def test_no_step_aside_from_the_fit_is_more_likely() -> None:
    labels = published_labels()
    found = fit_dawid_skene(labels, smoothing=0, tolerance=1e-14, max_rounds=5000)

    def likelihood(priors: np.ndarray, confusion: np.ndarray) -> float:
        joint = np.tile(priors, (45, 1))
        for unit, annotator, said in zip(labels.unit, labels.annotator, labels.label, strict=True):
            joint[unit] *= confusion[annotator, :, said]
        return float(np.log(joint.sum(axis=1)).sum())

    best = likelihood(found.priors, found.confusion)
    assert best == pytest.approx(found.log_likelihood[-1])
    generator = np.random.default_rng(0)
    for _ in range(100):
        step = generator.uniform(0, 0.02)
        priors = (1 - step) * found.priors + step * generator.dirichlet(np.ones(4))
        confusion = (1 - step) * found.confusion + step * generator.dirichlet(np.ones(4), (5, 4))
        assert likelihood(priors, confusion) < best


def test_annotators_who_agree_are_right() -> None:
    found = fit_dawid_skene(pair_labels(votes_table(["fsft", "fsft", "fsft"])), smoothing=0)
    assert found.posterior.argmax(axis=1).tolist() == [0, 2, 0, 1]
    assert np.allclose(found.posterior.max(axis=1), 1)
    assert np.allclose(found.reliability, 1)


def test_one_vote_by_a_stranger_is_believed_as_the_smoothing_says() -> None:
    found = fit_dawid_skene(labels_of([("0", "a", "x"), ("1", "a", "y")], ["x", "y"]), max_rounds=1)
    # two classes, equally frequent; 1 + 2 pseudo-votes for right and 1 for wrong, and the vote itself
    assert found.confusion[0].tolist() == [[0.8, 0.2], [0.2, 0.8]]
    assert np.allclose(found.posterior, [[0.8, 0.2], [0.2, 0.8]])


def test_reliability_is_the_planted_accuracy() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 3000)
    accuracy = {"a": 0.9, "b": 0.75, "c": 0.6, "d": 0.8, "e": 0.5}
    triples = [
        (str(item), name, int(right if generator.random() < accuracy[name] else 1 - right))
        for name in accuracy
        for item, right in enumerate(truth)
    ]
    found = fit_dawid_skene(labels_of(triples, [0, 1]))
    assert found.annotators == tuple("abcde")
    assert np.allclose(found.reliability, [*accuracy.values()], atol=0.03)
    # better than the best of them alone
    assert (found.posterior.argmax(axis=1) == truth).mean() > 0.9


def test_few_votes_each_are_labelled_better_than_by_majority() -> None:
    right = {"majority": 0, "dawid_skene": 0}
    for seed in range(4):
        votes, truth = crowd(seed, {"honest": 12, "left": 3, "random": 3}, overlap=3)
        labels = pair_labels(votes)
        found = fit_dawid_skene(labels)
        counts = labels.counts()
        for unit, row, posterior in zip(labels.units, counts, found.posterior, strict=True):
            code = 0 if truth[unit[0]] == (1, 2) else 2
            right["majority"] += row[code] > np.delete(row, code).max()
            right["dawid_skene"] += posterior.argmax() == code
    assert right["dawid_skene"] > right["majority"]


@given(order=st.permutations("abcde"))
@settings(deadline=None, max_examples=20)
def test_new_names_of_annotators_permute_the_result(order: list[str]) -> None:
    votes, _ = crowd(5, {"honest": 5}, each=12)
    triples = [(vote.item, vote.annotator[-1], vote.label) for vote in votes]
    name = dict(zip("01234", order, strict=True))
    classes = ["first", "tie", "second"]
    before = fit_dawid_skene(labels_of(triples, classes))
    after = fit_dawid_skene(labels_of([(item, name[who], label) for item, who, label in triples], classes))
    places = [after.annotators.index(name[who]) for who in before.annotators]
    assert np.allclose(after.reliability[places], before.reliability, atol=1e-6)
    assert np.allclose(after.posterior, before.posterior, atol=1e-5)


def test_swapping_the_responses_of_all_items_swaps_the_classes() -> None:
    votes, _ = crowd(6, {"honest": 6}, overlap=3)
    turned = {"first": "second", "tie": "tie", "second": "first"}
    classes = ["first", "tie", "second"]
    before = fit_dawid_skene(labels_of([(vote.item, vote.annotator, vote.label) for vote in votes], classes))
    after = fit_dawid_skene(labels_of([(vote.item, vote.annotator, turned[vote.label]) for vote in votes], classes))
    assert np.allclose(after.posterior[:, ::-1], before.posterior, atol=1e-6)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no votes"):
        fit_dawid_skene(pair_labels([]))
    with pytest.raises(ValueError, match="smoothing is -1"):
        fit_dawid_skene(published_labels(), smoothing=-1)
