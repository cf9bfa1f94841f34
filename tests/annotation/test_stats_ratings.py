from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from annotation.stats.ratings import Ratings, rate_policies
from annotation.stats.votes import Vote
from tests.annotation.crowd import pair


def matches(results: list[tuple[str, str, str]]) -> tuple[list[Vote], dict[str, tuple[str, str]]]:
    """One vote on one item for each (first policy, second policy, label)."""
    votes = [pair(str(n), "a", label) for n, (_, _, label) in enumerate(results)]
    return votes, {str(n): (one, other) for n, (one, other, _) in enumerate(results)}


def points(found: Ratings) -> dict[str, float]:
    return {rating.policy: rating.points for rating in found.ratings}


def test_two_policies_by_hand() -> None:
    votes, policies = matches([("x", "y", "first")] * 6 + [("y", "x", "first")] * 2 + [("x", "y", "tie")] * 2)
    found = rate_policies(votes, policies, prior_ties=1.0, resamples=50)
    # 6 + 1 + 1/2 wins against 2 + 1 + 1/2; ratings are 400 log10 of the odds apart, and their mean is 0
    apart = 400 * math.log10(7.5 / 3.5)
    assert [rating.policy for rating in found.ratings] == ["x", "y"]
    assert found.ratings[0].points == pytest.approx(apart / 2)
    assert found.ratings[1].points == pytest.approx(-apart / 2)
    assert found.win_rates == ((None, 0.7), (pytest.approx(0.3), None))
    assert found.comparisons == ((0, 10), (10, 0))
    assert found.ratings[0].comparisons == 10


def test_ratings_are_the_maximum_of_the_likelihood() -> None:
    generator = np.random.default_rng(0)
    names, strength = "wxyz", np.array([1.0, 0.2, 0.0, -1.2])
    results = []
    for _ in range(300):
        one, other = generator.choice(4, 2, replace=False)
        wins = generator.random() < 1 / (1 + math.exp(strength[other] - strength[one]))
        label = "tie" if generator.random() < 0.2 else "first" if wins else "second"
        results.append((names[one], names[other], label))

    def loss(free: np.ndarray) -> float:
        value = dict(zip(names, [*free, -free.sum()], strict=True))
        total = 0.0
        for one, other, label in results:
            won = {"first": 1.0, "tie": 0.5, "second": 0.0}[label]
            gap = value[one] - value[other]
            total += won * np.logaddexp(0, -gap) + (1 - won) * np.logaddexp(0, gap)
        for index, one in enumerate(names):
            for other in names[:index]:
                gap = value[one] - value[other]
                total += 0.05 * (np.logaddexp(0, -gap) + np.logaddexp(0, gap))
        return total

    best = optimize.minimize(loss, np.zeros(3), options={"gtol": 1e-9}).x
    found = points(rate_policies(*matches(results), prior_ties=0.1, resamples=10))
    expected = np.array([*best, -best.sum()]) * 400 / math.log(10)
    assert [found[name] for name in names] == pytest.approx(expected, abs=0.05)


def test_the_mean_rating_is_0() -> None:
    found = rate_policies(*matches([("x", "y", "first"), ("y", "z", "first"), ("z", "w", "tie")]), resamples=10)
    assert sum(points(found).values()) == pytest.approx(0, abs=1e-6)


def test_a_policy_that_never_lost_stays_finite_and_first() -> None:
    votes, policies = matches([("best", "x", "first")] * 40 + [("x", "y", "first"), ("y", "x", "first")])
    found = rate_policies(votes, policies, resamples=50)
    assert found.ratings[0].policy == "best"
    assert all(math.isfinite(number) for one in found.ratings for number in (one.points, one.low, one.high))
    assert found.ratings[0].points < 2000
    places = [rating.policy for rating in found.ratings]
    assert found.win_rates[0][places.index("x")] == 1
    assert found.win_rates[0][places.index("y")] is None


def test_policies_that_never_met_are_rated_through_others() -> None:
    found = points(
        rate_policies(*matches([("x", "y", "first")] * 9 + [("y", "x", "first")] * 3 + [("y", "z", "first")] * 9))
    )
    assert found["x"] > found["y"] > found["z"]


def test_a_ranking_counts_as_its_pairs() -> None:
    ranking = Vote("0", "a", ranks=(2, 1, 3, 3), shown_order=(0, 1, 2, 3))
    found = rate_policies([ranking], {"0": ("x", "y", "z", "x")}, resamples=10)
    places = [rating.policy for rating in found.ratings]
    # y beats x twice and z once; the first x beats z, the second ties with z; x against itself is nothing
    assert found.comparisons[places.index("y")][places.index("x")] == 2
    assert found.win_rates[places.index("y")][places.index("x")] == 1
    assert found.comparisons[places.index("x")][places.index("z")] == 2
    assert found.win_rates[places.index("x")][places.index("z")] == 0.75


def test_intervals_come_from_prompts_and_not_from_votes() -> None:
    # on half of the ten prompts x wins all its twenty votes, on the others y does
    results, prompts = [], {}
    for prompt in range(10):
        for _ in range(20):
            prompts[str(len(results))] = f"prompt {prompt}"
            results.append(("x", "y", "first" if prompt < 5 else "second"))
    votes, policies = matches(results)
    by_prompt = rate_policies(votes, policies, prompts=prompts).ratings[0]
    by_item = rate_policies(votes, policies).ratings[0]
    assert by_prompt.high - by_prompt.low > 3 * (by_item.high - by_item.low)
    # of n items the spread is that of a share's logit: 2 x 1.96 / sqrt(n / 4), half of it each, in points
    assert by_item.high - by_item.low == pytest.approx(400 / math.log(10) * 1.96 * 2 / math.sqrt(200), rel=0.15)


@given(seed=st.integers(0, 30))
@settings(deadline=None, max_examples=8)
def test_swapping_responses_in_store_or_on_screen_changes_no_rating(seed: int) -> None:
    generator = np.random.default_rng(seed)
    results = [
        (
            *map(str, generator.choice(["x", "y", "z"], 2, replace=False)),
            str(generator.choice(["first", "second", "tie"])),
        )
        for _ in range(12)
    ]
    votes, policies = matches(results)
    turned = [Vote(vote.item, vote.annotator, vote.ranks[::-1], (1, 0)) for vote in votes]
    swapped = {item: of_item[::-1] for item, of_item in policies.items()}
    before = points(rate_policies(votes, policies, resamples=5))
    after = points(rate_policies(turned, swapped, resamples=5))
    assert before == {policy: pytest.approx(after[policy], abs=1e-3) for policy in before}


def test_the_same_seed_gives_the_same_intervals() -> None:
    votes, policies = matches([("x", "y", "first")] * 5 + [("x", "y", "second")] * 3)
    assert rate_policies(votes, policies, seed=1) == rate_policies(votes, policies, seed=1)


def test_what_cannot_be_rated_is_refused() -> None:
    votes, policies = matches([("x", "x", "first")])
    with pytest.raises(ValueError, match="no two policies met"):
        rate_policies(votes, policies)
    with pytest.raises(ValueError, match="item '0' has votes but no names"):
        rate_policies(votes, {})
    with pytest.raises(ValueError, match="item '0' has votes but no prompt"):
        rate_policies(votes, {"0": ("x", "y")}, prompts={})
    with pytest.raises(ValueError, match="prior_ties is 0"):
        rate_policies(votes, policies, prior_ties=0)
