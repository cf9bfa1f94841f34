"""What is in a store, counted before it goes out: the numbers of the card, and the votes without their texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from annotation import audit
from annotation.exporting.judged import KNOWN_ANSWERS, Said, Scope, judgments
from annotation.exporting.verdicts import vote_of
from annotation.tables import completion, item, judgment, policy

if TYPE_CHECKING:
    from annotation.stats.votes import Vote


@dataclass
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
        votes: what annotators said without an adjudicator, for agreement and Dawid-Skene; empty where neither is asked.
        policies: name, hash and manifest of whatever gave the responses.
        chain: how many judgments the whole store has, and the last one's hash.
    """

    num_items: int = 0
    num_adjudicated: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_role: Counter[str] = field(default_factory=Counter)
    by_annotator: Counter[str] = field(default_factory=Counter)
    by_guideline: Counter[int] = field(default_factory=Counter)
    num_ties: int = 0
    num_both_bad: int = 0
    num_with_strength: int = 0
    num_with_rationale: int = 0
    num_with_edits: int = 0
    num_replaced: int = 0
    num_known_answers: int = 0
    most_responses: int = 0
    votes: list[Vote] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    chain: audit.Head = field(default_factory=lambda: audit.Head(0, ""))

    @cached_property
    def num_rankings(self) -> int:
        return self.by_kind["ranking"]

    def count(self, together: list[Said], *, with_votes: bool) -> None:
        """Add the judgments of one item."""
        rankings = [said for said in together if said.kind == "ranking"]
        self.by_kind.update(said.kind for said in together)
        self.num_items += bool(rankings)
        self.num_adjudicated += any(said.role == "adjudication" for said in rankings)
        for said in rankings:
            self.by_role[said.role] += 1
            self.by_annotator[said.annotator] += 1
            self.by_guideline[said.guideline_version or 0] += 1
            self.num_ties += said.is_tie
            self.num_both_bad += said.both_bad
            self.num_with_strength += said.strength is not None
            self.num_with_rationale += bool(said.rationale)
            self.num_with_edits += bool(said.edits)
            self.most_responses = max(self.most_responses, len(said.ranks))
            if with_votes and said.role in ("work", "live"):
                self.votes.append(vote_of(said))


def survey(connection: sa.Connection, scope: Scope, *, with_votes: bool) -> Survey:
    """Count a scope."""
    found = Survey(chain=audit.head(connection, "judgment"))
    for together in judgments(connection, scope, kinds=("ranking", "skip", "flag")):
        found.count(together, with_votes=with_votes)
    inside = item.c.campaign_id.in_(list(scope.campaigns))
    of_scope = (
        sa.select(sa.func.count()).select_from(judgment).join(item, item.c.id == judgment.c.item_id).where(inside)
    )
    later = judgment.alias("later")
    replaced = sa.exists().where(later.c.supersedes == judgment.c.number)
    found.num_replaced = connection.execute(of_scope.where(replaced | (judgment.c.kind == "undo"))).scalar_one()
    known = item.c.kind.in_(KNOWN_ANSWERS) | judgment.c.role.in_(KNOWN_ANSWERS)
    found.num_known_answers = connection.execute(
        of_scope.where(known, ~replaced, judgment.c.kind == "ranking")
    ).scalar_one()
    found.policies = _policies(connection, scope)
    return found


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
