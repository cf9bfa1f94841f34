"""Comparisons into the store: every one becomes an item with slots for its judgments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from annotation.store import Store
from annotation.tables import campaign, completion, item, policy, prompt, slot
from rlhf.data.comparisons import Comparison, DataError, Response

FEWEST_RESPONSES, MOST_RESPONSES = 2, 9  # a rank is one key
DEFAULT_CAMPAIGN = "main"


@dataclass(frozen=True)
class Imported:
    """How many items were added, and how many were there already."""

    num_added: int
    num_known: int


@dataclass(frozen=True)
class PolicyOrigin:
    """Where a policy's responses come from: the hash of its weights, and the manifest of its run if it has one."""

    sha256: str
    manifest: Mapping[str, Any] | None = None


def check_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Refuse what cannot be shown to an annotator.

    Raises:
        DataError: a comparison has fewer than 2 or more than 9 responses, or a text holds a NUL character.
    """
    for number, comparison in enumerate(comparisons, start=1):
        count = len(comparison.responses)
        if not FEWEST_RESPONSES <= count <= MOST_RESPONSES:
            raise DataError(
                f"comparison {number} has {count} responses; an annotator ranks {FEWEST_RESPONSES} to "
                f"{MOST_RESPONSES}: `rlhf sample` writes such files"
            )
        texts = [message.content for message in comparison.prompt] + [r.text for r in comparison.responses]
        if any("\0" in text for text in texts):
            raise DataError(f"comparison {number} holds a NUL character, which databases do not keep; remove it")


def import_comparisons(
    store: Store,
    comparisons: Sequence[Comparison],
    *,
    name: str = DEFAULT_CAMPAIGN,
    overlap: int = 1,
    origins: Mapping[str, PolicyOrigin] | None = None,
) -> Imported:
    """Add comparisons to a campaign, all or none; those that it holds already stay as they are.

    Args:
        store: where they go.
        comparisons: prompts with 2 to 9 responses; judgments that they carry are not taken over.
        name: the campaign's; it is made if there is none.
        overlap: how many annotators judge each item, >= 1.
        origins: what is known of the policies, by `Response.policy`.

    Raises:
        DataError: as `check_comparisons`; or the campaign exists with another overlap.
        StoreUnavailable: the store could not be written.
    """
    check_comparisons(comparisons)
    check_campaign(store, name, overlap)
    with store.writing() as connection:
        campaign_id = _campaign(connection, name, overlap)
        known = sa.select(item.c.comparison_id).where(item.c.campaign_id == campaign_id)
        seen = set(connection.execute(known).scalars())
        policies: dict[str, int] = {}
        num_added = 0
        for comparison in comparisons:
            if comparison.id in seen:
                continue
            seen.add(comparison.id)
            num_added += 1
            for response in comparison.responses:
                if response.policy is not None and response.policy not in policies:
                    origin = (origins or {}).get(response.policy, PolicyOrigin(""))
                    policies[response.policy] = _policy(connection, response.policy, origin)
            _add_item(connection, campaign_id, comparison, policies, overlap)
    return Imported(num_added, len(comparisons) - num_added)


def check_campaign(store: Store, name: str, overlap: int) -> None:
    """Refuse an overlap that is no number of annotators, or not that of the campaign.

    Raises:
        DataError: with both numbers.
    """
    if overlap < 1:
        raise DataError(f"overlap is {overlap}; give the number of annotators for each item, 1 or more")
    with store.reading() as connection:
        _find_campaign(connection, name, overlap)


def _find_campaign(connection: sa.Connection, name: str, overlap: int) -> int | None:
    row = connection.execute(sa.select(campaign).where(campaign.c.name == name)).first()
    if row is not None and row.overlap != overlap:
        raise DataError(f"campaign {name!r} has overlap {row.overlap}, not {overlap}: give that, or another --campaign")
    return None if row is None else row.id


def _campaign(connection: sa.Connection, name: str, overlap: int) -> int:
    found = _find_campaign(connection, name, overlap)
    if found is not None:
        return found
    values = {"name": name, "overlap": overlap, "created_at": time.time()}
    return connection.execute(sa.insert(campaign).values(values).returning(campaign.c.id)).scalar_one()


def _policy(connection: sa.Connection, name: str, origin: PolicyOrigin) -> int:
    query = sa.select(policy.c.id).where(policy.c.name == name, policy.c.sha256 == origin.sha256)
    known = connection.execute(query).scalar()
    if known is not None:
        return known
    manifest = None if origin.manifest is None else dict(origin.manifest)
    values = {"name": name, "sha256": origin.sha256, "manifest": manifest}
    return connection.execute(sa.insert(policy).values(values).returning(policy.c.id)).scalar_one()


def _add_item(
    connection: sa.Connection, campaign_id: int, comparison: Comparison, policies: Mapping[str, int], overlap: int
) -> None:
    if connection.execute(sa.select(prompt.c.id).where(prompt.c.id == comparison.prompt_id)).scalar() is None:
        messages = [message.to_dict() for message in comparison.prompt]
        connection.execute(sa.insert(prompt).values(id=comparison.prompt_id, messages=messages))
    values = {
        "campaign_id": campaign_id,
        "prompt_id": comparison.prompt_id,
        "comparison_id": comparison.id,
        "source": comparison.source,
        "created_at": time.time(),
    }
    item_id = connection.execute(sa.insert(item).values(values).returning(item.c.id)).scalar_one()
    rows = [_completion(item_id, place, response, policies) for place, response in enumerate(comparison.responses)]
    connection.execute(sa.insert(completion), rows)
    slots = [{"item_id": item_id, "number": number, "state": "open"} for number in range(1, overlap + 1)]
    connection.execute(sa.insert(slot), slots)


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
