"""Training of the reward model: an adapter and a head on the frozen backbone, all responses of a prompt at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from reward.losses import bradley_terry_loss
from rlhf.engine.backbone import REWARD, Backbone
from rlhf.training.examples import PairBatch, RankedGroup
from rlhf.training.pair_trainer import PairArguments, PairTrainer
from rlhf.training.trainer import SavedRole


@dataclass
class RewardArguments(PairArguments):
    """Settings of reward training."""

    center_coef: float = field(
        default=0.01,
        metadata={"help": "Weight of (r_chosen + r_rejected)^2, which keeps scores near 0; 0 to .1."},
    )

    normalise_examples: int = field(
        default=256,
        metadata={"help": "Comparisons whose responses define mean 0 and deviation 1 of the scores."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalise_examples < 1:
            raise ValueError(f"normalise_examples is {self.normalise_examples}: it must be at least 1")
        if self.center_coef < 0:
            raise ValueError(f"center_coef is {self.center_coef}: it must be at least 0, usually .01")


class RewardTrainer(PairTrainer):
    """Trains the adapter and the head `reward` by Bradley-Terry on every ordered pair of a ranking.

    All responses of a prompt are one batch element and the loss is the mean over its pairs, as InstructGPT does
    against overfitting (arXiv 2203.02155, section 3.5).
    """

    args: RewardArguments

    def __init__(self, backbone: Backbone, args: RewardArguments, **trainer_arguments: Any):
        backbone.train_only(adapters=["reward"], heads=["reward"])
        super().__init__(backbone, args, saved_roles=[SavedRole("reward", "reward")], **trainer_arguments)

    def pair_losses(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """`[pairs]` losses; logs accuracy and margin."""
        scores = model(batch.packed, [REWARD])["reward"].scores
        chosen, rejected = scores[batch.chosen_index], scores[batch.rejected_index]
        self.record(
            reward__chosen=chosen,
            reward__rejected=rejected,
            reward__margin=chosen - rejected,
            reward__accuracy=(chosen > rejected).float(),
        )
        losses = bradley_terry_loss(chosen, rejected, batch.margin)
        return losses + self.args.center_coef * (chosen + rejected).square()

    def response_scores(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` scores."""
        return self.backbone(batch.packed, [REWARD])["reward"].scores

    @torch.no_grad()
    def normalise(self, examples: Sequence[RankedGroup]) -> None:
        """Shift and scale the head so that scores of these examples' responses have mean 0 and deviation 1."""
        scores = torch.cat([scores for _, _, scores in self.scored(examples, "normalise")]).double()
        deviation = scores.std(correction=0).clamp(min=1e-6)
        self.backbone.head("reward").normalise(float(scores.mean()), float(deviation))
