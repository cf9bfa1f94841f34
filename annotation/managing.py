"""What managers do with campaigns beside their settings: files into them, gold items, members, archives of exports.

Each function is one transaction, and writes into the audit who did it.
"""

from __future__ import annotations

import random
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation import adjudication, audit, campaigns
from annotation.assignment import ADJUDICATION, GOLD, QUALIFICATION, WORK
from annotation.export import export_dataset
from annotation.formats.items import Item, parse_gold
from annotation.formats.reading import read_items
from annotation.importing import Imported, import_comparisons
from annotation.records import AnnotationError
from annotation.store import Store
from annotation.tables import annotator, campaign, completion, item, member, prompt, slot
from annotation.tables import audit as audit_entry
from rlhf.data.comparisons import DataError

MAX_UPLOAD = 20_000_000  # bytes of one file
UPLOADS = (".jsonl", ".json", ".csv", ".parquet")
ARCHIVE_SECONDS = 3600.0
MOST_ARCHIVES = 10
ITEMS_SHOWN = 50
PROMPT_CHARACTERS = 200
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same rows give the same archive


class UnknownArchive(AnnotationError):
    """The archive was deleted, or never was."""


@dataclass(frozen=True)
class ItemRow:
    """An item in a list: the beginning of its last message, what kind it is, and its known ranks."""

    id: int
    kind: str
    prompt: str
    gold: tuple[int, ...] | None


@dataclass(frozen=True)
class ItemTexts:
    """An item as it is, responses by position, not as an annotator sees it."""

    id: int
    kind: str
    messages: tuple[tuple[str, str], ...]
    responses: tuple[str, ...]
    gold: tuple[int, ...] | None


@dataclass(frozen=True)
class Member:
    """Who may work on a campaign for members only."""

    annotator: str
    name: str | None


@dataclass(frozen=True)
class Archive:
    """A zip file that waits to be fetched, until `expires_at`, with the rows in it and what had no place there."""

    id: str
    name: str
    path: Path
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    expires_at: float


# ---- filling --------------------------------------------------------------------------------------------------


def fill_campaign(
    store: Store,
    file: Path,
    name: str,
    *,
    overlap: int | None = None,
    gold_kind: str = GOLD,
    by: str | None,
    at: float,
) -> Imported:
    """Add a file's items to a campaign, which is made if there is none; items that have gold in the file are gold.

    Args:
        file: JSON Lines, JSON, CSV or Parquet, up to `MAX_UPLOAD` bytes.
        name: the campaign's.
        overlap: annotators for each item, of a new campaign.
        gold_kind: "gold" or "qualification".
        by: the manager.
        at: seconds since 1970.

    Raises:
        DataError: the file cannot be used, or the campaign has another overlap.
    """
    items = _items_of(file)
    done = import_comparisons(
        store,
        [each.comparison for each in items],
        name=name,
        overlap=overlap,
        gold={each.comparison.id: each.gold for each in items if each.gold is not None},
        gold_kind=gold_kind,
        usefulness={each.comparison.id: each.usefulness for each in items if each.usefulness is not None},
    )

    def note(connection: sa.Connection) -> None:
        details = {"campaign": campaigns.by_name(connection, name).id, "added": done.num_added}
        audit.record(connection, "items imported", by, details | {"known": done.num_known}, at=at)

    store.write(note)
    return done


def _items_of(file: Path) -> list[Item]:
    """A file's items; errors name the file as the person does, not where it lies here."""
    if file.suffix.lower() not in UPLOADS:
        raise DataError(f"{file.name}: not one of {', '.join(UPLOADS)}; save it as one of them")
    size = file.stat().st_size
    if size > MAX_UPLOAD:
        fix = "split it, or use rlhf annotate import"
        raise DataError(f"{file.name}: {size} bytes, and {MAX_UPLOAD} is the most here; {fix}")
    try:
        return read_items([file])
    except DataError as error:
        raise DataError(str(error).replace(str(file), file.name)) from None


# ---- gold -----------------------------------------------------------------------------------------------------


