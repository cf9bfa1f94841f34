"""From the scores of a rollout to what the reward holds of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rlhf.algorithms.penalties import overlong, without_end
from rlhf.training.moments import RunningMoments
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import RolloutBatch

Sum = Callable[[torch.Tensor | int], torch.Tensor]


@dataclass
class ScoreShaper:
    """Shapes scores in this order: normalise, clip, punish a missing end, punish length.

    The penalties come last, so that they are in the unit in which the policy meets them: neither the moments nor the
    clip see them.

    Attributes:
        args: which of the four are taken, and how.
        moments: of all scores so far; what makes a resumed run go on as it was.
    """

    args: PPOArguments
    moments: RunningMoments = field(default_factory=RunningMoments)

    def shape(self, rollout: Sequence[RolloutBatch], sum_over_processes: Sum) -> list[torch.Tensor]:
        """`[responses]` for each batch; 0 for responses that are left out, which enter no moments.

        Args:
            rollout: scored batches of this process.
            sum_over_processes: so that all processes normalise by the same moments.
        """
        args = self.args
        scores = [batch.scores.nan_to_num() for batch in rollout]
        if args.normalize_scores:
            self._learn_moments(torch.cat([batch.scores[batch.counts] for batch in rollout]), sum_over_processes)
            scores = [(score - self.moments.mean) / self.moments.deviation for score in scores]
        if args.score_clip is not None:
            scores = [score.clamp(-args.score_clip, args.score_clip) for score in scores]
        return [self._punished(score, batch) for score, batch in zip(scores, rollout, strict=True)]

    def _learn_moments(self, scores: torch.Tensor, sum_over_processes: Sum) -> None:
        scores = scores.double()
        count = sum_over_processes(len(scores))
        mean = sum_over_processes(scores.sum()) / count
        variance = sum_over_processes((scores - mean).square().sum()) / count
        self.moments.update(float(count), float(mean), float(variance))

    def _punished(self, scores: torch.Tensor, batch: RolloutBatch) -> torch.Tensor:
        args = self.args
        replace = args.missing_eos == "replace"
        scores = without_end(scores, batch.finished, penalty=args.missing_eos_penalty, replace=replace)
        if args.length_penalty and args.length_soft_limit is not None:
            lengths = scores.new_tensor(batch.packed.response_lengths)
            too_long = overlong(lengths, soft_limit=args.length_soft_limit, hard_limit=args.max_new_tokens)
            scores = scores - args.length_penalty * too_long
        return scores * batch.counts
