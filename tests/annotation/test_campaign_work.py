"""What stands before and between the work: guidelines, qualification, gold, adjudication, orders, settings."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from random import Random

import pytest
import sqlalchemy as sa

from annotation import adjudication, campaigns, gold, managing
from annotation.audit import verify
from annotation.campaigns import Aspect, CampaignError, CampaignSettings
from annotation.importing import import_comparisons
from annotation.records import GoldScore, InvalidJudgment, Judgment, NotHeld, Said, TooLong, UnknownItem
from annotation.service import AnnotationService
from annotation.store import VERSION_TABLE, Store
from annotation.tables import annotator, audit, judgment, showing, slot
from rlhf.data.comparisons import DataError
from tests.annotation.items import comparison


def set_up(store: Store, **values: object) -> None:
    """Change the settings of the first campaign."""
    with store.writing() as connection:
        before = campaigns.all_campaigns(connection)[0]
        settings = dataclasses.replace(before.settings, **values)
        campaigns.change(connection, before.id, actor_id=None, at=0.0, settings=settings)


def say(service: AnnotationService, who: str, card, better: str = "first", name: str = "", **said: object) -> None:
    """Judge a pair; `better` is the word in the response that is preferred."""
    left = better in card.responses[0]
    ranks = (1, 2) if left else (2, 1)
    service.submit(who, Judgment(f"judgment-{name}{who}-{card.item_id}", card.item_id, Said("ranking", ranks, **said)))


def gold_score(store: Store, who: str) -> GoldScore:
    with store.reading() as connection:
        return gold.score(connection, who)


@pytest.fixture
def fill_gold(store: Store):
    """`fill_gold(3)` adds gold items from number 1001, whose right answer is the first response."""

    def add(count: int, *, kind: str = "gold") -> None:
        rows = [comparison(1000 + number, 2) for number in range(1, count + 1)]
        import_comparisons(store, rows, gold={row.id: (1, 2) for row in rows}, gold_kind=kind)

    return add


# ---- guidelines ---------------------------------------------------------------------------------------------


def test_guidelines_stand_before_work_until_accepted_and_again_after_a_new_version(
    store: Store, service, fill, sign_in
) -> None:
    fill(3)
    ada = sign_in("Ada")
    with store.writing() as connection:
        campaigns.write_guideline(connection, 1, "Be **fair**.", actor_id=None, at=1.0)
    given = service.next_card(ada, "tab")
    assert given.card is None
    assert (given.gate.kind, given.gate.version, given.gate.text) == ("guideline", 1, "Be **fair**.")
    service.accept_guideline(ada, 1, 1)
    service.accept_guideline(ada, 1, 1)
    say(service, ada, service.next_card(ada, "tab").card)
    with store.writing() as connection:
        again = campaigns.write_guideline(connection, 1, "Be **fair**.", actor_id=None, at=2.0)
        assert again.version == 1
        campaigns.write_guideline(connection, 1, "Be fair and kind.", actor_id=None, at=3.0)
    assert service.next_card(ada, "tab").gate.version == 2
    service.accept_guideline(ada, 1, 2)
    say(service, ada, service.next_card(ada, "tab").card)
    with store.reading() as connection:
        versions = connection.execute(sa.select(judgment.c.guideline_version).order_by(judgment.c.number)).scalars()
        assert versions.all() == [1, 2]
    with pytest.raises(CampaignError, match="no guidelines 9"):
        service.accept_guideline(ada, 1, 9)


# ---- gold and qualification ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "said", "expected"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ([1, 2], [1, 1], False),
        ([1, 1], [1, 1], True),
        ([1, 1], [1, 2], False),
        ([1, 2, 2], [1, 2, 3], True),  # gold does not order the last two
        ([1, 2, 2], [1, 3, 2], True),
        ([1, 2, 2], [2, 1, 3], False),
        ([1, 2, 3], [1, 2, 2], False),
    ],
)
def test_an_answer_is_right_when_it_orders_what_gold_orders(right, said, expected: bool) -> None:
    assert gold.is_right(right, said) is expected


def test_qualification_comes_first_and_decides(store: Store, service, fill, fill_gold, sign_in) -> None:
    fill(2, overlap=2)
    fill_gold(4, kind="qualification")
    set_up(store, qualification_items=4, qualification_accuracy=0.75)
    good, bad = sign_in("Good"), sign_in("Bad")
    for who, wrong in ((good, 1), (bad, 2)):
        for number in range(4):
            given = service.next_card(who, "tab")
            assert given.card.kind == "work"  # nobody is told
            assert given.card.responses[0].startswith("100")
            say(service, who, given.card, "second" if number < wrong else "first")
    assert not service.next_card(good, "tab").card.responses[0].startswith("100")
    given = service.next_card(bad, "tab")
    assert given.card is None
    assert (given.gate.kind, given.gate.accuracy, given.gate.needed) == ("not_qualified", 0.5, 0.75)
    assert gold_score(store, bad) == GoldScore(4, 2)
    assert service.progress(good).total == 2  # gold is no work


def test_qualification_items_are_not_given_to_two_tabs(store: Store, service, fill, fill_gold, sign_in, clock) -> None:
    fill(1)
    fill_gold(1, kind="qualification")
    set_up(store, qualification_items=1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "left").card
    waiting = service.next_card(ada, "right")
    assert (waiting.card, waiting.gate) == (None, None)
    clock.now += 61  # the left tab is gone
    assert service.next_card(ada, "right").card.item_id == card.item_id


@pytest.mark.parametrize("large", [False, True])
def test_no_count_says_which_item_is_gold(store: Store, fill, fill_gold, clock, monkeypatch, large: bool) -> None:
    """Whoever works alone sees each change of the counts, and would know for gold what changes them otherwise."""
    monkeypatch.setattr("annotation.service.LARGE_STORE", 2 if large else 2000)
    fill(19)
    fill_gold(4)
    set_up(store, gold_share=0.3)
    service = AnnotationService(store, clock=clock, random=Random(2))
    ada = service.annotator_of(service.sign_in("Ada")).id
    seen, golds = [service.progress(ada)], []

    def look() -> None:
        clock.now += 4
        seen.append(service.progress(ada))

    on_screen = []
    while True:
        while len(on_screen) < 2:  # as the page does: one is shown, one is ready
            card = service.next_card(ada, "tab", exclude=[each.item_id for each in on_screen]).card
            look()
            if card is None:
                break
            on_screen.append(card)
        if not on_screen:
            break
        card = on_screen.pop(0)
        golds.append(int(card.item_id) > 19)
        say(service, ada, card)
        if len(seen) == 10:
            service.undo(ada, "tab", "undo-number-1")
            look()
            say(service, ada, card, name="again")
        look()
    assert sum(golds[8:]) > 0
    assert golds.count(False) == 19
    *told, last = seen
    assert {each.total for each in seen} == {19}
    before = [each for each in told if each.judged < len(golds)]
    # held from one step to the next; the sum of what is answered and what is to come stays, work or gold
    steps = {}
    for each in before:
        steps.setdefault((each.judged + each.available, each.done), set()).add(each.judged)
    assert all(max(judged) - min(judged) <= 8 for judged in steps.values())
    assert len(steps) <= 1 + len(golds) // 8
    if not large:
        assert {each.judged + each.available for each in before} == {19 + 4}
    clock.now += 60
    last = service.progress(ada)
    assert (last.judged, last.available, last.done, last.waiting) == (len(golds), 0, 19, 0)


def test_who_is_done_is_told_what_waits_for_others(service, fill, sign_in) -> None:
    fill(3, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    for _ in range(2):
        say(service, ada, service.next_card(ada, "tab").card)
    assert service.progress(ada).waiting == 0
    say(service, bob, service.next_card(bob, "tab").card)
    card = service.next_card(ada, "tab").card
    service.submit(ada, Judgment("judgment-skip", card.item_id, Said("skip")))
    progress = service.progress(ada)
    assert (progress.available, progress.total, progress.done, progress.waiting) == (0, 3, 1, 1)


def test_gold_comes_in_at_its_share_and_never_twice(store: Store, fill, fill_gold) -> None:
    fill(200)
    fill_gold(40)
    set_up(store, gold_share=0.2)
    service = AnnotationService(store, random=Random(1))
    ada = service.annotator_of(service.sign_in("Ada")).id
    seen = []
    for _ in range(100):
        card = service.next_card(ada, "tab").card
        seen.append(int(card.responses[0].split()[0]))
        say(service, ada, card)
    with store.reading() as connection:
        roles = Counter(connection.execute(sa.select(judgment.c.role)).scalars())
    assert 8 <= roles["gold"] <= 34  # binomial of 100 and .2: three and a half standard deviations
    assert sum(number > 1000 for number in seen) == roles["gold"]
    assert len(set(seen)) == 100
    assert gold_score(store, ada) == GoldScore(roles["gold"], roles["gold"])
    told = roles["gold"] - roles["gold"] % 8
    assert service.own_gold(ada) == GoldScore(told, told)


def test_only_the_first_answer_to_gold_counts_also_where_it_is_taken_back(
    store: Store, service, fill, fill_gold, sign_in
) -> None:
    fill(1)
    fill_gold(2)
    set_up(store, gold_share=1.0)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    say(service, ada, card, "second")
    service.open_again(ada, "tab", card.item_id)
    say(service, ada, card, "first", name="again")
    assert gold_score(store, ada) == GoldScore(1, 0)
    other = service.next_card(ada, "tab").card
    say(service, ada, other, "second")
    service.undo(ada, "tab", "undo-0001")
    say(service, ada, other, "first", name="again")
    assert gold_score(store, ada) == GoldScore(2, 0)


def test_a_qualification_cannot_be_passed_by_trial(store: Store, service, fill, fill_gold, sign_in) -> None:
    fill(1)
    fill_gold(5, kind="qualification")
    set_up(store, qualification_items=5, qualification_accuracy=0.6)
    ada = sign_in("Ada")
    for number in range(5):
        card = service.next_card(ada, "tab").card
        say(service, ada, card, "second")
        assert service.own_gold(ada) == GoldScore(0, 0)  # nothing says that it was wrong
        service.undo(ada, "tab", f"undo-000{number}")
        say(service, ada, card, "first", name="again")
    gate = service.next_card(ada, "tab").gate
    assert (gate.kind, gate.accuracy) == ("not_qualified", 0.0)


def test_how_one_does_on_gold_is_told_in_steps(store: Store, service, fill, fill_gold, sign_in) -> None:
    """Told after each answer, it would say which item was gold, and what its answer is."""
    fill(1)
    fill_gold(17)
    set_up(store, gold_share=1.0)
    ada = sign_in("Ada")
    told = []
    for number in range(17):
        say(service, ada, service.next_card(ada, "tab").card, "first" if number else "second")
        told.append(service.own_gold(ada))
    assert told == [GoldScore(0, 0)] * 7 + [GoldScore(8, 7)] * 8 + [GoldScore(16, 15)] * 2


def test_gold_that_was_left_on_a_screen_is_given_again(store: Store, service, fill, fill_gold, sign_in, clock) -> None:
    fill(1)
    fill_gold(1)
    set_up(store, gold_share=1.0)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    first, second = (service.next_card(who, "left").card.item_id for who in (bob, ada))
    assert first == second
    clock.now += 61
    assert service.next_card(ada, "right").card.item_id == first
    assert service.next_card(ada, "left").card.item_id == "1"


def test_whoever_is_wrong_on_gold_is_paused_and_audited_and_not_before_chance_is_ruled_out(
    store: Store, service, fill, fill_gold, sign_in
) -> None:
    fill(1)
    fill_gold(12)
    set_up(store, gold_share=1.0, gold_accuracy=0.8)
    ada = sign_in("Ada")
    answered = 0
    while (given := service.next_card(ada, "tab")).card is not None:
        say(service, ada, given.card, "second")
        answered += 1
    assert given.gate.kind == "paused"
    assert answered == gold.FEWEST_TO_PAUSE
    with store.reading() as connection:
        entry = connection.execute(sa.select(audit).order_by(audit.c.number.desc())).first()
        assert connection.execute(sa.select(annotator.c.state).where(annotator.c.id == ada)).scalar() == "paused"
    assert (entry.action, entry.details["annotator"], entry.details["right"]) == ("annotator paused", ada, 0)


def test_gold_that_does_not_fit_is_refused_and_nothing_is_added(store: Store) -> None:
    rows = [comparison(1, 2), comparison(2, 2)]
    with pytest.raises(DataError, match=r"comparison 2 has gold \[1, 3\]; give 2 whole numbers from 1 to 2"):
        import_comparisons(store, rows, gold={rows[1].id: (1, 3)})
    with store.reading() as connection:
        assert campaigns.all_campaigns(connection) == []


# ---- adjudication -------------------------------------------------------------------------------------------


def test_who_disagrees_is_decided_by_somebody_else_who_sees_what_was_said(store: Store, service, fill, sign_in) -> None:
    fill(2, overlap=2)
    ada, bob, eve = sign_in("Ada"), sign_in("Bob"), sign_in("Eve")
    for who, better in ((ada, "first"), (bob, "second")):
        say(service, who, service.next_card(who, "tab").card, better, rationale=f"the {better}")
    card, waiting = service.next_adjudication(eve, "tab")
    assert waiting == 1
    assert card.kind == "adjudication"
    preferred = {card.responses[opinion.ranks.index(1)].split()[1] for opinion in card.opinions}
    assert preferred == {"first", "second"}
    assert [opinion.who for opinion in card.opinions] == [1, 2]  # letters are those of the responses
    assert service.next_adjudication(ada, "tab") == (None, 0)  # not who judged it
    assert service.next_adjudication(sign_in("Dan"), "tab") == (None, 0)  # it is on a screen
    say(service, eve, card, "second")
    assert service.next_adjudication(eve, "tab") == (None, 0)
    with store.reading() as connection:
        roles = connection.execute(sa.select(judgment.c.role).order_by(judgment.c.number)).scalars().all()
        assert roles == ["work", "work", "adjudication"]
        assert adjudication.disagreements(connection) == []


def test_items_that_agree_or_are_unfinished_need_no_decision(store: Store, service, fill, sign_in) -> None:
    fill(2, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    say(service, ada, service.next_card(ada, "tab").card, "first")
    say(service, bob, service.next_card(bob, "tab").card, "first")
    say(service, ada, service.next_card(ada, "tab").card, "second")
    with store.reading() as connection:
        assert adjudication.disagreements(connection) == []


def waiting_items(store: Store) -> list[int]:
    with store.reading() as connection:
        return adjudication.disagreements(connection)


def test_an_item_waits_for_a_decision_as_long_as_what_stands_on_it_differs(
    store: Store, service, fill, sign_in
) -> None:
    fill(1, overlap=2)
    ada, bob, eve = sign_in("Ada"), sign_in("Bob"), sign_in("Eve")
    for who, better in ((ada, "first"), (bob, "second")):
        say(service, who, service.next_card(who, "tab").card, better)
    assert waiting_items(store) == [1]
    undone = service.undo(bob, "tab", "undo-0001")
    assert waiting_items(store) == []  # a place is open again
    say(service, bob, undone.card, "second", name="again")
    assert waiting_items(store) == [1]
    say(service, bob, service.open_again(bob, "tab", "1").card, "first", name="other")
    assert waiting_items(store) == []
    say(service, ada, service.open_again(ada, "tab", "1").card, "second", name="other")
    assert waiting_items(store) == [1]
    card, _ = service.next_adjudication(eve, "tab")
    say(service, eve, card, "first")
    assert waiting_items(store) == []
    service.undo(eve, "tab", "undo-0002")
    assert waiting_items(store) == [1]
    managing.mark_gold(store, 1, {1: (1, 2)}, by=None, at=6.0)
    assert waiting_items(store) == []  # its answer is known
    managing.unmark_gold(store, 1, 1, by=None, at=7.0)
    assert waiting_items(store) == [1]


def test_a_ranking_waits_only_where_the_best_differ(store: Store, service, fill, sign_in) -> None:
    fill(2, num_responses=3, overlap=2)
    said = {"Ada": [(1, 2, 3), (1, 1, 2)], "Bob": [(1, 3, 2), (1, 2, 2)]}
    for name, rankings in said.items():
        who = sign_in(name)
        for number, by_position in enumerate(rankings):
            card = service.next_card(who, "tab").card
            words = ("first", "second", "third")
            ranks = tuple(by_position[words.index(text.split()[1])] for text in card.responses)
            service.submit(who, Judgment(f"judgment-{name}-{number}", card.item_id, Said("ranking", ranks)))
    assert waiting_items(store) == [2]


def test_the_next_decision_is_found_without_a_look_at_judgments(store: Store, service, fill, sign_in) -> None:
    """What it costs depends on the items that wait."""
    fill(1, overlap=2)
    for name, better in (("Ada", "first"), ("Bob", "second")):
        who = sign_in(name)
        say(service, who, service.next_card(who, "tab").card, better)
    asked: list[str] = []

    def note(connection, cursor, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(store.engine, "before_cursor_execute", note)
    with store.reading() as connection:
        assert adjudication.num_waiting(connection, "eve", now=0.0) == 1
        assert adjudication.next_item(connection, "eve", [], now=0.0) == 1
        assert adjudication.next_item(connection, "eve", [1], now=0.0) is None
    sa.event.remove(store.engine, "before_cursor_execute", note)
    assert len(asked) >= 3
    assert not any("judgment" in statement for statement in asked)


def test_what_waits_in_a_store_of_before_is_found_when_it_is_opened(
    url: str, store: Store, service, fill, sign_in
) -> None:
    fill(4, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    for who, answers in ((ada, ("first", "first", "first")), (bob, ("second", "first", "second"))):
        for better in answers:
            say(service, who, service.next_card(who, "tab").card, better)
    card, _ = service.next_adjudication(sign_in("Eve"), "tab")
    say(service, sign_in("Eve"), card, "first")
    assert waiting_items(store) == [3]
    with store.writing() as connection:
        connection.execute(sa.text("DROP TABLE disagreement"))
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0002'"))
    again = Store.open(url)
    assert waiting_items(again) == [3]
    again.close()


# ---- orders, members, states --------------------------------------------------------------------------------


def test_the_most_useful_comes_first_but_for_a_random_share_whose_probability_is_kept(store: Store) -> None:
    rows = [comparison(number, 2) for number in range(50)]
    import_comparisons(store, rows, usefulness={row.id: float(number) for number, row in enumerate(rows)})
    set_up(store, order="useful", random_share=0.25)
    service = AnnotationService(store, random=Random(3))
    ada = service.annotator_of(service.sign_in("Ada")).id
    given = []
    for _ in range(40):
        card = service.next_card(ada, "tab").card
        given.append(int(card.responses[0].split()[0]))
        say(service, ada, card)
    with store.reading() as connection:
        rows = connection.execute(
            sa.select(judgment.c.probability, showing.c.chosen_by)
            .join(showing, showing.c.item_id == judgment.c.item_id)
            .order_by(judgment.c.number)
        ).all()
    ordered = [number for number, row in zip(given, rows, strict=True) if row.chosen_by == "order"]
    assert ordered == sorted(ordered, reverse=True)
    assert 3 <= sum(row.chosen_by == "random" for row in rows) <= 19
    left = list(range(50))
    for number, row in zip(given, rows, strict=True):
        as_the_first = 0.75 if number == max(left) else 0.0
        assert row.probability == pytest.approx(as_the_first + 0.25 / len(left))
        left.remove(number)


def test_what_is_more_useful_comes_next_also_where_somebody_is_further_down_the_order(
    store: Store, service, sign_in
) -> None:
    """Ratings and items come from other processes too."""
    rows = [comparison(number, 2) for number in range(1, 7)]
    import_comparisons(store, rows[:5], usefulness={row.id: 0.0 for row in rows})
    set_up(store, order="useful", random_share=0.0)
    ada = sign_in("Ada")
    for _ in range(2):
        say(service, ada, service.next_card(ada, "tab").card)
    import_comparisons(store, rows[5:], usefulness={rows[5].id: 1.0})
    assert service.next_card(ada, "tab").card.item_id == "6"


def test_no_gold_is_given_where_no_work_is_left(store: Store, service, fill, fill_gold, sign_in) -> None:
    """What still trickles in then is known for gold."""
    fill(1)
    fill_gold(3)
    set_up(store, gold_share=1.0)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    assert int(service.next_card(ada, "tab").card.item_id) > 1
    set_up(store, gold_share=0.0)
    say(service, bob, service.next_card(bob, "tab").card)
    set_up(store, gold_share=1.0)
    assert service.next_card(bob, "tab").card is None


def test_a_paused_campaign_gives_nothing_and_one_for_members_gives_to_members(
    store: Store, service, fill, sign_in
) -> None:
    fill(1, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    set_up(store, members_only=True)
    with store.writing() as connection:
        campaigns.add_member(connection, 1, ada, at=0.0)
        campaigns.add_member(connection, 1, ada, at=1.0)
    assert service.next_card(bob, "tab").card is None
    assert (service.progress(bob).total, service.num_items()) == (0, 1)
    card = service.next_card(ada, "tab").card
    say(service, ada, card)
    with store.writing() as connection:
        campaigns.change(connection, 1, actor_id=None, at=0.0, state="paused", settings=CampaignSettings())
    assert service.next_card(bob, "tab").card is None
    with store.writing() as connection:
        campaigns.change(connection, 1, actor_id=None, at=0.0, state="open")
    assert service.next_card(bob, "tab").card is not None


def test_a_pause_is_kept_whatever_else_is_changed_at_the_same_time(store: Store, fill) -> None:
    fill(1)
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one write at a time")
    changed = threading.Thread(target=set_up, args=(store,), kwargs={"gold_share": 0.1})
    with store.writing() as connection:
        campaigns.change(connection, 1, actor_id=None, at=0.0, state="paused")
        changed.start()
        changed.join(0.5)
        assert changed.is_alive()  # it waits
    changed.join()
    with store.reading() as connection:
        found = campaigns.find(connection, 1)
    assert (found.state, found.settings.gold_share) == ("paused", 0.1)


def test_what_was_given_before_is_found_again_after_the_end_of_the_order(store: Store, service, fill, sign_in) -> None:
    """The hint how far somebody is must not hide a place that opens behind it."""
    fill(3)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(bob, "tab").card
    say(service, ada, service.next_card(ada, "tab").card)
    service.release(bob, "tab")
    seen = set()
    while (given := service.next_card(ada, "tab").card) is not None:
        seen.add(given.item_id)
        say(service, ada, given)
    assert card.item_id in seen


# ---- what may be said ---------------------------------------------------------------------------------------


def test_everything_said_is_kept_by_position_and_comes_back_as_it_was_shown(
    store: Store, service, fill, sign_in
) -> None:
    fill(8)
    set_up(store, aspects=(Aspect("helpful", 5),))
    ada = sign_in("Ada")
    for number in range(8):
        card = service.next_card(ada, "tab").card
        place = 0 if "first" in card.responses[0] else 1
        ratings = (5, 2) if place == 0 else (2, 5)
        said = Said(
            "ranking",
            (1, 2) if place == 0 else (2, 1),
            strength=2.0,
            both_bad=True,
            aspects={"helpful": ratings},
            rationale="ünïcode 😀",
            edits={place: f"better {number}"},
        )
        service.submit(ada, Judgment(f"judgment-{number}", card.item_id, said))
        assert service.history(ada)[0].said == said
    with store.reading() as connection:
        rows = connection.execute(sa.select(judgment).order_by(judgment.c.number)).all()
    assert {tuple(row.ranks) for row in rows} == {(1, 2)}
    assert [row.edits for row in rows] == [{"0": f"better {number}"} for number in range(8)]
    assert all(row.aspects == {"helpful": [5, 2]} and row.both_bad for row in rows)


ASKED = {"rationale": "required", "edits": False, "both_bad": False, "aspects": (Aspect("clear", 3),)}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said("ranking", (1, 2), aspects={"clear": (1, 2)}), "write a rationale"),
        (Said("ranking", (1, 2), rationale="x"), "rate clear"),
        (Said("ranking", (1, 2), rationale="x", aspects={"clear": (1, 4)}), "from 1 to 3"),
        (Said("ranking", (1, 2), rationale="x", aspects={"clear": (1,)}), "give 2 whole numbers"),
        (Said("ranking", (1, 2), rationale="x", aspects={"clear": (1, 2), "nice": (1, 2)}), "rate clear"),
        (Said("ranking", (1, 1), both_bad=True, rationale="x", aspects={"clear": (1, 2)}), "leave both_bad out"),
        (Said("ranking", (1, 2), rationale="x", aspects={"clear": (1, 2)}, edits={0: "y"}), "leave edits out"),
        (Said("ranking", (1, 2), rationale="x" * 10_001, aspects={"clear": (1, 2)}), "shorten"),
        (Said("flag", (1, 2)), "a flag has neither"),
        (Said("skip", both_bad=True), "a skip has neither"),
    ],
)
def test_what_a_campaign_does_not_ask_for_is_refused(store: Store, service, fill, sign_in, said: Said, words) -> None:
    fill(1)
    set_up(store, **ASKED)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    with pytest.raises((InvalidJudgment, TooLong), match=words):
        service.submit(ada, Judgment("judgment-1", card.item_id, said))
    assert service.history(ada) == []


def test_an_edit_must_be_of_a_response_and_change_it(service, fill, sign_in) -> None:
    fill(1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    for edits, words in (({2: "x"}, "response 3 of 2"), ({0: card.responses[0]}, "the same"), ({0: "  "}, "empty")):
        with pytest.raises(InvalidJudgment, match=words):
            service.submit(ada, Judgment("judgment-1", card.item_id, Said("ranking", (1, 2), edits=edits)))


def test_a_flag_gives_the_item_to_others_and_stays_in_the_history(store: Store, service, fill, sign_in) -> None:
    fill(1)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    service.submit(ada, Judgment("judgment-1", card.item_id, Said("flag", reason="a phone number")))
    assert service.next_card(ada, "tab").card is None
    assert (service.progress(ada).skipped, service.progress(ada).flagged) == (0, 1)
    assert service.next_card(bob, "tab").card.item_id == card.item_id
    with pytest.raises(NotHeld, match="others have taken"):
        service.open_again(ada, "tab", card.item_id)
    assert service.history(ada)[0].said == Said("flag", reason="a phone number")


def test_a_judgment_that_is_opened_again_stays_ones_own(service, fill, sign_in, clock) -> None:
    """The page asks every few minutes what it still holds, and takes the rest off the screen."""
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    for who in (ada, bob):
        say(service, who, service.next_card(who, "tab").card)
    service.open_again(ada, "tab", "1")
    clock.now += 3600
    assert service.renew(ada, "tab", ["1", "2"]) == ["1"]


def test_a_revision_that_is_undone_lets_the_first_judgment_stand_again(
    store: Store, service, fill, sign_in, clock
) -> None:
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    first = service.next_card(ada, "tab").card
    say(service, ada, first, "first", rationale="because")
    clock.now += 1
    second = service.next_card(ada, "tab").card
    say(service, ada, second)
    clock.now += 1
    say(service, ada, service.open_again(ada, "tab", first.item_id).card, "second", name="again")
    clock.now += 1
    undone = service.undo(ada, "tab", "undo-0001")
    assert (undone.card.item_id, undone.previous.rationale) == (first.item_id, None)
    service.release(ada, "tab")
    clock.now += 3600
    assert service.next_card(bob, "tab").card is None
    assert service.progress(ada).judged == 2
    restored = next(row for row in service.history(ada) if row.item_id == first.item_id)
    assert (restored.revision, restored.at, restored.said.rationale) == (4, 1_000_000.0, "because")
    again = service.undo(ada, "tab", "undo-0001")  # sent again
    assert (again.card.item_id, again.previous) == (first.item_id, undone.previous)
    # the one before is what was judged before the revision
    assert service.undo(ada, "tab", "undo-0002").card.item_id == second.item_id
    assert service.undo(ada, "tab", "undo-0003").card.item_id == first.item_id
    assert service.undo(ada, "tab", "undo-0004") is None
    with store.reading() as connection:
        assert verify(connection).problems == ()


def test_a_skip_and_a_ranking_stand_again_as_far_as_there_are_places(store: Store, service, fill, sign_in) -> None:
    fill(1)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    service.submit(ada, Judgment("judgment-1", card.item_id, Said("skip")))
    say(service, ada, service.open_again(ada, "tab", card.item_id).card)
    service.undo(ada, "tab", "undo-0001")
    assert [row.said.kind for row in service.history(ada)] == ["skip"]
    service.release(ada, "tab")
    assert service.next_card(bob, "tab").card.item_id == card.item_id
    service.release(bob, "tab")
    say(service, ada, service.open_again(ada, "tab", card.item_id).card, name="again")
    service.submit(ada, Judgment("judgment-2", card.item_id, Said("skip")))
    service.undo(ada, "tab", "undo-0002")
    assert [row.said.kind for row in service.history(ada)] == ["ranking"]
    assert service.next_card(bob, "tab").card is None
    service.submit(ada, Judgment("judgment-3", card.item_id, Said("flag")))
    say(service, bob, service.next_card(bob, "tab").card)
    assert service.undo(ada, "tab", "undo-0003").card is None
    assert service.history(ada) == []


def test_a_judgment_can_be_opened_again_and_stands_until_the_next_one(store: Store, service, fill, sign_in) -> None:
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    say(service, ada, card, "first")
    opened = service.open_again(ada, "tab", card.item_id)
    assert opened.card.responses == card.responses
    assert opened.previous.ranks[opened.card.responses.index("1 first")] == 1
    assert [row.revision for row in service.history(ada)] == [1]
    say(service, ada, card, "second", name="again")
    assert [row.revision for row in service.history(ada)] == [2]
    with pytest.raises(UnknownItem, match="no judgment of this item"):
        service.open_again(bob, "tab", card.item_id)
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(slot)).scalar() == 2


def test_the_history_is_paged_newest_first(service, fill, sign_in) -> None:
    fill(5)
    ada = sign_in("Ada")
    for _ in range(5):
        say(service, ada, service.next_card(ada, "tab").card)
    first = service.history(ada, limit=2)
    rest = service.history(ada, before=first[-1].number, limit=9)
    assert [row.item_id for row in first + rest] == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"order": "best"}, "order is 'best'; use one of oldest, random, useful"),
        ({"gold_share": 1.5}, "gold_share is 1.5; give a number from 0 to 1"),
        ({"gold_share": True}, "give a number"),
        ({"edits": "yes"}, "use true or false"),
        ({"aspects": ["a", "a"]}, "a name of its own"),
        ({"aspects": [{"name": "a", "levels": 11}]}, "give 2 to 10"),
        ({"aspects": 3}, "aspects is 3; give a list"),
        ({"aspects": "abc"}, "aspects is 'abc'; give a list"),
        ({"aspects": [{"name": "a", "levels": 3.9}]}, "has 3.9 levels; give 2 to 10"),
        ({"aspects": [{"name": "a", "levels": "3"}]}, "has '3' levels; give 2 to 10"),
        ({"aspects": [{"name": 1}]}, "give texts"),
        ({"aspects": [{"levels": 3}]}, "give its name, or name and levels"),
        ({"aspects": [{"name": "a", "steps": 3}]}, "give its name, or name and levels"),
        ({"skip_reasons": "Broken"}, "skip_reasons is 'Broken'; give a list"),
        ({"flag_reasons": ["fine", 3]}, "flag_reasons are .*; give a list of texts"),
        ({"content_warning": ["x"]}, "content_warning is .*; give a text"),
        ({"golden": 1}, "setting 'golden' is not known"),
    ],
)
def test_settings_that_no_campaign_can_have_are_refused(values, words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        CampaignSettings.from_dict(values)


def test_settings_are_kept_as_what_differs_and_come_back_the_same() -> None:
    settings = CampaignSettings(order="random", aspects=(Aspect("clear", 3),), skip_reasons=("no",))
    kept = settings.to_dict()
    assert set(kept) == {"order", "aspects", "skip_reasons"}
    assert CampaignSettings.from_dict(kept) == settings
    assert CampaignSettings().to_dict() == {}
