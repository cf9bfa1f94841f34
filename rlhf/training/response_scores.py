"""What gives a response its score in PPO: a reward model on the backbone, and scorers that a user brings, weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed

from rlhf.algorithms.ensemble import ensemble_score
from rlhf.engine.backbone import Role, RoleOutput
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import ResponseScorer, RolloutBatch
from rlhf.training.scoring import score_responses
from rlhf.training.stopping import RunStopped, ScorerError

REWARD_MODEL = "reward_model"


class ScoreSources:
    """The parts of a score by their names, and the weighted sum of them.

    Args:
        args: weights, the rule of an ensemble, and what becomes of a response without a score.
        roles: of the reward model on the backbone, several for an ensemble, none where scorers alone give the score.
        scorers: that a user brings; one weight each in `args.scorer_weights`, 1 where that is empty.

    Raises:
        ValueError: nothing gives a score, two parts have one name, or the weights are not one for each scorer.
    """

    def __init__(self, args: PPOArguments, roles: Sequence[Role], scorers: Sequence[ResponseScorer]):
        self.args, self.roles, self.scorers = args, list(roles), list(scorers)
        weights = args.scorer_weights or [1.0] * len(self.scorers)
        if len(weights) != len(self.scorers):
            raise ValueError(
                f"scorer_weights has {len(weights)} weights for {len(self.scorers)} scorers: give one each"
            )
        parts = [(REWARD_MODEL, args.reward_model_weight)] if self.roles else []
        parts += [(scorer.name, weight) for scorer, weight in zip(self.scorers, weights, strict=True)]
        self.weights = dict(parts)
        if not parts:
            raise ValueError("reward_model and scorer: neither is set; give at least one of them")
        if len(self.weights) < len(parts):
            names = ", ".join(name for name, _ in parts)
            raise ValueError(
                f"scorer: two parts of the score have one name ({names}): name them, as in --scorer a=SPEC"
            )

    def read(self, batch: RolloutBatch, outputs: Mapping[str, RoleOutput]) -> torch.Tensor | None:
        """Take the reward model's scores out of a scoring pass.

        Returns:
            `[responses]` deviations over an ensemble; None where there is none.
        """
        scores = [score for role in self.roles if (score := outputs[role.name].scores) is not None]
        if not scores:
            return None
        if len(scores) == 1:
            batch.scores_by_name[REWARD_MODEL] = scores[0]
            return None
        args = self.args
        total, deviation = ensemble_score(torch.stack(scores), penalty=args.ensemble_penalty, rule=args.ensemble_rule)
        batch.scores_by_name[REWARD_MODEL] = total
        return deviation

    def ask(
        self, rollout: Sequence[RolloutBatch], sum_over_processes: Callable[[torch.Tensor | int], torch.Tensor]
    ) -> None:
        """Ask every scorer once for the whole rollout, and add up what is known of each response.

        Args:
            rollout: of this process; gets `scores_by_name` and `scores`.
            sum_over_processes: with it all processes stop where one of them must.

        Raises:
            ScorerError: a scorer gave no usable score, or under `failed_scores leave_out` for no response at all.
        """
        stopped: RunStopped | None = None
        try:
            self._ask(rollout)
        except RunStopped as error:
            stopped = error
        if sum_over_processes(int(stopped is not None)) > 0:
            raise ScorerError(_first_said(stopped)) from stopped
        for batch in rollout:
            parts = [weight * batch.scores_by_name[name] for name, weight in self.weights.items()]
            batch.scores = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        if self.scorers and sum_over_processes(sum(int(batch.counts.sum()) for batch in rollout)) == 0:
            raise ScorerError(f"no response of a rollout got a score from all of {', '.join(self.weights)}")

    def _ask(self, rollout: Sequence[RolloutBatch]) -> None:
        prompts = [prompt for batch in rollout for prompt in batch.prompt_of_response]
        texts = [text for batch in rollout for text in batch.texts]
        for scorer in self.scorers:
            given = score_responses(scorer, prompts, texts, failed=self.args.failed_scores)
            scores = torch.tensor(given, dtype=torch.float32).split([len(batch.texts) for batch in rollout])
            for batch, part in zip(rollout, scores, strict=True):
                batch.scores_by_name[scorer.name] = part.to(batch.packed.target_ids.device)


def _first_said(stopped: RunStopped | None) -> str:
    """What the first process said that a scorer failed in; every process must call it."""
    said = [None if stopped is None else str(stopped)]
    if torch.distributed.is_initialized():
        said *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(said, said[0])
    return next((text for text in said if text), "a scorer gave no usable score in another process")
