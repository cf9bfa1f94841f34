"""What stands on the items of a campaign, read from the store at once and held as columns; nothing is computed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa

from annotation import assignment
from annotation.gold import is_right
from annotation.overview import KNOWN_ANSWERS
from annotation.stats.labels import codes
from annotation.stats.table import VoteTable, padded
from annotation.tables import annotator, completion, item, judgment, policy, prompt

FLAGS_SHOWN = 200
FLAG_CHARACTERS = 200  # of a prompt
ROWS_AT_ONCE = 20_000
SEPARATOR = "|"
UNKNOWN = -1  # in the place of a policy's number


@dataclass(frozen=True)
class Flag:
    """An item that somebody flagged, and the beginning of its last message."""

    item_id: int
    annotator: str
    name: str | None
    reason: str
    at: float
    prompt: str


@dataclass(frozen=True)
class Standing:
    """What stands in a campaign.

    Gold and qualification items, and what adjudicators decide, are not in `votes`: the first have a known answer, the
    second have seen the votes.

    Attributes:
        votes: rankings that agreement and bias are taken from, in the order in which they were given.
        with_gold: these, and those on items with a known answer.
        gold: item -> its known ranks.
        prompts: item -> prompt.
        said: (annotator, kind) -> how many of their judgments stand, and when the newest was given.
        reasons: (skip or flag, reason, how often it stands), the most frequent first.
        flags: numbers of the newest flags, the newest first.
        planned_at: when the rankings were given that progress counts: of planned items, without a known answer.
        num_live, num_adjudicated: rankings of annotators' own prompts, and of adjudicators.
    """

    votes: VoteTable
    with_gold: VoteTable
    gold: Mapping[str, tuple[int, ...]]
    prompts: Mapping[str, str]
    said: Mapping[tuple[str, str], tuple[int, float]]
    reasons: tuple[tuple[str, str, int], ...]
    flags: tuple[int, ...]
    planned_at: np.ndarray
    num_live: int
    num_adjudicated: int


class _Texts:
    """A column of texts of which few are unlike, as codes: `known[code]`."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}

    @property
    def known(self) -> list[str]:
        return list(self._code)

    def codes(self, values: Sequence[str]) -> np.ndarray:
        return np.array([self._code.setdefault(value, len(self._code)) for value in values], dtype=np.int64)


