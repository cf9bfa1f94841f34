"""What managers see of a campaign, as plain figures: progress, agreement, annotators, bias, ratings. No web framework.

Gold and qualification items, and what adjudicators decide, are left out of all figures of agreement, bias and ratings:
the first have a known answer, the second have seen the votes. What computes them is imported when they are asked for:
the app starts without SciPy.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from annotation import assignment, campaigns
from annotation.campaigns import Campaign
from annotation.gold import is_right
from annotation.store import Store
from annotation.tables import annotator, completion, item, judgment, policy, prompt, slot

if TYPE_CHECKING:
    from annotation.stats.agreement import KappaMatrix
    from annotation.stats.estimates import Estimate
    from annotation.stats.ratings import Ratings
    from annotation.stats.votes import Vote

CACHE_SECONDS = 30.0
HOUR = 3600.0
QUARTER = 900  # seconds; in all time zones a day begins at a whole one
PACE_HOURS = 24.0
FLAGS_SHOWN = 200
FLAG_CHARACTERS = 200  # of a prompt
LONGEST_SERIES = 60  # points of agreement over time
# Intervals are drawn again so often; from LARGE votes on a few less, or the page takes minutes.
RESAMPLES, RATING_RESAMPLES = 1000, 300
LARGE, LARGE_RESAMPLES, LARGE_RATING_RESAMPLES = 20_000, 200, 100
SERIES_RESAMPLES = 200
TOLERANCE = 1e-6  # of Dawid-Skene, per vote: far below what the page shows
KNOWN_ANSWERS = (assignment.GOLD, assignment.QUALIFICATION)


@dataclass(frozen=True)
class Overview:
    """How far a campaign is. `judgments` are rankings of the planned ones, `needed` how many are planned."""

    campaign: Campaign
    items: int
    items_done: int
    judgments: int
    needed: int
    gold: int
    qualification: int


@dataclass(frozen=True)
class Pace:
    """How fast judgments come in, and when the rest will be done: none where no pace can be told, as `note` says."""

    last_hour: int
    per_hour: float
    hours_left: float | None
    done_at: float | None
    note: str


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree; `usual` is what people reach, as a share of equal answers."""

    alpha: Estimate
    strength_alpha: Estimate
    share: Estimate
    decided_share: Estimate
    usual: tuple[float, float]


@dataclass(frozen=True)
class Worker:
    """One annotator in one campaign.

    Attributes:
        annotator, name, state: the pseudonym, the name (none once erased), active, paused or closed.
        judgments, skips, flags: that stand, gold included.
        per_hour, median_seconds: of active time; None where no time was kept.
        gold: share of gold items that were right at first, with its interval.
        reliability: how often they are expected to be right, by Dawid-Skene; None without votes.
        left: how often the left response of a pair won.
        suspicion, reasons: from 0 to 1, and why, as `annotation.stats.annotators` says.
        last_at: their newest judgment, in seconds since 1970.
    """

    annotator: str
    name: str | None
    state: str
    judgments: int
    skips: int
    flags: int
    per_hour: float | None
    median_seconds: float | None
    gold: Estimate
    reliability: float | None
    left: Estimate
    suspicion: float | None
    reasons: tuple[str, ...]
    last_at: float


@dataclass(frozen=True)
class Bias:
    """What sways a campaign's votes beside the responses, and how often there was no decision.

    `mean_ranks` are those of the places from left to right, by number of responses, for rankings.
    """

    left: Estimate
    longer: Estimate
    ties: Estimate
    both_bad: Estimate
    mean_ranks: Mapping[int, tuple[float, ...]]


