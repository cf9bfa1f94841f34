"""What a rollout changes of a run before the weights do, so that one that fails leaves no trace."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class StepStart:
    """The stage's own state and the random states of this process, as a step found them."""

    stage_state: dict[str, Any]
    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: torch.Tensor | None

    @classmethod
    def now(cls, stage_state: dict[str, Any]) -> StepStart:
        """Remember the random states of this moment beside the given state."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(stage_state, random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore_random_states(self) -> None:
        """Put the random states back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
