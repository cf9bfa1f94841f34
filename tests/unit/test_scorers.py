from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest

from reward.scorers import build_scorers, load_scorer
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
        ("rewards_of_a_user:of_one", "cannot be called with prompts and responses .* it takes \\(responses\\)"),
        ("rewards_of_a_user:of_three", "cannot be called with prompts and responses"),
        ("rewards_of_a_user:later", "an async function"),
    ],
)
def test_what_cannot_be_called_is_refused(rewards_module, name, message) -> None:
    async def later(prompts, responses):
        return []

    rewards_module.number = 3
    rewards_module.of_one = lambda responses: []
    rewards_module.of_three = lambda prompts, responses, more: []
    rewards_module.later = later
    with pytest.raises(ValueError, match=message):
        load_scorer(name)


@pytest.mark.parametrize(
    "text, message",
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero, .*broken_rewards.py:2\)"),
        ("def score(:", "SyntaxError"),
    ],
)
def test_a_module_that_fails_is_refused_with_the_place(tmp_path, monkeypatch, text, message) -> None:
    (tmp_path / "broken_rewards.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"broken_rewards cannot be imported .*{message}"):
        load_scorer("broken_rewards:score")
    assert "broken_rewards" not in sys.modules


def build(*specs: str):
    return build_scorers(specs, timeout=1.0, retries=0, batch_size=2)


def test_scorers_are_called_by_their_function_or_by_the_name_before_them(rewards_module) -> None:
    rewards_module.brevity = rewards_module.kindness = lambda prompts, responses: [0.0] * len(responses)
    scorers = build("rewards_of_a_user:brevity", "kind=rewards_of_a_user:kindness")
    assert [scorer.name for scorer in scorers] == ["brevity", "kind"]
    assert build() == []


def test_two_scorers_of_one_name_are_refused(rewards_module) -> None:
    rewards_module.brevity = lambda prompts, responses: [0.0] * len(responses)
    with pytest.raises(ValueError, match="two scorers are called brevity: give one another name, as in second=rewards"):
        build("other=rewards_of_a_user:brevity", "rewards_of_a_user:brevity", "rewards_of_a_user:brevity")


def test_a_module_is_found_in_the_current_folder_and_shadows_nothing(tmp_path, monkeypatch) -> None:
    for name in ("rewards_lying_here", "reward"):
        (tmp_path / f"{name}.py").write_text("def score(prompts, responses): return [1.0] * len(responses)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as when accelerate launches a file
    assert load_scorer("rewards_lying_here:score").score([], []) == []
    with pytest.raises(ValueError, match="reward has no score"):
        load_scorer("reward:score")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "names nothing: a scorer is module:function, http"),
        ("kind=", "a scorer is module:function"),
        ("organisation/model", "no folder here: for a model of the hub say hub:organisation/model"),
        ("brevity", "a scorer is module:function"),
        ("ftp://host/score", "a scorer is module:function"),
        ("hub:not a name", "is not known; accepted are"),
    ],
)
def test_what_names_no_scorer_is_refused(spec, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"neither a finished reward run .* nor a model"):
        build(str(tmp_path))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"timeout": 0.0}, "timeout is 0.0: it must be above 0 seconds"),
        ({"retries": -1}, "retries is -1: it must be at least 0"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
    ],
)
def test_settings_that_no_scorer_can_use_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_scorers([], **{"timeout": 1.0, "retries": 0, "batch_size": 1} | settings)
