"""Losses of preference pairs: DPO and its relatives.

A response's log-ratio is log policy(y | x) - log reference(y | x) in nats, summed over its tokens or averaged; its
implicit reward is beta times that. The margin of a pair is the reward of its chosen response less that of its rejected
one. A target p is the probability that the chosen one is better: with p below 1 a loss is its mean over which of the
two is chosen, and p = 1/2 is a tie.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# Of a probability of 1 the odds are infinite; float32 rounds to it within this distance.
SMALLEST_NEGATIVE = 1e-7


def smoothed_target(target: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """`[pairs]` probability that the chosen response is better if a share of labels is the wrong way round.

    Conservative DPO (https://ericmitchell.ai/cdpo.pdf): p (1 - e) + (1 - p) e.
    """
    return target * (1 - 2 * label_smoothing) + label_smoothing


# ---- of the margin --------------------------------------------------------------------------------------


def sigmoid_loss(margin: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The DPO loss per pair, equation 7 of arXiv 2305.18290 with a probability in place of the label.

        L = -p log sigmoid(m) - (1 - p) log sigmoid(-m)

    At the start policy and reference are one, m is 0 and every loss is ln 2. A p below 1 that stands for labels thought
    wrong is conservative DPO. On m - gamma, with m = beta times the difference of mean log-probabilities, it is SimPO,
    equation 6 of arXiv 2405.14734.

    Args:
        margin: `[pairs]` beta (chosen log-ratio - rejected log-ratio), less the offset that is asked of the pair.
        target: `[pairs]` p.

    Returns:
        `[pairs]`.
    """
    return -target * F.logsigmoid(margin) - (1 - target) * F.logsigmoid(-margin)


def robust_loss(margin: torch.Tensor, target: torch.Tensor, flip_rate: float) -> torch.Tensor:
    """Robust DPO per pair (arXiv 2403.00409): its mean over flipped labels is DPO's on the true ones.

        L = [(1 - e) l(m) - e l(-m)] / (1 - 2 e),   l(m) = -log sigmoid(m)

    That is DPO with the target (p - e) / (1 - 2 e), which undoes `smoothed_target`.

    Args:
        margin: `[pairs]`.
        target: `[pairs]` p, of the labels as they are.
        flip_rate: e, the probability that a label is the wrong way round; below 1/2.

    Returns:
        `[pairs]`.
    """
    return sigmoid_loss(margin, (target - flip_rate) / (1 - 2 * flip_rate))


def hinge_loss(margin: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SLiC's hinge (arXiv 2305.10425) on implicit rewards (arXiv 2309.06657): max(0, 1 - m), 1 at the start.

    Args:
        margin: `[pairs]`.
        target: `[pairs]` p.

    Returns:
        `[pairs]`, 0 where p is 1 and the margin at least 1.
    """
    return target * F.relu(1 - margin) + (1 - target) * F.relu(1 + margin)


def exo_pair_loss(margin: torch.Tensor, target: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Reverse KL from the policy's choice in a pair to the annotators', equation 16 of arXiv 2402.00856.

        L = q log(q / s) + (1 - q) log((1 - q) / (1 - s)),   q = sigmoid(m),   s = p (1 - e) + (1 - p) e

    Args:
        margin: `[pairs]`.
        target: `[pairs]` p.
        label_smoothing: e, above 0, as the loss is infinite where the annotators' choice is certain.

    Returns:
        `[pairs]`, 0 where q is s.
    """
    chosen, rejected = smoothed_target(target, label_smoothing), smoothed_target(1 - target, label_smoothing)
    of_chosen = margin.sigmoid() * (F.logsigmoid(margin) - chosen.log())
    return of_chosen + (-margin).sigmoid() * (F.logsigmoid(-margin) - rejected.log())


def ipo_loss(difference: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    """Identity preference optimisation, equation 17 of arXiv 2310.12036.

        L = p (d - 1 / (2 beta))^2 + (1 - p) (d + 1 / (2 beta))^2

    Args:
        difference: `[pairs]` chosen less rejected log-ratio, each divided by its number of tokens, as its authors did
            and TRL does.
        target: `[pairs]` p.
        beta: tau in the paper.

    Returns:
        `[pairs]`, least at d = (2 p - 1) / (2 beta).
    """
    wanted = 1 / (2 * beta)
    return target * (difference - wanted).square() + (1 - target) * (difference + wanted).square()


# ---- of each response's reward --------------------------------------------------------------------------


def sppo_hard_loss(chosen_logratio: torch.Tensor, rejected_logratio: torch.Tensor, beta: float) -> torch.Tensor:
    """Self-play preference optimisation with labels for probabilities, equation 4.7 of arXiv 2405.00675.

        L = (c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2

    Args:
        chosen_logratio: `[pairs]` c.
        rejected_logratio: `[pairs]` r.
        beta: 1 / eta in the paper.

    Returns:
        `[pairs]`.
    """
    wanted = 1 / (2 * beta)
    return (chosen_logratio - wanted).square() + (rejected_logratio + wanted).square()


def nca_pair_loss(chosen_reward: torch.Tensor, rejected_reward: torch.Tensor) -> torch.Tensor:
    """Noise-contrastive alignment of a pair (arXiv 2402.05369), which holds up the chosen response's probability.

        L = -log sigmoid(c) - 1/2 log sigmoid(-c) - 1/2 log sigmoid(-r)

    Args:
        chosen_reward: `[pairs]` c, beta times the log-ratio.
        rejected_reward: `[pairs]` r.

    Returns:
        `[pairs]`, 2 ln 2 at the start.
    """
    return -F.logsigmoid(chosen_reward) - (F.logsigmoid(-chosen_reward) + F.logsigmoid(-rejected_reward)) / 2


def bco_pair_loss(chosen_reward: torch.Tensor, rejected_reward: torch.Tensor, shift: float) -> torch.Tensor:
    """Binary classifier optimisation of a pair (arXiv 2404.04656): chosen responses above a shift, rejected below it.

        L = -log sigmoid(c - delta) - log sigmoid(-(r - delta))

    TRL 1.16 has delta = 0.

    Args:
        chosen_reward: `[pairs]` c, beta times the log-ratio.
        rejected_reward: `[pairs]` r.
        shift: delta, the mean reward so far.

    Returns:
        `[pairs]`, 2 ln 2 at the start.
    """
    return -F.logsigmoid(chosen_reward - shift) - F.logsigmoid(shift - rejected_reward)


def apo_zero_loss(chosen_reward: torch.Tensor, rejected_reward: torch.Tensor) -> torch.Tensor:
    """Anchored preference optimisation, equation 7 of arXiv 2408.06266: chosen up, rejected down, 1 at the start.

        L = 1 - sigmoid(c) + sigmoid(r)

    Args:
        chosen_reward: `[pairs]` c, beta times the log-ratio.
        rejected_reward: `[pairs]` r.

    Returns:
        `[pairs]`.
    """
    return (-chosen_reward).sigmoid() + rejected_reward.sigmoid()


def apo_down_loss(chosen_reward: torch.Tensor, rejected_reward: torch.Tensor) -> torch.Tensor:
    """Anchored preference optimisation, equation 8 of arXiv 2408.06266: both down, the rejected one further.

        L = sigmoid(c) + 1 - sigmoid(c - r)

    Args:
        chosen_reward: `[pairs]` c, beta times the log-ratio.
        rejected_reward: `[pairs]` r.

    Returns:
        `[pairs]`, 1 at the start, where the gradient of c is 0.
    """
    return chosen_reward.sigmoid() + (rejected_reward - chosen_reward).sigmoid()


# ---- without a reference --------------------------------------------------------------------------------


def odds_ratio_loss(chosen_logprob: torch.Tensor, rejected_logprob: torch.Tensor) -> torch.Tensor:
    """The odds ratio term of ORPO, equations 4 and 7 of arXiv 2403.07691.

        L = -log sigmoid(log odds(c) - log odds(r)),   log odds(z) = z - log(1 - exp z)

    Args:
        chosen_logprob: `[pairs]` c, mean log-probability of the chosen response's tokens in nats, at most 0.
        rejected_logprob: `[pairs]` r, the same of the rejected response.

    Returns:
        `[pairs]`, ln 2 where both are as probable.
    """
    return -F.logsigmoid(_log_odds(chosen_logprob) - _log_odds(rejected_logprob))


def _log_odds(logprob: torch.Tensor) -> torch.Tensor:
    logprob = logprob.clamp(max=-SMALLEST_NEGATIVE)
    return logprob - torch.log(-torch.expm1(logprob))


# ---- other divergences than KL --------------------------------------------------------------------------

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
LARGEST_EXPONENT = 80.0  # exp of it is finite in float32


def divergence_score(logratio: torch.Tensor, divergence: str, alpha: float) -> torch.Tensor:
    """f'(policy / reference), which stands for the log-ratio where f-DPO (arXiv 2309.16240) ties by another divergence.

    With t = policy / reference: log t for reverse_kl, which is DPO; 1 - 1 / t for forward_kl; log(2 t / (1 + t)) for
    js_divergence; (t^(alpha - 1) - 1) / (alpha - 1) for alpha_divergence, with the limit log t at alpha = 1. A constant
    of the prompt is missing, so only differences within a prompt mean anything. Scores rise with t.

    Args:
        logratio: `[responses]` log t in nats.
        divergence: one of `DIVERGENCES`.
        alpha: of alpha_divergence.

    Returns:
        `[responses]`.
    """
    match divergence:
        case "reverse_kl":
            return logratio
        case "forward_kl":
            return 1 - torch.exp((-logratio).clamp(max=LARGEST_EXPONENT))
        case "js_divergence":
            return math.log(2) + F.logsigmoid(logratio)
        case "alpha_divergence":
            if abs(alpha - 1) < 1e-6:
                return logratio
            return torch.expm1(((alpha - 1) * logratio).clamp(max=LARGEST_EXPONENT)) / (alpha - 1)
    raise ValueError(f"divergence is {divergence!r}: choose one of {', '.join(DIVERGENCES)}")
