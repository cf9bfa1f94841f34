"""Scorers that a user brings: a Python function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from rlhf.data.comparisons import Message


class FunctionScorer:
    """Scores with a Python function `(prompts, responses) -> scores`.

    The function gets a list of prompts, each a list of {"role", "content"} messages, and a list of response
    texts of the same length, and returns one finite number for each.
    """

    def __init__(self, name: str, function: Callable[..., Sequence[float]]):
        self.name = name
        self.function = function

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Sequence[float]:
        """`[n]` scores for `[n]` prompts with one response each."""
        plain = [[message.to_dict() for message in prompt] for prompt in prompts]
        return [float(score) for score in self.function(plain, list(responses))]


def load_scorer(name: str) -> FunctionScorer:
    """Import the function `module:function`.

    Raises:
        ValueError: the name has another form, or the module or the function is not there.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"scorer is {name!r}: name a function as module:function, such as my_rewards:brevity")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ValueError(f"scorer is {name!r}: {module_name} cannot be imported ({error})") from error
    except AttributeError as error:
        raise ValueError(f"scorer is {name!r}: {module_name} has no {function_name}") from error
    if not callable(function):
        raise ValueError(f"scorer is {name!r}: {function_name} is a {type(function).__name__}, not a function")
    return FunctionScorer(name, function)
