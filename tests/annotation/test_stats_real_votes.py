"""The statistics on votes that people gave, against published numbers and numbers recomputed from the rows."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from annotation.stats.aggregate import aggregate
from annotation.stats.agreement import (
    ORDINARY_AGREEMENT,
    kappa_matrix,
    percent_agreement,
    preference_alpha,
    strength_alpha,
)
from annotation.stats.annotators import suspicions
from annotation.stats.bias import left_share, length_bias, tie_share
from annotation.stats.bradley_terry import fit_bradley_terry
from annotation.stats.dawid_skene import fit_dawid_skene
from annotation.stats.ratings import rate_policies
from annotation.stats.table import pair_labels
from annotation.stats.votes import Vote

FOLDER = Path(__file__).resolve().parents[2] / os.environ.get("RLHF_REAL_DATA", "../shared/data") / "annotations"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no real data: set RLHF_REAL_DATA to its folder")

# label -> rank of a, rank of b, strength
MEANING = {
    "a-is-better": (1, 2, 2.0),
    "a-is-slightly-better": (1, 2, 1.0),
    "tie": (1, 1, None),
    "b-is-slightly-better": (2, 1, 1.0),
    "b-is-better": (2, 1, 2.0),
}


@dataclass(frozen=True)
class Campaign:
    votes: list[Vote]
    policies: dict[str, tuple[str, str]]
    prompts: dict[str, str]
    lengths: dict[str, tuple[int, int]]


def read(name: str) -> Campaign:
    """Rows of one vote each, a taken to be shown left; of an annotator's votes on an item the last one stands."""
    votes: dict[tuple[str, str], Vote] = {}
    campaign = Campaign([], {}, {}, {})
    for number, line in enumerate((FOLDER / f"{name}.jsonl").read_text().splitlines()):
        row = json.loads(line)
        prompt = json.dumps(row["prompt"])
        responses = [(row["model_a"], row["response_a"]), (row["model_b"], row["response_b"])]
        rank_a, rank_b, strength = MEANING[row["label"]]
        ranks, shown = [rank_a, rank_b], (0, 1)
        item = str(row.get("item", ""))
        if not item:  # the same two responses may have been shown the other way round
            if responses[0] > responses[1]:
                responses, ranks, shown = responses[::-1], ranks[::-1], (1, 0)
            item = json.dumps([prompt, responses])
        votes[item, row["annotator"]] = Vote(
            item, row["annotator"], (ranks[0], ranks[1]), shown, strength, at=float(number)
        )
        campaign.policies[item] = (responses[0][0], responses[1][0])
        campaign.lengths[item] = (len(responses[0][1]), len(responses[1][1]))
        campaign.prompts[item] = prompt
    campaign.votes.extend(votes.values())
    return campaign


@pytest.fixture(scope="module")
def pandalm() -> Campaign:
    """999 pairs, all judged by the same three people."""
    return read("pandalm_3_annotators")


@pytest.fixture(scope="module")
def tulu() -> Campaign:
    """996 pairs by 16 experts, a tenth of them judged by two or three."""
    return read("tulu_human")


def by_item(votes: list[Vote]) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.item, []).append(vote)
    return found


def test_pandalm_kappas_are_the_published_ones(pandalm: Campaign) -> None:
    found = kappa_matrix(pandalm.votes)
    # published with the data: 0.85, 0.88, 0.86
    assert np.round(found.kappa, 2).tolist() == [[1.0, 0.85, 0.88], [0.85, 1.0, 0.86], [0.88, 0.86, 1.0]]
    # recomputed
    said = {(vote.annotator, vote.item): vote.label for vote in pandalm.votes}
    items = sorted(by_item(pandalm.votes))
    for one, other in combinations(range(3), 2):
        left, right = ([said[found.annotators[index], item] for item in items] for index in (one, other))
        assert found.kappa[one][other] == pytest.approx(cohen_kappa_score(left, right))


def test_pandalm_majority_has_the_published_labels(pandalm: Campaign) -> None:
    labels = Counter(one.ranks for one in aggregate(pandalm.votes))
    # published with the data: 105 ties, 422 times the first response, 472 times the second
    assert labels == {(1, 1): 105, (1, 2): 422, (2, 1): 472}


def test_pandalm_agreement_recomputed(pandalm: Campaign) -> None:
    agreed = [
        np.mean([one.label == other.label for one, other in combinations(of_item, 2)])
        for of_item in by_item(pandalm.votes).values()
    ]
    found = percent_agreement(pandalm.votes)
    assert found.value == pytest.approx(np.mean(agreed))
    # items on which people differed much were taken out of this set: far above what is ordinary
    assert found.low > ORDINARY_AGREEMENT[1]
    alpha = preference_alpha(pandalm.votes)
    # with three annotators of every item alpha is near the mean of their kappas
    assert alpha.value == pytest.approx(np.mean([0.8520, 0.8789, 0.8617]), abs=5e-3)
    assert alpha.low < alpha.value < alpha.high
    assert alpha.n == 999


def test_pandalm_annotators_are_alike_by_both_models(pandalm: Campaign) -> None:
    by_classes = fit_dawid_skene(pair_labels(pandalm.votes))
    assert by_classes.converged
    assert by_classes.priors * 999 == pytest.approx([422, 105, 472], abs=2)
    agreeing = {
        (one.item, one.ranks) for one in aggregate(pandalm.votes) if one.share > 0.5
    }  # what two of three say, reliability against that
    for annotator, reliability in zip(by_classes.annotators, by_classes.reliability, strict=True):
        own = [(vote.item, vote.ranks) in agreeing for vote in pandalm.votes if vote.annotator == annotator]
        assert reliability == pytest.approx(np.mean(own), abs=0.02)
    by_strengths = fit_bradley_terry(pandalm.votes)
    assert by_strengths.converged
    assert by_strengths.sharpness.max() / by_strengths.sharpness.min() < 1.2
    assert all(one.score < 0.01 for one in suspicions(pandalm.votes))


