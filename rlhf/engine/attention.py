"""Shared-prefix attention: each response attends to its prompt and to itself.

Registered with transformers under the name `shared_prefix`, so that any decoder built on its attention
interface computes a prompt once for all of its responses. The layout of the packed row travels as a keyword of
the model's forward and reaches every layer, through gradient checkpointing too.

A packed row is cut into segments: a prompt, a response, or both where a prompt has one response only. The keys of a
segment are its prompt and itself, its queries are the end of its keys, and it is causal; so a sliding window counts
what it would count in a sequence of its own. What computes a segment is chosen by device, type and what is
installed (`attention_kernels`); soft-capping and attention sinks are computed as written, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from rlhf.engine.attention_kernels import (
    FlexMasks,
    chosen_kernel,
    flash_attn_varlen,
    flex_prefix_attention,
    takes_heads,
    told_once,
    torch_varlen,
    varlen_attention,
)
from rlhf.engine.attention_segments import Bucket, Segment, VarlenIndex, buckets, segments_of
from rlhf.engine.attention_tiles import Softmax, bucketed_attention
from rlhf.engine.packing import PackedBatch

IMPLEMENTATION = "shared_prefix"


@dataclass(frozen=True)
class PrefixLayout:
    """Who sees whom in a packed row.

    Attributes:
        segments: the row's segments in order; they tile it.
        buckets: the segments again, those of like lengths together, for kernels that take rectangles.
        ragged: so many copies of the row as the kernel of a GPU reads them; empty where there is none.
    """

    segments: tuple[Segment, ...]
    buckets: tuple[Bucket, ...]
    ragged: Mapping[int, VarlenIndex | FlexMasks] = field(default_factory=dict)


def prefix_layout(
    batch: PackedBatch, *, num_rows: Sequence[int] = (1,), dtype: torch.dtype = torch.float32
) -> PrefixLayout:
    """Build the layout of a batch, once for all layers.

    Args:
        batch: the packed row.
        num_rows: how often a layer may be handed it side by side: once for each role, or once where roles share it.
        dtype: type of the model, which decides on the kernel.
    """
    segments = segments_of(batch)
    device = batch.input_ids.device
    ragged: dict[int, VarlenIndex | FlexMasks] = {}
    kernel = chosen_kernel(device.type, dtype)
    if kernel == "flex":
        ragged = dict.fromkeys(num_rows, FlexMasks.of(batch))
    elif kernel != "sdpa":
        ragged = {rows: VarlenIndex.of(segments, num_rows=rows, device=device) for rows in num_rows}
    return PrefixLayout(segments, buckets(segments), ragged)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    prefix_layout: PrefixLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed row.

    Args:
        query: `[rows, heads, tokens, head_dim]`; `rows` are roles that read the same packed row.
        key: `[rows, key_value_heads, tokens, head_dim]`; `heads` is a multiple of `key_value_heads`.
        value: `[rows, key_value_heads, tokens, value_dim]`.
        scaling: what scores are multiplied by; None is `head_dim ** -0.5`.
        prefix_layout: the layout of the row; required.
        sliding_window: how many positions a query sees, its own among them; None sees all before it.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118).
        s_aux: `[heads]` attention sinks, a score per head that takes probability and gives no value (gpt-oss).

    Returns:
        `[rows, tokens, heads, value_dim]` and None in place of attention weights.

    Raises:
        ValueError: the model does not hand the layout on to its layers.
    """
    if prefix_layout is None:
        raise ValueError("the model does not hand keywords on to its attention layers: choose another model")
    softmax = Softmax(scaling if scaling is not None else query.shape[-1] ** -0.5, softcap, s_aux)
    if not softmax.is_plain:
        told_once("attention with soft-capping or sinks: computed as written, in float32, without a fused kernel")
    elif prefix_layout.ragged and takes_heads(query, value):
        return _ragged(query, key, value, prefix_layout.ragged[len(query)], softmax.scaling, sliding_window), None
    # Each row has calls of its own: kernels share work out by the size of the batch, so with several rows in a call
    # the last bits of one would depend on how many stand beside it.
    rows = [
        bucketed_attention(q, k, v, prefix_layout.segments, prefix_layout.buckets, softmax, sliding_window)
        for q, k, v in zip(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), strict=True)
    ]
    return rows[0][None] if len(rows) == 1 else torch.stack(rows), None


def _ragged(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ragged: VarlenIndex | FlexMasks,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    if isinstance(ragged, FlexMasks):
        return flex_prefix_attention(query, key, value, ragged, scaling, sliding_window)
    kernel = torch_varlen if chosen_kernel(query.device.type, query.dtype) == "varlen" else flash_attn_varlen
    return varlen_attention(query, key, value, ragged, scaling, sliding_window, kernel)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout says who sees whom; transformers need not build a mask."""
    return None


def register() -> None:
    """Make `attn_implementation="shared_prefix"` known to transformers; harmless when repeated."""
    AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
