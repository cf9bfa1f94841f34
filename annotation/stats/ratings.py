"""Ratings of policies from votes on their responses: Bradley-Terry on a scale like Elo's, and who beats whom.

A rating is 400 / ln 10 times a strength in nats, as in Elo's system: 400 points are odds of ten to one. The ratings of
all policies have the mean 0; only differences mean something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import choix
import numpy as np
from scipy import sparse

from annotation.stats.bradley_terry import duels_of
from annotation.stats.estimates import bootstrap, interval
from annotation.stats.labels import codes
from annotation.stats.table import Votes, VoteTable, table_of

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
    votes: Votes,
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
    table = table_of(votes)
    prompt, num_prompts = _prompts(table, prompts)
    known, _, duels = duels_of(table, policies)
    size = len(known)
    if len(duels.left_won) == 0:
        raise ValueError("no two policies met; vote on items whose responses come from different policies")
    # [prompts, policies²], wins of the row's policy over the column's
    won = np.concatenate([duels.left_won, 1 - duels.left_won])
    cell = np.concatenate([duels.left * size + duels.right, duels.right * size + duels.left])
    of_duel = prompt[table.item[duels.vote]]
    by_prompt = sparse.csr_array((won, (np.concatenate([of_duel, of_duel]), cell)), shape=(num_prompts, size * size))
    wins = np.asarray(by_prompt.sum(axis=0)).reshape(size, size)
    strengths = _strengths(wins, prior_ties)

    kinds, kind = _kinds(by_prompt)

    def resampled(weights: np.ndarray) -> np.ndarray:
        sampled = np.asarray(weights @ kinds).reshape(-1, size, size)
        return np.array([_strengths(sample, prior_ties, strengths) for sample in sampled])

    samples = bootstrap(kind, resampled, resamples=resamples, seed=seed)
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


def _kinds(rows: sparse.csr_array) -> tuple[sparse.csr_array, np.ndarray]:
    """The different rows, and which of them each row is, as `kinds_of` of rows without zeros."""
    rows.sort_indices()
    code: dict[tuple[bytes, bytes], int] = {}
    first, kind = [], []
    for number, (begin, end) in enumerate(pairwise(rows.indptr.tolist())):
        content = rows.indices[begin:end].tobytes(), rows.data[begin:end].tobytes()
        if content not in code:
            code[content] = len(code)
            first.append(number)
        kind.append(code[content])
    return rows[first], np.array(kind)


def _prompts(table: VoteTable, prompts: Mapping[str, str] | None) -> tuple[np.ndarray, int]:
    """`[items]`, the index of each item's prompt, of those with votes; and how many prompts these are."""
    items = np.unique(table.item)
    of_items = [table.items[item] for item in items.tolist()]
    if prompts is not None:
        for name in of_items:
            if name not in prompts:
                raise ValueError(f"item {name!r} has votes but no prompt; give prompts of all items, or none")
        of_items = [prompts[name] for name in of_items]
    known = tuple(dict.fromkeys(of_items))
    index = np.zeros(len(table.items), dtype=np.int64)
    index[items] = codes(of_items, known)
    return index, len(known)
