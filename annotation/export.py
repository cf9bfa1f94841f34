"""What annotators said, as comparisons that the trainers read.

Every judgment that stands is one comparison, with its annotator's pseudonym: where several judged an item there
are several. Skips and what was taken back are left out. The same store gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation import assignment
from annotation.store import Store
from annotation.tables import campaign, completion, item, policy, prompt
from rlhf.data.comparisons import (
    Comparison,
    DataError,
    Message,
    Response,
    write_comparisons,
    write_preference_rows,
)

FORMATS = ("comparisons", "trl")


def judged_comparisons(store: Store, *, name: str | None = None) -> list[Comparison]:
    """The rankings that stand, in the order in which their items were added; of one campaign or of all.

    Raises:
        DataError: there is no campaign of that name.
    """
    with store.reading() as connection:
        return list(_comparisons(connection, name))


def export(store: Store, path: str | Path, *, form: str = "comparisons", name: str | None = None) -> int:
    """Write the rankings that stand, all or none, and return the number of rows.

    Args:
        store: where they are.
        path: the file, which must not exist.
        form: "comparisons", the native rows with rankings, ties and provenance; or "trl", a row with `prompt`,
            `chosen`, `rejected` and `margin` for every two responses of which one was ranked better.
        name: the campaign; None takes all.

    Raises:
        DataError: nothing was judged, or in "trl" everything was tied; nothing is written then.
        FileExistsError: the file is there already.
    """
    if form not in FORMATS:
        raise DataError(f"format is {form!r}; use one of {', '.join(FORMATS)}")
    if Path(path).exists():
        raise FileExistsError(f"out {path} exists; choose another name")
    comparisons = judged_comparisons(store, name=name)
    if not comparisons:
        raise DataError(
            f"store {store.address} holds no judgments yet; open `rlhf annotate --store ...` and judge some items"
        )
    if form == "comparisons":
        return write_comparisons(path, comparisons)
    if not any(comparison.pairs() for comparison in comparisons):
        raise DataError(
            f"all {len(comparisons)} judgments of store {store.address} are ties, which TRL's rows cannot say; "
            "use --format comparisons"
        )
    return write_preference_rows(path, comparisons)


def _comparisons(connection: sa.Connection, name: str | None) -> Iterator[Comparison]:
    judged = assignment.current_judgments(kinds=("ranking",)).subquery()
    query = (
        sa.select(judged, item.c.source, prompt.c.messages)
        .join(item, item.c.id == judged.c.item_id)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .order_by(item.c.id, judged.c.number)
    )
    if name is not None:
        known = connection.execute(sa.select(campaign.c.id).where(campaign.c.name == name)).scalar()
        if known is None:
            names = ", ".join(connection.execute(sa.select(campaign.c.name).order_by(campaign.c.id)).scalars())
            raise DataError(
                f"campaign {name!r} is not in the store, which has {names or 'none'}; name one, or leave it out"
            )
        query = query.where(item.c.campaign_id == known)
    responses = _responses(connection, query.with_only_columns(judged.c.item_id).order_by(None))
    for row in connection.execute(query):
        yield Comparison(
            prompt=tuple(Message.from_dict(message) for message in row.messages),
            responses=responses[row.item_id],
            ranks=tuple(row.ranks),
            strength=row.strength,
            annotators=(row.annotator_id,),
            source=row.source,
        )


def _responses(connection: sa.Connection, item_ids: sa.Select) -> dict[int, tuple[Response, ...]]:
    query = sa.select(completion, policy.c.name).join(policy, policy.c.id == completion.c.policy_id, isouter=True)
    query = query.where(completion.c.item_id.in_(item_ids))
    found: dict[int, list[Response]] = {}
    for row in connection.execute(query.order_by(completion.c.item_id, completion.c.position)):
        found.setdefault(row.item_id, []).append(_response(row))
    return {item_id: tuple(responses) for item_id, responses in found.items()}


def _response(row: Any) -> Response:
    seed = None if row.seed is None else int(row.seed)
    return Response(row.text, row.name, row.sampling, seed, row.finish_reason)
