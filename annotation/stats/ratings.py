"""Ratings of policies from votes on their responses: Bradley-Terry on a scale like Elo's, and who beats whom.

A rating is 400 / ln 10 times a strength in nats, as in Elo's system: 400 points are odds of ten to one. The ratings of
all policies have the mean 0; only differences mean something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import choix
import numpy as np
from scipy import sparse

from annotation.stats.bradley_terry import duels_of
from annotation.stats.estimates import bootstrap, interval
from annotation.stats.votes import Vote

POINTS_PER_NAT = 400 / math.log(10)


@dataclass(frozen=True)
class Rating:
    """One policy's.

    Attributes:
        points: 0 is the mean of all policies.
        low, high: the interval.
        comparisons: in how many it took part.
    """

    policy: str
    points: float
    low: float
    high: float
    comparisons: int


@dataclass(frozen=True)
class Ratings:
    """Policies from the best to the worst.

    Attributes:
        ratings: one per policy.
        win_rates: row against column, in the order of `ratings`, a tie half a win; None where they never met.
        comparisons: how often row and column met.
    """

    ratings: tuple[Rating, ...]
    win_rates: tuple[tuple[float | None, ...], ...]
    comparisons: tuple[tuple[int, ...], ...]


def rate_policies(
    votes: Sequence[Vote],
    policies: Mapping[str, Sequence[str]],
    *,
    prompts: Mapping[str, str] | None = None,
    prior_ties: float = 0.1,
    resamples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
) -> Ratings:
    """Bradley-Terry ratings of policies; a tie is half a win for each, a ranking counts as its pairs.

    Args:
        votes: what annotators said.
        policies: item -> the policy behind each response, by position.
        prompts: item -> its prompt. Intervals come from resampling prompts with all their votes, since votes on one
            prompt are not independent; None takes each item as a prompt of its own.
        prior_ties: ties that every two policies are taken to have had before: what never lost, or never met another,
            stays finite. More than 0.
        resamples: how many samples the intervals come from.
        seed: of the resampling.
        confidence: of the intervals.

    Raises:
        ValueError: no two policies met, an item has no policies or prompt, or `prior_ties` is not positive.
    """
    if not prior_ties > 0:
        raise ValueError(f"prior_ties is {prior_ties}; use more than 0, or a policy that never lost has no rating")
    prompt_of_item = {vote.item: vote.item for vote in votes} if prompts is None else prompts
    code_of_prompt: dict[str, int] = {}
    prompt_of_duel: list[int] = []
    for vote in votes:
        if vote.item not in prompt_of_item:
            raise ValueError(f"item {vote.item!r} has votes but no prompt; give prompts of all items, or none")
        code = code_of_prompt.setdefault(prompt_of_item[vote.item], len(code_of_prompt))
        prompt_of_duel.extend([code] * _num_duels(vote, policies))
    known, _, duels = duels_of(votes, policies)
    size = len(known)
    if len(duels.left_won) == 0:
        raise ValueError("no two policies met; vote on items whose responses come from different policies")
    prompt = np.array(prompt_of_duel)
    # [prompts, policies²], wins of the row's policy over the column's
    won = np.concatenate([duels.left_won, 1 - duels.left_won])
    cell = np.concatenate([duels.left * size + duels.right, duels.right * size + duels.left])
    by_prompt = sparse.csr_matrix(
        (won, (np.concatenate([prompt, prompt]), cell)), shape=(len(code_of_prompt), size * size)
    )
    wins = np.asarray(by_prompt.sum(axis=0)).reshape(size, size)
    strengths = _strengths(wins, prior_ties)

    def resampled(weights: np.ndarray) -> np.ndarray:
        sampled = np.asarray(weights @ by_prompt).reshape(-1, size, size)
        return np.array([_strengths(sample, prior_ties, strengths) for sample in sampled])

    samples = bootstrap(resampled, len(code_of_prompt), resamples=resamples, seed=seed)
    met = np.rint(wins + wins.T).astype(int)
    ratings = []
    for code, policy in enumerate(known):
        low, high = interval(samples[:, code], confidence)
        assert low is not None
        assert high is not None
        points = [float(POINTS_PER_NAT * value) for value in (strengths[code], low, high)]
        ratings.append(Rating(str(policy), points[0], points[1], points[2], int(met[code].sum())))
    order = sorted(range(size), key=lambda code: (-ratings[code].points, ratings[code].policy))
    return Ratings(
        ratings=tuple(ratings[code] for code in order),
        win_rates=tuple(
            tuple(float(wins[row, column] / met[row, column]) if met[row, column] else None for column in order)
            for row in order
        ),
        comparisons=tuple(tuple(int(met[row, column]) for column in order) for row in order),
    )


def _strengths(wins: np.ndarray, prior_ties: float, start: np.ndarray | None = None) -> np.ndarray:
    """Maximum-likelihood strengths `[policies]` with mean 0, in nats."""
    size = len(wins)
    with_prior = wins + prior_ties / 2 * (1 - np.eye(size))
    found = choix.ilsr_pairwise_dense(with_prior, initial_params=start, max_iter=10_000)
    return np.asarray(found - found.mean())


def _num_duels(vote: Vote, policies: Mapping[str, Sequence[str]]) -> int:
    """Pairs of the vote's responses that come from different policies."""
    of_item = policies.get(vote.item, ())
    return sum(of_item[i] != of_item[j] for i in range(len(of_item)) for j in range(i))
