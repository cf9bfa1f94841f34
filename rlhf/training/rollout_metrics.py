"""What a reader of a PPO run wants to know of its samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

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
