"""Comparisons into the store: every one becomes an item with slots for its judgments."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from annotation.assignment import GOLD, QUALIFICATION, WORK
from annotation.campaigns import find, set_order
from annotation.store import Store
from annotation.tables import campaign, completion, item, policy, prompt, slot
from rlhf.data.comparisons import Comparison, DataError, Response

FEWEST_RESPONSES, MOST_RESPONSES = 2, 9  # a rank is one key
DEFAULT_CAMPAIGN = "main"


@dataclass(frozen=True)
class Imported:
    """What became of comparisons.

    Attributes:
        num_added: items that were added.
        num_known: those that were there already.
        num_same: those that were left out because all responses are the same.
        num_unmarked: those that were there already with other gold or usefulness than they came with now.
    """

    num_added: int
    num_known: int
    num_same: int
    num_unmarked: int = 0

    def __str__(self) -> str:
        known = f", {self.num_known} were there already" if self.num_known else ""
        same = f", {self.num_same} left out: all responses the same" if self.num_same else ""
        kept = (
            f"; {self.num_unmarked} of those there keep their gold and usefulness, which are others here: "
            "import into another --campaign to use these"
        )
        return f"{self.num_added} items added{known}{same}{kept if self.num_unmarked else ''}"


@dataclass(frozen=True)
class PolicyOrigin:
    """Where a policy's responses come from: the hash of its weights, and the manifest of its run if it has one."""

    sha256: str
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Marks:
    """What is known of items besides their texts, by `Comparison.id`; see `import_comparisons`."""

    gold: Mapping[str, Sequence[int]]
    gold_kind: str
    usefulness: Mapping[str, float]

    def check(self, comparisons: Sequence[Comparison]) -> None:
        """Refuse gold that is no ranking of its item.

        Raises:
            DataError: with the item's place and the ranks.
        """
        if self.gold_kind not in (GOLD, QUALIFICATION):
            raise DataError(f"gold_kind is {self.gold_kind!r}; use {GOLD} or {QUALIFICATION}")
        for number, comparison in enumerate(comparisons, start=1):
            ranks, count = self.gold.get(comparison.id), len(comparison.responses)
            if ranks is None:
                continue
            if len(ranks) != count or not all(type(rank) is int and 1 <= rank <= count for rank in ranks):
                raise DataError(
                    f"comparison {number} has gold {list(ranks)}; give {count} whole numbers from 1 to {count}"
                )

    def differ(self, known: sa.Row) -> bool:
        """Whether they say something of an item that is not what is kept of it."""
        gold, usefulness = self.gold.get(known.comparison_id), self.usefulness.get(known.comparison_id)
        return (gold is not None and list(gold) != known.gold) or usefulness not in (None, known.usefulness)


