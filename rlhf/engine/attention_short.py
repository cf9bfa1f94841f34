"""Attention of short segments on a CPU: whole tiles of probabilities by batched matrix products.

With a few hundred keys a tile stays in the cache, and bfloat16 products run at the rate of the large ones, which
PyTorch's kernel for CPUs does not reach: at 64 queries and 192 keys forward and backward take a third of its time.
Heads that read the same keys stand in one tile. Scores and softmax are in float32 or better; the probabilities are
kept for the backward pass in the type of the model.
"""

from __future__ import annotations

import torch

from rlhf.engine.precision import at_least_float32

# Above these PyTorch's kernel, which keeps no probabilities and skips what is masked, is as fast; measured with heads
# of 64, alone and three to a head of keys.
MAX_PAIRS = 256 * 255
MAX_KEYS = 1024


def is_short(num_queries: int, num_keys: int) -> bool:
    """Whether tiles of this size are computed here."""
    return num_queries * num_keys <= MAX_PAIRS and num_keys <= MAX_KEYS


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scaling Q K^T + mask) V.

    Args:
        query: `[members, heads, queries, head_dim]`.
        key: `[members, key_value_heads, keys, head_dim]`.
        value: `[members, key_value_heads, keys, head_dim]`.
        mask: `[queries, keys]`, 0 where a query sees a key and -inf elsewhere, in float32 or better.
        scaling: what scores are multiplied by.

    Returns:
        `[members, heads, queries, head_dim]`, and the probabilities for `differentiate`.
    """
    q, k, v = _tiles(query, key), key.flatten(0, 1), value.flatten(0, 1)
    added = mask.repeat(query.shape[1] // key.shape[1], 1).expand(len(q), -1, -1)
    # not in bfloat16, whose products would round scores to 8 bits
    scores = torch.baddbmm(added, q.to(mask.dtype), k.to(mask.dtype).transpose(1, 2), alpha=scaling)
    probabilities = torch.softmax(scores, dim=-1, out=scores).to(query.dtype)
    return torch.bmm(probabilities, v).view(query.shape), probabilities


def differentiate(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    probabilities: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value, in their shapes.

    With G the gradient of the output, P the probabilities and o the product by elements:

        dV = P^T G,   dS = P o (G V^T - rowsum(P o G V^T)),   dQ = scaling dS K,   dK = scaling dS^T Q
    """
    q, k, v, g = _tiles(query, key), key.flatten(0, 1), value.flatten(0, 1), _tiles(gradient, key)
    value_gradient = torch.bmm(probabilities.transpose(1, 2), g)
    wide = at_least_float32(query.dtype)
    weighted = torch.bmm(g, v.transpose(1, 2)).to(wide) * probabilities
    score_gradient = weighted.sub_(probabilities * weighted.sum(dim=-1, keepdim=True)).to(query.dtype)
    query_gradient = torch.bmm(score_gradient, k).mul_(scaling)
    key_gradient = torch.bmm(score_gradient.transpose(1, 2), q).mul_(scaling)
    return query_gradient.view(query.shape), key_gradient.view(key.shape), value_gradient.view(value.shape)


def _tiles(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """`[members * key_value_heads, heads per key_value_head * queries, head_dim]`."""
    members, key_value_heads = key.shape[:2]
    return query.reshape(members * key_value_heads, -1, query.shape[-1])
