"""Attention over buckets of segments: rectangles for PyTorch's fused kernel, or computed as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rlhf.engine.attention_segments import Bucket, Segment


@dataclass(frozen=True)
class Softmax:
    """How scores become probabilities.

    Attributes:
        scaling: what scores are multiplied by.
        softcap: None, or the bound that `softcap * tanh(score / softcap)` puts on scores.
        sinks: None, or `[heads]` scores that take probability and give no value.
    """

    scaling: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


def bucketed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Sequence[Segment],
    buckets: Sequence[Bucket],
    softmax: Softmax,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """Attention of one packed row, a call for each bucket.

    Args:
        query: `[tokens, heads, head_dim]`.
        key: `[tokens, key_value_heads, head_dim]`.
        value: `[tokens, key_value_heads, value_dim]`.
        segments: what the row falls into.
        buckets: the same, put together.
        softmax: how scores become probabilities.
        sliding_window: how many positions a query sees, its own among them; None sees all before it.

    Returns:
        `[tokens, heads, value_dim]`.
    """
    dtype = query.dtype
    if query.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        # the CPU kernel's backward is 2 to 3 times as slow in bfloat16 as in float32, and its forward no faster
        query, key, value = query.float(), key.float(), value.float()
    lengths = [segment.length for segment in segments]
    if len(set(lengths)) == len(buckets) == 1 and buckets[0].prefix_length == 0:
        # nothing to cut out or to put together
        q, k, v = (tensor.unflatten(0, (len(segments), -1)) for tensor in (query, key, value))
        return _attend(q, k, v, buckets[0], softmax, sliding_window).flatten(0, 1).to(dtype)
    parts = [tensor.split(lengths) for tensor in (query, key, value)]
    outputs: dict[int, torch.Tensor] = {}
    for bucket in buckets:
        q = torch.stack([_padded(parts[0][i], bucket.length) for i in bucket.members])
        k, v = (_keys(part, segments, bucket) for part in parts[1:])
        output = _attend(q, k, v, bucket, softmax, sliding_window)
        for number, row in zip(bucket.members, output.unbind(0), strict=True):
            outputs[number] = row[: segments[number].length]
    # split and cat rather than assignment into slices: their backward copies each element once
    return torch.cat([outputs[number] for number in range(len(segments))]).to(dtype)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bucket: Bucket,
    softmax: Softmax,
    sliding_window: int | None,
) -> torch.Tensor:
    """One bucket: `[members, queries, heads, head_dim]` and keys likewise to the shape of the queries."""
    mask = _mask(bucket, sliding_window, query.device)
    attend = _fused if softmax.is_plain else _as_written
    return attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, softmax).transpose(1, 2)


def _padded(part: torch.Tensor, length: int) -> torch.Tensor:
    """Zeros at the end, where no query of the segment sees them."""
    return part if len(part) == length else F.pad(part, (0, 0, 0, 0, 0, length - len(part)))


def _keys(parts: Sequence[torch.Tensor], segments: Sequence[Segment], bucket: Bucket) -> torch.Tensor:
    """`[members, prefix + length, key_value_heads, head_dim]`: for each member its prompt, then itself."""
    own = torch.stack([_padded(parts[i], bucket.length) for i in bucket.members])
    if bucket.prefix_length == 0:
        return own
    prompts = [prompt for i in bucket.members if (prompt := segments[i].prefix) is not None]
    counts = {prompt: prompts.count(prompt) for prompt in prompts}
    # members are in order, so those of one prompt stand together; expand adds their gradients up in one sum
    prefix = [parts[prompt][None].expand(count, -1, -1, -1) for prompt, count in counts.items()]
    return torch.cat([torch.cat(prefix), own], dim=1)


def _mask(bucket: Bucket, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """`[queries, keys]`, True where a query sees a key; None for plainly causal."""
    num_keys = bucket.prefix_length + bucket.length
    whole_window = sliding_window is None or num_keys <= sliding_window
    if bucket.prefix_length == 0 and whole_window:
        return None
    mask = torch.ones(bucket.length, num_keys, dtype=torch.bool, device=device).tril(bucket.prefix_length)
    return mask if whole_window else mask.triu(bucket.prefix_length - (sliding_window or 0) + 1)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, softmax: Softmax
) -> torch.Tensor:
    if query.is_cuda and mask is not None and query.shape[1] != key.shape[1]:
        # CUDA's kernels take a mask or fewer heads of keys, not both, and PyTorch would fall back to the written form
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=softmax.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _as_written(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, softmax: Softmax
) -> torch.Tensor:
    """Scores, soft-cap, mask, sinks, softmax in float32 or better, values."""
    members, heads, length, _ = query.shape
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    repeats = heads // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32)) * softmax.scaling
    if softmax.softcap is not None:
        scores = softmax.softcap * torch.tanh(scores / softmax.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if softmax.sinks is not None:
        sinks = softmax.sinks.to(scores.dtype).view(1, heads, 1, 1).expand(members, -1, length, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    probabilities = scores.softmax(dim=-1)[..., : key.shape[-2]]
    return probabilities.to(value.dtype) @ value
