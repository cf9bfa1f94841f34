"""Shared-prefix attention: each response attends to its prompt and to itself.

Registered with transformers under the name `shared_prefix`, so that any decoder built on its attention
interface computes a prompt once for all of its responses. The layout of the packed row travels as a keyword of
the model's forward and reaches every layer, through gradient checkpointing too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from rlhf.engine.packing import PackedBatch

IMPLEMENTATION = "shared_prefix"


@dataclass(frozen=True)
class PrefixLayout:
    """Who sees whom in a packed row.

    Attributes:
        group_lengths: tokens of each group.
        masks: for each group `[group_tokens, group_tokens]`, True where a query (row) may see a key (column);
            None for a group of one response, which is plainly causal.
        longest: tokens of the longest prompt with one of its responses.
    """

    group_lengths: tuple[int, ...]
    masks: tuple[torch.Tensor | None, ...]
    longest: int


def prefix_layout(batch: PackedBatch) -> PrefixLayout:
    """Build the layout of a batch, once for all layers."""
    masks: list[torch.Tensor | None] = []
    for segments in batch.segment_ids.split(batch.group_lengths):
        if int(segments[-1]) == 1:
            masks.append(None)
            continue
        causal = torch.ones(len(segments), len(segments), dtype=torch.bool, device=segments.device).tril()
        visible = (segments[None, :] == 0) | (segments[None, :] == segments[:, None])
        masks.append(causal & visible)
    return PrefixLayout(batch.group_lengths, tuple(masks), int(batch.position_ids.max()) + 1)


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
    """Attention over a packed row, group by group.

    Args:
        query: `[rows, heads, tokens, head_dim]`; `rows` are roles that read the same packed row.
        key: `[rows, key_value_heads, tokens, head_dim]`.
        value: `[rows, key_value_heads, tokens, head_dim]`.
        prefix_layout: the layout of the row; required.

    Returns:
        `[rows, tokens, heads, head_dim]` and None in place of attention weights.

    Raises:
        ValueError: the model uses attention sinks, soft-capping or a window shorter than a sequence, or does not
            hand the layout on to its layers.
    """
    if prefix_layout is None:
        raise ValueError("the model does not hand keywords on to its attention layers: choose another model")
    if softcap is not None or s_aux is not None:
        raise ValueError("attention soft-capping and attention sinks are not supported by shared-prefix attention")
    if sliding_window is not None and prefix_layout.longest > sliding_window:
        raise ValueError(
            f"a sequence of {prefix_layout.longest} tokens exceeds the model's sliding window of {sliding_window}: "
            "lower max_prompt_length or max_response_length"
        )
    rows = [_attend(q, k, v, prefix_layout, scaling) for q, k, v in zip(query, key, value, strict=True)]
    return torch.stack(rows), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PrefixLayout, scaling: float | None
) -> torch.Tensor:
    """One row, `[heads, tokens, head_dim]` to `[tokens, heads, head_dim]`.

    Each row has calls of its own: the CPU kernel shares heads out to threads, so with several rows in a call the last
    bits of one would depend on how many stand beside it.
    """
    lengths = list(layout.group_lengths)
    outputs = [
        F.scaled_dot_product_attention(
            q[None],
            k[None],
            v[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=q.shape[0] != k.shape[0],
        )
        for q, k, v, mask in zip(
            query.split(lengths, dim=1),
            key.split(lengths, dim=1),
            value.split(lengths, dim=1),
            layout.masks,
            strict=True,
        )
    ]
    # split and cat rather than assignment into slices: their backward copies each element once
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout says who sees whom; transformers need not build a mask."""
    return None


def register() -> None:
    """Make `attn_implementation="shared_prefix"` known to transformers; harmless when repeated."""
    AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
