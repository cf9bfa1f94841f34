"""DPO on pairs and rankings: each prompt is computed once for all of its responses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhf.algorithms.dpo import divergence_score
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.packing import PackedBatch, pack
from rlhf.training.dpo_arguments import OF_RANKINGS, DPOArguments
from rlhf.training.dpo_losses import ResponseTerms, imitated_tokens, pair_losses, ranking_losses, response_ranking
from rlhf.training.examples import PairBatch, RankedGroup
from rlhf.training.moments import RunningMoments
from rlhf.training.pair_trainer import PairTrainer
from rlhf.training.reference_cache import ReferenceCache
from rlhf.training.trainer import SavedRole


class DPOTrainer(PairTrainer):
    """Trains the adapter `policy` on ranked comparisons by the losses of `rlhf.algorithms.dpo`."""

    args: DPOArguments

    def __init__(self, backbone: Backbone, args: DPOArguments, **trainer_arguments: Any):
        backbone.train_only(adapters=["policy"])
        super().__init__(backbone, args, saved_roles=[SavedRole("policy")], **trainer_arguments)
        reference = f"{self.backbone_path} {backbone.dtype} {args.quantization}"
        self.reference_cache = ReferenceCache(reference, self.args.device)
        self._rewards = RunningMoments()  # of all steps before this one, in all processes
        self._rewards_of_step: list[torch.Tensor] = []
        self._imitated_length: torch.Tensor | float = 1.0

    # ---- loss -------------------------------------------------------------------------------------------

    def loss_sum(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """Weighted sum of the losses, each weighted by comparison; logs implicit rewards, their margin and accuracy."""
        terms = self._response_terms(model, batch)
        self._record_rewards(terms, batch)
        shares = {name: self._share(name, terms, batch) for name in self.args.loss_type}
        if len(shares) > 1:
            num_groups = batch.packed.num_groups
            self.record(**{f"loss__{name}": (share / num_groups).expand(num_groups) for name, share in shares.items()})
        return torch.stack([weight * shares[name] for name, weight in self.args.weighted_losses]).sum()

    def _share(self, name: str, terms: ResponseTerms, batch: PairBatch) -> torch.Tensor:
        """Sum of one loss over the batch's comparisons."""
        if name in OF_RANKINGS:
            return (ranking_losses(self.args, terms, batch) * batch.group_weight).sum()
        losses = pair_losses(
            name,
            self.args,
            terms,
            batch,
            reward_shift=self._rewards.mean,
            imitated_length=self._imitated_length,
        )
        return (losses * batch.weight).sum()

    def _response_terms(self, model: torch.nn.Module, batch: PairBatch) -> ResponseTerms:
        # the policy last: roles stand until the next forward, and checkpointing runs the policy's again in backward
        reference = self._reference_logprobs(batch) if self.args.needs_reference else None
        return self._terms(model(batch.packed, [POLICY])["policy"].logprobs, reference, batch.packed)

    def _terms(self, policy: torch.Tensor, reference: torch.Tensor | None, packed: PackedBatch) -> ResponseTerms:
        """From `[response_tokens]` log-probabilities of the policy and `[responses]` sums of the reference."""
        # in float64, since both sums are large beside their difference
        logprob = packed.sum_by_response(policy.double())
        score = None
        if reference is not None:
            logratio = (logprob - reference).to(policy.dtype)
            score = divergence_score(logratio, self.args.f_divergence_type, self.args.f_alpha_divergence_coef)
        lengths = torch.tensor(packed.response_lengths, device=policy.device)
        return ResponseTerms(logprob.to(policy.dtype), score, lengths)

    def _record_rewards(self, terms: ResponseTerms, batch: PairBatch) -> None:
        rewards = (self.args.beta * response_ranking(self.args, terms)).detach()
        chosen, rejected = rewards[batch.chosen_index], rewards[batch.rejected_index]
        if self._shifts_rewards and self._records:
            both = torch.cat([chosen, rejected]).double()
            self._rewards_of_step.append(torch.stack([both.sum(), both.new_tensor(both.numel())]))
        if self.args.ties == "half":  # which have no right way round
            decided = batch.target > 0.5
            chosen, rejected = chosen[decided], rejected[decided]
        self.record(
            reward__chosen=chosen,
            reward__rejected=rejected,
            reward__margin=chosen - rejected,
            reward__accuracy=(chosen > rejected).float(),
        )

    def _get_num_items_in_batch(self, batch_samples: list[list[RankedGroup]], device: torch.device) -> torch.Tensor:
        count = super()._get_num_items_in_batch(batch_samples, device)
        if {"sft", "orpo"} & set(self.args.loss_type):
            tokens = sum(imitated_tokens(example) for batch in batch_samples for example in batch)
            total = self.accelerator.reduce(torch.tensor(tokens, device=device), reduction="sum")
            self._imitated_length = total / count
        return count

    # ---- reward shift of bco_pair -----------------------------------------------------------------------

    @property
    def _shifts_rewards(self) -> bool:
        return "bco_pair" in self.args.loss_type

    def training_step(
        self, model: torch.nn.Module, inputs: list[RankedGroup], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As of pairs; once a step is whole its rewards join the mean, which so is the same in all of its passes."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._shifts_rewards and self.accelerator.sync_gradients:
            total = torch.stack(self._rewards_of_step).sum(dim=0)
            total, count = self.accelerator.reduce(total, reduction="sum").tolist()
            self._rewards.update(count, total / count, 0.0)
            self._rewards_of_step.clear()
        return loss

    def stage_state(self) -> dict[str, Any]:
        return {"rewards": asdict(self._rewards)} if self._shifts_rewards else {}

    def load_stage_state(self, state: dict[str, Any]) -> None:
        if "rewards" in state:
            self._rewards = RunningMoments(**state["rewards"])

    # ---- reference --------------------------------------------------------------------------------------

    def _reference_logprobs(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` log-probabilities under the reference, summed over tokens; computed once for each group."""
        if is_deepspeed_zero3_enabled():
            # every pass gathers weights from all processes, so none may skip one that another needs
            return self._computed_reference_logprobs(batch.packed)
        missing = self.reference_cache.missing(batch.groups)
        if missing:
            all_missing = len(missing) == len(batch.groups)
            packed = batch.packed if all_missing else pack(missing).to(self.args.device)
            self.reference_cache.add(missing, self._computed_reference_logprobs(packed))
        return self.reference_cache.sums(batch.groups)

    @torch.no_grad()
    def _computed_reference_logprobs(self, packed: PackedBatch) -> torch.Tensor:
        return packed.sum_by_response(self.backbone(packed, [REFERENCE])["reference"].logprobs.double())

    def response_scores(self, batch: PairBatch) -> torch.Tensor:
        """`[responses]` implicit rewards over beta, as the losses have them."""
        packed = batch.packed
        output = self.backbone(packed, [REFERENCE, POLICY] if self.args.needs_reference else [POLICY])
        reference = None
        if self.args.needs_reference:
            reference = packed.sum_by_response(output["reference"].logprobs.double())
        return response_ranking(self.args, self._terms(output["policy"].logprobs, reference, packed))

    # ---- checkpoints ------------------------------------------------------------------------------------

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.reference_cache.save(self._cache_file(Path(output_dir)))

    def _restore(self, folder: Path) -> None:
        super()._restore(folder)
        self.reference_cache.load(self._cache_file(folder))

    def _cache_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"reference_logprobs_{self.args.process_index}.safetensors"
