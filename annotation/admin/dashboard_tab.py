"""The dashboard: how a campaign stands."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotation.admin.desk import Call, Desk, in_words, links, shown, table_html
from annotation.dashboard import Figures
from annotation.figure_tables import Table, tables
from annotation.overview import Overview, Pace
from annotation.reliability import Agreement

if TYPE_CHECKING:
    from annotation.stats.estimates import Estimate

API = "/api/v1/manage"
TIMER_SECONDS = 60
PLOTS = ("judgments_per_day", "agreement_over_time")
# in the order of the page; of a table's name, the plot that stands above it
SECTIONS = (
    ("agreement", None),
    ("annotators", "suspicion"),
    ("bias", None),
    ("places", None),
    ("answers", None),
    ("reasons", None),
    ("ratings", "ratings"),
    ("win_rates", None),
    ("flags", None),
)
TRANSLATED = ("measure", "kind", "state")


@dataclass(frozen=True)
class Parts:
    """The tab: what shows a campaign, functions of the call and its number, the components they fill, and its timer.

    `show_overview` fills `overview` with what is known at once, `show` fills `figures`, with all.
    """

    show_overview: Callable[[Call, int | None], list[Any]]
    overview: list[Any]
    show: Callable[[Call, int | None], list[Any]]
    figures: list[Any]
    timer: Any


def build(desk: Desk, chosen: Any) -> Parts:
    """Components and events of the tab, for the campaign that is `chosen`."""
    gr, say = desk.gr, desk.say
    with gr.Row(elem_classes="bar"):
        refresh = gr.Button(say("refresh"), size="sm", scale=0, min_width=120)
        updated = gr.HTML(elem_classes="grow")
    campaigns = desk.table()
    headline = gr.HTML()
    plots = gr.HTML()
    frames = []
    for name, _ in SECTIONS:
        with gr.Accordion(say(f"table.{name}"), open=name in ("agreement", "annotators", "flags")):
            picture = gr.HTML()
            table = desk.table()
            files = gr.HTML()
        frames += [picture, table, files]
    more = gr.HTML()

    live = [updated, campaigns, headline, plots]
    everything = [*live, *frames, more]

    def show_overview(call: Call, campaign_id: int | None) -> list[Any]:
        """What is counted at once, before the votes are read."""
        table = _overviews_html(desk.dashboard.overviews(), call.words)
        if campaign_id is None:
            return [table, ""]
        return [table, headline_html(*desk.dashboard.overview(campaign_id), call.words)]

    def show_live(call: Call, campaign_id: int | None) -> list[Any]:
        overview_table = _overviews_html(desk.dashboard.overviews(), call.words)
        if campaign_id is None:
            return ["", overview_table, f"<p>{html.escape(call.words['no_campaign'])}</p>", ""]
        figures = desk.dashboard.figures(campaign_id)
        at = call.words["updated"].format(time=shown(figures.at, "time"))
        head = headline_html(figures.overview, figures.pace, call.words, figures.agreement)
        drawn = {"judgments_per_day": figures.per_day, "agreement_over_time": figures.agreement_over_time}
        pictures = "".join(plot_html(name, figures, call.words) for name in PLOTS if drawn[name])
        return [f'<p class="soft">{html.escape(at)}</p>', overview_table, head, pictures]

    def show(call: Call, campaign_id: int | None) -> list[Any]:
        filled = show_live(call, campaign_id)
        if campaign_id is None:
            return [*filled, *("" for _ in everything[len(live) :])]
        figures = desk.dashboard.figures(campaign_id)
        found = tables(figures)
        of_page = found | {"annotators": annotators_table(figures, call.words)}
        if not figures.answers.rankings:
            # measures of nothing
            of_page |= {name: Table((), ()) for name in ("agreement", "bias")}
        for name, plot in SECTIONS:
            filled += [
                plot_html(plot, figures, call.words) if plot and found[name].rows else "",
                table_html(of_page[name], call.words, call.words[f"table.{name}"], translated=TRANSLATED),
                links([(call.words["csv"], table_address(campaign_id, name))]),
            ]
        others = [name for name in found if name not in dict(SECTIONS)]
        named = [(f"{call.words[f'table.{name}']} ({call.words['csv']})", name) for name in others]
        filled.append(links([(text, table_address(campaign_id, name)) for text, name in named]))
        return filled

    def look_again(call: Call, campaign_id: int | None) -> list[Any]:
        if campaign_id is not None:
            desk.dashboard.forget(campaign_id)
        return show(call, campaign_id)

    desk.on(refresh.click, look_again, [chosen], everything, progress="minimal")
    timer = gr.Timer(TIMER_SECONDS)
    desk.on(timer.tick, show_live, [chosen], live)
    return Parts(show_overview, [campaigns, headline], show, everything, timer)


def _overviews_html(overviews: list[Overview], words: Mapping[str, str]) -> str:
    table = Table(
        (
            *(("campaign", "text"), ("state", "text"), ("items", "count"), ("items_done", "count")),
            *(("judgments", "count"), ("needed", "count"), ("overlap", "count"), ("gold_items", "count")),
            ("qualification_items", "count"),
        ),
        tuple(
            (
                *(each.campaign.name, each.campaign.state, each.items, each.items_done, each.judgments),
                *(each.needed, each.campaign.overlap, each.gold, each.qualification),
            )
            for each in overviews
        ),
    )
    return table_html(table, words, words["table.campaigns"], translated=TRANSLATED, captioned=True)


def annotators_table(figures: Figures, words: Mapping[str, str]) -> Table:
    """What a manager reads first comes first, and an interval stands with its number."""

    def with_interval(estimate: Estimate) -> str | None:
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return None
        low, high = f"{100 * estimate.low:.0f}", f"{100 * estimate.high:.0f}"
        told = words["interval.short"].format(value=shown(estimate.value, "share"), low=low, high=high, n=estimate.n)
        return told.replace(" ", "\u00a0")  # on one line

    columns = (
        *(("name", "text"), ("state", "text"), ("all_judgments", "count"), ("suspicion", "share")),
        *(("reasons", "text"), ("gold", "text"), ("reliability", "share"), ("left", "text"), ("per_hour", "number")),
        *(("median_seconds", "number"), ("skips", "count"), ("flags", "count"), ("last_at", "time")),
        ("annotator", "text"),
    )
    return Table(
        columns,
        tuple(
            (
                *(each.name, each.state, each.judgments, each.suspicion),
                "; ".join(in_words(reason, words) for reason in each.reasons),
                *(with_interval(each.gold), each.reliability, with_interval(each.left), each.per_hour),
                *(each.median_seconds, each.skips, each.flags, each.last_at, each.annotator),
            )
            for each in figures.workers
        ),
    )


def headline_html(overview: Overview, pace: Pace, words: Mapping[str, str], agreement: Agreement | None = None) -> str:
    """The figures that a manager looks at first, as HTML with all texts escaped; agreement is left out until known."""
    is_done = overview.judgments >= overview.needed
    left = words["nothing_left"] if is_done else shown(pace.done_at, "time")
    of_pace = "" if is_done else in_words(pace.note, words)
    if not is_done and overview.judgments and not pace.last_hour:
        of_pace = words["headline.nobody_works"]
    cards = [
        _card(
            words["headline.items"],
            f"{overview.items_done} / {overview.items}",
            "",
            _share(overview.items_done, overview.items),
        ),
        _card(
            words["headline.judgments"],
            f"{overview.judgments} / {overview.needed}",
            "",
            _share(overview.judgments, overview.needed),
        ),
        _card(
            words["headline.pace"],
            shown(pace.per_hour, "number"),
            words["headline.last_hour"].format(count=pace.last_hour),
        ),
        _card(words["headline.done_at"], left, of_pace),
    ]
    if agreement is not None:
        low, high = agreement.usual
        cards += [
            _card(
                words["headline.agreement"],
                shown(agreement.share.value, "share"),
                _interval(agreement.share, "share", words),
                agreement.share.value,
                (low, high),
                words["headline.usual"].format(low=f"{100 * low:.0f}", high=f"{100 * high:.0f}"),
            ),
            _card(
                words["headline.alpha"],
                shown(agreement.alpha.value, "number"),
                _interval(agreement.alpha, "number", words),
            ),
        ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _interval(estimate: Estimate, kind: str, words: Mapping[str, str]) -> str:
    if estimate.low is None or estimate.high is None:
        return in_words(estimate.note, words)
    told = words["interval"].format(low=shown(estimate.low, kind), high=shown(estimate.high, kind), n=estimate.n)
    return f"{told}; {in_words(estimate.note, words)}" if estimate.note else told


def _share(done: int, total: int) -> float | None:
    return done / total if total else None


def _card(
    title: str,
    value: str,
    note: str,
    share: float | None = None,
    band: tuple[float, float] | None = None,
    band_note: str = "",
) -> str:
    bar = ""
    if share is not None:
        marks = (
            f'<i class="band" style="left: {100 * band[0]:.0f}%; width: {100 * (band[1] - band[0]):.0f}%"></i>'
            if band
            else ""
        )
        bar = (
            f'<div class="meter" aria-hidden="true"><i class="fill" style="width: {100 * share:.1f}%"></i>{marks}</div>'
        )
    notes = "".join(f'<p class="soft">{html.escape(each)}</p>' for each in (note, band_note) if each)
    return (
        f'<div class="card"><p class="soft">{html.escape(title)}</p><p class="figure">{html.escape(value)}</p>'
        f"{bar}{notes}</div>"
    )


def plot_html(name: str, figures: Figures, words: Mapping[str, str]) -> str:
    """A plot as a picture of this app with its description, and a link to the same as PNG."""
    address = f"{API}/campaigns/{figures.overview.campaign.id}/plots/{name}"
    title = html.escape(words[f"plot.{name}"])
    return (
        f'<figure class="plot"><figcaption>{title}</figcaption>'
        f'<img src="{address}.svg?at={figures.at:.0f}" alt="{title}">'
        f'<p class="links"><a href="{address}.png" download>PNG</a> <a href="{address}.svg" download>SVG</a></p>'
        "</figure>"
    )


def table_address(campaign_id: int, name: str) -> str:
    """Where a table is to be had as CSV."""
    return f"{API}/campaigns/{campaign_id}/tables/{name}.csv"
