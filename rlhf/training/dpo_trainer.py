"""DPO on pairs and rankings: each prompt is computed once for all of its responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from rlhf.algorithms.dpo import preference_loss
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.training.arguments import StageArguments
from rlhf.training.examples import PairBatch
from rlhf.training.pair_trainer import PairTrainer
from rlhf.training.trainer import SavedRole


@dataclass
class DPOArguments(StageArguments):
    """Settings of DPO."""

    beta: float = field(default=0.1, metadata={"help": "Strength of the tie to the reference, usually .05 to .5."})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of pairs taken to be labelled the wrong way round; 0 to .3."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}: it must be above 0, usually .05 to .5")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}: it must be at least 0 and below .5")


class DPOTrainer(PairTrainer):
    """Trains the adapter `policy` on the pairs of ranked comparisons (arXiv 2305.18290)."""

    args: DPOArguments

    def __init__(self, backbone: Backbone, args: DPOArguments, **trainer_arguments: Any):
        backbone.train_only(adapters=["policy"])
        super().__init__(backbone, args, saved_roles=[SavedRole("policy")], **trainer_arguments)

    def pair_losses(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """`[pairs]` losses; logs implicit rewards beta log(policy / reference), their margin and accuracy."""
        # the policy last: roles stand until the next forward, and checkpointing runs the policy's again in backward
        with torch.no_grad():
            reference = self.backbone(batch.packed, [REFERENCE])["reference"].logprobs
        policy = model(batch.packed, [POLICY])["policy"].logprobs
        logratio = batch.packed.sum_by_response(policy - reference)
        chosen, rejected = logratio[batch.chosen_index], logratio[batch.rejected_index]
        margin = self.args.beta * (chosen - rejected)
        self.record(
            reward__chosen=self.args.beta * chosen,
            reward__rejected=self.args.beta * rejected,
            reward__margin=margin,
            reward__accuracy=(margin > 0).float(),
        )
        return preference_loss(chosen, rejected, beta=self.args.beta, label_smoothing=self.args.label_smoothing)

    def response_scores(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` log(policy / reference), summed over tokens: DPO's implicit reward over beta."""
        output = self.backbone(batch.packed, [REFERENCE, POLICY])
        return batch.packed.sum_by_response(output["policy"].logprobs - output["reference"].logprobs)
