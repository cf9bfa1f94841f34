"""The models that `rlhf evaluate-reward` takes: runs of `rlhf reward`, and classifiers from a folder or the hub."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward.hub_reward_model import HubRewardModel
from reward.judged_pairs import Scores
from reward.reward_model import RewardModel
from rlhf.data.comparisons import Comparison
from rlhf.engine.sources import resolve_model, reward_members
from rlhf.training.run_folder import CONFIG

EvaluatedModel = RewardModel | HubRewardModel

HUB = "hub:"  # may stand before the name of a hub's model, as where scorers are named
REORDERED = 32  # comparisons scored a second time in another order


def load_model(name: str, batch_size: int) -> EvaluatedModel:
    """The reward model of a run, or a classifier.

    Raises:
        ValueError: it is neither, or cannot be used.
    """
    folder = Path(name)
    is_run = (folder / "reward_head.safetensors").is_file() and (folder / CONFIG).is_file()
    if is_run or (folder.is_dir() and not (folder / "config.json").is_file()):
        return RewardModel(folder, batch_size=batch_size)
    return HubRewardModel(folder.name or name, name.removeprefix(HUB), batch_size=batch_size)


def parents_of(name: str, model: EvaluatedModel) -> dict[str, str]:
    """The models whose hashes the run records."""
    if isinstance(model, HubRewardModel):
        return {"reward_model": str(resolve_model(name.removeprefix(HUB)).backbone)}
    members = reward_members(name)
    numbered = {f"reward_model_{member.name}": str(member) for member in members} if len(members) > 1 else {}
    return {"backbone": str(model.source.backbone), "reward_model": name, **numbered}


def member_scores(model: EvaluatedModel, comparisons: Sequence[Comparison]) -> list[Scores]:
    """`[members][comparisons][responses]` scores.

    Raises:
        ValueError: the model gives a response no finite score.
    """
    if isinstance(model, RewardModel):
        members: list[Any] = model.member_scores(comparisons)
    else:
        prompts = [comparison.prompt for comparison in comparisons for _ in comparison.responses]
        texts = [response.text for comparison in comparisons for response in comparison.responses]
        flat = iter(model.score(prompts, texts))
        members = [[[next(flat) for _ in comparison.responses] for comparison in comparisons]]
    for comparison, rows in zip(comparisons, zip(*members, strict=True), strict=True):
        if not all(math.isfinite(score) for row in rows for score in row):
            raise ValueError(f"{model.name} gives a response of comparison {comparison.id} no finite score: {rows[0]}")
    return members


def order_change(model: EvaluatedModel, comparisons: Sequence[Comparison], members: Sequence[Scores]) -> float:
    """Greatest change of a score when comparisons and their responses come in reverse, in deviations of the scores."""
    some = list(comparisons[:REORDERED])
    turned = [
        Comparison(comparison.prompt, tuple(reversed(comparison.responses)), source=comparison.source)
        for comparison in reversed(some)
    ]
    again = member_scores(model, turned)
    before = np.array([score for rows in members for row in rows[: len(some)] for score in row])
    after = np.array([score for rows in again for row in reversed(rows) for score in reversed(row)])
    deviation = float(before.std())
    return float(np.abs(before - after).max()) / (deviation or 1.0)


def cut(model: EvaluatedModel) -> dict[str, Any]:
    """What of the conversations the model did not see."""
    if isinstance(model, RewardModel):
        return dict(vars(model.chat.truncation))
    return {"conversations": model.num_scored, "conversations_cut": model.num_cut}
