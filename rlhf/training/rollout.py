"""A rollout: prompts, responses and all that is measured on them in one generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from rlhf.data.comparisons import Message
from rlhf.engine.packing import Group, PackedBatch, pack


class ResponseScorer(Protocol):
    """Gives each response one number; higher is better."""

    name: str

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Sequence[float]:
        """`[n]` finite scores for `[n]` prompts (as messages) with one response text each."""


@dataclass
class RolloutBatch:
    """The part of a rollout that one forward pass holds.

    Attributes:
        prompts: the messages of each group.
        packed: the row of prompts and responses.
        texts: `[responses]` decoded responses.
        finished: `[responses]` whether the response ended by itself.
        sampler_logprobs: `[response_tokens]` as the sampler computed them, nats.
        old_logprobs, ref_logprobs: `[response_tokens]` under policy and reference in the training pass, nats.
        entropy: `[response_tokens]` of the policy, nats.
        old_values: `[response_tokens]`.
        scores: `[responses]` from the scorer.
        advantages, returns: `[response_tokens]`.
    """

    prompts: list[tuple[Message, ...]]
    packed: PackedBatch
    texts: list[str]
    finished: torch.Tensor
    sampler_logprobs: torch.Tensor
    old_logprobs: torch.Tensor = field(init=False)
    ref_logprobs: torch.Tensor = field(init=False)
    entropy: torch.Tensor = field(init=False)
    old_values: torch.Tensor = field(init=False)
    scores: torch.Tensor = field(init=False)
    advantages: torch.Tensor = field(init=False)
    returns: torch.Tensor = field(init=False)

    @property
    def prompt_of_response(self) -> list[tuple[Message, ...]]:
        """The messages that each response answers."""
        return [self.prompts[group] for group in self.packed.group_index.tolist()]


@dataclass(frozen=True)
class SampledGroup:
    """One prompt with its sampled responses, before it is packed."""

    messages: tuple[Message, ...]
    group: Group
    texts: list[str]
    finished: list[bool]
    logprobs: list[list[float]]


def pack_rollout(groups: Sequence[SampledGroup], device: torch.device) -> RolloutBatch:
    """Pack sampled groups for one forward pass."""
    return RolloutBatch(
        prompts=[group.messages for group in groups],
        packed=pack([group.group for group in groups]).to(device),
        texts=[text for group in groups for text in group.texts],
        finished=torch.tensor([done for group in groups for done in group.finished], device=device),
        sampler_logprobs=torch.tensor(
            [value for group in groups for row in group.logprobs for value in row], device=device
        ),
    )