def read_standing(connection: sa.Connection, campaign_id: int) -> Standing:
    """The judgments that stand."""
    # what is said of it, and in which order, are few texts in many rows: each is read once
    parts = (sa.func.coalesce(judgment.c.role, assignment.WORK), sa.func.coalesce(judgment.c.reason, ""))
    sort = judgment.c.kind + SEPARATOR + parts[0] + SEPARATOR + parts[1]
    ranks = sa.func.coalesce(sa.cast(judgment.c.ranks, sa.Text), "")
    texts = {
        "annotator": judgment.c.annotator_id,
        "sort": sort,
        "order": ranks + SEPARATOR + sa.cast(judgment.c.shown_order, sa.Text),
    }
    numbers = {
        "number": (judgment.c.number, np.int64),
        "item": (judgment.c.item_id, np.int64),
        "strength": (judgment.c.strength, np.float64),
        "both_bad": (sa.cast(judgment.c.both_bad, sa.Integer), np.bool_),
        "active_ms": (judgment.c.active_ms, np.int64),
        "at": (judgment.c.created_at, np.float64),
    }
    query = (
        assignment.current_judgments()
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .with_only_columns(*texts.values(), *(column for column, _ in numbers.values()))
    )
    known = {name: _Texts() for name in texts}
    makers = [known[name].codes for name in texts] + [partial(np.array, dtype=kind) for _, kind in numbers.values()]
    found = [[make(()) for make in makers]]
    # so that no more rows than these are held as objects
    for rows in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)).partitions():
        found.append([make(values) for make, values in zip(makers, zip(*rows, strict=True), strict=True)])
    columns = [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
    given = dict(zip((*texts, *numbers), columns, strict=True))
    # sorted here: a database reads sooner in the order of its index
    order = np.argsort(given["number"])
    said = _Said({name: column[order] for name, column in given.items()}, *(known[name].known for name in texts))
    return _standing(said, *_items(connection, campaign_id))


@dataclass(frozen=True)
class _Said:
    """Columns of judgments, and the texts that codes in three of them stand for."""

    columns: dict[str, np.ndarray]
    annotators: list[str]
    sorts: list[str]
    orders: list[str]

    def sort_is(self, place: int, text: str) -> np.ndarray:
        """Whether kind (0) or role (1) is this."""
        is_so = np.array([sort.split(SEPARATOR)[place] == text for sort in self.sorts], dtype=np.bool_)
        return is_so[self.columns["sort"]]


def _standing(
    said: _Said, kind_of: Mapping[str, str], gold: Mapping[str, tuple[int, ...]], prompts: Mapping[str, str]
) -> Standing:
    is_ranking, decides = said.sort_is(0, "ranking"), said.sort_is(1, assignment.ADJUDICATION)
    is_vote = is_ranking & ~decides
    table = _table(said, is_vote)
    is_work = np.array([kind_of[name] not in KNOWN_ANSWERS for name in table.items], dtype=np.bool_)[table.item]
    is_live = said.sort_is(1, assignment.LIVE)[is_vote]
    return Standing(
        votes=table if is_work.all() else table.where(is_work),
        with_gold=table,
        gold={name: gold[name] for name in table.items if name in gold},
        prompts=prompts,
        said=_counts(said),
        reasons=_reasons(said),
        flags=tuple(said.columns["number"][said.sort_is(0, "flag")][: -FLAGS_SHOWN - 1 : -1].tolist()),
        planned_at=table.at[is_work & ~is_live],
        num_live=int((is_live & is_work).sum()),
        num_adjudicated=int((is_ranking & decides).sum()),
    )


def _table(said: _Said, chosen: np.ndarray) -> VoteTable:
    """Rankings as votes; the sign of a strength goes, the ranks say for whom."""
    column = {name: values[chosen] for name, values in said.columns.items()}
    items, item_of = np.unique(column["item"], return_inverse=True)
    annotators = tuple(sorted(said.annotators))
    ranks, shown = ([_numbers(order.split(SEPARATOR)[part]) for order in said.orders] for part in (0, 1))
    most = max(map(len, shown), default=2)
    return VoteTable(
        items=tuple(map(str, items.tolist())),
        annotators=annotators,
        item=item_of,
        annotator=codes(said.annotators, annotators)[column["annotator"]],
        ranks=padded(ranks, most, 0)[column["order"]],
        shown=padded(shown, most, -1)[column["order"]],
        strength=np.abs(column["strength"]),
        both_bad=column["both_bad"],
        active_ms=column["active_ms"],
        at=column["at"],
    )


def _numbers(text: str) -> list[int]:
    """A list of numbers in JSON; none in a skip, which has no ranks."""
    return [int(number) for number in text.strip("[]").split(",") if number]


def _counts(said: _Said) -> dict[tuple[str, str], tuple[int, float]]:
    who, at = said.columns["annotator"], said.columns["at"]
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for kind in assignment.ANSWERS:
        chosen = said.sort_is(0, kind)
        newest = np.zeros(len(said.annotators))
        np.maximum.at(newest, who[chosen], at[chosen])
        counts = np.bincount(who[chosen], minlength=len(newest))
        for name, count, last in zip(said.annotators, counts.tolist(), newest.tolist(), strict=True):
            if count:
                found[name, kind] = (count, last)
    return found


def _reasons(said: _Said) -> tuple[tuple[str, str, int], ...]:
    found: Counter[tuple[str, str]] = Counter()
    counts = np.bincount(said.columns["sort"], minlength=len(said.sorts))
    for text, count in zip(said.sorts, counts.tolist(), strict=True):
        kind, _, reason = text.split(SEPARATOR, 2)
        if kind != "ranking":
            found[kind, reason] += count
    return tuple(sorted(((*key, count) for key, count in found.items()), key=lambda each: (-each[2], *each[:2])))


def _items(
    connection: sa.Connection, campaign_id: int
) -> tuple[dict[str, str], dict[str, tuple[int, ...]], dict[str, str]]:
    """Kind, known ranks and prompt of each item."""
    query = sa.select(item.c.id, item.c.kind, item.c.prompt_id).where(item.c.campaign_id == campaign_id)
    rows = [(str(number), kind, prompt_id) for number, kind, prompt_id in connection.execute(query)]
    known = sa.select(item.c.id, item.c.gold).where(item.c.campaign_id == campaign_id, item.c.kind.in_(KNOWN_ANSWERS))
    gold = {str(number): tuple(ranks) for number, ranks in connection.execute(known) if ranks is not None}
    return {name: kind for name, kind, _ in rows}, gold, {name: prompt_id for name, _, prompt_id in rows}


def read_responses(
    connection: sa.Connection, campaign_id: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, ...]]]:
    """Item -> characters of each response, by position; and item -> the policy behind each, where all are known.

    Policies of one name and unlike weights get the beginning of their hash behind the name.
    """
    query = (
        sa.select(
            completion.c.item_id, sa.func.length(completion.c.text), sa.func.coalesce(completion.c.policy_id, UNKNOWN)
        )
        .join(item, item.c.id == completion.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(completion.c.item_id, completion.c.position)
    )
    rows = connection.execute(query).all()
    item_ids, length, behind = np.array(list(zip(*rows, strict=True)) or [(), (), ()], dtype=np.int64)
    shown = _policy_names(connection)
    known, place = np.unique(behind, return_inverse=True)
    name = np.array([shown.get(policy_id) for policy_id in known.tolist()], dtype=object)[place]
    items, begins, sizes = np.unique(item_ids, return_index=True, return_counts=True)
    lengths: dict[str, tuple[int, ...]] = {}
    policies: dict[str, tuple[str, ...]] = {}
    for size in np.unique(sizes).tolist():
        of_size = sizes == size
        places = begins[of_size][:, None] + np.arange(size)
        names, named = np.array([*map(str, items[of_size].tolist())]), (behind[places] != UNKNOWN).all(axis=1)
        lengths.update(zip(names.tolist(), map(tuple, length[places].tolist()), strict=True))
        policies.update(zip(names[named].tolist(), map(tuple, name[places[named]].tolist()), strict=True))
    return lengths, policies


def _policy_names(connection: sa.Connection) -> dict[int, str]:
    rows = connection.execute(sa.select(policy.c.id, policy.c.name, policy.c.sha256)).all()
    counts = Counter(row.name for row in rows)
    return {
        row.id: row.name if counts[row.name] == 1 else f"{row.name} ({row.sha256[:8] or 'unknown weights'})"
        for row in rows
    }


def gold_results(connection: sa.Connection, campaign_id: int) -> dict[str, list[bool]]:
    """Annotator -> whether each gold item was right, as `annotation.gold.results` counts: the first answer."""
    query = (
        sa.select(judgment.c.annotator_id, judgment.c.item_id, judgment.c.ranks, item.c.gold)
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id == campaign_id, item.c.kind.in_(KNOWN_ANSWERS), item.c.gold.is_not(None))
        .where(judgment.c.kind == "ranking")
        .order_by(judgment.c.number)
    )
    first: dict[tuple[str, int], bool] = {}
    for row in connection.execute(query):
        first.setdefault((row.annotator_id, row.item_id), is_right(row.gold, row.ranks))
    found: dict[str, list[bool]] = {}
    for (who, _), right in first.items():
        found.setdefault(who, []).append(right)
    return found


def people(connection: sa.Connection) -> Mapping[str, Any]:
    """Annotator -> their row with `name` and `state`."""
    query = sa.select(annotator.c.id, annotator.c.name, annotator.c.state)
    return {row.id: row for row in connection.execute(query)}


def read_flags(connection: sa.Connection, numbers: Sequence[int]) -> tuple[Flag, ...]:
    """The judgments of these numbers, which are flags, the newest first."""
    query = (
        sa.select(judgment, annotator.c.name, prompt.c.messages)
        .join(item, item.c.id == judgment.c.item_id)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .join(annotator, annotator.c.id == judgment.c.annotator_id)
        .where(judgment.c.number.in_(numbers))
        .order_by(judgment.c.number.desc())
    )
    return tuple(
        Flag(
            *(row.item_id, row.annotator_id, row.name, row.reason or "", row.created_at),
            row.messages[-1]["content"][:FLAG_CHARACTERS],
        )
        for row in connection.execute(query)
    )