@dataclass(frozen=True)
class Answers:
    """What was said: rankings, skips, flags, and (kind, reason, how often) of the latter two, the most frequent first.

    `live` are rankings of annotators' own prompts, `adjudicated` those of adjudicators.
    """

    rankings: int
    skips: int
    flags: int
    live: int
    adjudicated: int
    reasons: tuple[tuple[str, str, int], ...]


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
class Figures:
    """All of a campaign, as of `at`. `ratings` is None where no two policies met."""

    at: float
    overview: Overview
    pace: Pace
    agreement: Agreement
    workers: tuple[Worker, ...]
    bias: Bias
    answers: Answers
    ratings: Ratings | None
    kappa: KappaMatrix
    flags: tuple[Flag, ...]
    per_day: tuple[tuple[str, int], ...]
    agreement_over_time: tuple[tuple[float, Estimate], ...]


@dataclass(frozen=True)
class Table:
    """Rows under columns of a name and a kind.

    Kinds: "text", "count", "share" (0 to 1), "number", "time" (seconds since 1970).
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]


class Dashboard:
    """The figures of a store's campaigns, each kept for `CACHE_SECONDS`. Any thread may call."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time):
        self.store = store
        self.clock = clock
        self._known: dict[int, Figures] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def overviews(self) -> list[Overview]:
        """All campaigns, as they are now."""
        with self.store.reading() as connection:
            return overviews(connection)

    def figures(self, campaign_id: int) -> Figures:
        """A campaign's figures, up to `CACHE_SECONDS` old; who asks at once waits for the same ones.

        Raises:
            campaigns.CampaignError: there is no such campaign.
        """
        with self._lock:
            own = self._locks.setdefault(campaign_id, threading.Lock())
        with own:
            known = self._known.get(campaign_id)
            now = self.clock()
            if known is None or not 0 <= now - known.at < CACHE_SECONDS:
                known = self._known[campaign_id] = read_figures(self.store, campaign_id, now=now)
            return known

    def forget(self, campaign_id: int) -> None:
        """Look again at the next call."""
        self._known.pop(campaign_id, None)


def overviews(connection: sa.Connection, campaign_id: int | None = None) -> list[Overview]:
    """How far all campaigns are, or one."""
    open_items = sa.func.count(sa.distinct(slot.c.item_id)).filter(slot.c.state != "judged")
    items = sa.func.count(sa.distinct(slot.c.item_id))
    judged = sa.func.count().filter(slot.c.state == "judged")
    planned = (
        sa.select(
            slot.c.campaign_id,
            items.label("items"),
            open_items.label("open_items"),
            judged.label("judged"),
            sa.func.count().label("needed"),
        )
        .where(slot.c.kind == assignment.WORK)
        .group_by(slot.c.campaign_id)
    )
    known = (
        sa.select(item.c.campaign_id, item.c.kind, sa.func.count().label("count"))
        .where(item.c.kind.in_(KNOWN_ANSWERS))
        .group_by(item.c.campaign_id, item.c.kind)
    )
    found = campaigns.all_campaigns(connection) if campaign_id is None else [campaigns.find(connection, campaign_id)]
    if campaign_id is not None:
        planned = planned.where(slot.c.campaign_id == campaign_id)
        known = known.where(item.c.campaign_id == campaign_id)
    slots = {row.campaign_id: row for row in connection.execute(planned)}
    golds = {(number, kind): count for number, kind, count in connection.execute(known)}
    told = []
    for each in found:
        row = slots.get(each.id)
        counts = (row.items, row.items - row.open_items, row.judged, row.needed) if row else (0, 0, 0, 0)
        told.append(Overview(each, *counts, *(golds.get((each.id, kind), 0) for kind in KNOWN_ANSWERS)))
    return told


