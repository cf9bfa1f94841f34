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
        old_values: `[response_tokens]`; absent without a value model.
        scores_by_name: `[responses]` raw scores of the reward model and of each scorer; NaN where one gave none.
        scores: `[responses]` their weighted sum; NaN where a part is missing: the response is left out.
        judge_scores: `[responses]` from a held-out judge that is not in the reward; None without one.
        advantages: `[response_tokens]`.
        returns: `[response_tokens]`; absent without a value model.
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
    scores_by_name: dict[str, torch.Tensor] = field(init=False, default_factory=dict)
    scores: torch.Tensor = field(init=False)
    judge_scores: torch.Tensor | None = field(init=False, default=None)
    advantages: torch.Tensor = field(init=False)
    returns: torch.Tensor = field(init=False)

    @property
    def prompt_of_response(self) -> list[tuple[Message, ...]]:
        """The messages that each response answers."""
        return [self.prompts[group] for group in self.packed.group_index.tolist()]

    @property
    def counts(self) -> torch.Tensor:
        """`[responses]`, True = has a score and is learnt from."""
        return ~self.scores.isnan()

    @property
    def counted_tokens(self) -> torch.Tensor:
        """`[response_tokens]`, True = belongs to a response that is learnt from."""
        return self.counts[self.packed.response_index]


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
