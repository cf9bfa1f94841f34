"""Comparisons as tokens: what reward training and DPO batch and compute on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from tqdm import tqdm

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.engine.packing import Group, PackedBatch, pack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankedGroup:
    """A judged comparison as tokens.

    Attributes:
        group: the prompt and its responses.
        pairs: (chosen, rejected) indices of responses, every strictly ordered pair once.
        margin: by how much the chosen one leads; 0 where the comparison does not say.
        weight: of the comparison; its pairs share it.
        prompt_id: which prompt it is, for intervals by prompt.
    """

    group: Group
    pairs: list[tuple[int, int]]
    margin: float
    weight: float
    prompt_id: str


@dataclass(frozen=True)
class PairBatch:
    """A packed row and the pairs to learn from it.

    Attributes:
        groups: what the row was packed from.
        packed: the row.
        chosen_index: `[pairs]` into its responses.
        rejected_index: `[pairs]` into its responses.
        margin: `[pairs]`.
        weight: `[pairs]`; the pairs of one comparison add up to that comparison's weight.
    """

    groups: tuple[Group, ...]
    packed: PackedBatch
    chosen_index: torch.Tensor
    rejected_index: torch.Tensor
    margin: torch.Tensor
    weight: torch.Tensor

    def to(self, device: torch.device | str) -> PairBatch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "groups"}
        return replace(self, **moved)


def encode_comparison(chat: Chat, comparison: Comparison) -> Group:
    """Tokens of a comparison's prompt and responses; a response cut off by the sampler gets no end of turn."""
    return Group(
        chat.encode_prompt(comparison.prompt),
        [chat.encode_response(r.text, finished=r.finish_reason != "length") for r in comparison.responses],
    )


def ranked_groups(chat: Chat, comparisons: Sequence[Comparison]) -> list[RankedGroup]:
    """Tokenise the comparisons that order at least two responses.

    Raises:
        ValueError: none of them does.
    """
    ranked = []
    for comparison in tqdm(comparisons, desc="tokenise", unit="comparison", disable=len(comparisons) < 2000):
        pairs = comparison.pairs()
        if pairs:
            group = encode_comparison(chat, comparison)
            margin = comparison.strength or 0.0
            ranked.append(RankedGroup(group, pairs, margin, comparison.weight, comparison.prompt_id))
    if not ranked:
        raise ValueError(
            f"none of {len(comparisons)} comparisons orders two responses: rank them first, "
            "or give pairs with chosen and rejected"
        )
    if len(ranked) < len(comparisons):
        num_left_out = len(comparisons) - len(ranked)
        logger.warning("%d of %d comparisons order no two responses and are left out", num_left_out, len(comparisons))
    return ranked


def collate_pairs(examples: Sequence[RankedGroup]) -> PairBatch:
    """Pack ranked groups into one row with its pairs."""
    chosen, rejected, margin, weight = [], [], [], []
    num_responses = 0
    for example in examples:
        chosen += [num_responses + i for i, _ in example.pairs]
        rejected += [num_responses + j for _, j in example.pairs]
        margin += [example.margin] * len(example.pairs)
        weight += [example.weight / len(example.pairs)] * len(example.pairs)
        num_responses += len(example.group.response_ids)
    groups = tuple(example.group for example in examples)
    return PairBatch(
        groups=groups,
        packed=pack(groups),
        chosen_index=torch.tensor(chosen),
        rejected_index=torch.tensor(rejected),
        margin=torch.tensor(margin, dtype=torch.float32),
        weight=torch.tensor(weight, dtype=torch.float32),
    )
