"""Attention kernels for a GPU: ragged rows in one call for all roles, chosen by what is installed.

In bfloat16 and float16 on CUDA, in this order: PyTorch's own `varlen_attn`, the package `flash_attn`, a compiled
FlexAttention. Everything else (a CPU, float32, heads wider than 256) goes through `attention_tiles`.

What is here has not run on a GPU. On a CPU the tests hold the index of keys against a plain loop, the composition
around the kernel in float64 with the kernel written out, and FlexAttention's mask and its uncompiled forward.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

from rlhf.engine.attention_segments import VarlenIndex
from rlhf.engine.packing import PackedBatch
from rlhf.engine.precision import at_least_float32

logger = logging.getLogger(__name__)

KernelName = Literal["varlen", "flash_attn", "flex", "sdpa"]
# (query, key, value, index, scaling, sliding_window) -> [queries, heads, head_dim]
RaggedKernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, VarlenIndex, float, int | None],
    torch.Tensor,
]


@functools.cache
def chosen_kernel(device_type: str, dtype: torch.dtype) -> KernelName:
    """The kernel for tensors of this type on this device; said once in the log."""
    name: KernelName = "sdpa"
    if device_type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        if _flash_runs() and _torch_has_varlen():
            name = "varlen"
        elif _flash_runs() and importlib.util.find_spec("flash_attn") is not None:
            name = "flash_attn"
        elif importlib.util.find_spec("triton") is not None:
            name = "flex"
    logger.info("attention over shared prompts on %s in %s: %s", device_type, dtype, name)
    return name


def takes_heads(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the kernels take heads of this width."""
    return query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0


def _flash_runs() -> bool:
    """Flash kernels need an Ampere GPU or a later one."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def _torch_has_varlen() -> bool:
    """From torch 2.13 on it takes a window, and keys with fewer heads than queries."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    index: VarlenIndex,
    scaling: float,
    sliding_window: int | None,
    kernel: RaggedKernel,
) -> torch.Tensor:
    """Attention of all rows in one call of a kernel for ragged rows.

    Args:
        query: `[rows, heads, tokens, head_dim]`.
        key: `[rows, key_value_heads, tokens, head_dim]`.
        value: as `key`.
        index: of as many rows.
        scaling: what scores are multiplied by.
        sliding_window: how many positions a query sees, its own among them; None sees all before it.
        kernel: causal, the last query of a segment aligned with its last key.

    Returns:
        `[rows, tokens, heads, head_dim]`.
    """
    rows, heads, tokens, head_dim = query.shape
    q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    k, v = (_Gather.apply(tensor, index.key_index) for tensor in (k, v))
    return kernel(q.contiguous(), k, v, index, scaling, sliding_window).view(rows, tokens, heads, head_dim)


class _Gather(torch.autograd.Function):
    """Rows of `[n, heads, head_dim]` by index; gradients of a row gathered many times are added in float32 or better.

    A prompt's keys are gathered once for each response, and in bfloat16 every addition would round. On a GPU they are
    added in no fixed order.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = at_least_float32(gradient.dtype)
        total = gradient.new_zeros((ctx.num_rows, *gradient.shape[1:]), dtype=wide)
        return total.index_add_(0, index, gradient.to(wide)).to(gradient.dtype), None


def torch_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    index: VarlenIndex,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """PyTorch's kernel; `(-1, 0)` is causal and `(w - 1, 0)` sees w positions."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query,
        key,
        value,
        index.query_offsets,
        index.key_offsets,
        index.longest_query,
        index.longest_key,
        scale=scaling,
        window_size=_window(index, sliding_window),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # a pair only where the log-sum-exp is asked for
    return output


def flash_attn_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    index: VarlenIndex,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """The kernel of the package flash_attn 2.1 or later, which aligns causal masks at the end."""
    # by name: nothing here depends on the package
    return importlib.import_module("flash_attn").flash_attn_varlen_func(
        query,
        key,
        value,
        index.query_offsets,
        index.key_offsets,
        index.longest_query,
        index.longest_key,
        softmax_scale=scaling,
        causal=True,
        window_size=_window(index, sliding_window) if sliding_window is not None else (-1, -1),
    )


def _window(index: VarlenIndex, sliding_window: int | None) -> tuple[int, int]:
    if sliding_window is None or index.longest_key <= sliding_window:
        return (-1, 0)
    return (sliding_window - 1, 0)


@dataclass(frozen=True)
class FlexMasks:
    """The packed row as FlexAttention reads it.

    Attributes:
        group_ids: `[tokens]` the group of each token.
        segment_ids: `[tokens]` 0 in a prompt, k + 1 in the k-th response.
        position_ids: `[tokens]` position in its own sequence.
        block_masks: made at the first layer that asks, by sliding window.
    """

    group_ids: torch.Tensor
    segment_ids: torch.Tensor
    position_ids: torch.Tensor
    block_masks: dict[int | None, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: PackedBatch) -> FlexMasks:
        """What a packed row needs."""
        groups = torch.arange(batch.num_groups).repeat_interleave(torch.tensor(batch.group_lengths))
        return cls(groups.to(batch.input_ids.device), batch.segment_ids, batch.position_ids)

    def visible(self, sliding_window: int | None) -> Callable[..., torch.Tensor]:
        """The function of (batch, head, query, key) that says whether a query sees a key."""
        groups, segments, positions = self.group_ids, self.segment_ids, self.position_ids

        def mask(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            mine = (segments[key] == 0) | (segments[key] == segments[query])
            seen = (groups[query] == groups[key]) & mine & (query >= key)
            if sliding_window is not None:
                seen = seen & (positions[query] - positions[key] < sliding_window)
            return seen

        return mask

    def block_mask(self, sliding_window: int | None) -> Any:
        """FlexAttention's form of it, built once.

        Compiled on a GPU: uncompiled it writes out the whole square of tokens, 1 GB at 32,768 of them.
        """
        if sliding_window not in self.block_masks:
            tokens, device = len(self.segment_ids), self.segment_ids.device
            create = _create_block_mask(device.type)
            self.block_masks[sliding_window] = create(
                self.visible(sliding_window), None, None, tokens, tokens, device=device
            )
        return self.block_masks[sliding_window]


def flex_prefix_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: FlexMasks,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """Attention of all rows by FlexAttention (arXiv 2412.05496); shapes as in `varlen_attention`."""
    output = _flex(query.device.type)(
        query,
        key,
        value,
        block_mask=masks.block_mask(sliding_window),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2)


@functools.cache
def _flex(device_type: str) -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    plain: Any = flex_attention
    # uncompiled it computes the whole square; on a CPU that saves compiling, and only tests come there
    return torch.compile(plain, dynamic=True) if device_type == "cuda" else plain


@functools.cache
def _create_block_mask(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    plain: Any = create_block_mask
    return torch.compile(plain, dynamic=True) if device_type == "cuda" else plain


@functools.cache
def told_once(message: str) -> None:
    """Say something in the log at the first layer of the first pass, and not again."""
    logger.warning(message)
