"""`rlhf annotate order`: put the items of a campaign into the order in which judgments of them are most useful."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import closing

import sqlalchemy as sa

from annotation.arguments import STORE_HELP, Parser
from annotation.campaigns import by_name, change, find
from annotation.importing import DEFAULT_CAMPAIGN
from annotation.store import Store
from annotation.usefulness import Weights, keep_scores, rate, unscored_items
from rlhf.data.comparisons import Comparison, Message, Response


def order_main(arguments: Sequence[str]) -> None:
    """Score what is left with a reward model if one is named, rate it, and let the campaign go by that order."""
    parser = Parser(
        prog="rlhf annotate order",
        description="Ask first where reward models or annotators disagree, or policies were hardly compared.",
    )
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--campaign", default=DEFAULT_CAMPAIGN, help=f"its name; default {DEFAULT_CAMPAIGN}")
    parser.add_argument("--reward_model", help="a run of rlhf reward, best with several members: scores what is left")
    for name, value in vars(Weights()).items():
        parser.add_argument(f"--{name}", type=float, default=value, help=f"weight of this reason; default {value}")
    parser.add_argument("--batch_size", type=int, default=8, help="responses scored at a time; default 8")
    settings = parser.parse_args(arguments)
    weights = Weights(settings.disagreement, settings.entropy, settings.coverage)
    with closing(Store.open(settings.store, create=False)) as store:
        if settings.reward_model:
            score(store, settings.campaign, settings.reward_model, settings.batch_size)
        now = time.time()
        store.write(lambda connection: _go_by_usefulness(connection, settings.campaign, now))
        count = rate(store, settings.campaign, weights=weights, at=now)
        print(f"{count} items with a place left are in order (store {store.address}, campaign {settings.campaign})")


def score(store: Store, campaign: str, reward_model: str, batch_size: int) -> None:
    """Score the responses of items with a place left by each member of a reward model, and keep that."""
    from reward.reward_model import RewardModel

    items = unscored_items(store, campaign)
    comparisons = [
        Comparison(tuple(Message.from_dict(message) for message in messages), tuple(map(Response, texts)))
        for messages, texts in items.values()
    ]
    members = RewardModel(reward_model, batch_size=batch_size).member_scores(comparisons)
    keep_scores(store, {number: [member[place] for member in members] for place, number in enumerate(items)})


def _go_by_usefulness(connection: sa.Connection, campaign: str, now: float) -> None:
    found = find(connection, by_name(connection, campaign).id, lock=True)
    settings = dataclasses.replace(found.settings, order="useful")
    change(connection, found.id, actor_id=None, at=now, settings=settings)