def read_figures(store: Store, campaign_id: int, *, now: float) -> Figures:
    """A campaign's figures as of `now`, looked up and computed.

    Raises:
        campaigns.CampaignError: there is no such campaign.
    """
    from annotation.stats.agreement import (
        ORDINARY_AGREEMENT,
        kappa_matrix,
        percent_agreement,
        preference_alpha,
        strength_alpha,
    )
    from annotation.stats.bias import (
        both_bad_share,
        left_share,
        length_bias,
        mean_ranks_by_place,
        tie_share,
        time_left,
    )

    with store.reading() as connection:
        (overview,) = overviews(connection, campaign_id)
        read = _votes(connection, campaign_id)
        said = _counts(connection, campaign_id)
        right = _gold_results(connection, campaign_id)
        names = sa.select(annotator.c.id, annotator.c.name, annotator.c.state)
        people = {row.id: row for row in connection.execute(names)}
        reasons = _reasons(connection, campaign_id)
        flags = _flags(connection, campaign_id)
        lengths = _lengths(connection, campaign_id) if read.votes else {}
        policies = _policies(connection, campaign_id) if read.votes else {}
    votes = read.votes
    resamples = LARGE_RESAMPLES if len(votes) > LARGE else RESAMPLES
    left = time_left(read.planned, overview.needed - overview.judgments, now=now, hours=PACE_HOURS)
    lately = sum(now - HOUR < vote.at <= now for vote in read.planned)
    return Figures(
        at=now,
        overview=overview,
        pace=Pace(lately, left.votes_per_hour, left.hours, left.at, left.note),
        agreement=Agreement(
            alpha=preference_alpha(votes, resamples=resamples),
            strength_alpha=strength_alpha(votes, resamples=resamples),
            share=percent_agreement(votes, resamples=resamples),
            decided_share=percent_agreement(votes, decided_only=True, resamples=resamples),
            usual=ORDINARY_AGREEMENT,
        ),
        workers=_workers(read, said, right, people),
        bias=Bias(
            left=left_share(votes),
            longer=length_bias(votes, lengths),
            ties=tie_share(votes),
            both_bad=both_bad_share(votes),
            mean_ranks=mean_ranks_by_place(votes),
        ),
        answers=_answers(said, read, reasons),
        ratings=_ratings(votes, policies, read.prompts),
        kappa=kappa_matrix(votes),
        flags=flags,
        per_day=per_day(read.with_gold),
        agreement_over_time=agreement_over_time(votes),
    )