def check_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Refuse what cannot be shown to an annotator or kept in a database.

    Raises:
        DataError: a comparison has fewer than 2 or more than 9 responses, a response is blank, or a NUL character
            is in it.
    """
    for number, comparison in enumerate(comparisons, start=1):
        count = len(comparison.responses)
        if not FEWEST_RESPONSES <= count <= MOST_RESPONSES:
            plural = "" if count == 1 else "s"
            raise DataError(
                f"comparison {number} has {count} response{plural}; an annotator ranks {FEWEST_RESPONSES} to "
                f"{MOST_RESPONSES}: `rlhf sample` writes such files"
            )
        if not all(response.text.strip() for response in comparison.responses):
            raise DataError(f"comparison {number} has a response without text; leave it out")
        texts = [message.content for message in comparison.prompt] + [r.text for r in comparison.responses]
        names = [comparison.source or "", *(response.policy or "" for response in comparison.responses)]
        if any("\0" in text for text in (*texts, *names)):
            raise DataError(f"comparison {number} holds a NUL character, which databases do not keep; remove it")


def has_a_choice(comparison: Comparison) -> bool:
    """Whether any two of its responses differ: otherwise there is nothing to judge."""
    return len({response.text for response in comparison.responses}) > 1


def import_comparisons(
    store: Store,
    comparisons: Sequence[Comparison],
    *,
    name: str = DEFAULT_CAMPAIGN,
    overlap: int | None = None,
    origins: Mapping[str, PolicyOrigin] | None = None,
    gold: Mapping[str, Sequence[int]] | None = None,
    gold_kind: str = GOLD,
    usefulness: Mapping[str, float] | None = None,
) -> Imported:
    """Add comparisons to a campaign, all or none; those that it holds already stay as they are.

    Args:
        store: where they go.
        comparisons: prompts with 2 to 9 responses; judgments that they carry are not taken over.
        name: the campaign's; it is made if there is none.
        overlap: how many annotators judge each item, >= 1; fixed when a campaign is made. None takes the campaign's
            own, and 1 for a new one.
        origins: what is known of the policies, by `Response.policy`.
        gold: the ranks that are right, by `Comparison.id`: these items go to everybody, and to nobody as work.
        gold_kind: "gold" among the work, or "qualification" before it.
        usefulness: by `Comparison.id`; the higher, the sooner an item is given where the campaign orders by it.

    Raises:
        DataError: as `check_comparisons`; the campaign exists with another overlap; or gold does not fit its item.
        StoreUnavailable: the store could not be written.
    """
    check_comparisons(comparisons)
    check_campaign(store, name, overlap)
    marks = Marks(gold or {}, gold_kind, usefulness or {})
    marks.check(comparisons)
    rows = [comparison for comparison in comparisons if has_a_choice(comparison)]
    num_added, num_unmarked = store.write(
        lambda connection: _import(connection, rows, name, overlap, origins or {}, marks)
    )
    return Imported(num_added, len(rows) - num_added, len(comparisons) - len(rows), num_unmarked)


def _import(
    connection: sa.Connection,
    comparisons: Sequence[Comparison],
    name: str,
    overlap: int | None,
    origins: Mapping[str, PolicyOrigin],
    marks: Marks,
) -> tuple[int, int]:
    """Add what is new, table by table: annotators wait for no longer than that takes.

    Returns:
        How many items were added, and how many that were there come with other marks.
    """
    unique = {comparison.id: comparison for comparison in comparisons}
    campaign_id, overlap = _campaign(connection, name, overlap)
    known = sa.select(item.c.comparison_id, item.c.gold, item.c.usefulness).where(item.c.campaign_id == campaign_id)
    seen = {row.comparison_id: row for row in connection.execute(known)}
    new = [comparison for comparison in unique.values() if comparison.id not in seen]
    num_unmarked = sum(marks.differ(seen[each]) for each in unique if each in seen)
    if not new:
        return 0, num_unmarked
    names = {response.policy for comparison in new for response in comparison.responses if response.policy is not None}
    policies = {name: policy_id(connection, name, origins.get(name, PolicyOrigin(""))) for name in sorted(names)}
    _add_prompts(connection, new)
    connection.execute(sa.insert(item), [_item(campaign_id, comparison, marks) for comparison in new])
    ids_query = sa.select(item.c.comparison_id, item.c.id).where(item.c.campaign_id == campaign_id)
    ids = {row.comparison_id: row.id for row in connection.execute(ids_query)}
    completions = [
        _completion(ids[comparison.id], place, response, policies)
        for comparison in new
        for place, response in enumerate(comparison.responses)
    ]
    connection.execute(sa.insert(completion), completions)
    slots = [
        {
            "item_id": ids[comparison.id],
            "number": number,
            "state": "open",
            "campaign_id": campaign_id,
            "shuffle": _uniform(f"{comparison.id}:{number}"),
        }
        for comparison in new
        if comparison.id not in marks.gold
        for number in range(1, overlap + 1)
    ]
    if slots:
        connection.execute(sa.insert(slot), slots)
        order = find(connection, campaign_id).settings.order
        if order != "oldest":  # as new slots are
            set_order(connection, campaign_id, order)
    return len(new), num_unmarked


def _uniform(text: str) -> float:
    """A number in [0, 1) by which slots are in random order, the same one whenever these items are added."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def check_campaign_settings(name: str, overlap: int | None) -> None:
    """Refuse what no campaign can have, before a store is opened or made.

    Raises:
        DataError: the name is blank, or the overlap is no number of annotators.
    """
    if not name.strip():
        raise DataError("campaign has no name; give one, or leave it out")
    if overlap is not None and overlap < 1:
        raise DataError(f"overlap is {overlap}; give the number of annotators for each item, 1 or more")


