"""Linear layers whose weights are laid out once for the processor's matrix product instead of at every call.

In bfloat16 on a CPU, oneDNN brings a weight into blocks before it multiplies. With few rows, as in decoding, that
takes up to half of the time; a copy in blocks saves it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

MOST_BYTES = 4 * 2**30  # weights beyond this are left as they are, so that a large model need not fit twice


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Keep a copy in blocks of the bfloat16 weights of linear layers inside the block, and multiply by these.

    Does nothing on other devices and types. The weights must not change inside the block.
    """
    layers = list(_layers_to_pack(model))
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        vars(layer)["forward"] = functools.partial(_multiply, packed, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]  # the method of the class shows again


def _layers_to_pack(model: nn.Module) -> Iterator[nn.Linear]:
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    num_bytes = 0
    for layer in model.modules():
        if type(layer) is not nn.Linear or "forward" in vars(layer):
            continue
        if layer.weight.device.type != "cpu" or layer.weight.dtype != torch.bfloat16:
            continue
        num_bytes += layer.weight.nbytes
        if num_bytes > MOST_BYTES:
            return
        yield layer


def _multiply(packed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
