"""What is in a store, counted before it goes out: the numbers of the card, and the votes without their texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import sqlalchemy as sa

from annotation import audit
from annotation.assignment import ADJUDICATION, ANSWERS
from annotation.exporting.judged import KNOWN_ANSWERS, RANKS, ROLE, SHOWN_ORDER, Scope, numbers, standing
from annotation.stats.labels import codes
from annotation.stats.table import VoteTable, padded
from annotation.tables import completion, item, judgment, policy


@dataclass(frozen=True)
class Survey:
    """Counts of a scope.

    Attributes:
        num_items: items on which a ranking stands.
        num_adjudicated: of them, those that an adjudicator decided.
        by_kind: judgments that stand, by kind: ranking, skip, flag.
        by_role: rankings by role: work, live, adjudication, gold, qualification.
        by_annotator: rankings by pseudonym.
        by_guideline: rankings by the version of the guideline that was in force; 0 where there was none.
        num_ties, num_both_bad, num_with_strength, num_with_rationale, num_with_edits: of the rankings.
        num_replaced: judgments that a later one of the same annotator replaced or took back, and those taking back.
        num_known_answers: rankings of gold and qualification items that stand, wherever they are.
        most_responses: of an item.
        votes: what annotators said without an adjudicator, for agreement and Dawid-Skene.
        policies: name, hash and manifest of whatever gave the responses.
        chain: how many judgments the whole store has, and the last one's hash.
    """

    num_items: int
    num_adjudicated: int
    by_kind: Counter[str]
    by_role: Counter[str]
    by_annotator: Counter[str]
    by_guideline: Counter[int]
    num_ties: int
    num_both_bad: int
    num_with_strength: int
    num_with_rationale: int
    num_with_edits: int
    num_replaced: int
    num_known_answers: int
    most_responses: int
    votes: VoteTable
    policies: list[dict[str, Any]]
    chain: audit.Head

    @property
    def num_rankings(self) -> int:
        return self.by_kind["ranking"]


def survey(connection: sa.Connection, scope: Scope) -> Survey:
    """Count a scope."""
    chain = audit.head(connection, "judgment")
    kinds = standing(scope, judgment.c.kind, sa.func.count(), kinds=ANSWERS).group_by(judgment.c.kind)
    rankings = _rankings(connection, scope)
    items, roles, ranks = rankings["item"], rankings["role"], rankings["ranks"]
    of_item = (
        sa.select(sa.func.count())
        .select_from(judgment)
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id.in_(list(scope.campaigns)))
    )
    later = judgment.alias("later")
    replaced = sa.exists().where(later.c.supersedes == judgment.c.number)
    known = item.c.kind.in_(KNOWN_ANSWERS) | judgment.c.role.in_(KNOWN_ANSWERS)
    known_answers = of_item.where(known, ~replaced, judgment.c.kind == "ranking")
    return Survey(
        num_items=len(set(items)),
        num_adjudicated=len({number for number, role in zip(items, roles, strict=True) if role == ADJUDICATION}),
        by_kind=Counter({row[0]: row[1] for row in connection.execute(kinds)}),
        by_role=Counter(roles),
        by_annotator=Counter(rankings["annotator"]),
        by_guideline=Counter(rankings["guideline"]),
        num_ties=sum(len(set(numbers(text))) == 1 for text in ranks),
        num_both_bad=sum(rankings["both_bad"]),
        num_with_strength=sum(strength is not None for strength in rankings["strength"]),
        num_with_rationale=sum(rankings["has_rationale"]),
        num_with_edits=sum(rankings["has_edits"]),
        num_replaced=connection.execute(of_item.where(replaced | (judgment.c.kind == "undo"))).scalar_one(),
        num_known_answers=connection.execute(known_answers).scalar_one(),
        most_responses=max((len(numbers(text)) for text in set(ranks)), default=0),
        votes=_votes(rankings),
        policies=_policies(connection, scope),
        chain=chain,
    )


def _rankings(connection: sa.Connection, scope: Scope) -> dict[str, tuple[Any, ...]]:
    """Columns of the rankings, without their texts, in the order of the items and of their judgments."""
    edits = sa.func.coalesce(sa.cast(judgment.c.edits, sa.Text), "{}")
    columns = {
        "item": judgment.c.item_id,
        "annotator": judgment.c.annotator_id,
        "role": ROLE,
        "ranks": RANKS,
        "shown": SHOWN_ORDER,
        "strength": judgment.c.strength,
        "both_bad": sa.cast(sa.func.coalesce(judgment.c.both_bad, sa.false()), sa.Integer),
        "has_rationale": sa.cast(sa.func.coalesce(judgment.c.rationale, "") != "", sa.Integer),
        "has_edits": sa.cast(edits != "{}", sa.Integer),
        "guideline": sa.func.coalesce(judgment.c.guideline_version, 0),
    }
    query = standing(scope, *columns.values()).order_by(judgment.c.item_id, judgment.c.number)
    rows = connection.execute(query).all()
    found = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return dict(zip(columns, found, strict=True))


def _votes(rankings: dict[str, tuple[Any, ...]]) -> VoteTable:
    """What annotators said without an adjudicator."""
    chosen = [role in ("work", "live") for role in rankings["role"]]
    column = {name: list(compress(values, chosen)) for name, values in rankings.items()}
    items, annotators = tuple(dict.fromkeys(column["item"])), tuple(sorted(set(column["annotator"])))
    most = max((len(numbers(text)) for text in set(column["shown"])), default=2)
    return VoteTable(
        items=tuple(map(str, items)),
        annotators=annotators,
        item=codes(column["item"], items),
        annotator=codes(column["annotator"], annotators),
        ranks=_lists(column["ranks"], most, 0),
        shown=_lists(column["shown"], most, -1),
        strength=np.abs(np.array(column["strength"], dtype=np.float64)),
        both_bad=np.array(column["both_bad"], dtype=np.bool_),
        active_ms=np.zeros(len(column["item"]), dtype=np.int64),
        at=np.zeros(len(column["item"])),
    )


def _lists(texts: list[str], most: int, padding: int) -> np.ndarray:
    known = tuple(dict.fromkeys(texts))
    return padded(map(numbers, known), most, padding)[codes(texts, known)]


def _policies(connection: sa.Connection, scope: Scope) -> list[dict[str, Any]]:
    used = (
        sa.select(completion.c.policy_id, sa.func.count().label("num_responses"))
        .join(item, item.c.id == completion.c.item_id)
        .where(item.c.campaign_id.in_(list(scope.campaigns)))
        .group_by(completion.c.policy_id)
        .subquery()
    )
    rows = connection.execute(sa.select(policy, used.c.num_responses).join(used, used.c.policy_id == policy.c.id)).all()
    named = [
        {"name": row.name, "sha256": row.sha256 or None, "num_responses": row.num_responses, "manifest": row.manifest}
        for row in rows
    ]
    # sorted here: databases order texts each in its own way
    return sorted(named, key=lambda row: (row["name"], row["sha256"] or ""))
