"""Comparisons as tokens: what reward training and DPO batch and compute on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from tqdm import tqdm

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.data.votes import merged, votes_of
from rlhf.engine.packing import Group, PackedBatch, pack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankedGroup:
    """A judged comparison as tokens.

    Attributes:
        group: the prompt and its responses.
        pairs: (chosen, rejected) indices of responses, every pair to learn from once.
        margin: by how much the chosen one leads; 0 where the comparison does not say.
        weight: of the comparison; its pairs share it.
        prompt_id: which prompt it is, for intervals by prompt.
        targets: for each pair the probability that the chosen one is better: 1 where it was ranked before the other,
            .5 for a tie, else the share of annotators. Empty stands for 1 everywhere.
        ranks: one per response, 1 is the best, equal numbers tie; empty where only pairs are known.
    """

    group: Group
    pairs: list[tuple[int, int]]
    margin: float
    weight: float
    prompt_id: str
    targets: list[float] = field(default_factory=list)
    ranks: tuple[float, ...] = ()

    @property
    def ordered_pairs(self) -> list[tuple[int, int]]:
        """The pairs of which one response is the better one: all but ties."""
        if not self.targets:
            return self.pairs
        return [pair for pair, target in zip(self.pairs, self.targets, strict=True) if target > 0.5]


@dataclass(frozen=True)
class PairBatch:
    """A packed row and the pairs to learn from it.

    Attributes:
        groups: what the row was packed from.
        packed: the row.
        chosen_index: `[pairs]` into its responses.
        rejected_index: `[pairs]` into its responses.
        target: `[pairs]` probability that the chosen one is better, .5 to 1.
        margin: `[pairs]`.
        weight: `[pairs]`; the pairs of one comparison add up to that comparison's weight.
        ranks: `[responses]`, 1 is the best in its group, equal numbers tie; for losses on whole rankings.
        group_weight: `[groups]` of each comparison.
    """

    groups: tuple[Group, ...]
    packed: PackedBatch
    chosen_index: torch.Tensor
    rejected_index: torch.Tensor
    target: torch.Tensor
    margin: torch.Tensor
    weight: torch.Tensor
    ranks: torch.Tensor
    group_weight: torch.Tensor

    def to(self, device: torch.device | str) -> PairBatch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "groups"}
        return replace(self, **moved)


def encode_comparison(chat: Chat, comparison: Comparison) -> Group:
    """Tokens of a comparison's prompt and responses; a response cut off by the sampler gets no end of turn."""
    return Group(
        chat.encode_prompt(comparison.prompt),
        [chat.encode_response(r.text, finished=r.finish_reason != "length") for r in comparison.responses],
    )


TIES = ("leave_out", "half")


def ranked_groups(
    chat: Chat, comparisons: Sequence[Comparison], *, ties: str = "leave_out", soft_labels: bool = False
) -> list[RankedGroup]:
    """Tokenise the comparisons that say something of at least two responses.

    Args:
        chat: the chat format.
        comparisons: judged ones.
        ties: "leave_out" makes no pair of two responses of equal rank, "half" one with the target .5.
        soft_labels: take judgments of the same responses by several annotators as one comparison, whose targets are
            shares of votes; else each judgment counts by itself.

    Raises:
        ValueError: none of them does.
    """
    judgments = merged(comparisons) if soft_labels else [[comparison] for comparison in comparisons]
    ranked = []
    for judged in tqdm(judgments, desc="tokenise", unit="comparison", disable=len(judgments) < 2000):
        rankings = [comparison for comparison in judged if comparison.ranks is not None and comparison.weight]
        votes = votes_of(rankings) if rankings else None
        preferred = {} if votes is None else votes.preferred
        pairs = {pair: share for pair, share in sorted(preferred.items()) if share > 0.5 or ties == "half"}
        if votes is not None and pairs:
            ranked.append(
                RankedGroup(
                    group=encode_comparison(chat, votes.comparison),
                    pairs=list(pairs),
                    margin=votes.strength or 0.0,
                    weight=votes.weight,
                    prompt_id=votes.comparison.prompt_id,
                    targets=list(pairs.values()),
                    ranks=votes.mean_ranks,
                )
            )
    if not ranked:
        alone = sum(len(comparison.responses) < 2 for comparison in comparisons)
        tied = sum(len(comparison.responses) > 1 and not comparison.pairs() for comparison in comparisons)
        weightless = sum(not comparison.weight for comparison in comparisons)
        raise ValueError(
            f"none of {len(comparisons)} comparisons orders two responses ({alone} have fewer than two, {tied} are "
            f"all ties or not ranked{f', {weightless} have weight 0' if weightless else ''}): rank them first, or give "
            "pairs with chosen and rejected"
        )
    if len(ranked) < len(judgments):
        num_left_out = len(judgments) - len(ranked)
        logger.warning("%d of %d comparisons order no two responses and are left out", num_left_out, len(judgments))
    return ranked


def collate_pairs(examples: Sequence[RankedGroup]) -> PairBatch:
    """Pack ranked groups into one row with its pairs."""
    chosen, rejected, target, margin, weight = [], [], [], [], []
    ranks: list[float] = []
    num_responses = 0
    for example in examples:
        chosen += [num_responses + i for i, _ in example.pairs]
        rejected += [num_responses + j for _, j in example.pairs]
        target += example.targets or [1.0] * len(example.pairs)
        margin += [example.margin] * len(example.pairs)
        weight += [example.weight / len(example.pairs)] * len(example.pairs)
        ranks += example.ranks or _ranks_of(example)
        num_responses += len(example.group.response_ids)
    groups = tuple(example.group for example in examples)
    return PairBatch(
        groups=groups,
        packed=pack(groups),
        chosen_index=torch.tensor(chosen),
        rejected_index=torch.tensor(rejected),
        target=torch.tensor(target, dtype=torch.float32),
        margin=torch.tensor(margin, dtype=torch.float32),
        weight=torch.tensor(weight, dtype=torch.float32),
        ranks=torch.tensor(ranks, dtype=torch.float32),
        group_weight=torch.tensor([example.weight for example in examples], dtype=torch.float32),
    )


def _ranks_of(example: RankedGroup) -> list[float]:
    """Ranks where only pairs are known: one more than the number of responses that are better."""
    better = [sum(rejected == k for _, rejected in example.pairs) for k in range(len(example.group.response_ids))]
    return [1.0 + count for count in better]
