"""What managers see, against tables counted by hand, on a real SQLite file and a real PostgreSQL server."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import time
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa

from annotation import campaigns, gold, managing
from annotation.admin.dashboard_tab import annotators_table, headline_html
from annotation.admin.desk import table_html
from annotation.admin.words import language_of, words_in
from annotation.cards import show
from annotation.dashboard import Dashboard, Figures
from annotation.figure_tables import Table, tables
from annotation.importing import import_comparisons
from annotation.plots import PLOTS, draw_plot
from annotation.records import GoldScore, Judgment, Said
from annotation.reliability import per_day
from annotation.routes.manage import csv_answer
from annotation.service import AnnotationService
from annotation.stats.remarks import ENGLISH
from annotation.store import Store
from annotation.tables import audit as audit_entry
from annotation.tables import item, slot
from rlhf.data.comparisons import DataError
from tests.annotation.items import comparison
from tests.annotation.saying import Desk

DAY = 24 * 3600.0


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest.fixture
def dashboard(store: Store) -> Dashboard:
    return Dashboard(store, clock=lambda: 1000.0)


def two_policies(number: int) -> object:
    """ "N" is from `runs/a` and 6 characters long, "N ..." from `runs/b` and longer."""
    first, second = comparison(number).responses
    responses = (
        dataclasses.replace(first, text=f"short{number}", policy="runs/a"),
        dataclasses.replace(second, text=f"long answer {number}", policy="runs/b"),
    )
    return dataclasses.replace(comparison(number), responses=responses)


def row_of(table: Table, first: str) -> dict[str, object]:
    """The row that begins so, by the names of its columns."""
    names = [name for name, _ in table.columns]
    return next(dict(zip(names, row, strict=True)) for row in table.rows if row[0] == first)


# ---- figures --------------------------------------------------------------------------------------------------


def test_agreement_bias_and_ratings_are_those_counted_by_hand(desk: Desk, dashboard: Dashboard) -> None:
    """Four items, two annotators:

    item  ann                 bob                 shown to both
    1     first               first               first left
    2     second              first               second left
    3     tie, both bad       tie                 first left
    4     first               first               second left
    """
    items = desk.add(*(two_policies(number) for number in range(1, 5)))
    orders = [[0, 1], [1, 0], [0, 1], [1, 0]]
    said = {"ann": [(1, 2), (2, 1), (1, 1), (1, 2)], "bob": [(1, 2), (1, 2), (1, 1), (1, 2)]}
    for who, rankings in said.items():
        for item_id, ranks, order in zip(items, rankings, orders, strict=True):
            bad = ranks == (1, 1) and who == "ann"
            desk.say(item_id, who, ranks, shown_order=order, both_bad=bad, active_ms=2000 if who == "ann" else 4000)
    figures = dashboard.figures(1)

    assert figures.agreement.share.value == 3 / 4
    # without ties: three items, two of which agree
    assert figures.agreement.decided_share.value == pytest.approx(2 / 3)
    # Krippendorff, nominal: 8 values, five first, one second, two tie; one pair of eight disagrees.
    # observed 2 / 8; expected (64 - 25 - 1 - 4) / (8 * 7)
    assert figures.agreement.alpha.value == pytest.approx(1 - (2 / 8) / (34 / 56))
    # decided and the left one preferred: item 1 twice, item 2 by ann; not item 2 by bob, not item 4 twice
    assert figures.bias.left.value == pytest.approx(3 / 6)
    assert figures.bias.ties.value == pytest.approx(2 / 8)
    assert figures.bias.both_bad.value == pytest.approx(1 / 8)
    # the second response is the longer one; it won once on item 2, by one of two
    assert figures.bias.longer.value == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert figures.ratings is not None
    assert [each.policy for each in figures.ratings.ratings] == ["runs/a", "runs/b"]
    # a won five, b one, two ties
    assert figures.ratings.win_rates[0][1] == pytest.approx(6 / 8)

    annotators = {each.annotator: each for each in figures.workers}
    assert (annotators["ann"].judgments, annotators["bob"].judgments) == (4, 4)
    assert annotators["ann"].median_seconds == 2.0
    assert annotators["bob"].per_hour == pytest.approx(900.0)
    assert annotators["ann"].left.value == pytest.approx(2 / 3)
    assert annotators["ann"].gold.value is None


def test_gold_and_adjudication_count_for_themselves_alone(desk: Desk, dashboard: Dashboard, store: Store) -> None:
    work, right, wrong = desk.add(*(comparison(number) for number in range(1, 4)))
    with store.writing() as connection:
        marked = sa.update(item).where(item.c.id.in_([right, wrong]))
        connection.execute(marked.values(kind="gold", gold=[2, 1]))
    desk.say(work, "ann", (1, 2))
    desk.say(work, "bob", (1, 2))
    desk.say(work, "eve", (2, 1), role="adjudication")
    desk.say(right, "ann", (2, 1), role="gold")
    # what counts is the first answer
    first = desk.say(wrong, "ann", (1, 2), role="gold")
    undone = desk.say(wrong, "ann", None, kind="undo", role="gold", supersedes=first)
    desk.say(wrong, "ann", (2, 1), role="gold", supersedes=undone)
    figures = dashboard.figures(1)
    annotators = {each.annotator: each for each in figures.workers}
    assert (annotators["ann"].gold.n, annotators["ann"].gold.value) == (2, 1 / 2)
    assert annotators["bob"].gold.n == 0
    assert figures.agreement.share.n == 1
    assert figures.agreement.share.value == 1.0
    assert figures.answers.adjudicated == 1
    assert figures.bias.ties.n == 2
    assert figures.overview.gold == 2


def test_skips_and_flags_are_counted_with_their_reasons(desk: Desk, dashboard: Dashboard) -> None:
    first, second, third = desk.add(*(comparison(number) for number in range(1, 4)))
    desk.say(first, "ann", None, kind="skip", reason="too long")
    desk.say(first, "bob", None, kind="skip", reason="too long")
    desk.say(second, "ann", None, kind="flag", reason="personal data")
    taken_back = desk.say(third, "ann", None, kind="flag", reason="a slip")
    desk.say(third, "ann", None, kind="undo", supersedes=taken_back)
    figures = dashboard.figures(1)
    assert figures.answers.reasons == (("skip", "too long", 2), ("flag", "personal data", 1))
    assert (figures.answers.rankings, figures.answers.skips, figures.answers.flags) == (0, 2, 1)
    (flag,) = figures.flags
    assert (flag.item_id, flag.annotator, flag.reason, flag.prompt) == (second, "ann", "personal data", "question 2")


def test_progress_and_pace_are_those_of_the_slots(
    store: Store, service: AnnotationService, clock, fill, sign_in
) -> None:
    fill(3, overlap=2)
    dashboard = Dashboard(store, clock=clock)
    begin = clock.now
    for turn, name in enumerate(("Ada", "Ada", "Bob", "Ada")):
        clock.now = begin + turn * 1800
        annotator_id = sign_in(name)
        card = service.next_card(annotator_id, "tab").card
        service.submit(annotator_id, Judgment(f"judgment-{turn}", card.item_id, Said("ranking", (1, 2))))
    (overview,) = dashboard.overviews()
    # Ada has judged all three, Bob the first one
    assert (overview.items, overview.items_done, overview.judgments, overview.needed) == (3, 1, 4, 6)
    figures = dashboard.figures(overview.campaign.id)
    # three after the first in an hour and a half; the other two take an hour
    assert figures.pace.per_hour == pytest.approx(2.0)
    assert figures.pace.hours_left == pytest.approx(1.0)
    assert figures.pace.done_at == pytest.approx(clock.now + 3600)
    # those of the last 3600 seconds, at 1800, 3600 and 5400 after the begin
    assert figures.pace.last_hour == 2


def test_an_empty_campaign_has_figures_and_plots(store: Store, fill) -> None:
    fill(2)
    figures = Dashboard(store).figures(1)
    assert figures.workers == ()
    assert figures.ratings is None
    assert all(isinstance(table, Table) for table in tables(figures).values())
    for name in PLOTS:
        assert draw_plot(name, figures, words_in("en")).startswith(b"<?xml")


def test_figures_are_kept_for_half_a_minute_and_forgotten_when_asked(desk: Desk, store: Store) -> None:
    (item_id,) = desk.add(comparison(1))
    now = [1000.0]
    dashboard = Dashboard(store, clock=lambda: now[0])
    assert dashboard.figures(1).answers.rankings == 0
    desk.say(item_id, "ann")
    now[0] += 29
    assert dashboard.figures(1).answers.rankings == 0
    now[0] += 1
    assert dashboard.figures(1).answers.rankings == 1
    desk.say(item_id, "bob")
    dashboard.forget(1)
    assert dashboard.figures(1).answers.rankings == 2


def test_statistics_are_computed_again_only_where_something_was_said_or_changed(desk: Desk, store: Store) -> None:
    first, second = desk.add(comparison(1), comparison(2))
    (elsewhere,) = desk.add(comparison(3), campaign="other")
    desk.say(first, "ann", created_at=999.0)
    now = [1000.0]
    dashboard = Dashboard(store, clock=lambda: now[0])
    before = dashboard.figures(1)
    desk.say(elsewhere, "ann")
    import_comparisons(store, [comparison(4)])
    now[0] += 3600
    same = dashboard.figures(1)
    assert same.workers is before.workers
    assert (same.at, same.overview.items, same.pace.last_hour) == (4600.0, 3, 0)
    dashboard.forget(1)
    assert dashboard.figures(1).workers is before.workers
    managing.mark_gold(store, 1, {first: (1, 2)}, by=None, at=6.0)
    dashboard.forget(1)
    assert dashboard.figures(1).workers[0].gold.n == 1
    desk.say(second, "bob")
    dashboard.forget(1)
    assert {each.annotator for each in dashboard.figures(1).workers} == {"ann", "bob"}


def test_the_overview_is_known_before_the_votes_are_read(desk: Desk, store: Store) -> None:
    items = desk.add(*(comparison(number) for number in range(1, 4)))
    for item_id, hours in zip(items, (30, 2, 0), strict=True):
        desk.say(item_id, "ann", created_at=1_000_000 - 3600.0 * hours)
    desk.say(items[0], "eve", role="adjudication", created_at=1_000_000.0)
    dashboard = Dashboard(store, clock=lambda: 1_000_000.0)
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(store.engine, "before_cursor_execute", note)
    overview, pace = dashboard.overview(1)
    sa.event.remove(store.engine, "before_cursor_execute", note)
    assert asked
    assert not any("ranks" in statement for statement in asked)
    figures = dashboard.figures(1)
    assert (figures.overview, figures.pace) == (overview, pace)
    # of the last 24 hours two, one of them in the last hour
    assert (pace.last_hour, pace.per_hour) == (1, pytest.approx(2 / 24))


def test_a_live_ranking_is_a_vote_and_no_part_of_the_pace(desk: Desk, dashboard: Dashboard) -> None:
    planned, live = desk.add(comparison(1), comparison(2))
    desk.say(planned, "ann", created_at=900.0)
    desk.say(live, "ann", role="live", created_at=900.0)
    figures = dashboard.figures(1)
    assert (figures.answers.live, figures.pace.last_hour, figures.bias.ties.n) == (1, 1, 2)


def test_items_of_two_and_of_three_responses_are_read_together(desk: Desk, dashboard: Dashboard) -> None:
    pair, three = desk.add(comparison(1), comparison(2, 3))
    for who in ("ann", "bob"):
        desk.say(pair, who, (2, 1), shown_order=[1, 0])
        desk.say(three, who, (1, 2, 3), shown_order=[2, 0, 1])
    bias = dashboard.figures(1).bias
    assert (bias.left.value, bias.left.n) == (1.0, 2)
    assert bias.mean_ranks == {3: (3.0, 1.0, 2.0)}
    # all four pairs agree
    assert dashboard.figures(1).agreement.share.value == 1.0


def test_a_campaign_that_is_not_there_is_named(dashboard: Dashboard) -> None:
    for look in (dashboard.figures, dashboard.overview):
        with pytest.raises(campaigns.CampaignError, match="no campaign 7"):
            look(7)


def test_days_without_judgments_are_days_too(desk: Desk, dashboard: Dashboard) -> None:
    items = desk.add(*(comparison(number) for number in range(1, 4)))
    noon = time.mktime((2026, 3, 27, 12, 0, 0, 0, 0, -1))
    for item_id, days in zip(items, (0, 0, 3), strict=True):
        desk.say(item_id, "ann", created_at=noon + days * DAY)
    counted = dashboard.figures(1).per_day
    assert counted == (("2026-03-27", 2), ("2026-03-28", 0), ("2026-03-29", 0), ("2026-03-30", 1))
    assert per_day(np.zeros(0)) == ()


def test_agreement_over_time_is_by_the_day_of_an_items_last_vote(desk: Desk, dashboard: Dashboard) -> None:
    first, second, alone = desk.add(*(comparison(number) for number in range(1, 4)))
    noon = time.mktime((2026, 3, 2, 12, 0, 0, 0, 0, -1))
    for who, ranks in (("ann", (1, 2)), ("bob", (1, 2))):
        desk.say(first, who, ranks, created_at=noon)
    desk.say(second, "ann", (1, 2), created_at=noon)
    desk.say(second, "bob", (2, 1), created_at=noon + DAY)
    desk.say(alone, "ann", (1, 2), created_at=noon + 2 * DAY)
    table = tables(dashboard.figures(1))["agreement_over_time"]
    assert [row[:2] for row in table.rows] == [("2026-03-02", 1.0), ("2026-03-03", 0.0)]


def test_gold_is_counted_apart_in_all_that_counts_progress(desk: Desk, store: Store) -> None:
    work, known, live = desk.add(*(comparison(number) for number in range(1, 4)))
    managing.mark_gold(store, 1, {known: (1, 2)}, by=None, at=1.0)
    for item_id, role in ((work, "work"), (known, "gold"), (live, "live")):
        desk.say(item_id, "ann", role=role, created_at=900.0)
    figures = Dashboard(store, clock=lambda: 1000.0).figures(1)
    assert sum(count for _, count in figures.per_day) == figures.pace.last_hour == 1
    # of an annotator all that stand, and the page says so
    (ann,) = figures.workers
    assert ann.judgments == 3
    assert ("all_judgments", "count") in annotators_table(figures, words_in("en")).columns


def test_no_pace_is_told_of_less_than_an_hour_and_an_idle_hour_is_said(desk: Desk, store: Store) -> None:
    items = desk.add(*(comparison(number) for number in range(1, 5)))
    for item_id, at in zip(items[:2], (1_000_000.0, 1_000_060.0), strict=True):
        desk.say(item_id, "ann", created_at=at)
    words = words_in("en")

    def head(now: float) -> str:
        overview, pace = Dashboard(store, clock=lambda: now).overview(1)
        overview = dataclasses.replace(overview, judgments=2)
        return headline_html(overview, pace, words)

    young = head(1_000_120.0)
    assert "no pace yet: the first vote is less than an hour old" in young
    assert "2 in the last hour" in young
    assert words["headline.nobody_works"] not in young
    assert words["headline.nobody_works"] in head(1_000_000.0 + 3 * 3600)


ENGLISH_WORDS = re.compile(
    r"\b(agrees?|others|usual|cases?|gave|answers?|votes?|chose|takes?|items?|guess\w*|the|of|to|and|is|by|no|yet|hour)\b"
)


def test_a_german_dashboard_has_no_english_words(desk: Desk, store: Store) -> None:
    """All remarks there are, on what managers see at first."""
    items = desk.add(*(comparison(number) for number in range(1, 61)))
    orders = [[0, 1], [1, 0]]
    for number, item_id in enumerate(items):
        for who in ("ann", "bob", "cyd"):
            desk.say(item_id, who, (1, 2), shown_order=orders[number % 2], active_ms=9000)
        # the left one, at once
        left = (1, 2) if number % 2 == 0 else (2, 1)
        desk.say(item_id, "eve", left, shown_order=orders[number % 2], active_ms=500)
    managing.mark_gold(store, 1, dict.fromkeys(items[:8], (1, 2)), by=None, at=1.0)
    german = words_in("de")
    figures = Dashboard(store, clock=lambda: 1000.0).figures(1)
    eve = next(each for each in figures.workers if each.annotator == "eve")
    assert {each.key for each in eve.reasons} >= {"agreement", "left", "haste"}
    found = tables(figures) | {"annotators": annotators_table(figures, german)}
    page = headline_html(figures.overview, figures.pace, german, figures.agreement) + "".join(
        table_html(found[name], german, german[f"table.{name}"], translated=("measure", "kind", "state"))
        for name in ("agreement", "annotators", "bias", "answers")
    )
    text = re.sub("<[^>]*>", " ", page)
    assert "stimmt mit den anderen in" in text
    assert ENGLISH_WORDS.findall(text) == []
    for key, english in ENGLISH.items():
        assert ENGLISH_WORDS.search(english), key
        assert not ENGLISH_WORDS.search(re.sub("{.*?}", "", german[f"remark.{key}"])), key


def test_tables_show_texts_as_text_and_say_where_they_are_empty() -> None:
    table = Table((("prompt", "text"), ("item", "count")), (("<b>${1}</b>", 7),))
    shown = table_html(table, words_in("en"), "Items", button="item")
    assert "&lt;b&gt;${1}&lt;/b&gt;" in shown
    assert '<button type="button" data-value="7">7</button>' in shown
    assert table_html(Table(table.columns, ()), words_in("en"), "Items") == '<p class="soft">Nothing yet.</p>'


def test_heads_sort_where_all_rows_are_there() -> None:
    rows = (("Ada", 7), ("Ben", None))
    table = Table((("annotator", "text"), ("judgments", "count")), rows)
    assert table_html(table, words_in("en"), "People").count('class="sort"') == 2
    assert table_html(table, words_in("en"), "People").count('data-order="7.0"') == 1
    assert table_html(table, words_in("en"), "People").count("data-none") == 1
    assert "sort" not in table_html(table, words_in("en"), "Newest", whole=False)
    assert "sort" not in table_html(Table(table.columns, rows[:1]), words_in("en"), "People")


# ---- tables as files ------------------------------------------------------------------------------------------


def test_no_cell_of_a_csv_begins_a_formula(desk: Desk, dashboard: Dashboard) -> None:
    (item_id,) = desk.add(comparison(1))
    evil = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "'=1"]
    for number, reason in enumerate(evil):
        desk.say(item_id, f"={number}", None, kind="flag", reason=reason)
    figures = dashboard.figures(1)
    for name, table in tables(figures).items():
        rows = list(csv.reader(io.StringIO(csv_answer(table, f"{name}.csv").body.decode(), newline="")))
        assert len(rows) == 1 + len(table.rows)
        for row in rows:
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n"))
                assert not cell.startswith("-") or float(cell) < 0
    flags = csv_answer(tables(figures)["flags"], "flags.csv").body.decode()
    read = list(csv.DictReader(io.StringIO(flags, newline="")))
    assert sorted(row["reason"] for row in read) == sorted(f"'{reason}" for reason in evil)


def test_numbers_of_a_csv_stay_numbers() -> None:
    table = Table((("policy", "text"), ("points", "number"), ("n", "count")), (("-a", -12.5, 3), ("b", None, 0)))
    written = csv_answer(table, "ratings.csv").body.decode()
    assert written == '"policy","points","n"\r\n"\'-a",-12.5,3\r\n"b","",0\r\n'


def test_a_semicolon_in_a_text_begins_no_cell() -> None:
    table = Table((("name", "text"), ("n", "count")), (("a;=1+1", 2),))
    assert csv_answer(table, "users.csv").body.decode() == '"name","n"\r\n"a;=1+1",2\r\n'


def test_plots_show_names_as_they_are(desk: Desk, dashboard: Dashboard) -> None:
    items = desk.add(*(two_policies(number) for number in range(1, 3)))
    for item_id in items:
        desk.say(item_id, "<script>$x^{", (1, 2))
        desk.say(item_id, "\u540d\u524d", (1, 2))
    figures = dashboard.figures(1)
    for name in PLOTS:
        drawn = draw_plot(name, figures, words_in("de"))
        assert b"<script" not in drawn
        assert draw_plot(name, figures, words_in("de")) == drawn
        assert draw_plot(name, figures, words_in("de"), form="png").startswith(b"\x89PNG")
    assert b"&lt;script&gt;$x^{" in draw_plot("suspicion", figures, words_in("en"))


# ---- what managers do -----------------------------------------------------------------------------------------


@pytest.fixture
def filled(store: Store, tmp_path) -> Callable[..., managing.Imported]:
    """`filled(rows)` makes campaign "new" of a file of these rows."""

    def fill(rows: list[dict[str, object]], *, name: str = "new", suffix: str = ".jsonl") -> managing.Imported:
        file = tmp_path / f"items{suffix}"
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return managing.fill_campaign(store, file, name, overlap=2, by=None, at=5.0)

    return fill


def rows_of(count: int, **more: object) -> list[dict[str, object]]:
    return [{"prompt": f"q{n}", "responses": [f"{n} a", f"{n} b"], **more} for n in range(1, count + 1)]


def test_a_file_becomes_a_campaign_with_its_gold(store: Store, filled) -> None:
    done = filled([*rows_of(2), {"prompt": "known", "responses": ["x", "y"], "gold": [2, 1]}])
    assert done.num_added == 3
    (overview,) = Dashboard(store).overviews()
    assert (overview.campaign.name, overview.campaign.overlap) == ("new", 2)
    assert (overview.items, overview.needed, overview.gold) == (2, 4, 1)
    with store.reading() as connection:
        actions = connection.execute(sa.select(audit_entry.c.action).order_by(audit_entry.c.number.desc())).scalars()
        assert next(iter(actions)) == "items imported"


def test_a_file_that_cannot_be_used_is_named_as_the_person_does(store: Store, filled, tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        filled([{"prompt": "q", "responses": ["only one"]}])
    assert str(tmp_path) not in str(caught.value)
    assert "items.jsonl" in str(caught.value)
    with pytest.raises(DataError, match=r"items\.txt: not one of"):
        filled(rows_of(1), suffix=".txt")
    assert Dashboard(store).overviews() == []


def test_a_large_file_is_refused(store: Store, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managing, "MAX_UPLOAD", 10)
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps(rows_of(1)[0]), encoding="utf-8")
    with pytest.raises(DataError, match="10 is the most here"):
        managing.fill_campaign(store, file, "new", by=None, at=5.0)


def test_an_item_made_gold_goes_to_nobody_as_work_and_back(store: Store, service, filled, sign_in) -> None:
    filled(rows_of(3))
    managing.mark_gold(store, 1, {1: (2, 1)}, by=None, at=6.0)
    ada = sign_in("Ada")
    assert service.next_card(ada, "tab").card.item_id == "2"
    service.submit(ada, Judgment("judgment-1", "2", Said("ranking", (1, 2))))
    assert service.next_card(ada, "tab", exclude=["3"]).card is None
    with store.writing() as connection:
        campaigns.change(connection, 1, actor_id=None, at=7.0, settings=campaigns.CampaignSettings(gold_share=1.0))
    card = service.next_card(ada, "tab").card
    assert (card.item_id, card.kind) == ("1", "work")
    with store.reading() as connection:
        order = show(connection, 1, ada, 0.0).responses
    ranks = tuple(1 if text == "1 b" else 2 for text in order)
    service.submit(ada, Judgment("judgment-2", "1", Said("ranking", ranks)))
    with store.reading() as connection:
        assert gold.score(connection, ada) == GoldScore(1, 1)

    managing.unmark_gold(store, 1, 1, by=None, at=8.0)
    (overview,) = Dashboard(store).overviews()
    assert (overview.items, overview.gold, overview.needed) == (3, 0, 6)
    bob = sign_in("Bob")
    assert service.next_card(bob, "tab").card.item_id == "1"


def test_gold_from_a_file_marks_what_is_there_and_adds_the_rest(store: Store, filled, tmp_path) -> None:
    filled(rows_of(2))
    file = tmp_path / "gold.jsonl"
    rows = [*rows_of(1, gold=[1, 2]), {"prompt": "new", "responses": ["x", "y"], "gold": [2, 1]}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert managing.mark_gold_from_file(store, 1, file, kind="qualification", by=None, at=6.0) == (1, 1)
    listed = managing.list_items(store, 1, only_gold=True)
    assert [(row.kind, row.gold) for row in listed] == [("qualification", (1, 2)), ("qualification", (2, 1))]
    with store.reading() as connection:
        kinds = connection.execute(sa.select(slot.c.kind).where(slot.c.item_id == listed[0].id)).scalars().all()
    assert set(kinds) == {"qualification"}


@pytest.mark.parametrize("ranks", [(1,), (1, 2, 3), (0, 1)])
def test_ranks_that_do_not_fit_make_no_gold(store: Store, filled, ranks: tuple[int, ...]) -> None:
    filled(rows_of(1))
    with pytest.raises(DataError):
        managing.mark_gold(store, 1, {1: ranks}, by=None, at=6.0)
    with pytest.raises(DataError, match="item 9 is not in this campaign"):
        managing.mark_gold(store, 1, {9: (1, 2)}, by=None, at=6.0)
    assert managing.list_items(store, 1)[0].kind == "work"


def test_members_are_those_that_were_chosen_last(store: Store, filled, sign_in) -> None:
    filled(rows_of(1))
    ada, bob = sign_in("Ada"), sign_in("Bob")
    managing.set_members(store, 1, [ada], by=None, at=6.0)
    managing.set_members(store, 1, [bob], by=ada, at=7.0)
    assert [(each.annotator, each.name) for each in managing.members(store, 1)] == [(bob, "Bob")]
    with pytest.raises(campaigns.CampaignError, match="nobody"):
        managing.set_members(store, 1, ["nobody"], by=ada, at=8.0)
    with store.reading() as connection:
        newest = managing.audit_rows(connection, limit=1)[0]
    assert (newest.action, newest.name) == ("members changed", "Ada")
    assert newest.details == {"campaign": 1, "added": [bob], "removed": [ada]}


def test_an_archive_holds_the_export_and_goes_after_an_hour(desk: Desk, store: Store, clock) -> None:
    (item_id,) = desk.add(comparison(1))
    desk.say(item_id, "ann", (1, 2))
    archives = managing.Archives(store, clock=clock)
    try:
        made = archives.make({"form": "trl"}, by=None)
        with zipfile.ZipFile(made.path) as packed:
            names = {name.partition("/")[2] for name in packed.namelist()}
            (data,) = (name for name in packed.namelist() if name.endswith("train.jsonl"))
            row = json.loads(packed.read(data))
        assert names == {"train.jsonl", "DATACARD.md", "manifest.json"}
        assert row["chosen"][-1]["content"] == "1 first"
        assert archives.find(made.id) == made
        clock.now += managing.ARCHIVE_SECONDS
        with pytest.raises(managing.UnknownArchive):
            archives.find(made.id)
        assert not made.path.exists()
    finally:
        archives.close()


# ---- words ----------------------------------------------------------------------------------------------------


def test_both_languages_say_the_same_things() -> None:
    # remarks speak English for themselves
    english = words_in("en") | {f"remark.{key}": text for key, text in ENGLISH.items()}
    german = words_in("de")
    assert set(english) == set(german)
    for key, text in english.items():
        fields = [sorted(part.partition("}")[0] for part in each.split("{")[1:]) for each in (text, german[key])]
        assert fields[0] == fields[1] or key == "remark.unanimous", key


@pytest.mark.parametrize(
    ("header", "language"),
    [("", "en"), ("de", "de"), ("fr, de-AT;q=0.8, en;q=0.9", "en"), ("de;q=0.9, en;q=x", "de"), ("*", "en")],
)
def test_the_language_is_the_browsers(header: str, language: str) -> None:
    assert language_of(header) == language


def test_every_column_and_value_has_words(desk: Desk, dashboard: Dashboard) -> None:
    items = desk.add(*(two_policies(number) for number in range(1, 3)))
    for item_id in items:
        desk.say(item_id, "ann")
    figures: Figures = dashboard.figures(1)
    free = {"ann", "runs/a", "runs/b"}
    for table in tables(figures).values():
        for name, _ in table.columns:
            assert name in free or f"column.{name}" in words_in("de"), name
    for name in ("agreement", "bias", "answers"):
        for row in tables(figures)[name].rows:
            assert f"value.{row[0]}" in words_in("de")
