"""Log-probabilities of response tokens from a frozen output head, in one pass.

With a frozen head the gradient of log p(y | h) with respect to the hidden state is known in closed form,

    d log p(y) / dh = (W[y] - softmax(h W^T / t) W) / t,

and comes out of the same tile of logits as the log-probability itself. Nothing of vocabulary size outlives a
chunk, and the head costs two matrix products where autograd needs three.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ROWS = 512


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target_ids: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_rows = hidden.shape[0]
        logprobs = hidden.new_empty(num_rows, dtype=_accumulate_dtype(hidden))
        entropy = torch.empty_like(logprobs)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, num_rows, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).to(logprobs.dtype)
            logits /= temperature
            # not by way of logsumexp: the difference of two large numbers makes small entropies negative
            log_probabilities = logits.log_softmax(dim=-1)
            logprobs[rows] = log_probabilities.gather(-1, target_ids[rows, None]).squeeze(-1)
            probabilities = log_probabilities.exp()
            entropy[rows] = -log_probabilities.mul_(probabilities).sum(dim=-1)
            if gradient is not None:
                expected = probabilities.to(weight.dtype) @ weight
                gradient[rows] = (weight[target_ids[rows]] - expected) / temperature
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: torch.Tensor, _grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_logprobs[:, None].to(gradient.dtype), None, None, None, None


def _accumulate_dtype(hidden: torch.Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def frozen_head_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target under softmax(hidden W^T / temperature), and the entropy of that softmax.

    Args:
        hidden: `[n, hidden]` last hidden states at the positions that predict the targets.
        weight: `[vocabulary, hidden]` output head; frozen, it receives no gradient.
        target_ids: `[n]` token ids.
        bias: `[vocabulary]` or None.
        temperature: what the logits are divided by: the sampling temperature of the rollout.

    Returns:
        logprobs: `[n]` in nats, at least float32, differentiable in `hidden`.
        entropy: `[n]` in nats, between 0 and ln(vocabulary); a measurement, not differentiable.

    Raises:
        ValueError: temperature is not positive, or the head requires a gradient.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: log-probabilities need a temperature above 0")
    if weight.requires_grad:
        raise ValueError("the output head requires a gradient, but this form is for a frozen head: freeze it")
    return _FrozenHead.apply(hidden, weight, bias, target_ids, temperature)
