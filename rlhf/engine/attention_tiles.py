"""Attention over buckets of segments: rectangles for PyTorch's fused kernel, or computed as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from rlhf.engine import attention_short
from rlhf.engine.attention_segments import Bucket, Segment
from rlhf.engine.precision import at_least_float32


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
    if query.device.type == "cpu" and softmax.is_plain and query.shape[-1] == value.shape[-1]:
        return _CPUAttention.apply(query, key, value, segments, buckets, softmax.scaling, sliding_window)
    lengths = [segment.length for segment in segments]
    if len(set(lengths)) == len(buckets) == 1 and buckets[0].prefix_length == 0:
        # nothing to cut out or to put together
        q, k, v = (tensor.unflatten(0, (len(segments), -1)) for tensor in (query, key, value))
        return _attend(q, k, v, buckets[0], softmax, sliding_window).flatten(0, 1)
    parts = [_parts(tensor, segments) for tensor in (query, key, value)]
    outputs: dict[int, torch.Tensor] = {}
    for bucket in buckets:
        q = _queries(parts[0], bucket)
        k, v = (_keys(part, segments, bucket) for part in parts[1:])
        output = _attend(q, k, v, bucket, softmax, sliding_window)
        for number, row in zip(bucket.members, output.unbind(0), strict=True):
            outputs[number] = row[: segments[number].length]
    # split and cat rather than assignment into slices: their backward copies each element once
    return torch.cat([outputs[number] for number in range(len(segments))])


class _CPUAttention(torch.autograd.Function):
    """Attention over buckets on a CPU: short ones by `attention_short`, others by PyTorch's kernel.

    The kernel runs in float32 or better: in bfloat16 its backward is 2 to 3 times as slow and its forward no faster.
    Kept for the backward pass are what came in, what went out, and the probabilities of short buckets; autograd
    would keep float32 copies, and each prompt once per response.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: Sequence[Segment],
        buckets: Sequence[Bucket],
        scaling: float,
        sliding_window: int | None,
    ) -> torch.Tensor:
        ctx.settings = segments, buckets, scaling, sliding_window
        parts = [_parts(tensor, segments) for tensor in (query, key, value)]
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        kept = []
        for bucket in buckets:
            rectangles = _rectangles(parts, segments, bucket)
            rows, for_backward = _attend_on_cpu(rectangles, bucket, scaling, sliding_window)
            kept.append(for_backward)
            for number, row in zip(bucket.members, rows.transpose(1, 2).unbind(0), strict=True):
                segment = segments[number]
                output[segment.start : segment.start + segment.length] = row[: segment.length]
        ctx.save_for_backward(query, key, value, output, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, *kept = ctx.saved_tensors
        segments, buckets, scaling, sliding_window = ctx.settings
        parts = [_parts(tensor, segments) for tensor in (query, key, value)]
        outer, inner = (_parts(tensor, segments) for tensor in (gradient, output))
        query_gradient = torch.empty_like(query)
        # a prompt's keys gather from all of its responses: summed up before they are rounded
        totals = [torch.zeros_like(tensor, dtype=at_least_float32(tensor.dtype)) for tensor in (key, value)]
        for bucket, from_forward in zip(buckets, kept, strict=True):
            rectangles = _rectangles(parts, segments, bucket)
            g, o = (_queries(tensors, bucket).transpose(1, 2) for tensors in (outer, inner))
            grads = _differentiate_on_cpu(g, o, rectangles, from_forward, bucket, scaling, sliding_window)
            dq, dk, dv = (grad.transpose(1, 2) for grad in grads)
            for i, number in enumerate(bucket.members):
                segment = segments[number]
                own = slice(segment.start, segment.start + segment.length)
                query_gradient[own] = dq[i, : segment.length]
                for total, grad in zip(totals, (dk, dv), strict=True):
                    total[own] += grad[i, segment.prefix_length : segment.num_keys]
                    if segment.prefix is not None:
                        start = segments[segment.prefix].start
                        total[start : start + segment.prefix_length] += grad[i, : segment.prefix_length]
        return query_gradient, *(total.to(key.dtype) for total in totals), None, None, None, None


def _attend_on_cpu(
    rectangles: tuple[torch.Tensor, ...], bucket: Bucket, scaling: float, sliding_window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of a bucket, and what its backward pass needs besides."""
    wide = at_least_float32(rectangles[0].dtype)
    mask = _mask(bucket, sliding_window, rectangles[0].device)
    if attention_short.is_short(bucket.length, bucket.num_keys):
        if mask is None:
            mask = torch.ones(bucket.length, bucket.length, dtype=torch.bool).tril()
        query, key, value = rectangles
        return attention_short.attend(query, key, value, _additive(mask, wide), scaling)
    q, k, v = (tensor.to(wide) for tensor in rectangles)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=None if mask is None else _additive(mask, wide), scale=scaling
    )


def _differentiate_on_cpu(
    gradient: torch.Tensor,
    output: torch.Tensor,
    rectangles: tuple[torch.Tensor, ...],
    kept: torch.Tensor,
    bucket: Bucket,
    scaling: float,
    sliding_window: int | None,
) -> tuple[torch.Tensor, ...]:
    """Gradients of a bucket's queries, keys and values."""
    if attention_short.is_short(bucket.length, bucket.num_keys):
        query, key, value = rectangles
        return attention_short.differentiate(gradient, query, key, value, kept, scaling)
    wide = at_least_float32(gradient.dtype)
    mask = _mask(bucket, sliding_window, gradient.device)
    g, o, q, k, v = (tensor.to(wide) for tensor in (gradient, output, *rectangles))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        g, q, k, v, o, kept, 0.0, mask is None, attn_mask=None if mask is None else _additive(mask, wide), scale=scaling
    )


def _parts(tensor: torch.Tensor, segments: Sequence[Segment]) -> tuple[torch.Tensor, ...]:
    return tensor.split([segment.length for segment in segments])


def _rectangles(
    parts: Sequence[Sequence[torch.Tensor]], segments: Sequence[Segment], bucket: Bucket
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of a bucket, `[members, heads, tokens, head_dim]`."""
    tensors = (_queries(parts[0], bucket), *(_keys(part, segments, bucket) for part in parts[1:]))
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


def _queries(parts: Sequence[torch.Tensor], bucket: Bucket) -> torch.Tensor:
    return torch.stack([_padded(parts[i], bucket.length) for i in bucket.members])


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


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
    scores = (query @ key.transpose(-1, -2)).to(at_least_float32(query.dtype)) * softmax.scaling
    if softmax.softcap is not None:
        scores = softmax.softcap * torch.tanh(scores / softmax.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if softmax.sinks is not None:
        sinks = softmax.sinks.to(scores.dtype).view(1, heads, 1, 1).expand(members, -1, length, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    probabilities = scores.softmax(dim=-1)[..., : key.shape[-2]]
    return probabilities.to(value.dtype) @ value