def test_pandalm_models_are_rated_as_they_win(pandalm: Campaign) -> None:
    found = rate_policies(pandalm.votes, pandalm.policies, prompts=pandalm.prompts, resamples=200)
    wins: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for vote in pandalm.votes:
        one, other = pandalm.policies[vote.item]
        won = {"first": 1.0, "tie": 0.5, "second": 0.0}[vote.label]
        wins.update({one: won, other: 1 - won})
        total.update([one, other])
    # every two met about equally often: the ratings have the order of the shares of games won
    shares = {policy: wins[policy] / total[policy] for policy in total}
    assert [rating.policy for rating in found.ratings] == sorted(shares, key=lambda policy: -shares[policy])
    assert {rating.policy: rating.comparisons for rating in found.ratings} == total
    weighted = fit_bradley_terry(pandalm.votes, pandalm.policies)
    by_strength = [weighted.names[index] for index in np.argsort(-weighted.strengths)]
    assert by_strength == [rating.policy for rating in found.ratings]


def test_tulu_agreement_recomputed(tulu: Campaign) -> None:
    shared = [of_item for of_item in by_item(tulu.votes).values() if len(of_item) > 1]
    agreed = [np.mean([one.label == other.label for one, other in combinations(of_item, 2)]) for of_item in shared]
    found = percent_agreement(tulu.votes)
    assert found.n == len(shared)
    assert found.value == pytest.approx(np.mean(agreed))
    # a third of the votes are ties, which people place differently; where both decide they agree as usual
    decided = percent_agreement(tulu.votes, decided_only=True)
    assert ORDINARY_AGREEMENT[0] < decided.value < ORDINARY_AGREEMENT[1]
    assert 0.2 < preference_alpha(tulu.votes).low < preference_alpha(tulu.votes).high < 0.5
    assert strength_alpha(tulu.votes).value > preference_alpha(tulu.votes).value


def test_tulu_kappas_recomputed(tulu: Campaign) -> None:
    found = kappa_matrix(tulu.votes)
    assert len(found.annotators) == 16
    said = {(vote.annotator, vote.item): vote.label for vote in tulu.votes}
    compared = 0
    for (row, one), (column, other) in combinations(enumerate(found.annotators), 2):
        both = [item for annotator, item in said if annotator == one and (other, item) in said]
        assert found.shared[row][column] == len(both)
        left, right = [said[one, item] for item in both], [said[other, item] for item in both]
        if found.kappa[row][column] is None:
            assert len(both) < 2 or len({*left, *right}) == 1
        else:
            assert found.kappa[row][column] == pytest.approx(cohen_kappa_score(left, right))
            compared += 1
    assert compared == 10


def test_tulu_models_keep_their_order_by_all_three_fits(tulu: Campaign) -> None:
    found = rate_policies(tulu.votes, tulu.policies, prompts=tulu.prompts, resamples=200)
    # all comparisons are with the middle one: these win rates are all there is
    places = [rating.policy for rating in found.ratings]
    assert places == ["chatgpt", "tulu_65B", "tulu_7B", "tulu_human_only_65B"]
    middle = places.index("tulu_65B")
    for place, policy in enumerate(places):
        if place != middle:
            won = [
                {"first": 1.0, "tie": 0.5, "second": 0.0}[vote.label]
                if of_item[0] == policy
                else {"first": 0.0, "tie": 0.5, "second": 1.0}[vote.label]
                for vote in tulu.votes
                if policy in (of_item := tulu.policies[vote.item])
            ]
            assert found.win_rates[place][middle] == pytest.approx(np.mean(won))
    fit = fit_bradley_terry(tulu.votes, tulu.policies)
    assert fit.converged
    strengths = dict(zip(fit.names, fit.strengths, strict=True))
    assert strengths["chatgpt"] > strengths["tulu_65B"] > max(strengths["tulu_7B"], strengths["tulu_human_only_65B"])


def test_tulu_labels_by_model_and_by_majority_are_mostly_the_same(tulu: Campaign) -> None:
    by_majority, by_model = aggregate(tulu.votes), aggregate(tulu.votes, "dawid_skene", threshold=0)
    same = np.mean([one.ranks == other.ranks for one, other in zip(by_majority, by_model, strict=True)])
    # Of two who differ majority makes a tie; of somebody who says tie far more often than others the model takes a tie
    # for a preference. Nine tenths of the items were judged once.
    assert 0.85 < same < 1
    split = {one.item for one in by_majority if one.share == 0 or len({*one.annotators}) > 1}
    alone = [
        one.ranks == other.ranks for one, other in zip(by_majority, by_model, strict=True) if one.item not in split
    ]
    assert np.mean(alone) > 0.9
    assert fit_dawid_skene(pair_labels(tulu.votes)).converged


def test_biases_recomputed(tulu: Campaign, pandalm: Campaign) -> None:
    for campaign in (tulu, pandalm):
        decided = [vote for vote in campaign.votes if vote.label != "tie"]
        left = np.mean([vote.ranks[vote.shown_order[0]] == 1 for vote in decided])
        assert left_share(campaign.votes).value == pytest.approx(left)
        assert tie_share(campaign.votes).value == pytest.approx(1 - len(decided) / len(campaign.votes))
        longer = length_bias(campaign.votes, campaign.lengths)
        # people prefer the longer of two texts, here as elsewhere
        assert longer.low > 0.6
        assert longer.high < 0.75
    # sides were drawn at random for the experts
    assert left_share(tulu.votes).low < 0.54
