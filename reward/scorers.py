"""Scorers that a user names: Python functions, addresses, reward models of a hub, and reward runs of this framework."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from reward.http_scorer import HttpScorer, check_address
from reward.hub_reward_model import HubRewardModel, without_partitioning
from reward.reward_model import RewardModel
from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.engine.sources import HUB_NAME
from rlhf.training.rollout import ResponseScorer
from rlhf.training.run_folder import CONFIG

FORMS = (
    "module:function, http://host:port/path, hub:organisation/model, the folder of a reward model, or the --output_dir "
    "of rlhf reward, each with a name before it where wanted, NAME=..."
)
NAMED = re.compile(r"([A-Za-z][\w.-]*)=(.+)", re.DOTALL)
HUB = "hub:"


class FunctionScorer:
    """Scores with a Python function `(prompts, responses) -> scores`.

    The function gets a list of prompts, each a list of {"role", "content"} messages, and a list of response
    texts of the same length, and returns one finite number for each.
    """

    def __init__(self, name: str, function: Callable[..., Sequence[float]]):
        self.name = name
        self.function = function

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Sequence[float]:
        """What the function gives for `[n]` prompts with one response each; `score_responses` checks it."""
        return self.function([[message.to_dict() for message in prompt] for prompt in prompts], list(responses))


class RunScorer:
    """Scores with a reward run of this framework, on the backbone that it was trained on; of an ensemble, the mean.

    Args:
        name: the scorer's.
        folder: the run.
        batch_size: prompts per forward pass.

    Raises:
        ValueError: the folder holds no finished reward model.
    """

    def __init__(self, name: str, folder: Path, *, batch_size: int):
        self.name = name
        self.model = RewardModel(folder, batch_size=batch_size)

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """`[n]` scores; neighbours with one prompt share its computation."""
        pairs = zip(map(tuple, prompts), responses, strict=True)
        comparisons = [
            Comparison(prompt, tuple(Response(text) for _, text in group))
            for prompt, group in groupby(pairs, key=lambda pair: pair[0])
        ]
        return [score for scores in self.model.score(comparisons, progress=False) for score in scores]


def build_scorers(specs: Sequence[str], *, timeout: float, retries: int, batch_size: int) -> list[ResponseScorer]:
    """The scorers that `[NAME=]SPEC` name, each ready to score.

    Args:
        specs: what to score with; see `FORMS`.
        timeout: seconds that an address may take for a batch.
        retries: how often a batch is sent to an address again.
        batch_size: responses of one request, conversations or prompts of one forward pass.

    Raises:
        ValueError: a scorer cannot be had or used, or two have one name; with the fix.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}: it must be above 0 seconds, usually 30 to 300")
    for argument, value, least in (("retries", retries, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{argument} is {value}: it must be at least {least}")
    named = [_with_name(spec) for spec in specs]
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        spec = dict(named)[twice[0]]
        raise ValueError(f"two scorers are called {twice[0]}: give one another name, as in second={spec}")
    return [_build(name, spec, timeout=timeout, retries=retries, batch_size=batch_size) for name, spec in named]


def load_scorer(spec: str, name: str | None = None) -> FunctionScorer:
    """Import the function `module:function`, looked for in the current folder last, so that it shadows nothing.

    Raises:
        ValueError: the spec has another form, the module cannot be imported, or the function is not there or cannot
            be called with prompts and responses.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"scorer is {spec!r}: name a function as module:function, such as my_rewards:brevity")
    if os.getcwd() not in sys.path:  # as it is not when accelerate launches a file
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything, and the run must not start
        raise ValueError(f"scorer is {spec!r}: {module_name} cannot be imported ({_what_and_where(error)})") from error
    if not hasattr(module, function_name):
        raise ValueError(f"scorer is {spec!r}: {module_name} has no {function_name}")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"scorer is {spec!r}: {function_name} is a {type(function).__name__}, not a function")
    _check_signature(spec, function)
    return FunctionScorer(name or spec, function)


def _build(name: str, spec: str, *, timeout: float, retries: int, batch_size: int) -> ResponseScorer:
    if _is_address(spec):
        scorer = HttpScorer(name, spec, timeout=timeout, retries=retries, batch_size=batch_size)
        scorer.probe()
        return scorer
    folder = Path(spec).expanduser()
    if spec.startswith(HUB):
        return HubRewardModel(name, spec.removeprefix(HUB), batch_size=batch_size)
    if folder.is_dir():
        if (folder / CONFIG).is_file():  # a run's; what is wrong with it, its reward model says
            with without_partitioning():
                return RunScorer(name, folder, batch_size=batch_size)
        if (folder / "config.json").is_file():
            return HubRewardModel(name, spec, batch_size=batch_size)
        raise ValueError(
            f"scorer is {spec!r}, a folder that holds neither a finished reward run ({CONFIG}) nor a model "
            "(config.json)"
        )
    if ":" in spec and "/" not in spec:
        return load_scorer(spec, name)
    if HUB_NAME.fullmatch(spec):
        raise ValueError(f"scorer is {spec!r}, which is no folder here: for a model of the hub say {HUB}{spec}")
    raise ValueError(f"scorer is {spec!r}: a scorer is {FORMS}")


def _with_name(spec: str) -> tuple[str, str]:
    """The scorer's name, given or made from what it is, and the rest."""
    match = NAMED.fullmatch(spec)
    name, rest = (match[1], match[2]) if match else ("", spec)
    if not rest.strip():
        raise ValueError(f"scorer is {spec!r}, which names nothing: a scorer is {FORMS}")
    if _is_address(rest):
        check_address(rest)  # before anything is shown of it
        short = rest.partition("://")[2].partition("/")[0]
    else:
        short = Path(rest.removeprefix(HUB)).name.rpartition(":")[2]
    return name or re.sub(r"[^\w.-]+", "-", short).strip("-.") or "scorer", rest


def _is_address(spec: str) -> bool:
    return spec.lower().startswith(("http://", "https://"))


def _check_signature(spec: str, function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"scorer is {spec!r}, an async function: give one that returns its scores")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions do not say
        return
    try:
        signature.bind([], [])
    except TypeError as error:
        raise ValueError(
            f"scorer is {spec!r}, which cannot be called with prompts and responses ({error}): it takes {signature}"
        ) from error


def _what_and_where(error: Exception) -> str:
    """An exception with the place in the user's file that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if "importlib" in frame.filename else f", {frame.filename}:{frame.lineno}"
    return f"{type(error).__name__}: {error}{where}"
