"""The figures of a campaign as tables: what the page shows, and what is to be had as CSV."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from annotation.dashboard import Figures
from annotation.reliability import Worker

if TYPE_CHECKING:
    from annotation.stats.estimates import Estimate
    from annotation.stats.ratings import Ratings

# columns of an estimate
ESTIMATE = (("value", "share"), ("low", "share"), ("high", "share"), ("n", "count"), ("note", "text"))


@dataclass(frozen=True)
class Table:
    """Rows under columns of a name and a kind.

    Kinds: "text", "count", "share" (0 to 1), "number", "time" (seconds since 1970).
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]


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