def mark_gold_from_file(
    store: Store, campaign_id: int, file: Path, *, kind: str = GOLD, by: str | None, at: float
) -> tuple[int, int]:
    """Make gold of a file's items that have a known answer: (those the campaign had already, those that were added).

    Raises:
        DataError: the file cannot be used, or none of its items has gold.
        campaigns.CampaignError: there is no such campaign.
    """
    found = [each for each in _items_of(file) if each.gold is not None]
    if not found:
        raise DataError(f"{file.name}: no row has gold; give a field gold with the ranks, such as [1, 2]")
    with store.reading() as connection:
        name = campaigns.find(connection, campaign_id).name
        query = sa.select(item.c.comparison_id, item.c.id).where(item.c.campaign_id == campaign_id)
        numbers = {row.comparison_id: row.id for row in connection.execute(query)}
    known = {
        numbers[each.comparison.id]: each.gold
        for each in found
        if each.comparison.id in numbers and each.gold is not None
    }
    new = [each for each in found if each.comparison.id not in numbers]
    if known:
        mark_gold(store, campaign_id, known, kind=kind, by=by, at=at)
    gold = {each.comparison.id: each.gold for each in new if each.gold is not None}
    if new:
        import_comparisons(store, [each.comparison for each in new], name=name, gold=gold, gold_kind=kind)
        details = {"campaign": campaign_id, "added": len(gold), "kind": kind}
        store.write(lambda connection: audit.record(connection, "gold items added", by, details, at=at))
    return len(known), len(gold)


def mark_gold(
    store: Store,
    campaign_id: int,
    ranks: Mapping[int, Sequence[int]],
    *,
    kind: str = GOLD,
    by: str | None,
    at: float,
) -> None:
    """Make gold, or qualification, of items of a campaign: they go to everybody now, and to nobody as work.

    What was judged of them counts as answers to gold from now on.

    Args:
        store: where the campaign is.
        campaign_id: whose items.
        ranks: item -> the right ranks, one per response by position, 1 = best, equal numbers tie.
        kind: "gold" among the work, or "qualification" before it.
        by: the manager.
        at: seconds since 1970.

    Raises:
        DataError: an item is not of this campaign, or the ranks do not fit it.
    """
    if kind not in (GOLD, QUALIFICATION):
        raise DataError(f"kind is {kind!r}; use {GOLD} or {QUALIFICATION}")

    def mark(connection: sa.Connection) -> None:
        sizes = _sizes(connection, campaign_id, list(ranks))
        for item_id, given in ranks.items():
            checked = parse_gold(list(given), sizes[item_id])
            if checked is None:
                raise DataError(f"item {item_id} has no ranks; give one per response, such as 1, 2")
            own = item.c.id == item_id
            connection.execute(sa.update(item).where(own).values(kind=kind, gold=list(checked)))
            _move_slots(connection, item_id, kind)
            adjudication.update(connection, item_id)
        details = {"campaign": campaign_id, "items": sorted(ranks)[:100], "count": len(ranks), "kind": kind}
        audit.record(connection, "items made gold", by, details, at=at)

    store.write(mark)


def unmark_gold(store: Store, campaign_id: int, item_id: int, *, by: str | None, at: float) -> None:
    """Make a gold item one like the others.

    Raises:
        DataError: the item is not of this campaign.
    """

    def unmark(connection: sa.Connection) -> None:
        _sizes(connection, campaign_id, [item_id])
        connection.execute(sa.update(item).where(item.c.id == item_id).values(kind=WORK, gold=None))
        _move_slots(connection, item_id, WORK)
        overlap = campaigns.find(connection, campaign_id).overlap
        numbers = connection.execute(sa.select(slot.c.number).where(slot.c.item_id == item_id)).scalars().all()
        # one that came as gold has no places for work, and one that was given as gold may have too many
        extra = slot.c.item_id.in_([item_id]) & (slot.c.number > overlap) & (slot.c.state == "open")
        connection.execute(sa.delete(slot).where(extra))
        missing = [number for number in range(1, overlap + 1) if number not in numbers]
        common = {"item_id": item_id, "campaign_id": campaign_id, "state": "open"}
        if missing:
            rows = [common | {"number": number, "shuffle": random.random()} for number in missing]
            connection.execute(sa.insert(slot), rows)
        adjudication.update(connection, item_id)
        details = {"campaign": campaign_id, "items": [item_id]}
        audit.record(connection, "items made work", by, details, at=at)

    store.write(unmark)