# ---- reading the store ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """Rankings that stand.

    Attributes:
        votes: those that agreement and bias are taken from.
        planned: of them, all but those on annotators' own prompts.
        with_gold: `votes`, and those on items with a known answer.
        gold: item -> its known ranks.
        prompts: item -> prompt.
        adjudicated: how many an adjudicator gave.
    """

    votes: list[Vote]
    planned: list[Vote]
    with_gold: list[Vote]
    gold: dict[str, tuple[int, ...]]
    prompts: dict[str, str]
    adjudicated: int


def _votes(connection: sa.Connection, campaign_id: int) -> _Read:
    from annotation.stats.votes import Vote

    current = assignment.current_judgments(kinds=("ranking",)).subquery()
    # texts, and each read once: few orders and rankings are many rows
    query = (
        sa.select(
            *(current.c.item_id, current.c.annotator_id, current.c.role, current.c.strength, current.c.both_bad),
            *(current.c.active_ms, current.c.created_at),
            sa.cast(current.c.ranks, sa.Text).label("ranks"),
            sa.cast(current.c.shown_order, sa.Text).label("shown_order"),
            *(item.c.kind, item.c.prompt_id, sa.cast(item.c.gold, sa.Text).label("gold")),
        )
        .join(item, item.c.id == current.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(current.c.number)
    )
    numbers: dict[str, tuple[int, ...]] = {}
    read = _Read([], [], [], {}, {}, 0)
    adjudicated = 0

    def parsed(text: str) -> tuple[int, ...]:
        found = numbers.get(text)
        if found is None:
            found = numbers[text] = tuple(int(number) for number in text.strip("[]").split(","))
        return found

    for row in connection.execute(query):
        if row.role == assignment.ADJUDICATION:
            adjudicated += 1
            continue
        item_id = str(row.item_id)
        vote = Vote(
            item=item_id,
            annotator=row.annotator_id,
            ranks=parsed(row.ranks),
            shown_order=parsed(row.shown_order),
            strength=None if row.strength is None else abs(row.strength),
            both_bad=bool(row.both_bad),
            active_ms=row.active_ms,
            at=row.created_at,
        )
        read.with_gold.append(vote)
        if row.kind in KNOWN_ANSWERS:
            if row.gold is not None:
                read.gold[item_id] = parsed(row.gold)
            continue
        read.votes.append(vote)
        read.prompts[item_id] = row.prompt_id
        if row.role != assignment.LIVE:
            read.planned.append(vote)
    return _Read(read.votes, read.planned, read.with_gold, read.gold, read.prompts, adjudicated)


def _counts(connection: sa.Connection, campaign_id: int) -> dict[tuple[str, str], tuple[int, float]]:
    """(annotator, kind) -> how many of their judgments stand, and when the newest was given."""
    current = assignment.current_judgments().subquery()
    query = (
        sa.select(current.c.annotator_id, current.c.kind, sa.func.count(), sa.func.max(current.c.created_at))
        .join(item, item.c.id == current.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .group_by(current.c.annotator_id, current.c.kind)
    )
    return {(who, kind): (count, at) for who, kind, count, at in connection.execute(query)}


def _gold_results(connection: sa.Connection, campaign_id: int) -> dict[str, list[bool]]:
    """Annotator -> whether each gold item was right, as `annotation.gold.results` counts: the first answer."""
    after = judgment.alias("after")
    taken_back = sa.exists().where(after.c.supersedes == judgment.c.number, after.c.kind == "undo")
    query = (
        sa.select(judgment.c.annotator_id, judgment.c.item_id, judgment.c.ranks, item.c.gold)
        .join(item, item.c.id == judgment.c.item_id)
        .where(item.c.campaign_id == campaign_id, item.c.kind.in_(KNOWN_ANSWERS), item.c.gold.is_not(None))
        .where(judgment.c.kind == "ranking", ~taken_back)
        .order_by(judgment.c.number)
    )
    first: dict[tuple[str, int], bool] = {}
    for row in connection.execute(query):
        first.setdefault((row.annotator_id, row.item_id), is_right(row.gold, row.ranks))
    found: dict[str, list[bool]] = {}
    for (who, _), right in first.items():
        found.setdefault(who, []).append(right)
    return found


def _reasons(connection: sa.Connection, campaign_id: int) -> tuple[tuple[str, str, int], ...]:
    current = assignment.current_judgments(kinds=("skip", "flag")).subquery()
    reason = sa.func.coalesce(current.c.reason, "").label("reason")
    query = (
        sa.select(current.c.kind, reason, sa.func.count().label("count"))
        .join(item, item.c.id == current.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .group_by(current.c.kind, reason)
        .order_by(sa.desc("count"), current.c.kind, reason)
    )
    return tuple((row.kind, row.reason, row._mapping["count"]) for row in connection.execute(query))


def _flags(connection: sa.Connection, campaign_id: int) -> tuple[Flag, ...]:
    """The newest flags that stand."""
    current = assignment.current_judgments(kinds=("flag",)).subquery()
    query = (
        sa.select(current, annotator.c.name, prompt.c.messages)
        .join(item, item.c.id == current.c.item_id)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .join(annotator, annotator.c.id == current.c.annotator_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(current.c.number.desc())
        .limit(FLAGS_SHOWN)
    )
    return tuple(
        Flag(
            *(row.item_id, row.annotator_id, row.name, row.reason or "", row.created_at),
            row.messages[-1]["content"][:FLAG_CHARACTERS],
        )
        for row in connection.execute(query)
    )


def _lengths(connection: sa.Connection, campaign_id: int) -> dict[str, tuple[int, ...]]:
    """Item -> characters of each response, by position."""
    query = (
        sa.select(completion.c.item_id, sa.func.length(completion.c.text))
        .join(item, item.c.id == completion.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(completion.c.item_id, completion.c.position)
    )
    return _by_item(connection.execute(query))


def _policies(connection: sa.Connection, campaign_id: int) -> dict[str, tuple[str, ...]]:
    """Item -> the policy behind each response, by position; only items of which all are known.

    Policies of one name and unlike weights get the beginning of their hash behind the name.
    """
    rows = connection.execute(sa.select(policy.c.id, policy.c.name, policy.c.sha256)).all()
    names = [row.name for row in rows]
    shown = {
        row.id: row.name if names.count(row.name) == 1 else f"{row.name} ({row.sha256[:8] or 'unknown weights'})"
        for row in rows
    }
    query = (
        sa.select(completion.c.item_id, completion.c.policy_id)
        .join(item, item.c.id == completion.c.item_id)
        .where(item.c.campaign_id == campaign_id)
        .order_by(completion.c.item_id, completion.c.position)
    )
    found = _by_item((item_id, shown.get(policy_id)) for item_id, policy_id in connection.execute(query))
    return {item_id: of_item for item_id, of_item in found.items() if None not in of_item}


def _by_item(rows: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, list[Any]] = {}
    for item_id, value in rows:
        found.setdefault(str(item_id), []).append(value)
    return {item_id: tuple(values) for item_id, values in found.items()}


# ---- figures --------------------------------------------------------------------------------------------------


def _workers(
    read: _Read,
    said: Mapping[tuple[str, str], tuple[int, float]],
    right: Mapping[str, Sequence[bool]],
    people: Mapping[str, Any],
) -> tuple[Worker, ...]:
    """Everybody of whom something stands, the most suspicious first."""
    from annotation.stats.annotators import suspicions
    from annotation.stats.bias import left_share, pace_by_annotator
    from annotation.stats.dawid_skene import fit_dawid_skene
    from annotation.stats.estimates import share
    from annotation.stats.votes import pair_labels

    paces = pace_by_annotator(read.with_gold)
    reliability: dict[str, float] = {}
    if read.votes:
        fit = fit_dawid_skene(pair_labels(read.votes), tolerance=TOLERANCE)
        reliability = dict(zip(fit.annotators, map(float, fit.reliability), strict=True))
    by_annotator: dict[str, list[Vote]] = {}
    for vote in read.votes:
        by_annotator.setdefault(vote.annotator, []).append(vote)
    suspected = {found.annotator: found for found in suspicions(read.with_gold, read.gold)}
    workers = []
    for who in sorted({who for who, _ in said}):
        counts = {kind: said.get((who, kind), (0, 0.0)) for kind in assignment.ANSWERS}
        pace, suspicion, answers = paces.get(who), suspected.get(who), right.get(who, ())
        workers.append(
            Worker(
                annotator=who,
                name=people[who].name,
                state=people[who].state,
                judgments=counts["ranking"][0],
                skips=counts["skip"][0],
                flags=counts["flag"][0],
                per_hour=None if pace is None else pace.items_per_hour,
                median_seconds=None if pace is None else pace.median_seconds,
                gold=share(sum(answers), len(answers)),
                reliability=reliability.get(who),
                left=left_share(by_annotator.get(who, [])),
                suspicion=None if suspicion is None else suspicion.score,
                reasons=() if suspicion is None else tuple(suspicion.reasons),
                last_at=max(at for _, at in counts.values()),
            )
        )
    return tuple(sorted(workers, key=lambda worker: (-(worker.suspicion or 0.0), worker.annotator)))


def _answers(
    said: Mapping[tuple[str, str], tuple[int, float]], read: _Read, reasons: tuple[tuple[str, str, int], ...]
) -> Answers:
    totals = {kind: sum(count for (_, of), (count, _) in said.items() if of == kind) for kind in assignment.ANSWERS}
    live = len(read.votes) - len(read.planned)
    return Answers(totals["ranking"], totals["skip"], totals["flag"], live, read.adjudicated, reasons)


def _ratings(
    votes: Sequence[Vote], policies: Mapping[str, tuple[str, ...]], prompts: Mapping[str, str]
) -> Ratings | None:
    from annotation.stats.ratings import rate_policies

    rated = [vote for vote in votes if len(set(policies.get(vote.item, ()))) > 1]
    if not rated:
        return None
    resamples = LARGE_RATING_RESAMPLES if len(rated) > LARGE else RATING_RESAMPLES
    return rate_policies(rated, policies, prompts=prompts, resamples=resamples)


def per_day(votes: Sequence[Vote]) -> tuple[tuple[str, int], ...]:
    """(date, votes) from the first day to the last one without gaps, by this machine's clock."""
    counts: Counter[int] = Counter()
    for quarter, count in Counter(int(vote.at // QUARTER) for vote in votes).items():
        counts[_day(quarter * QUARTER)] += count
    if not counts:
        return ()
    return tuple((date.fromordinal(day).isoformat(), counts[day]) for day in range(min(counts), max(counts) + 1))


def agreement_over_time(votes: Sequence[Vote]) -> tuple[tuple[float, Estimate], ...]:
    """(begin of a day, percent agreement on the items that got their last vote on it), days without such ones left out.

    Of more than `LONGEST_SERIES` days, stretches of several days.
    """
    from annotation.stats.agreement import percent_agreement

    last: dict[str, int] = {}
    num_votes: Counter[str] = Counter()
    for vote in votes:
        last[vote.item] = max(last.get(vote.item, 0), int(vote.at // QUARTER))
        num_votes[vote.item] += 1
    shared = {item_id: quarter for item_id, quarter in last.items() if num_votes[item_id] > 1}
    if not shared:
        return ()
    day_of = {quarter: _day(quarter * QUARTER) for quarter in set(shared.values())}
    first = min(day_of.values())
    width = math.ceil((max(day_of.values()) - first + 1) / LONGEST_SERIES)
    stretches: dict[int, list[Vote]] = {}
    for vote in votes:
        if vote.item in shared:
            stretches.setdefault((day_of[shared[vote.item]] - first) // width, []).append(vote)
    return tuple(
        (_midnight(first + stretch * width), percent_agreement(stretches[stretch], resamples=SERIES_RESAMPLES))
        for stretch in sorted(stretches)
    )


def _day(at: float) -> int:
    """The day of a time by this machine's clock, counted from the year 1."""
    return date(*time.localtime(at)[:3]).toordinal()


def _midnight(day: int) -> float:
    return time.mktime((*date.fromordinal(day).timetuple()[:3], 0, 0, 0, 0, 0, -1))


# ---- tables ---------------------------------------------------------------------------------------------------

# columns of an estimate
ESTIMATE = (("value", "share"), ("low", "share"), ("high", "share"), ("n", "count"), ("note", "text"))


def tables(figures: Figures) -> dict[str, Table]:
    """All figures as tables, by name."""
    overview, pace, agreement, bias, answers = (
        *(figures.overview, figures.pace, figures.agreement, figures.bias, figures.answers),
    )
    progress = Table(
        (
            *(("campaign", "text"), ("state", "text"), ("items", "count"), ("items_done", "count")),
            *(("judgments", "count"), ("needed", "count"), ("last_hour", "count"), ("per_hour", "number")),
            *(("hours_left", "number"), ("done_at", "time"), ("note", "text")),
        ),
        (
            (
                *(overview.campaign.name, overview.campaign.state, overview.items, overview.items_done),
                *(overview.judgments, overview.needed, pace.last_hour, pace.per_hour),
                *(pace.hours_left, pace.done_at, pace.note),
            ),
        ),
    )
    found = {
        "progress": progress,
        "agreement": _estimates(
            {
                "alpha": agreement.alpha,
                "strength_alpha": agreement.strength_alpha,
                "agreement": agreement.share,
                "decided_agreement": agreement.decided_share,
            },
            kind="number",
        ),
        "annotators": _workers_table(figures.workers),
        "bias": _estimates({"left": bias.left, "longer": bias.longer, "ties": bias.ties, "both_bad": bias.both_bad}),
        "places": Table(
            (("responses", "count"), ("place", "count"), ("mean_rank", "number")),
            tuple(
                (size, place, mean)
                for size, means in bias.mean_ranks.items()
                for place, mean in enumerate(means, start=1)
            ),
        ),
        "answers": Table(
            (("kind", "text"), ("reason", "text"), ("count", "count")),
            (
                *(("ranking", "", answers.rankings), ("skip", "", answers.skips), ("flag", "", answers.flags)),
                *(("live", "", answers.live), ("adjudication", "", answers.adjudicated)),
            ),
        ),
        "reasons": Table((("kind", "text"), ("reason", "text"), ("count", "count")), answers.reasons),
        "flags": Table(
            (
                *(("at", "time"), ("item", "count"), ("annotator", "text"), ("name", "text")),
                *(("reason", "text"), ("prompt", "text")),
            ),
            tuple((f.at, f.item_id, f.annotator, f.name, f.reason, f.prompt) for f in figures.flags),
        ),
        "per_day": Table((("day", "text"), ("judgments", "count")), figures.per_day),
        "agreement_over_time": Table(
            (("day", "text"), *ESTIMATE[:4]),
            tuple(
                (date(*time.localtime(at)[:3]).isoformat(), each.value, each.low, each.high, each.n)
                for at, each in figures.agreement_over_time
            ),
        ),
        "kappa": Table(
            (("annotator", "text"), *((who, "number") for who in figures.kappa.annotators)),
            tuple((who, *row) for who, row in zip(figures.kappa.annotators, figures.kappa.kappa, strict=True)),
        ),
    }
    return found | _ratings_tables(figures.ratings)


def _estimates(rows: Mapping[str, Estimate], *, kind: str = "share") -> Table:
    columns = tuple((name, kind if of == "share" else of) for name, of in ESTIMATE)
    return Table(
        (("measure", "text"), *columns),
        tuple((name, each.value, each.low, each.high, each.n, each.note) for name, each in rows.items()),
    )


def _workers_table(workers: Sequence[Worker]) -> Table:
    columns = (
        *(("annotator", "text"), ("name", "text"), ("state", "text"), ("judgments", "count"), ("skips", "count")),
        *(("flags", "count"), ("per_hour", "number"), ("median_seconds", "number"), ("gold", "share")),
        *(("gold_low", "share"), ("gold_high", "share"), ("gold_n", "count"), ("reliability", "share")),
        *(("left", "share"), ("left_low", "share"), ("left_high", "share"), ("left_n", "count")),
        *(("suspicion", "share"), ("reasons", "text"), ("last_at", "time")),
    )
    return Table(
        columns,
        tuple(
            (
                *(each.annotator, each.name, each.state, each.judgments, each.skips),
                *(each.flags, each.per_hour, each.median_seconds, each.gold.value),
                *(each.gold.low, each.gold.high, each.gold.n, each.reliability),
                *(each.left.value, each.left.low, each.left.high, each.left.n),
                *(each.suspicion, "; ".join(each.reasons), each.last_at),
            )
            for each in workers
        ),
    )


def _ratings_tables(ratings: Ratings | None) -> dict[str, Table]:
    rated = () if ratings is None else ratings.ratings
    wins = () if ratings is None else ratings.win_rates
    return {
        "ratings": Table(
            (("policy", "text"), ("points", "number"), ("low", "number"), ("high", "number"), ("comparisons", "count")),
            tuple((each.policy, each.points, each.low, each.high, each.comparisons) for each in rated),
        ),
        "win_rates": Table(
            (("policy", "text"), *((each.policy, "share") for each in rated)),
            tuple((each.policy, *row) for each, row in zip(rated, wins, strict=True)),
        ),
    }
