"""How useful a judgment of an item would be, for campaigns whose order is "useful".

Three reasons to ask: the members of a reward ensemble order the responses differently (query by committee, Seung et al.
1992; on ensembles of reward models, Gleave and Irving 2022), the annotators so far did (vote entropy), or the policies
have hardly been compared. Each is turned into a share of the items that it exceeds, so that no scale wins by its size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import sqlalchemy as sa

from annotation import assignment, audit, campaigns
from annotation.store import Store
from annotation.tables import completion, item, prompt, slot
from rlhf.data.comparisons import DataError


@dataclass(frozen=True)
class Weights:
    """What each reason counts, >= 0."""

    disagreement: float = 1.0
    entropy: float = 0.5
    coverage: float = 0.25

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise DataError(f"{name} is {value}; give a weight >= 0")


def disagreement(scores: Sequence[Sequence[float]]) -> float:
    """How unsure reward models are of the order of an item's responses.

    Args:
        scores: `[members][responses]`.

    Returns:
        The largest standard deviation over the members of the difference of two responses' scores. Of a single model,
        which cannot disagree, the largest entropy in nats of its own preference between two responses.
    """
    table = np.asarray(scores, float)
    margins = [table[:, a] - table[:, b] for a, b in combinations(range(table.shape[1]), 2)]
    if len(table) > 1:
        return float(max(margin.std() for margin in margins))
    return max(_entropy([chance := 1 / (1 + math.exp(-abs(float(margin[0])))), 1 - chance]) for margin in margins)


def vote_entropy(rankings: Sequence[Sequence[int]]) -> float:
    """How far annotators differ in what is best: entropy in nats of their first choices; 0 with fewer than two."""
    tops = Counter(tuple(place for place, rank in enumerate(ranks) if rank == min(ranks)) for ranks in rankings)
    return _entropy([count / len(rankings) for count in tops.values()]) if len(rankings) > 1 else 0.0


def coverage(policies: Sequence[int | None], compared: Mapping[tuple[int, int], int]) -> float:
    """How little the policies of an item have been compared: the mean of 1 / (1 + comparisons so far) over its pairs.

    Args:
        policies: `[responses]` who wrote each; None where unknown.
        compared: judgments so far, by two policies in ascending order.
    """
    known = [policy for policy in policies if policy is not None]
    pairs = [(min(a, b), max(a, b)) for a, b in combinations(known, 2) if a != b]
    return sum(1 / (1 + compared.get(pair, 0)) for pair in pairs) / len(pairs) if pairs else 0.0


def shares(values: Sequence[float]) -> list[float]:
    """Of each value, the share of the others that it exceeds, ties counted half; 0.5 where all are equal."""
    ordered = np.sort(np.asarray(values, float))
    below = np.searchsorted(ordered, values, side="left")
    above = np.searchsorted(ordered, values, side="right")
    return [float(share) for share in (below + above - 1) / 2 / max(len(ordered) - 1, 1)]


def rate(store: Store, campaign: str, *, weights: Weights | None = None, at: float) -> int:
    """Give the items of a campaign that still have a place their usefulness, and put them in that order.

    Scores of reward models are read from `completion.scores`, where `keep_scores` put them.

    Returns:
        How many items were rated.

    Raises:
        CampaignError: there is no such campaign.
    """
    weights = weights or Weights()

    def write(connection: sa.Connection) -> int:
        found = campaigns.by_name(connection, campaign)
        open_items = sa.select(slot.c.item_id).where(
            slot.c.campaign_id == found.id, slot.c.kind == assignment.WORK, slot.c.state != "judged"
        )
        scores, policies = _responses(connection, open_items)
        rankings = _rankings(connection, found.id)
        compared = _compared(connection, found.id)
        ids = sorted(policies)
        if not ids:
            return 0
        parts = [
            (weights.disagreement, shares([disagreement(scores[n]) if scores[n] else 0.0 for n in ids])),
            (weights.entropy, shares([vote_entropy(rankings.get(n, [])) for n in ids])),
            (weights.coverage, shares([coverage(policies[n], compared) for n in ids])),
        ]
        rows = [
            {"number": number, "value": sum(weight * values[place] for weight, values in parts)}
            for place, number in enumerate(ids)
        ]
        changed = sa.update(item).where(item.c.id == sa.bindparam("number")).values(usefulness=sa.bindparam("value"))
        connection.execute(changed, rows)
        campaigns.set_order(connection, found.id, found.settings.order)
        details = {"campaign": found.id, "items": len(ids), "scored": sum(bool(scores[number]) for number in ids)}
        audit.record(connection, "items rated by usefulness", None, details, at=at)
        return len(ids)

    return store.write(write)


def unscored_items(store: Store, campaign: str) -> dict[int, tuple[list[dict[str, str]], list[str]]]:
    """Items with a place left -> messages of the prompt and texts of the responses, for reward models to score.

    Raises:
        CampaignError: there is no such campaign.
    """
    with store.reading() as connection:
        found = campaigns.by_name(connection, campaign)
        query = (
            sa.select(item.c.id, prompt.c.messages, completion.c.text)
            .join(prompt, prompt.c.id == item.c.prompt_id)
            .join(completion, completion.c.item_id == item.c.id)
            .where(item.c.campaign_id == found.id, item.c.kind == assignment.WORK)
            .where(sa.exists().where(slot.c.item_id == item.c.id, slot.c.state != "judged"))
            .order_by(item.c.id, completion.c.position)
        )
        items: dict[int, tuple[list[dict[str, str]], list[str]]] = {}
        for row in connection.execute(query):
            items.setdefault(row.id, (row.messages, []))[1].append(row.text)
        return items


def keep_scores(store: Store, scores: Mapping[int, Sequence[Sequence[float]]]) -> None:
    """Store `[members][responses]` scores with the responses of each item."""
    rows = [
        {"number": number, "place": place, "found": [float(member[place]) for member in members]}
        for number, members in scores.items()
        for place in range(len(members[0]))
    ]
    own = (completion.c.item_id == sa.bindparam("number")) & (completion.c.position == sa.bindparam("place"))
    changed = sa.update(completion).where(own).values(scores=sa.bindparam("found", type_=sa.JSON))
    if rows:
        store.write(lambda connection: connection.execute(changed, rows))


def _responses(
    connection: sa.Connection, item_ids: sa.Select
) -> tuple[dict[int, list[list[float]]], dict[int, list[int | None]]]:
    """Item -> `[members][responses]` scores, empty where they lack; item -> policies of its responses."""
    query = sa.select(completion.c.item_id, completion.c.policy_id, completion.c.scores)
    query = query.where(completion.c.item_id.in_(item_ids)).order_by(completion.c.item_id, completion.c.position)
    columns: dict[int, list[list[float] | None]] = {}
    policies: dict[int, list[int | None]] = {}
    for row in connection.execute(query):
        columns.setdefault(row.item_id, []).append(row.scores)
        policies.setdefault(row.item_id, []).append(row.policy_id)
    scores = {}
    for number, found in columns.items():
        given = [column for column in found if column]
        same = len(given) == len(found) and len({len(column) for column in given}) == 1
        scores[number] = [list(member) for member in zip(*given, strict=True)] if same else []
    return scores, policies


def _rankings(connection: sa.Connection, campaign_id: int) -> dict[int, list[list[int]]]:
    current = assignment.current_judgments(kinds=("ranking",)).subquery()
    query = sa.select(current.c.item_id, current.c.ranks).join(item, item.c.id == current.c.item_id)
    rankings: dict[int, list[list[int]]] = {}
    for row in connection.execute(query.where(item.c.campaign_id == campaign_id)):
        rankings.setdefault(row.item_id, []).append(row.ranks)
    return rankings


def _compared(connection: sa.Connection, campaign_id: int) -> Counter[tuple[int, int]]:
    """Judgments so far by pair of policies."""
    current = assignment.current_judgments(kinds=("ranking",)).subquery()
    first, second = completion.alias("first"), completion.alias("second")
    query = (
        sa.select(first.c.policy_id.label("a"), second.c.policy_id.label("b"), sa.func.count().label("n"))
        .select_from(current)
        .join(item, item.c.id == current.c.item_id)
        .join(first, first.c.item_id == item.c.id)
        .join(second, (second.c.item_id == item.c.id) & (second.c.policy_id > first.c.policy_id))
        .where(item.c.campaign_id == campaign_id)
        .group_by(first.c.policy_id, second.c.policy_id)
    )
    return Counter({(row.a, row.b): row.n for row in connection.execute(query)})


def _entropy(probabilities: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)
