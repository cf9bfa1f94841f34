"""Bradley-Terry strengths from annotators of unlike care, each with a bias towards the response shown left.

    P(annotator a prefers i to j) = sigmoid(sharpness_a (strength_i - strength_j) + left_a),  -left_a with j on the left

A sharpness (an inverse temperature) of 0 is an annotator who does not look at the responses. As in Chen et al. 2013,
"Pairwise ranking aggregation in a crowdsourced setting", with a temperature in the place of their error rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize

from annotation.stats.labels import codes
from annotation.stats.table import Votes, VoteTable, table_of


@dataclass(frozen=True)
class BradleyTerry:
    """The fit.

    Attributes:
        names: what is compared.
        strengths: `[names]`, in nats, mean 0.
        annotators: sorted.
        sharpness: `[annotators]`, inverse temperature, 0 or more; 1 is what is assumed of a stranger.
        left: `[annotators]`, bias towards the left response, in nats; all the same where it is shared.
        loss: negative log-likelihood with the penalty.
        converged: the optimiser says that it is at the minimum.
    """

    names: tuple[Hashable, ...]
    strengths: np.ndarray
    annotators: tuple[str, ...]
    sharpness: np.ndarray
    left: np.ndarray
    loss: float
    converged: bool


@dataclass(frozen=True)
class Duels:
    """Pairs of responses as annotators saw them; all `[duels]`.

    Attributes:
        vote: place of the vote, in rising order.
        left, right: indices of what was shown left and right.
        annotator: index of who judged.
        left_won: 1, 0, or one half for a tie.
    """

    vote: np.ndarray
    left: np.ndarray
    right: np.ndarray
    annotator: np.ndarray
    left_won: np.ndarray


def fit_bradley_terry(
    votes: Votes,
    names: Mapping[str, Sequence[Hashable]] | None = None,
    *,
    penalty: float = 1.0,
    shared_left: bool = False,
    max_rounds: int = 1000,
) -> BradleyTerry:
    """Strengths, sharpness and left bias together, by penalised maximum likelihood. A tie is half a win for each.

    Args:
        votes: a ranking counts as all pairs of its responses.
        names: item -> what each of its responses is a try of, such as policies; None compares each response by itself.
        penalty: how firmly strengths and biases are held at 0 and sharpness at 1, as precisions of normal priors. It
            also sets the scale, which votes alone leave open, and keeps what always wins finite. More than 0.
        shared_left: one left bias for all annotators.
        max_rounds: of the optimiser (L-BFGS-B).

    Raises:
        ValueError: there are no votes, an item has no names or another number of them, or the penalty is not positive.
    """
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}; use more than 0, or strengths and sharpness have no scale")
    if not len(votes):
        raise ValueError("there are no votes; judge some items first")
    known, annotators, duels = duels_of(votes, names)
    num_names, num_annotators = len(known), len(annotators)
    num_left = 1 if shared_left else num_annotators
    start = np.concatenate([np.zeros(num_names), np.ones(num_annotators), np.zeros(num_left)])
    bounds = [(None, None)] * num_names + [(0, None)] * num_annotators + [(None, None)] * num_left
    found = optimize.minimize(
        penalised_loss,
        start,
        args=(duels, num_names, num_annotators, penalty),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": max_rounds, "maxfun": 10 * max_rounds, "ftol": 1e-12, "gtol": 1e-6},
    )
    strengths, sharpness, left = _parts(found.x, num_names, num_annotators)
    return BradleyTerry(
        names=known,
        strengths=strengths - strengths.mean(),
        annotators=annotators,
        sharpness=sharpness,
        left=np.broadcast_to(left, num_annotators).copy(),
        loss=float(found.fun),
        converged=bool(found.success),
    )


def duels_of(
    votes: Votes, names: Mapping[str, Sequence[Hashable]] | None = None
) -> tuple[tuple[Hashable, ...], tuple[str, ...], Duels]:
    """The names compared, the annotators (sorted), and every pair of every vote in the order shown.

    Two responses of one name are no duel.

    Raises:
        ValueError: an item has no names, or another number of them than of ranks.
    """
    table = table_of(votes)
    known, index = _codes_of_names(table, names)
    parts = []
    for size, rows in table.by_size():
        of_row, ranks, shown = index[table.item[rows]], table.ranks[rows], table.shown[rows]
        for i, j in combinations(range(size), 2):
            left, right = shown[:, i], shown[:, j]
            at = np.arange(len(rows))
            won = 0.5 + 0.5 * np.sign(ranks[at, right] - ranks[at, left])
            parts.append((rows, of_row[at, left], of_row[at, right], won))
    if not parts:
        parts.append((np.zeros(0, dtype=np.int64),) * 4)
    row, left, right, won = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    order = order[left[order] != right[order]]
    present, annotator = np.unique(table.annotator, return_inverse=True)
    annotators = tuple(table.annotators[number] for number in present.tolist())
    duels = Duels(
        vote=row[order], left=left[order], right=right[order], annotator=annotator[row[order]], left_won=won[order]
    )
    return known, annotators, duels


def _codes_of_names(
    table: VoteTable, names: Mapping[str, Sequence[Hashable]] | None
) -> tuple[tuple[Hashable, ...], np.ndarray]:
    """All names, and the index of each response's `[items, most]`; by themselves (item, position) without names.

    Raises:
        ValueError: an item has no names, or another number of them than of ranks.
    """
    items, rows = np.unique(table.item, return_index=True)
    of_items = [table.items[item] for item in items.tolist()]
    sizes = table.size[rows].tolist()
    found = [_names(item, size, names) for item, size in zip(of_items, sizes, strict=True)]
    # many items have the same names: each combination is looked at once
    together = tuple(dict.fromkeys(found))
    known = tuple(dict.fromkeys(name for of_item in together for name in of_item))
    number = {name: place for place, name in enumerate(known)}
    most = table.ranks.shape[1]
    numbered = [[number[name] for name in of_item] + [0] * (most - len(of_item)) for of_item in together]
    index = np.zeros((len(table.items), most), dtype=np.int64)
    index[items] = np.array(numbered, dtype=np.int64).reshape(-1, most)[codes(found, together)]
    return known, index


def _names(item: str, size: int, names: Mapping[str, Sequence[Hashable]] | None) -> tuple[Hashable, ...]:
    """What each response of an item is a try of, by position."""
    if names is None:
        return tuple((item, place) for place in range(size))
    if item not in names:
        raise ValueError(f"item {item!r} has votes but no names; name what each of its responses comes from")
    if len(names[item]) != size:
        raise ValueError(f"item {item!r} has {len(names[item])} names for {size} responses; give one for each")
    return tuple(names[item])


def penalised_loss(
    parameters: np.ndarray, duels: Duels, num_names: int, num_annotators: int, penalty: float
) -> tuple[float, np.ndarray]:
    """Negative log-likelihood with the penalty, and its gradient.

    Args:
        parameters: strengths, then sharpness, then left biases (one, or one per annotator).
    """
    strengths, sharpness, left = _parts(parameters, num_names, num_annotators)
    shared = len(left) == 1
    gap = strengths[duels.left] - strengths[duels.right]
    care = sharpness[duels.annotator]
    logit = care * gap + (left[0] if shared else left[duels.annotator])
    # -w log sigmoid(x) - (1 - w) log sigmoid(-x)
    loss = np.logaddexp(0, logit).sum() - (duels.left_won * logit).sum()
    loss += 0.5 * penalty * ((strengths**2).sum() + ((sharpness - 1) ** 2).sum() + (left**2).sum())
    slope = 0.5 * (1 + np.tanh(logit / 2)) - duels.left_won
    on_strengths = np.bincount(duels.left, slope * care, num_names) - np.bincount(duels.right, slope * care, num_names)
    on_sharpness = np.bincount(duels.annotator, slope * gap, num_annotators)
    on_left = np.array([slope.sum()]) if shared else np.bincount(duels.annotator, slope, num_annotators)
    gradient = np.concatenate(
        [
            on_strengths + penalty * strengths,
            on_sharpness + penalty * (sharpness - 1),
            on_left + penalty * left,
        ]
    )
    return float(loss), gradient


def _parts(parameters: np.ndarray, num_names: int, num_annotators: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    strengths, sharpness, left = np.split(parameters, [num_names, num_names + num_annotators])
    return strengths, sharpness, left
