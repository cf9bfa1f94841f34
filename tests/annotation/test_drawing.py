"""What is drawn at random, and whether the probability that is kept is the one with which it is given."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import sqlalchemy as sa

from annotation import assignment, campaigns, drawing
from annotation.campaigns import CampaignSettings
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from annotation.tables import showing, slot
from tests.annotation.items import comparison


def set_up(store: Store, **values: object) -> None:
    with store.writing() as connection:
        campaigns.change(connection, 1, actor_id=None, at=0.0, settings=CampaignSettings(**values))


def judge(service: AnnotationService, who: str, item_id: str) -> None:
    service.submit(who, Judgment(f"judgment-{who}-{item_id}", item_id, Said("ranking", (1, 2))))


def places_of(connection: sa.Connection, who: str) -> sa.Select:
    return drawing._one_for_each_item(assignment.waiting(assignment.places_for(1, who, [])))


@pytest.fixture
def some_judged(store: Store, service, fill, sign_in) -> str:
    """Twelve items for two people each; Ada, who is given, has judged two of them, Bob three, Eve two of Bob's."""
    fill(12, overlap=2)
    ada, bob, eve = (sign_in(name) for name in ("Ada", "Bob", "Eve"))
    for who, count in ((bob, 3), (eve, 2)):
        for _ in range(count):
            judge(service, who, service.next_card(who, "tab").card.item_id)
    for _ in range(2):  # the third and the fourth: no place is left in the first and the second
        judge(service, ada, service.next_card(ada, "tab").card.item_id)
    return ada


def test_few_items_are_all_drawn_with_the_same_probability(store: Store, some_judged: str) -> None:
    with store.reading() as connection:
        places = places_of(connection, some_judged)
        found = [assignment.Place(*row) for row in connection.execute(places)]
        assert sorted(place.item_id for place in found) == [5, 6, 7, 8, 9, 10, 11, 12]
        assert [drawing.chance(connection, places, place) for place in found] == [1 / 8] * 8


@pytest.mark.parametrize("window", [1, 3, 7])
def test_of_many_items_each_is_drawn_as_often_as_is_said(
    store: Store, some_judged: str, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(drawing, "WINDOW", window)
    random, draws = Random(window), 800
    with store.reading() as connection:
        places = places_of(connection, some_judged)
        found = [assignment.Place(*row) for row in connection.execute(places)]
        said = {place.item_id: drawing.chance(connection, places, place) for place in found}
        counts = Counter(drawing.draw(connection, places, random).item_id for _ in range(draws))
    assert sum(said.values()) == pytest.approx(1.0)
    assert set(counts) <= set(said)
    for item_id, chance in said.items():
        deviation = (draws * chance * (1 - chance)) ** 0.5
        assert abs(counts[item_id] - draws * chance) < 4 * deviation + 1, item_id


def test_places_with_the_same_number_are_drawn_as_often_as_is_said(
    store: Store, fill, sign_in, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(5)
    ada = sign_in("Ada")
    monkeypatch.setattr(drawing, "WINDOW", 2)
    with store.writing() as connection:
        for item_id, number in enumerate((0.25, 0.25, 0.5, 0.75, 0.75), start=1):
            connection.execute(sa.update(slot).where(slot.c.item_id == item_id).values(shuffle=number))
        places = places_of(connection, ada)
        found = [assignment.Place(*row) for row in connection.execute(places.order_by(slot.c.item_id))]
        # from the place two before, round the circle
        assert [drawing.chance(connection, places, place) for place in found] == [0.25, 0.25, 0.125, 0.25, 0.125]


def test_what_is_kept_is_how_often_an_item_is_given_gold_and_order_included(store: Store, sign_in) -> None:
    work = [comparison(number, 2) for number in range(1, 5)]
    gold = comparison(5, 2)
    useful = {row.id: -float(number) for number, row in enumerate(work)}
    import_comparisons(store, [*work, gold], usefulness=useful, gold={gold.id: (1, 2)})
    set_up(store, order="useful", random_share=0.4, gold_share=0.25)
    ada = sign_in("Ada")
    service = AnnotationService(store, random=Random(2))
    counts: Counter[str] = Counter()
    kept: dict[str, set[float | None]] = {}
    draws = 300
    for _ in range(draws):
        item_id = service.next_card(ada, "tab").card.item_id
        counts[item_id] += 1
        with store.writing() as connection:
            probability = connection.execute(
                sa.select(showing.c.probability).where(showing.c.item_id == int(item_id))
            ).scalar_one()
            connection.execute(sa.delete(slot).where(slot.c.kind == "gold"))
            free = {"state": "open", "annotator_id": None, "client": None, "leased_until": None}
            connection.execute(sa.update(slot).values(free))
        kept.setdefault(item_id, set()).add(probability and round(probability, 9))
    said = {"1": 0.525, "2": 0.075, "3": 0.075, "4": 0.075}  # .75 (.6 + .4 / 4) and .75 * .4 / 4
    assert kept == {item_id: {chance} for item_id, chance in said.items()} | {"5": {None}}
    for item_id, chance in (said | {"5": 0.25}).items():
        assert abs(counts[item_id] - draws * chance) < 4 * (draws * chance * (1 - chance)) ** 0.5, item_id


def test_at_random_everybody_has_an_order_of_their_own_and_the_probability_is_kept(store: Store, fill, sign_in) -> None:
    fill(8, overlap=2)
    set_up(store, order="random")
    service = AnnotationService(store, random=Random(1))
    given: dict[str, list[str]] = {}
    for who in (sign_in("Ada"), sign_in("Bob")):
        given[who] = []
        while (card := service.next_card(who, "tab").card) is not None:
            given[who].append(card.item_id)
            judge(service, who, card.item_id)
        with store.reading() as connection:
            query = sa.select(showing.c.item_id, showing.c.probability).where(showing.c.annotator_id == who)
            kept = {str(row.item_id): row.probability for row in connection.execute(query)}
        assert [kept[item_id] for item_id in given[who]] == [1 / left for left in range(8, 0, -1)]
    first, second = given.values()
    assert sorted(first) == sorted(second)
    assert first != second != sorted(second, key=int)


@pytest.mark.parametrize("settings", [{"order": "oldest"}, {"order": "useful", "random_share": 0.0}])
def test_where_nothing_is_drawn_there_is_no_probability(store: Store, service, fill, sign_in, settings) -> None:
    fill(2)
    set_up(store, **settings)
    service.next_card(sign_in("Ada"), "tab")
    with store.reading() as connection:
        assert tuple(connection.execute(sa.select(showing.c.probability, showing.c.chosen_by)).one()) == (None, "order")


def test_an_item_given_anew_has_the_probability_of_the_second_time(store: Store, service, fill, sign_in) -> None:
    fill(2)
    set_up(store, order="random")
    ada, bob = sign_in("Ada"), sign_in("Bob")
    first = service.next_card(ada, "tab").card
    judge(service, bob, service.next_card(bob, "tab").card.item_id)
    service.release(ada, "tab")
    again = service.next_card(ada, "tab").card
    assert (again.item_id, again.responses) == (first.item_id, first.responses)
    with store.reading() as connection:
        kept = connection.execute(sa.select(showing.c.probability).where(showing.c.annotator_id == ada)).scalars().all()
    assert kept == [1.0]