def _sizes(connection: sa.Connection, campaign_id: int, item_ids: Sequence[int]) -> dict[int, int]:
    """Item -> number of its responses."""
    query = (
        sa.select(item.c.id, sa.func.count())
        .join(completion, completion.c.item_id == item.c.id)
        .where(item.c.campaign_id == campaign_id)
        .group_by(item.c.id)
    )
    sizes: dict[int, int] = {}
    for start in range(0, len(item_ids), 500):
        some = query.where(item.c.id.in_(item_ids[start : start + 500]))
        sizes |= {row[0]: row[1] for row in connection.execute(some)}
    for item_id in item_ids:
        if item_id not in sizes:
            raise DataError(f"item {item_id} is not in this campaign; see the list of its items")
    return sizes


def _move_slots(connection: sa.Connection, item_id: int, kind: str) -> None:
    moved = sa.update(slot).where(slot.c.item_id == item_id, slot.c.kind != ADJUDICATION)
    connection.execute(moved.values(kind=kind))


# ---- looking --------------------------------------------------------------------------------------------------


def list_items(store: Store, campaign_id: int, *, start: int = 1, only_gold: bool = False) -> list[ItemRow]:
    """Up to `ITEMS_SHOWN` items of a campaign, from a number on."""
    query = (
        sa.select(item.c.id, item.c.kind, item.c.gold, prompt.c.messages)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .where(item.c.campaign_id == campaign_id, item.c.id >= start)
        .order_by(item.c.id)
        .limit(ITEMS_SHOWN)
    )
    if only_gold:
        query = query.where(item.c.kind.in_((GOLD, QUALIFICATION)))
    with store.reading() as connection:
        return [
            ItemRow(
                id=row.id,
                kind=row.kind,
                prompt=_beginning(row.messages[-1]["content"]),
                gold=None if row.gold is None else tuple(row.gold),
            )
            for row in connection.execute(query)
        ]


def _beginning(text: str) -> str:
    return text if len(text) <= PROMPT_CHARACTERS else f"{text[: PROMPT_CHARACTERS - 1]}…"


def item_texts(store: Store, campaign_id: int, item_id: int) -> ItemTexts:
    """An item with its texts.

    Raises:
        DataError: it is not of this campaign.
    """
    query = (
        sa.select(item.c.kind, item.c.gold, prompt.c.messages)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .where(item.c.campaign_id == campaign_id, item.c.id == item_id)
    )
    texts = sa.select(completion.c.text).where(completion.c.item_id == item_id).order_by(completion.c.position)
    with store.reading() as connection:
        row = connection.execute(query).first()
        if row is None:
            raise DataError(f"item {item_id} is not in this campaign; see the list of its items")
        return ItemTexts(
            id=item_id,
            kind=row.kind,
            messages=tuple((message["role"], message["content"]) for message in row.messages),
            responses=tuple(connection.execute(texts).scalars()),
            gold=None if row.gold is None else tuple(row.gold),
        )


# ---- members --------------------------------------------------------------------------------------------------


def members(store: Store, campaign_id: int) -> list[Member]:
    """A campaign's members, in the order they were added."""
    query = (
        sa.select(annotator.c.id, annotator.c.name)
        .join(member, member.c.annotator_id == annotator.c.id)
        .where(member.c.campaign_id == campaign_id)
        .order_by(member.c.added_at, annotator.c.id)
    )
    with store.reading() as connection:
        return [Member(row.id, row.name) for row in connection.execute(query)]


