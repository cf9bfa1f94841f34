"""DPO on pairs and rankings: each prompt is computed once for all of its responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhf.algorithms.dpo import preference_loss
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.packing import PackedBatch, pack
from rlhf.training.examples import PairBatch
from rlhf.training.pair_trainer import PairArguments, PairTrainer
from rlhf.training.reference_cache import ReferenceCache
from rlhf.training.trainer import SavedRole


@dataclass
class DPOArguments(PairArguments):
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
        reference = f"{self.backbone_path} {backbone.dtype} {args.quantization}"
        self.reference_cache = ReferenceCache(reference, self.args.device)

    def pair_losses(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """`[pairs]` losses; logs implicit rewards beta log(policy / reference), their margin and accuracy."""
        # the policy last: roles stand until the next forward, and checkpointing runs the policy's again in backward
        reference = self._reference_logprobs(batch)
        policy = model(batch.packed, [POLICY])["policy"].logprobs
        # in float64, since both sums are large beside their difference
        logratio = (batch.packed.sum_by_response(policy.double()) - reference).to(policy.dtype)
        chosen, rejected = logratio[batch.chosen_index], logratio[batch.rejected_index]
        margin = self.args.beta * (chosen - rejected)
        self.record(
            reward__chosen=self.args.beta * chosen,
            reward__rejected=self.args.beta * rejected,
            reward__margin=margin,
            reward__accuracy=(margin > 0).float(),
        )
        return preference_loss(chosen, rejected, beta=self.args.beta, label_smoothing=self.args.label_smoothing)

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
        """`[responses]` log(policy / reference), summed over tokens: DPO's implicit reward over beta."""
        output = self.backbone(batch.packed, [REFERENCE, POLICY])
        return batch.packed.sum_by_response(output["policy"].logprobs - output["reference"].logprobs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.reference_cache.save(self._cache_file(Path(output_dir)))

    def _restore(self, folder: Path) -> None:
        super()._restore(folder)
        self.reference_cache.load(self._cache_file(folder))

    def _cache_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"reference_logprobs_{self.args.process_index}.safetensors"
