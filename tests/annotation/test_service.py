"""The work of annotators, on a real SQLite file and a real PostgreSQL server."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from annotation import assignment, campaigns
from annotation.cards import shown_order
from annotation.importing import import_comparisons
from annotation.records import InvalidJudgment, InvalidName, Judgment, NotHeld, Progress, Said, TooLong, UnknownItem
from annotation.service import AnnotationService
from annotation.sessions import SESSION_SECONDS
from annotation.store import Store, StoreBusy
from annotation.tables import annotator, judgment, showing, slot
from benchmarks.annotation import durability
from tests.annotation.items import comparison


def ranking(name: str, item_id: str, ranks: tuple[int, ...] = (1, 2), **settings: object) -> Judgment:
    return Judgment(f"judgment-{name}", item_id, Said("ranking", ranks, **settings))


def history(store: Store) -> list[tuple[str, int, str]]:
    """Item, revision and kind of all judgments, oldest first."""
    query = sa.select(judgment.c.item_id, judgment.c.revision, judgment.c.kind).order_by(judgment.c.number)
    with store.reading() as connection:
        return [(str(row.item_id), row.revision, row.kind) for row in connection.execute(query)]


# ---- sessions -------------------------------------------------------------------------------------------------


def test_a_session_ends_when_it_is_ended_or_has_run_out(service, clock) -> None:
    first, second = service.sign_in("Ada"), service.sign_in("  ada ")
    assert first != second
    assert service.annotator_of(first) == service.annotator_of(second)
    service.sign_out(first)
    assert service.annotator_of(first) is None
    clock.now += SESSION_SECONDS - 1
    assert service.annotator_of(second).name == "Ada"
    clock.now += 1
    assert service.annotator_of(second) is None


def test_a_token_is_not_kept(store: Store, service) -> None:
    token = service.sign_in("Ada")
    with store.reading() as connection:
        rows = connection.execute(sa.text("SELECT * FROM session")).all()
    assert token not in str(rows)
    assert service.annotator_of("guess") is None
    assert service.annotator_of(None) is None


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\x00b", "\u202eadA", "a\u200bb"])
def test_a_name_that_cannot_be_seen_is_refused(service, name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 64"):
        service.sign_in(name)


# ---- judging --------------------------------------------------------------------------------------------------


def test_a_judgment_is_stored_by_position_whatever_the_order_shown(store: Store, service, fill, sign_in) -> None:
    fill(12, num_responses=4)
    ada = sign_in("Ada")
    shown = set()
    for number in range(1, 13):
        card = service.next_card(ada, "tab").card
        words = [text.split()[1] for text in card.responses]
        shown.add(tuple(words))
        ranks = {"first": 3, "second": 1, "third": 2, "fourth": 2}
        service.submit(ada, ranking(str(number), card.item_id, tuple(ranks[word] for word in words)))
    with store.reading() as connection:
        stored = connection.execute(sa.select(judgment.c.ranks, judgment.c.shown_order)).all()
    assert [row.ranks for row in stored] == [[3, 1, 2, 2]] * 12
    assert len(shown) > 6  # 24 orders: the chance of so few by accident is below 1e-4
    assert {
        tuple(("first", "second", "third", "fourth")[place] for place in row.shown_order) for row in stored
    } == shown


def test_the_order_shown_favours_no_place_and_is_drawn_each_time() -> None:
    orders = Counter(tuple(shown_order(2)) for _ in range(2000))
    assert set(orders) == {(0, 1), (1, 0)}
    assert abs(orders[(0, 1)] - 1000) < 110  # five standard deviations


def test_the_order_shown_cannot_be_worked_out_from_item_and_annotator(store: Store, service, fill, sign_in) -> None:
    """Whoever knows the texts, as those of a public set, would know which stood first there."""
    fill(12, num_responses=4)
    ada = sign_in("Ada")
    orders = []
    for _ in range(2):
        shown = []
        while (card := service.next_card(ada, "tab", exclude=[each.item_id for each in shown]).card) is not None:
            shown.append(card)
        orders.append([card.responses for card in shown])
        service.release(ada, "tab")
        with store.writing() as connection:
            connection.execute(sa.delete(showing))
    assert len(orders[0]) == len(orders[1]) == 12
    assert orders[0] != orders[1]


def test_a_judgment_sent_again_is_the_same_one(store: Store, service, fill, sign_in) -> None:
    fill(1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    first = service.submit(ada, ranking("1", card.item_id))
    assert service.submit(ada, ranking("1", card.item_id)) == first
    assert len(history(store)) == 1


def test_a_judgment_sent_again_is_fine_also_when_other_things_are_asked_by_then(
    store: Store, service, fill, sign_in
) -> None:
    fill(1)
    ada = sign_in("Ada")
    said = ranking("1", service.next_card(ada, "tab").card.item_id, strength=2.0, rationale="because")
    first = service.submit(ada, said)
    with store.writing() as connection:
        settings = campaigns.CampaignSettings(rationale="off", strength=False)
        campaigns.change(connection, 1, actor_id=None, at=0.0, settings=settings)
    assert service.submit(ada, said) == first
    assert len(history(store)) == 1


def test_an_id_cannot_be_used_for_something_else(service, fill, sign_in) -> None:
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    service.submit(ada, ranking("1", card.item_id, (1, 2)))
    for who, said in (
        (ada, ranking("1", card.item_id, (2, 1))),
        (bob, ranking("1", card.item_id, (1, 2))),
        (ada, ranking("1", "2", (1, 2))),
    ):
        with pytest.raises(InvalidJudgment, match="another judgment"):
            service.submit(who, said)
    with pytest.raises(InvalidJudgment, match="another judgment"):
        service.undo(ada, "tab", "judgment-1")


def test_a_hundred_identical_submissions_at_once_are_one(store: Store, fill) -> None:
    fill(1, overlap=3)
    service = AnnotationService(store)
    ada = service.annotator_of(service.sign_in("Ada")).id
    card = service.next_card(ada, "tab").card
    answers, barrier = [], threading.Barrier(20)

    def send() -> None:
        barrier.wait()
        for _ in range(5):
            answers.append(patiently(lambda: service.submit(ada, ranking("1", card.item_id))))

    run_at_once([send] * 20)
    assert len(answers) == 100
    assert len(set(answers)) == 1
    assert history(store) == [(card.item_id, 1, "ranking")]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Judgment("judgment", "1", Said("ranking")), "give 2 whole numbers"),
        (Judgment("judgment", "1", Said("ranking", (1,))), "give 2 whole numbers"),
        (Judgment("judgment", "1", Said("ranking", (1, 3))), "from 1 to 2"),
        (Judgment("judgment", "1", Said("ranking", (0, 1))), "from 1 to 2"),
        (Judgment("judgment", "1", Said("ranking", (1, True))), "whole numbers"),
        (Judgment("judgment", "1", Said("ranking", (1, 1), strength=2)), "preferred one of a pair"),
        (Judgment("judgment", "1", Said("ranking", (1, 2), strength=4)), "use 1, 2 or 3"),
        (Judgment("judgment", "1", Said("ranking", (1, 2), reason="why")), "no reason"),
        (Judgment("judgment", "1", Said("skip", (1, 2))), "neither ranks"),
        (Judgment("judgment", "1", Said("skip", reason="a" * 2001)), "2001 characters, and 2000 is the most"),
        (Judgment("judgment", "1", Said("ranking", (1, 2), rationale="a\0")), "the rationale holds a NUL character"),
        (Judgment("judgment", "1", Said("undo")), "ranking, skip or flag"),
        (Judgment("short", "1", Said("ranking", (1, 2))), "8 to 64"),
        (Judgment("judgment", "1", Said("ranking", (1, 2)), active_ms=-1), "milliseconds"),
    ],
)
def test_what_does_not_fit_is_named_and_not_stored(store: Store, service, fill, sign_in, said, words: str) -> None:
    fill(1)
    ada = sign_in("Ada")
    assert service.next_card(ada, "tab").card.item_id == "1"
    with pytest.raises((InvalidJudgment, TooLong), match=words):
        service.submit(ada, said)
    assert history(store) == []


@pytest.mark.parametrize("item_id", ["2", "x", "-1", "1; DROP TABLE slot", "9" * 30, "²"])
def test_an_item_that_is_not_there_is_named(service, fill, sign_in, item_id: str) -> None:
    fill(1)
    with pytest.raises(UnknownItem):
        service.submit(sign_in("Ada"), ranking("1", item_id))


@pytest.mark.parametrize("kind", ["ranking", "skip", "flag"])
def test_an_item_that_was_never_shown_cannot_be_judged_and_so_not_be_read(
    store: Store, service, fill, sign_in, kind: str
) -> None:
    """Numbers of items count up, and a campaign may be for members, or closed."""
    fill(1)
    ada = sign_in("Ada")
    with store.writing() as connection:
        settings = campaigns.CampaignSettings(members_only=True)
        campaigns.change(connection, 1, actor_id=None, at=0.0, settings=settings)
    assert service.next_card(ada, "tab").card is None
    with pytest.raises(UnknownItem, match="never shown to you"):
        service.submit(ada, Judgment("judgment-1", "1", Said(kind, (1, 2) if kind == "ranking" else None)))
    with pytest.raises(UnknownItem):
        service.open_again(ada, "tab", "1")
    assert history(store) == []


# ---- undo -----------------------------------------------------------------------------------------------------


def test_undo_shows_what_was_said_and_both_stay_in_the_history(store: Store, service, fill, sign_in) -> None:
    fill(2)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    service.submit(ada, ranking("1", card.item_id, (2, 1), strength=3))
    undone = service.undo(ada, "tab", "undo-0001")
    assert (undone.card.item_id, undone.card.responses) == (card.item_id, card.responses)
    assert undone.previous == Said("ranking", (2, 1), 3)
    assert service.progress(ada).judged == 0
    assert service.next_card(ada, "tab").card.item_id == card.item_id
    assert service.submit(ada, ranking("2", card.item_id, (1, 2))).revision == 3
    assert history(store) == [("1", 1, "ranking"), ("1", 2, "undo"), ("1", 3, "ranking")]


def test_undo_goes_back_step_by_step(service, fill, sign_in) -> None:
    fill(2)
    ada = sign_in("Ada")
    for name in "12":
        service.submit(ada, ranking(name, service.next_card(ada, "tab").card.item_id))
    assert service.undo(ada, "tab", "undo-0001").card.item_id == "2"
    assert service.undo(ada, "tab", "undo-0001").card.item_id == "2"
    assert service.undo(ada, "tab", "undo-0002").card.item_id == "1"
    assert service.undo(ada, "tab", "undo-0003") is None


def test_undos_at_once_take_back_one_judgment_each(store: Store, fill) -> None:
    fill(6)
    service = AnnotationService(store)
    ada = service.annotator_of(service.sign_in("Ada")).id
    for name in "123456":
        service.submit(ada, ranking(name, service.next_card(ada, "tab").card.item_id))
    barrier = threading.Barrier(4)

    def take_back(number: int) -> None:
        barrier.wait()
        service.undo(ada, f"tab{number}", f"undo-000{number}")

    run_at_once([lambda number=number: take_back(number) for number in range(4)])
    entries = history(store)[6:]
    assert sorted(entries) == [(item_id, 2, "undo") for item_id in "3456"]
    assert service.progress(ada).judged == 2


def test_an_undo_and_a_judgment_of_one_person_do_not_wait_for_each_other(store: Store, service, fill, sign_in) -> None:
    """On PostgreSQL a judgment, whose row names its annotator, locks that row too, and the undo its item."""
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one write at a time")
    fill(1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    service.submit(ada, ranking("1", card.item_id))
    failed: list[Exception] = []

    def take_back() -> None:
        try:
            service.undo(ada, "tab", "undo-0001")
        except Exception as error:
            failed.append(error)

    undo = threading.Thread(target=take_back)
    with store.writing() as connection:
        connection.execute(sa.select(slot.c.id).where(slot.c.item_id == 1).with_for_update())
        undo.start()
        undo.join(0.5)
        assert undo.is_alive()  # it has its annotator and waits for the item
        connection.execute(
            sa.select(annotator.c.id).where(annotator.c.id == ada).with_for_update(read=True, key_share=True)
        )
    undo.join()
    assert failed == []
    assert service.progress(ada).judged == 0


def test_the_order_is_the_one_that_was_seen_also_when_the_program_would_now_draw_another(
    store: Store, service, fill, sign_in, monkeypatch
) -> None:
    fill(1)
    ada = sign_in("Ada")
    card = service.next_card(ada, "tab").card
    monkeypatch.setattr("annotation.cards.shown_order", lambda _: [0, 1] if card.responses[0] != "1 first" else [1, 0])
    better = tuple(1 if text == "1 second" else 2 for text in card.responses)
    service.submit(ada, ranking("1", card.item_id, better))
    with store.reading() as connection:
        assert connection.execute(sa.select(judgment.c.ranks)).scalars().all() == [[2, 1]]
    assert service.undo(ada, "tab", "undo-0001").previous.ranks == better


def test_undo_takes_back_ones_own_only(service, fill, sign_in) -> None:
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    service.submit(ada, ranking("1", service.next_card(ada, "tab").card.item_id))
    assert service.undo(bob, "tab", "undo-0001") is None


def test_a_skip_gives_the_item_to_others_and_can_be_taken_back_while_it_is_free(service, fill, sign_in) -> None:
    fill(1)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    service.submit(ada, Judgment("judgment-1", card.item_id, Said("skip", reason="not my field")))
    assert service.next_card(ada, "tab").card is None
    assert service.undo(ada, "tab", "undo-0001").previous.kind == "skip"
    service.submit(ada, Judgment("judgment-2", card.item_id, Said("skip")))
    service.submit(bob, ranking("3", service.next_card(bob, "tab").card.item_id))
    undone = service.undo(ada, "tab", "undo-0002")
    assert (undone.previous.kind, undone.card) == ("skip", None)
    assert service.undo(ada, "tab", "undo-0003") is None


# ---- leases ---------------------------------------------------------------------------------------------------


def test_a_tab_gets_its_own_item_again_and_another_tab_another_one(service, fill, sign_in) -> None:
    fill(2)
    ada = sign_in("Ada")
    first = service.next_card(ada, "left").card.item_id
    assert service.next_card(ada, "left").card.item_id == first
    second = service.next_card(ada, "right").card.item_id
    assert second != first
    assert service.next_card(ada, "left", exclude=[first]).card is None


def test_overlap_never_shows_an_item_twice_to_one_annotator(service, fill, sign_in) -> None:
    fill(2, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    for name in "12":
        service.submit(ada, ranking(name, service.next_card(ada, "tab").card.item_id))
    assert service.next_card(ada, "tab").card is None
    assert service.progress(ada) == Progress(judged=2, skipped=0, available=0, total=2, done=0, waiting=2)
    assert service.progress(bob) == Progress(judged=0, skipped=0, available=2, total=2, done=0)
    service.submit(bob, ranking("3", service.next_card(bob, "tab").card.item_id))
    assert service.progress(bob) == Progress(judged=1, skipped=0, available=1, total=2, done=1)


def test_a_lease_that_ran_out_goes_to_the_next(service, fill, sign_in, clock) -> None:
    fill(1)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    assert service.next_card(bob, "tab").card is None
    clock.now += 59
    assert service.renew(ada, "tab", [card.item_id]) == [card.item_id]
    clock.now += 59
    assert service.next_card(bob, "tab").card is None
    clock.now += 1
    assert service.next_card(bob, "tab").card.item_id == card.item_id
    assert service.renew(ada, "tab", [card.item_id]) == []


def test_a_late_judgment_counts_while_there_is_a_place_for_it(store: Store, service, fill, sign_in, clock) -> None:
    fill(1)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    card = service.next_card(ada, "tab").card
    clock.now += 600
    assert service.next_card(bob, "tab").card.item_id == card.item_id
    clock.now += 600
    service.submit(ada, ranking("1", card.item_id))
    assert service.next_card(bob, "tab").card is None
    with pytest.raises(NotHeld, match="not counted"):
        service.submit(bob, ranking("2", card.item_id))
    assert len(history(store)) == 1


def test_who_is_late_keeps_the_place_while_another_is_open(service, fill, sign_in, clock) -> None:
    fill(1, overlap=2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    item_id = service.next_card(ada, "tab").card.item_id
    clock.now += 600
    assert service.next_card(bob, "tab").card.item_id == item_id
    assert service.renew(ada, "tab", [item_id]) == [item_id]


def test_a_large_store_is_counted_now_and_then_and_ones_own_work_at_once(
    service, fill, sign_in, clock, monkeypatch
) -> None:
    monkeypatch.setattr("annotation.service.LARGE_STORE", 2)
    fill(3)
    ada = sign_in("Ada")
    assert service.progress(ada) == Progress(judged=0, skipped=0, available=3, total=3, done=0)
    service.submit(ada, ranking("1", service.next_card(ada, "tab").card.item_id))
    assert service.progress(ada).judged == 1
    clock.now += 5
    assert service.progress(ada) == Progress(judged=1, skipped=0, available=2, total=3, done=1)


def test_progress_does_not_look_through_all_slots_of_a_campaign(tmp_path: Path) -> None:
    """With hundreds of thousands of them that takes seconds, for every annotator. PostgreSQL plans by table sizes."""
    store = Store.open(f"sqlite:///{tmp_path}/annotations.db")
    import_comparisons(store, [comparison(number) for number in range(1, 4)])
    service = AnnotationService(store)
    ada = service.annotator_of(service.sign_in("Ada")).id
    service.submit(ada, ranking("1", service.next_card(ada, "tab").card.item_id))
    plans = []

    @sa.event.listens_for(store.engine, "before_cursor_execute")
    def explain(connection, cursor, statement, parameters, context, executemany) -> None:
        if statement.startswith("SELECT"):
            steps = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(step[-1] for step in steps)

    assert service.progress(ada).judged == 1
    assert any("slot" in step for step in plans)
    assert [step for step in plans if re.search("SCAN (slot|item)|ix_slot_campaign", step)] == []
    store.close()


def test_a_large_store_is_counted_once_for_all_who_ask(service, fill, sign_in, clock, monkeypatch) -> None:
    monkeypatch.setattr("annotation.service.LARGE_STORE", 2)
    fill(3)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    known = service.progress(bob)
    service.submit(ada, ranking("1", service.next_card(ada, "tab").card.item_id))
    clock.now += 5
    count_items, asked_meanwhile = assignment.count_items, []

    def count_slowly(*arguments, **named):
        asked_meanwhile.append(service.progress(bob))
        clock.now += 3
        return count_items(*arguments, **named)

    monkeypatch.setattr(assignment, "count_items", count_slowly)
    assert service.progress(ada).done == 1
    assert asked_meanwhile == [known]
    # what takes long to count is counted the more seldom
    clock.now += 59
    assert service.progress(ada).done == 1
    assert len(asked_meanwhile) == 1
    clock.now += 1
    service.progress(ada)
    assert len(asked_meanwhile) == 2


def test_a_tab_that_closes_gives_its_items_back(service, fill, sign_in) -> None:
    fill(2)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    service.submit(ada, ranking("1", service.next_card(ada, "tab").card.item_id))
    held = service.next_card(ada, "tab").card.item_id
    assert service.next_card(bob, "tab").card is None
    service.release(ada, "tab")
    assert service.next_card(bob, "tab").card.item_id == held
    assert service.progress(ada).judged == 1


def run_at_once(actions: list) -> None:
    """Run in threads, and fail where one of them did."""
    assert durability.run_at_once(actions) == []


def patiently(action):
    """Do as a page does that is told the store is busy: the same again, which is safe to repeat."""
    for _ in range(9):
        try:
            return action()
        except StoreBusy:
            continue
    return action()


def test_nobody_is_told_that_nothing_is_left_while_another_looks_at_the_last_place(store: Store, fill) -> None:
    """Whoever submits locks all places of the item for a moment."""
    fill(1, overlap=2)
    service = AnnotationService(store)
    ada, bob = (service.annotator_of(service.sign_in(name)).id for name in ("Ada", "Bob"))
    service.next_card(ada, "tab")
    found = []
    asking = threading.Thread(target=lambda: found.append(service.next_card(bob, "tab").card))
    with store.writing() as connection:
        assert assignment.hold(connection, 1, ada, now=service.clock(), client=None, until=None) == assignment.WORK
        asking.start()
        asking.join(0.5)
        assert found == []
    asking.join()
    assert [card.item_id for card in found] == ["1"]


def test_many_annotators_at_once_give_each_item_its_judgments_and_not_one_more(store: Store, fill) -> None:
    fill(30, overlap=3)
    service = AnnotationService(store)
    barrier = threading.Barrier(8)

    def work(name: str) -> None:
        annotator_id = service.annotator_of(service.sign_in(name)).id
        barrier.wait()
        while (card := patiently(lambda: service.next_card(annotator_id, "tab").card)) is not None:
            said = ranking(f"{name}-{card.item_id}", card.item_id)
            patiently(lambda: service.submit(annotator_id, said))  # noqa: B023 - called at once

    run_at_once([lambda name=f"annotator {n}": work(name) for n in range(8)])
    with store.reading() as connection:
        pairs = connection.execute(sa.select(judgment.c.item_id, judgment.c.annotator_id)).all()
    assert len(pairs) == len(set(pairs)) == 90
    assert set(Counter(item_id for item_id, _ in pairs).values()) == {3}
