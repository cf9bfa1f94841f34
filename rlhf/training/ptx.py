"""Demonstrations that PPO keeps learning beside its rollouts, against forgetting (PPO-ptx, arXiv 2203.02155)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Demonstration
from rlhf.engine.packing import Group
from rlhf.training.shuffled_order import shuffled_index


@dataclass(frozen=True)
class DemonstrationOrder:
    """Tokenised demonstrations and the order in which optimiser steps take them.

    Attributes:
        groups: a prompt with its one response each.
        seed: of the order.
    """

    groups: Sequence[Group]
    seed: int

    def share(self, step: int, count: int, *, process: int, num_processes: int) -> list[Group]:
        """The `count` demonstrations of one process at an optimiser step: its number alone decides which."""
        start = (step * num_processes + process) * count
        size = len(self.groups)
        return [self.groups[shuffled_index(place, size, self.seed)] for place in range(start, start + count)]


def encode_demonstrations(chat: Chat, demonstrations: Sequence[Demonstration]) -> list[Group]:
    """Each demonstration as a prompt with one response."""
    return [Group(chat.encode_prompt(one.prompt), [chat.encode_response(one.response)]) for one in demonstrations]
