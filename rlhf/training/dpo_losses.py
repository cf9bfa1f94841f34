"""The losses that `--loss_type` names, on what a forward pass says of a batch's responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rlhf.algorithms import dpo
from rlhf.algorithms.plackett_luce import plackett_luce_loss
from rlhf.training.dpo_arguments import DPOArguments
from rlhf.training.examples import PairBatch, RankedGroup


@dataclass(frozen=True)
class ResponseTerms:
    """What the losses read of each response.

    Attributes:
        logprob: `[responses]` log-probability under the policy, summed over tokens, in nats.
        score: `[responses]` log(policy / reference), or what stands for it under another divergence, summed over
            tokens; None where no loss reads the reference.
        length: `[responses]` number of tokens.
    """

    logprob: torch.Tensor
    score: torch.Tensor | None
    length: torch.Tensor

    def normalised_score(self, by_length: bool) -> torch.Tensor:
        """`[responses]` the score, divided by the number of tokens or not."""
        assert self.score is not None
        return self.score / self.length if by_length else self.score

    @property
    def mean_logprob(self) -> torch.Tensor:
        return self.logprob / self.length

    def at(self, index: torch.Tensor) -> ResponseTerms:
        """The terms of the responses with these indices."""
        score = None if self.score is None else self.score[index]
        return ResponseTerms(self.logprob[index], score, self.length[index])


def response_ranking(args: DPOArguments, terms: ResponseTerms) -> torch.Tensor:
    """`[responses]` what the policy has learnt to make larger of the better one; times beta it is the implicit reward.

    The log-ratio, by tokens with `length_normalization`; without a reference the mean log-probability of the tokens.
    """
    return terms.normalised_score(args.length_normalization) if args.needs_reference else terms.mean_logprob


def ranking_losses(args: DPOArguments, terms: ResponseTerms, batch: PairBatch) -> torch.Tensor:
    """`[groups]` Plackett-Luce losses of the rankings, with implicit rewards for utilities."""
    rewards = args.beta * terms.normalised_score(args.length_normalization)
    return plackett_luce_loss(rewards, batch.ranks, batch.packed.group_index)


def pair_losses(
    name: str,
    args: DPOArguments,
    terms: ResponseTerms,
    batch: PairBatch,
    *,
    reward_shift: float,
    imitated_length: torch.Tensor | float,
) -> torch.Tensor:
    """`[pairs]` losses of one name.

    Args:
        name: a loss of pairs.
        args: the settings.
        terms: of the batch's responses.
        batch: the pairs.
        reward_shift: mean reward so far, for bco_pair.
        imitated_length: mean of `imitated_tokens` over the whole step, by which sft and orpo make their
            log-likelihood a mean over tokens.
    """
    chosen, rejected = terms.at(batch.chosen_index), terms.at(batch.rejected_index)
    if name in ("sft", "orpo"):
        likelihood = _expected(lambda first, _: -first, chosen.logprob, rejected.logprob, batch.target)
        losses = likelihood / imitated_length
        if name == "sft":
            return losses
        odds = _expected(dpo.odds_ratio_loss, chosen.mean_logprob, rejected.mean_logprob, batch.target)
        return losses + args.beta * odds
    if name == "simpo":
        margin = args.beta * (chosen.mean_logprob - rejected.mean_logprob) - _offset(args, batch, args.simpo_gamma)
        return dpo.sigmoid_loss(margin, dpo.smoothed_target(batch.target, args.label_smoothing))
    if name == "ipo":
        difference = chosen.normalised_score(True) - rejected.normalised_score(True)
        return dpo.ipo_loss(difference, batch.target, args.beta)
    return _losses_of_scores(
        name,
        args,
        chosen.normalised_score(args.length_normalization),
        rejected.normalised_score(args.length_normalization),
        batch,
        reward_shift,
    )


def _losses_of_scores(
    name: str,
    args: DPOArguments,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    batch: PairBatch,
    reward_shift: float,
) -> torch.Tensor:
    """`[pairs]` losses that read the chosen and the rejected response's score, `[pairs]` each."""
    target, beta = batch.target, args.beta
    difference = beta * (chosen - rejected)
    match name:
        case "sigmoid":
            smoothed = dpo.smoothed_target(target, args.label_smoothing)
            return dpo.sigmoid_loss(difference - _offset(args, batch), smoothed)
        case "hinge":
            return dpo.hinge_loss(difference - _offset(args, batch), target)
        case "robust":
            return dpo.robust_loss(difference - _offset(args, batch), target, args.label_smoothing)
        case "exo_pair":
            return dpo.exo_pair_loss(difference, target, args.label_smoothing)
        case "sppo_hard":
            return _expected(lambda c, r: dpo.sppo_hard_loss(c, r, beta), chosen, rejected, target)
        case "nca_pair":
            return _expected(dpo.nca_pair_loss, beta * chosen, beta * rejected, target)
        case "bco_pair":
            return _expected(lambda c, r: dpo.bco_pair_loss(c, r, reward_shift), beta * chosen, beta * rejected, target)
        case "apo_zero":
            return _expected(dpo.apo_zero_loss, beta * chosen, beta * rejected, target)
        case "apo_down":
            return _expected(dpo.apo_down_loss, beta * chosen, beta * rejected, target)
    raise ValueError(f"{name!r} is no loss of pairs")


def _expected(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """`[pairs]` mean of a loss over which of the two is chosen, the first with probability `target`."""
    return target * loss(chosen, rejected) + (1 - target) * loss(rejected, chosen)


def _offset(args: DPOArguments, batch: PairBatch, of_every_pair: float = 0.0) -> torch.Tensor:
    """`[pairs]` the margin asked (arXiv 2402.10571): none of a tie, so that swapping a pair negates it."""
    return (of_every_pair + args.margin_weight * batch.margin) * (2 * batch.target - 1)


def imitated_tokens(example: RankedGroup) -> float:
    """Tokens of the better response, mean over a comparison's pairs."""
    lengths = [len(ids) for ids in example.group.response_ids]
    targets: Sequence[float] = example.targets or [1.0] * len(example.pairs)
    tokens = (
        target * lengths[chosen] + (1 - target) * lengths[rejected]
        for (chosen, rejected), target in zip(example.pairs, targets, strict=True)
    )
    return sum(tokens) / len(example.pairs)
