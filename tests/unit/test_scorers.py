from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest

from reward.scorers import load_scorer
from rlhf.data.comparisons import Message


@pytest.fixture
def rewards_module(monkeypatch) -> Iterator[types.ModuleType]:
    module = types.ModuleType("rewards_of_a_user")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_function_gets_plain_messages_and_gives_one_number_each(rewards_module) -> None:
    seen = []

    def brevity(prompts, responses):
        seen.append((prompts, responses))
        return [-len(response) for response in responses]

    rewards_module.brevity = brevity
    scorer = load_scorer("rewards_of_a_user:brevity")
    prompts = [(Message("system", "Be kind."), Message("user", "Hi")), (Message("user", "Hey"),)]
    scores = scorer.score(prompts, ["abc", ""])
    assert scorer.name == "rewards_of_a_user:brevity"
    assert scores == [-3.0, 0.0]
    assert all(type(score) is float for score in scores)
    assert seen[0][0][0] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert seen[0][1] == ["abc", ""]


@pytest.mark.parametrize(
    "name, message",
    [
        ("brevity", "name a function as module:function"),
        (":brevity", "name a function as module:function"),
        ("rewards_of_a_user:", "name a function as module:function"),
        ("no_such_module_anywhere:f", "cannot be imported"),
        ("rewards_of_a_user:missing", "has no missing"),
        ("rewards_of_a_user:number", "number is a int, not a function"),
    ],
)
def test_what_cannot_be_called_is_refused(rewards_module, name, message) -> None:
    rewards_module.number = 3
    with pytest.raises(ValueError, match=message):
        load_scorer(name)