def check_campaign(store: Store, name: str, overlap: int | None) -> None:
    """Refuse an overlap other than the campaign's.

    Raises:
        DataError: with both numbers; also as `check_campaign_settings`.
    """
    check_campaign_settings(name, overlap)
    with store.reading() as connection:
        _find_campaign(connection, name, overlap)


def _find_campaign(connection: sa.Connection, name: str, overlap: int | None) -> sa.Row | None:
    row = connection.execute(sa.select(campaign).where(campaign.c.name == name)).first()
    if row is not None and overlap not in (None, row.overlap):
        raise DataError(
            f"campaign {name!r} gives every item to {row.overlap} annotators, set when it was made, not {overlap}; "
            "leave --overlap out, or start another --campaign"
        )
    return row


def _campaign(connection: sa.Connection, name: str, overlap: int | None) -> tuple[int, int]:
    """Number and overlap of a campaign, which is made if there is none."""
    found = _find_campaign(connection, name, overlap)
    if found is not None:
        return found.id, found.overlap
    values = {"name": name, "overlap": overlap or 1, "created_at": time.time()}
    return connection.execute(sa.insert(campaign).values(values).returning(campaign.c.id)).scalar_one(), overlap or 1


def policy_id(connection: sa.Connection, name: str, origin: PolicyOrigin) -> int:
    """The number of a policy, which is entered if it is not there."""
    query = sa.select(policy.c.id).where(policy.c.name == name, policy.c.sha256 == origin.sha256)
    known = connection.execute(query).scalar()
    if known is not None:
        return known
    manifest = None if origin.manifest is None else dict(origin.manifest)
    values = {"name": name, "sha256": origin.sha256, "manifest": manifest}
    return connection.execute(sa.insert(policy).values(values).returning(policy.c.id)).scalar_one()


def _add_prompts(connection: sa.Connection, comparisons: Sequence[Comparison]) -> None:
    known = set(connection.execute(sa.select(prompt.c.id)).scalars())
    rows = {
        comparison.prompt_id: {
            "id": comparison.prompt_id,
            "messages": [message.to_dict() for message in comparison.prompt],
        }
        for comparison in comparisons
        if comparison.prompt_id not in known
    }
    if rows:
        connection.execute(sa.insert(prompt), list(rows.values()))


def _item(campaign_id: int, comparison: Comparison, marks: Marks) -> dict[str, Any]:
    gold = marks.gold.get(comparison.id)
    return {
        "kind": WORK if gold is None else marks.gold_kind,
        "gold": None if gold is None else list(gold),
        "usefulness": marks.usefulness.get(comparison.id),
        "campaign_id": campaign_id,
        "prompt_id": comparison.prompt_id,
        "comparison_id": comparison.id,
        "source": comparison.source,
        "created_at": time.time(),
    }


def _completion(item_id: int, place: int, response: Response, policies: Mapping[str, int]) -> dict[str, Any]:
    return {
        "item_id": item_id,
        "position": place,
        "text": response.text,
        "policy_id": None if response.policy is None else policies[response.policy],
        "sampling": dict(response.sampling),
        "seed": None if response.seed is None else str(response.seed),
        "finish_reason": response.finish_reason,
    }
