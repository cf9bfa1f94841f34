"""What a reader of a PPO run wants to know of its samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rlhf.algorithms.advantages import Reduce, masked_mean
from rlhf.training.rollout import RolloutBatch


def distinct_bigrams(text: str) -> float:
    """Share of different word pairs among all (distinct-2, Li et al., arXiv 1510.03055); 1 if there is none."""
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Pearson correlation of two `[n]` tensors; 0 where one of them does not vary."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = x.norm() * y.norm()
    return float((x @ y) / scale) if scale > 0 else 0.0


def sequence_kl(rollout: Sequence[RolloutBatch]) -> torch.Tensor:
    """`[responses]` KL of policy from reference in nats, summed over each response."""
    return torch.cat([batch.packed.sum_by_response(batch.old_logprobs - batch.ref_logprobs) for batch in rollout])


def rollout_metrics(rollout: Sequence[RolloutBatch], reduce: Reduce) -> dict[str, torch.Tensor]:
    """Values by metric name, of which a log shows the mean; never of padding.

    Scores and values are those of responses that are learnt from, all else is of every response.

    Args:
        rollout: measured batches of this process, with advantages.
        reduce: sums a tensor over all processes.
    """
    counts = torch.cat([batch.counts for batch in rollout])
    scores = torch.cat([batch.scores for batch in rollout])[counts]
    lengths = torch.tensor([float(n) for batch in rollout for n in batch.packed.response_lengths])
    old_logprobs, sampler_logprobs = (
        torch.cat([getattr(batch, name) for batch in rollout]) for name in ("old_logprobs", "sampler_logprobs")
    )
    metrics = {
        "objective/score": scores,
        "objective/kl": sequence_kl(rollout),
        "objective/entropy": torch.cat([batch.entropy for batch in rollout]),
        "objective/eos_rate": torch.cat([batch.finished for batch in rollout]).float(),
        "objective/response_length": lengths,
        "objective/distinct_2": torch.tensor([distinct_bigrams(text) for batch in rollout for text in batch.texts]),
        "reward/length_correlation": torch.tensor(correlation(lengths[counts.cpu()], scores.cpu())),
        "policy/sampler_gap": (old_logprobs.exp() - sampler_logprobs.exp()).abs(),
    }
    for name in rollout[0].scores_by_name:
        raw = torch.cat([batch.scores_by_name[name] for batch in rollout])
        metrics[f"score/{name}"] = raw[~raw.isnan()]
    if hasattr(rollout[0], "old_values"):
        metrics["value/explained_variance"] = explained_variance(rollout, reduce)
    return metrics


def explained_variance(rollout: Sequence[RolloutBatch], reduce: Reduce) -> torch.Tensor:
    """Share of the variance of the returns that the value model foresaw: 1 - Var(returns - values) / Var(returns)."""
    counted = torch.cat([batch.counted_tokens for batch in rollout])
    returns = torch.cat([batch.returns for batch in rollout])
    error = returns - torch.cat([batch.old_values for batch in rollout])

    def variance(values: torch.Tensor) -> torch.Tensor:
        return masked_mean((values - masked_mean(values, counted, reduce)).square(), counted, reduce)

    return 1 - variance(error) / variance(returns).clamp(min=1e-12)


def response_values(rollout: Sequence[RolloutBatch]) -> dict[str, torch.Tensor]:
    """`[responses]` score, KL from the reference in nats and length in tokens of every response of a rollout."""
    scores = torch.cat([batch.scores for batch in rollout])
    kl = sequence_kl(rollout)
    lengths = [length for batch in rollout for length in batch.packed.response_lengths]
    return {"score": scores, "kl": kl, "length": torch.tensor(lengths, device=scores.device)}


def sample_rows(batch: RolloutBatch, step: int) -> Iterator[dict[str, Any]]:
    """One row per response: prompt, response, score, KL in nats."""
    kl = batch.packed.sum_by_response(batch.old_logprobs - batch.ref_logprobs).tolist()
    rows = zip(batch.prompt_of_response, batch.texts, batch.scores.tolist(), kl, batch.finished.tolist(), strict=True)
    for prompt, text, score, sequence_kl, finished in rows:
        yield {
            "step": step,
            "prompt": [message.to_dict() for message in prompt],
            "response": text,
            "score": score,
            "kl": sequence_kl,
            "finished": finished,
        }
