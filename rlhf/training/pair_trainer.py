"""What DPO and reward training share: losses of pairs, averaged over the comparisons of a whole step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.evaluation.metrics import Estimate, bootstrap_mean
from rlhf.training.arguments import StageArguments
from rlhf.training.examples import TIES, PairBatch, RankedGroup, collate_pairs, ranked_groups
from rlhf.training.passes import token_passes
from rlhf.training.trainer import RoleTrainer

SAMPLED_EXAMPLES = 16  # comparisons shown with their scores


@dataclass
class PairArguments(StageArguments):
    """What reward training and DPO ask of their comparisons."""

    ties: str = field(
        default="leave_out",
        metadata={"help": "Responses of equal rank: `leave_out`, or `half`, a pair that each wins half the time."},
    )
    soft_labels: bool = field(
        default=False,
        metadata={"help": "Take several annotators' judgments of the same responses as one, with shares of votes."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ties not in TIES:
            raise ValueError(f"ties is {self.ties!r}: choose {' or '.join(TIES)}")

    def ranked_groups(self, chat: Chat, comparisons: Sequence[Comparison]) -> list[RankedGroup]:
        """The comparisons as tokens, ties and several judgments of one taken as the settings say."""
        return ranked_groups(chat, comparisons, ties=self.ties, soft_labels=self.soft_labels)


class PairTrainer(RoleTrainer, ABC):
    """Trains on the ordered pairs of ranked comparisons."""

    loss_is_scaled_for_ga = True

    def __init__(self, *positional: Any, **trainer_arguments: Any):
        # a batch is packed when the passes that it takes are known
        super().__init__(*positional, data_collator=list, **trainer_arguments)

    def pair_losses(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """`[pairs]` losses; a trainer gives these, or its own `loss_sum`."""
        raise NotImplementedError

    def loss_sum(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """Weighted sum of the batch's losses; a loss on whole rankings takes the place of that on pairs here."""
        return (self.pair_losses(model, batch) * batch.weight).sum()

    @abstractmethod
    def response_scores(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` numbers that should put the chosen response of a pair first."""

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: list[RankedGroup],
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Forward and backward of one batch, in passes of at most `micro_batch_tokens`; returns its loss."""
        model.train()
        lengths = [example.group.num_tokens for example in inputs]
        (passes,) = self.agreed_passes([lengths])
        losses = []
        shortest = min(range(len(inputs)), key=lengths.__getitem__)
        for indices in self.in_passes(model, passes):
            self._records = bool(indices)  # a pass without groups of its own counts nothing and is not seen
            batch = self._prepare_inputs(collate_pairs([inputs[index] for index in indices or [shortest]]))
            loss = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch) * float(self._records)
            self.backward(loss)
            losses.append(loss.detach())
        self._records = True
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean loss per comparison over the whole optimiser step: all micro-batches of all processes."""
        total = self.loss_sum(model, inputs)
        self.check_finite("loss", total)
        # processes average their gradients, so each multiplies its share of the sum by their number
        return total * self.accelerator.num_processes / num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples: list[list[RankedGroup]], device: torch.device) -> torch.Tensor:
        count = torch.tensor(sum(len(batch) for batch in batch_samples), device=device)
        return self.accelerator.reduce(count, reduction="sum")

    def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:
        return inputs.to(self.args.device)

    def floating_point_ops(self, inputs: list[RankedGroup]) -> int:
        """Forward and backward of adapters on a frozen backbone: 4 operations per weight and token."""
        num_tokens = sum(example.group.num_tokens for example in inputs)
        return 4 * sum(p.numel() for p in self.backbone.model.parameters()) * num_tokens

    def accuracy(self, examples: Sequence[RankedGroup]) -> Estimate:
        """Share of pairs scored the right way round, a tie counting one half, with an interval by prompt.

        Where annotators left all pairs tied there is nothing to be right about: nan, of 0 pairs.
        """
        correct, prompts = [], []
        for chunk, batch, scores in self.scored(examples, "evaluate"):
            lead = (scores[batch.chosen_index] - scores[batch.rejected_index])[batch.target > 0.5]
            correct += ((lead > 0).float() + (lead == 0).float() / 2).tolist()
            prompts += [example.prompt_id for example in chunk for _ in example.ordered_pairs]
        return bootstrap_mean(correct, groups=prompts) if correct else Estimate(math.nan, math.nan, math.nan, 0)

    def sample_rows(
        self, examples: Sequence[RankedGroup], comparisons: Sequence[Comparison], chat: Chat
    ) -> list[dict[str, Any]]:
        """One row per response of the first `SAMPLED_EXAMPLES`: prompt, response, score."""
        prompts = {comparison.prompt_id: comparison.prompt for comparison in comparisons}
        rows = []
        for chunk, _, scores in self.scored(examples[:SAMPLED_EXAMPLES], "sample"):
            responses = [(example.prompt_id, ids) for example in chunk for ids in example.group.response_ids]
            for (prompt_id, ids), score in zip(responses, scores.tolist(), strict=True):
                prompt = [message.to_dict() for message in prompts[prompt_id]]
                row = {"prompt": prompt, "response": chat.decode(ids), "score": score}
                rows.append({"step": self.state.global_step, **row})
        return rows

    @torch.no_grad()
    def scored(
        self, examples: Sequence[RankedGroup], label: str
    ) -> Iterator[tuple[Sequence[RankedGroup], PairBatch, torch.Tensor]]:
        """Batches of examples with their `response_scores`; every process computes all of them."""
        for indices in self.evaluation_passes([example.group.num_tokens for example in examples], label):
            chunk = [examples[index] for index in indices]
            batch = collate_pairs(chunk).to(self.args.device)
            yield chunk, batch, self.response_scores(batch).float()

    def evaluation_passes(self, lengths: Sequence[int], label: str) -> Iterator[list[int]]:
        """Indices of groups of these tokens, by pass, with a progress bar; switches the adapters' dropout off."""
        self.backbone.eval()  # an adapter's dropout is for training
        size = self.args.per_device_eval_batch_size
        starts = range(0, len(lengths), size)
        for start in tqdm(starts, desc=label, unit="batch", disable=not self.is_world_process_zero()):
            for indices in token_passes(lengths[start : start + size], self.args.pass_tokens):
                yield [start + index for index in indices]
