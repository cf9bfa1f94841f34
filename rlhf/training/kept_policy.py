"""The policy that a run keeps: the best by a judge that is not in the score, not the last.

The rollout of a step measures the policy as it is before that step's update. One rollout is noisy, and the best of
many noisy ones is a lucky one, so a policy counts by three: half by its own rollout, a quarter each by the one before
and the one after. Hence the first policy and the last two are never kept.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = (0.25, 0.5, 0.25)
WINDOW = len(WEIGHTS)
STATE = "kept_policy.json"
BEST, LATEST = "best_policy.safetensors", "latest_policy.safetensors"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Judged:
    """A policy after `step` updates, with judge and score over its window (or over one rollout)."""

    step: int
    judge_score: float
    score: float


@dataclass
class KeptPolicy:
    """Follows a run and holds on to the adapter of its best policy.

    Attributes:
        rollouts: the last rollouts, each as its policy was judged by it alone.
        best: the best policy by now.
    """

    rollouts: list[Judged] = field(default_factory=list)
    best: Judged | None = None
    _best: Tensors = field(default_factory=dict)
    _latest: Tensors = field(default_factory=dict)

    def observe(self, judged: Judged, adapter: Tensors) -> None:
        """Take in a rollout's mean scores and a copy of the adapter that sampled it.

        All processes give the same numbers and so agree on the best; only one of them needs to give tensors.
        A rollout without a finite judge score starts the window anew.
        """
        if not math.isfinite(judged.judge_score):
            self.rollouts = []
            return
        self.rollouts = [*self.rollouts, judged][-WINDOW:]
        if len(self.rollouts) == WINDOW:
            smoothed = Judged(
                step=self.rollouts[1].step,
                judge_score=sum(w * one.judge_score for w, one in zip(WEIGHTS, self.rollouts, strict=True)),
                score=sum(w * one.score for w, one in zip(WEIGHTS, self.rollouts, strict=True)),
            )
            if self.best is None or smoothed.judge_score > self.best.judge_score:
                self.best, self._best = smoothed, self._latest
        self._latest = adapter

    @property
    def adapter(self) -> Tensors:
        """The tensors of the best policy."""
        return self._best

    def metrics(self) -> dict[str, float]:
        """Which policy is kept and how it and the last one were judged; empty while there is none."""
        if self.best is None or not self.rollouts:
            return {}
        last = self.rollouts[-1]
        return {
            "kept/step": self.best.step,
            "kept/judge_score": self.best.judge_score,
            "kept/score": self.best.score,
            "last/judge_score": last.judge_score,
            "last/score": last.score,
        }

    def __str__(self) -> str:
        if self.best is None:
            return f"the last policy is kept: fewer than {WINDOW} rollouts were judged in a row"
        best, last = self.best, self.rollouts[-1:]
        told = f"kept the policy after {best.step} updates: judge {best.judge_score:.4g}, score {best.score:.4g}"
        return told + "".join(f"; at the last rollout {one.judge_score:.4g} and {one.score:.4g}" for one in last)

    def state(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {"rollouts": [asdict(one) for one in self.rollouts], "best": self.best and asdict(self.best)}

    def save(self, folder: Path) -> None:
        """Write the numbers, and the adapters that later decisions may need."""
        (folder / STATE).write_text(json.dumps(self.state(), indent=1), encoding="utf-8")
        for name, tensors in ((BEST, self._best), (LATEST, self._latest)):
            if tensors:
                save_file(tensors, folder / name, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; start anew where it wrote nothing, as in a run that had no judge."""
        if not (folder / STATE).is_file():
            return
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.rollouts = [Judged(**one) for one in state["rollouts"]]
        self.best = Judged(**state["best"]) if state["best"] else None
        found = [load_file(folder / name) if (folder / name).is_file() else {} for name in (BEST, LATEST)]
        self._best, self._latest = found
