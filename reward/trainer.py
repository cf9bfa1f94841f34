"""Training of reward models: adapters and heads on the frozen backbone, all responses of a prompt at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from reward.bayesian_bootstrap import bootstrap_weights
from reward.losses import LOSSES, bradley_terry_loss, rao_kupper_loss
from rlhf.algorithms.plackett_luce import plackett_luce_loss
from rlhf.engine.backbone import Backbone, Role, reward_roles
from rlhf.engine.packing import Group, PackedBatch, pack
from rlhf.engine.sources import MEMBER
from rlhf.training.arguments import path_field
from rlhf.training.examples import PairBatch, RankedGroup
from rlhf.training.pair_trainer import PairArguments, PairTrainer
from rlhf.training.trainer import SavedRole

logger = logging.getLogger(__name__)

SMALLEST_DEVIATION = 1e-6  # of scores that are told apart at all


@dataclass
class RewardArguments(PairArguments):
    """Settings of reward training."""

    loss_type: str = field(
        default="bradley_terry",
        metadata={
            "help": "`bradley_terry` on all pairs of a ranking, `rao_kupper`, which gives ties a probability, or "
            "`plackett_luce` on whole rankings."
        },
    )
    tie_threshold: float = field(
        default=0.5, metadata={"help": "Of rao_kupper: scores nearer than this mostly tie; .1 to 1."}
    )
    center_coef: float = field(
        default=0.01,
        metadata={"help": "Weight of (r_chosen + r_rejected)^2, which keeps scores near 0; 0 to .1."},
    )
    num_members: int = field(
        default=1,
        metadata={"help": "Reward models trained side by side on one backbone, an ensemble; 3 to 5, each a row more."},
    )
    normalise_examples: int = field(
        default=256,
        metadata={"help": "Comparisons whose responses define mean 0 and deviation 1 of the scores."},
    )
    reference_file: list[str] = path_field(
        "Responses that define mean 0 and deviation 1, such as rlhf sample writes; unset: those of train_file.",
        several=True,
    )
    folds: int = field(
        default=0, metadata={"help": "Parts of train_file by prompt, of which `fold` is held out; 0: none, 5 or 10."}
    )
    fold: int = field(default=0, metadata={"help": "The part that is held out and measured at the end, from 0."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in LOSSES:
            raise ValueError(f"loss_type is {self.loss_type!r}: choose {', '.join(LOSSES)}")
        if not self.tie_threshold > 0:
            raise ValueError(f"tie_threshold is {self.tie_threshold}: it must be above 0, usually .5")
        if self.loss_type == "rao_kupper" and (self.ties != "half" or self.soft_labels):
            raise ValueError(
                "loss_type is rao_kupper, which learns from ties and cannot tell them from votes that differ: give "
                "--ties half, and no --soft_labels"
            )
        for name in ("normalise_examples", "num_members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.center_coef < 0:
            raise ValueError(f"center_coef is {self.center_coef}: it must be at least 0, usually .01")
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"folds is {self.folds}: it must be at least 2, or 0 to hold nothing out")
        if not 0 <= self.fold < max(self.folds, 1):
            raise ValueError(
                f"fold is {self.fold}: with --folds {self.folds} it lies from 0 to {max(self.folds, 1) - 1}"
            )
        if self.folds and self.eval_file:
            raise ValueError(
                "folds and eval_file are both set: a fold of train_file is held out, or eval_file is; not both"
            )


def add_members(backbone: Backbone, args: RewardArguments) -> None:
    """Give a backbone the adapters and heads of an ensemble, each adapter drawn anew.

    The first head starts at zero. The others start at random, small beside what a head learns (deviation
    1 / (hidden + 1)), so that they do not all take the same first step.
    """
    for number, role in enumerate(reward_roles(args.num_members)):
        backbone.add_adapter(role.name, args.lora_config(backbone.model))
        weight = backbone.add_head(role.name).linear.weight
        if number:
            torch.nn.init.normal_(weight, std=1 / (weight.shape[1] + 1))


class RewardTrainer(PairTrainer):
    """Trains the adapter and the head `reward`, and beside them those of an ensemble's other members.

    All responses of a prompt are one batch element and the loss is the mean over its pairs, as InstructGPT does
    against overfitting (arXiv 2203.02155, section 3.5); or it is that of the whole ranking. Members are rows of one
    pass. None learns from another: losses add up, each has its own adapter and head, Adam works number by number and
    gradients are clipped member by member.
    """

    args: RewardArguments

    def __init__(self, backbone: Backbone, args: RewardArguments, **trainer_arguments: Any):
        self.roles: list[Role] = reward_roles(args.num_members)
        names = [role.name for role in self.roles]
        backbone.train_only(adapters=names, heads=names)
        others = [
            SavedRole(name, name, subfolder=f"{MEMBER}{number}", head_saved_as="reward")
            for number, name in enumerate(names[1:], start=2)
        ]
        saved_roles = [SavedRole("reward", "reward"), *others]
        super().__init__(backbone, args, saved_roles=saved_roles, **trainer_arguments)

    # ---- loss -------------------------------------------------------------------------------------------

    def loss_sum(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """Weighted sum over the batch of the losses of all members; logs accuracy and margin."""
        if self.args.loss_type != "plackett_luce":
            return super().loss_sum(model, batch)
        scores = self.member_scores(model, batch.packed)
        self._record_scores(scores, batch)
        weights = self.member_weights(batch)
        losses = [plackett_luce_loss(row, batch.ranks, batch.packed.group_index) for row in scores]
        ranking = (torch.stack(losses) * weights * batch.group_weight).sum()
        return ranking + (self._centering(scores, batch) * self._of_pairs(weights, batch) * batch.weight).sum()

    def pair_losses(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """`[pairs]` losses, of an ensemble the sum over its members; logs accuracy and margin."""
        scores = self.member_scores(model, batch.packed)
        self._record_scores(scores, batch)
        chosen, rejected = scores[:, batch.chosen_index], scores[:, batch.rejected_index]
        if self.args.loss_type == "rao_kupper":
            threshold = self.args.tie_threshold
            losses = rao_kupper_loss(chosen, rejected, batch.target == 0.5, threshold=threshold, margin=batch.margin)
        else:
            losses = bradley_terry_loss(chosen, rejected, batch.margin, batch.target)
        losses = losses + self._centering(scores, batch)
        return (losses * self._of_pairs(self.member_weights(batch), batch)).sum(dim=0)

    def member_scores(self, model: torch.nn.Module, packed: PackedBatch) -> torch.Tensor:
        """`[members, responses]` scores."""
        outputs = model(packed, self.roles)
        return torch.stack([outputs[role.name].scores for role in self.roles])

    def member_weights(self, batch: PairBatch) -> torch.Tensor:
        """`[members, groups]` what each member multiplies the weights of the comparisons with."""
        weights = bootstrap_weights(batch.groups, len(self.roles), self.args.seed)
        return weights.to(batch.group_weight.device)

    def _of_pairs(self, weights: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """`[members, groups]` as `[members, pairs]`."""
        return weights[:, batch.packed.group_index[batch.chosen_index]]

    def _centering(self, scores: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """`[members, pairs]`."""
        return self.args.center_coef * (scores[:, batch.chosen_index] + scores[:, batch.rejected_index]).square()

    def _record_scores(self, scores: torch.Tensor, batch: PairBatch) -> None:
        """Log what the members, on average, say of the pairs that are no ties."""
        chosen, rejected = scores[:, batch.chosen_index], scores[:, batch.rejected_index]
        if self.args.ties == "half":
            decided = batch.target > 0.5
            chosen, rejected = chosen[:, decided], rejected[:, decided]
        self.record(
            reward__chosen=chosen,
            reward__rejected=rejected,
            reward__margin=chosen - rejected,
            reward__accuracy=(chosen > rejected).float(),
        )
        if len(scores) > 1:
            self.record(reward__disagreement=scores.detach().std(dim=0, correction=0))

    # ---- members apart ----------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: list[RankedGroup], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of one batch; returns its loss, the mean over the members."""
        return super().training_step(model, inputs, num_items_in_batch) / len(self.roles)

    def floating_point_ops(self, inputs: list[RankedGroup]) -> int:
        return super().floating_point_ops(inputs) * len(self.roles)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Clip each member by its own norm; returns the norm of all. DeepSpeed's engine clips by the latter."""
        if len(self.roles) == 1 or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        norms = []
        for role in self.roles:
            parameters = [*self.backbone.adapter_parameters(role.name).values()]
            parameters += self.backbone.head(role.name).linear.parameters()
            norms.append(self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm))
        return torch.stack([torch.as_tensor(norm) for norm in norms]).norm()

    # ---- after training ---------------------------------------------------------------------------------

    def response_scores(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` scores, of an ensemble the mean of its members."""
        return self.member_scores(self.backbone, batch.packed).mean(dim=0)

    @torch.no_grad()
    def score_groups(self, groups: Sequence[Group], label: str) -> list[torch.Tensor]:
        """For each group its `[members, responses]` scores; every process computes all of them."""
        scores: dict[int, torch.Tensor] = {}
        for indices in self.evaluation_passes([group.num_tokens for group in groups], label):
            packed = pack([groups[index] for index in indices]).to(self.args.device)
            found = self.member_scores(self.backbone, packed).float().cpu()
            parts = found.split([len(groups[index].response_ids) for index in indices], dim=1)
            scores |= dict(zip(indices, parts, strict=True))
        return [scores[index] for index in range(len(groups))]

    def normalise(self, groups: Sequence[Group]) -> list[dict[str, float]]:
        """Shift and scale each head so that its scores of these groups' responses have mean 0 and deviation 1.

        Returns:
            For each member the mean and the deviation that its scores had. Where they do not differ, as those of a
            single response, they are shifted only.
        """
        found = torch.cat(self.score_groups(groups, "normalise"), dim=1).double()
        moments = []
        for role, scores in zip(self.roles, found, strict=True):
            mean, deviation = float(scores.mean()), float(scores.std(correction=0))
            if deviation < SMALLEST_DEVIATION:
                logger.warning("%s gives all reference responses the score %.3g: it is not scaled", role.name, mean)
            self.backbone.head(role.name).normalise(mean, deviation if deviation >= SMALLEST_DEVIATION else 1.0)
            moments.append({"mean": mean, "deviation": deviation, "num_responses": scores.numel()})
        return moments
