"""Which item is asked about next: reasons by hand, and the order that they make."""

from __future__ import annotations

import math

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from annotation import campaigns, usefulness
from annotation.campaigns import CampaignError, CampaignSettings
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.store import Store
from annotation.tables import audit, completion
from rlhf.data.comparisons import Comparison, DataError, Message, Response


def item(number: int, *policies: str) -> Comparison:
    responses = tuple(Response(f"{number} {policy}", policy) for policy in policies)
    return Comparison((Message("user", f"question {number}"),), responses)


def test_members_disagree_by_the_spread_of_their_margins() -> None:
    assert usefulness.disagreement([[1.0, 0.0], [1.0, 0.0]]) == 0.0
    assert usefulness.disagreement([[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(1.0)  # margins 1 and -1
    assert usefulness.disagreement([[5.0, 4.0], [-3.0, -4.0]]) == 0.0  # a shift is no disagreement
    # margins of the three pairs: (0, 2), (0, 2), (0, 0)
    assert usefulness.disagreement([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]) == pytest.approx(1.0)


def test_a_single_model_is_asked_about_where_it_is_unsure() -> None:
    assert usefulness.disagreement([[0.3, 0.3]]) == pytest.approx(math.log(2))
    p = 1 / (1 + math.exp(-2))
    assert usefulness.disagreement([[2.0, 0.0]]) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert usefulness.disagreement([[900.0, 0.0]]) == 0.0


def test_votes_differ_by_the_entropy_of_first_choices() -> None:
    assert usefulness.vote_entropy([]) == usefulness.vote_entropy([[1, 2]]) == 0.0
    assert usefulness.vote_entropy([[1, 2], [1, 2]]) == 0.0
    assert usefulness.vote_entropy([[1, 2], [2, 1]]) == pytest.approx(math.log(2))
    assert usefulness.vote_entropy([[1, 2], [2, 1], [1, 1]]) == pytest.approx(math.log(3))
    assert usefulness.vote_entropy([[1, 2, 3], [1, 3, 2]]) == 0.0  # the same one is best


def test_policies_that_were_hardly_compared_count_more() -> None:
    assert usefulness.coverage([1, 2], {}) == 1.0
    assert usefulness.coverage([2, 1], {(1, 2): 3}) == 0.25
    assert usefulness.coverage([1, 2, 3], {(1, 2): 1, (1, 3): 0, (2, 3): 3}) == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert usefulness.coverage([1, 1], {}) == usefulness.coverage([None, 1], {}) == 0.0


def test_shares_are_of_the_others_that_are_exceeded() -> None:
    assert usefulness.shares([5.0, 1.0, 3.0]) == [1.0, 0.0, 0.5]
    assert usefulness.shares([2.0, 2.0, 2.0]) == [0.5, 0.5, 0.5]
    assert usefulness.shares([7.0]) == [0.0]


@given(st.lists(st.integers(-1000, 1000), min_size=2))
def test_shares_do_not_see_the_scale(values: list[int]) -> None:
    assert usefulness.shares(values) == usefulness.shares([3.0 * value + 7 for value in values])


def test_the_item_on_which_the_members_disagree_is_given_first(store: Store, service, sign_in) -> None:
    import_comparisons(store, [item(number, "a", "b") for number in range(1, 5)])
    scores = {1: [[1, 0], [1, 0]], 2: [[2, 0], [0, 2]], 3: [[1, 0], [0.5, 0]], 4: [[0, 0], [0, 0]]}
    usefulness.keep_scores(store, scores)
    with store.writing() as connection:
        settings = CampaignSettings(order="useful", random_share=0.0)
        campaigns.change(connection, 1, actor_id=None, at=0.0, settings=settings)
    assert usefulness.rate(store, "main", at=5.0) == 4
    ada = sign_in("Ada")
    order = []
    for _ in range(4):
        card = service.next_card(ada, "tab").card
        order.append(int(card.item_id))
        service.submit(ada, Judgment(f"judgment-{card.item_id}", card.item_id, Said("ranking", (1, 2))))
    assert order[:2] == [2, 3]
    assert usefulness.rate(store, "main", at=6.0) == 0  # nothing is left
    with store.reading() as connection:
        rated = sa.select(audit.c.details).where(audit.c.action == "items rated by usefulness")
        (entry,) = connection.execute(rated).scalars().all()
        kept = connection.execute(sa.select(completion.c.scores).where(completion.c.item_id == 2)).scalars().all()
    assert entry == {"campaign": 1, "items": 4, "scored": 4}
    assert kept == [[2.0, 0.0], [0.0, 2.0]]


def test_votes_and_policies_count_without_any_reward_model(store: Store, service, sign_in) -> None:
    rows = [item(1, "a", "b"), item(2, "a", "b"), item(3, "a", "c")]
    import_comparisons(store, rows, overlap=3)
    for number, name in enumerate(("Ada", "Bob")):
        who = sign_in(name)
        for item_number in (1, 2):
            card = service.next_card(who, "tab").card
            first = card.responses[0].endswith("a") == (number == 0 or item_number == 1)
            said = Said("ranking", (1, 2) if first else (2, 1))
            service.submit(who, Judgment(f"judgment-{number}-{item_number}", card.item_id, said))
    assert usefulness.rate(store, "main", weights=usefulness.Weights(0, 1, 0.1), at=0.0) == 3
    with store.reading() as connection:
        found = dict(connection.execute(sa.text("SELECT id, usefulness FROM item")).all())
    assert found[2] > found[1]  # there the votes differ
    assert found[3] > found[1]  # those two were never compared
    with pytest.raises(CampaignError, match="'other' is not in the store, which has main"):
        usefulness.rate(store, "other", at=0.0)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -0.5])
def test_a_weight_that_orders_nothing_is_refused(weight: float) -> None:
    with pytest.raises(DataError, match=r"entropy is .*; give a weight >= 0"):
        usefulness.Weights(entropy=weight)