def set_members(store: Store, campaign_id: int, annotator_ids: Sequence[str], *, by: str | None, at: float) -> None:
    """Make these, and nobody else, a campaign's members.

    Raises:
        campaigns.CampaignError: there is no such campaign, or no such annotator.
    """
    wanted = set(annotator_ids)

    def change(connection: sa.Connection) -> None:
        campaigns.find(connection, campaign_id)
        connection.execute(sa.select(campaign.c.id).where(campaign.c.id == campaign_id).with_for_update())
        here = sa.select(member.c.annotator_id).where(member.c.campaign_id == campaign_id)
        before = set(connection.execute(here).scalars())
        known = set(connection.execute(sa.select(annotator.c.id)).scalars())
        if unknown := sorted(wanted - known):
            raise campaigns.CampaignError(f"there is no annotator {unknown[0]!r}; reload the page")
        for annotator_id in sorted(wanted - before):
            campaigns.add_member(connection, campaign_id, annotator_id, at=at)
        gone = sorted(before - wanted)
        if gone:
            own = (member.c.campaign_id == campaign_id) & member.c.annotator_id.in_(gone)
            connection.execute(sa.delete(member).where(own))
        if wanted != before:
            details = {"campaign": campaign_id, "added": sorted(wanted - before), "removed": gone}
            audit.record(connection, "members changed", by, details, at=at)

    store.write(change)


# ---- audit ----------------------------------------------------------------------------------------------------


def audit_rows(connection: sa.Connection, *, limit: int | None) -> list[sa.Row]:
    """The newest entries of the audit first, with the names of who acted."""
    query = (
        sa.select(audit_entry, annotator.c.name)
        .join(annotator, annotator.c.id == audit_entry.c.actor_id, isouter=True)
        .order_by(audit_entry.c.number.desc())
    )
    return list(connection.execute(query if limit is None else query.limit(limit)))


# ---- exports --------------------------------------------------------------------------------------------------


class Archives:
    """Exports as zip files in a folder of this process, each deleted after `ARCHIVE_SECONDS`. Any thread may call."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time):
        self.store = store
        self.clock = clock
        self._folder: Path | None = None
        self._archives: dict[str, Archive] = {}
        self._lock = threading.Lock()

    def make(self, options: Mapping[str, Any], *, by: str | None) -> Archive:
        """Write an export with its card and manifest, and keep it to be fetched.

        Args:
            options: keyword arguments of `annotation.export.export_dataset`.
            by: the manager.

        Raises:
            DataError: as `export_dataset`.
        """
        archive_id = secrets.token_hex(16)
        name = f"annotations-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(self.clock()))}"
        with tempfile.TemporaryDirectory(prefix="rlhf-export-") as folder:
            out = Path(folder) / name
            done = export_dataset(self.store, out, **options, at=self.clock(), by=by)
            path = self._place() / f"{archive_id}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(done.files):
                    entry = zipfile.ZipInfo(f"{name}/{file.relative_to(out)}", ZIP_TIME)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    with file.open("rb") as source, packed.open(entry, "w") as target:
                        shutil.copyfileobj(source, target)
        made = Archive(archive_id, f"{name}.zip", path, done.rows, done.left_out, self.clock() + ARCHIVE_SECONDS)
        with self._lock:
            self._archives[archive_id] = made
            self._delete_old()
        return made

    def find(self, archive_id: str) -> Archive:
        """An archive that is still there.

        Raises:
            UnknownArchive: it is not.
        """
        with self._lock:
            self._delete_old()
            found = self._archives.get(archive_id)
        if found is None:
            raise UnknownArchive("this export is not here any more: make it again")
        return found

    def close(self) -> None:
        """Delete all."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="rlhf-archives-"))  # for this user's eyes only
            return self._folder

    def _delete_old(self) -> None:
        now = self.clock()
        ends = sorted(self._archives.values(), key=lambda archive: -archive.expires_at)
        for number, archive in enumerate(ends):
            if number >= MOST_ARCHIVES or archive.expires_at <= now:
                del self._archives[archive.id]
                archive.path.unlink(missing_ok=True)
