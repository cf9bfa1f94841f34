"""KL from the reference: estimators per token, and controllers of its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: str = "k1") -> torch.Tensor:
    """Estimate KL(policy || reference) from tokens sampled from the policy (Schulman, "Approximating KL divergence").

    With log r = ref_logprobs - logprobs: k1 = -log r (unbiased), k2 = (log r)^2 / 2 (low variance, biased),
    k3 = r - 1 - log r (unbiased, never negative).

    As a loss it is the gradient that counts, which is another matter (Tang and Munos, arXiv 2506.09477). On tokens of
    the policy itself that of k1 is grad log p, which is 0 on average: no penalty at all. That of k2, -log r grad log p,
    is on average the gradient of KL(policy || reference). That of k3, (1 - r) grad log p, is on average the gradient
    of KL(reference || policy), which agrees with it to first order near the reference; GRPO (arXiv 2402.03300)
    takes k3. Either way a token answers for its own KL only; as a reward, it answers for that of later tokens too.

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy, any shape, nats.
        ref_logprobs: the same under the reference.
        kind: "k1", "k2" or "k3".

    Raises:
        ValueError: an unknown kind.
    """
    log_ratio = ref_logprobs - logprobs
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return log_ratio.expm1() - log_ratio
    raise ValueError(f"kl_estimator is {kind!r}: choose k1, k2 or k3")


@dataclass
class FixedKL:
    """A constant KL weight."""

    kl_coef: float

    def update(self, kl: float, num_samples: int) -> None:
        """Does nothing."""


@dataclass
class AdaptiveKL:
    """Proportional controller of the KL weight (Ziegler et al., arXiv 1909.08593, section 2.2).

    error = clip(KL / target - 1, -0.2, 0.2);  kl_coef *= 1 + error * num_samples / horizon

    Attributes:
        kl_coef: the weight now.
        target: sequence KL to hold, in nats.
        horizon: samples over which the weight may change by a fifth.
    """

    kl_coef: float
    target: float
    horizon: int

    def update(self, kl: float, num_samples: int) -> None:
        """Move the weight after `num_samples` responses of mean sequence KL `kl`."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        # never more than a fifth at a time, so that a short horizon cannot turn the weight negative
        self.kl_coef *= 1 + error * min(num_samples / self.horizon, 1.0)
