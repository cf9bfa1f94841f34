"""A frozen backbone in eight or four bits a weight, by bitsandbytes, where it is installed.

int8 is LLM.int8() (Dettmers et al., arXiv 2208.07339), nf4 the four-bit type of QLoRA (Dettmers et al., arXiv
2305.14314), whose scales are quantised too. Adapters and heads stay in float32, and so does the gradient's way to
them: only the frozen weights are coarser, for every role alike. Embeddings and output head keep their type.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import BitsAndBytesConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

QUANTIZATIONS = ("none", "int8", "nf4")


def check_quantization(quantization: str) -> None:
    """Refuse what cannot be loaded here.

    Raises:
        ValueError: with what to do.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization is {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantization is {quantization}, which needs bitsandbytes: install the extra, "
            "pip install 'rlhf-loop[quantization]', or leave it at none"
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"quantization is {quantization}: DeepSpeed ZeRO-3 cannot partition quantised weights; use ZeRO-2 or none"
        )


def loading_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What transformers is told when it loads a model; None loads the weights as they are.

    Raises:
        ValueError: as `check_quantization`.
    """
    check_quantization(quantization)
    if quantization == "none":
        return None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer's weight is stored in fewer bits than it is computed with."""
    return isinstance(module, nn.Linear) and not module.weight.dtype.is_floating_point


def dense_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """`[out, in]` the weight of a linear layer in `dtype`, taken out of its quantised form where it has one."""
    weight = layer.weight
    if not is_quantized(layer):
        return weight.to(dtype)
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    from bitsandbytes.functional import int8_vectorwise_dequant

    # the scales move into the layer's state when bitsandbytes' own forward has run
    scales = layer.state.SCB if weight.SCB is None else weight.SCB
    return int8_vectorwise_dequant(weight.data, scales).to(dtype)


def compute_in_full(model: nn.Module) -> None:
    """Have quantised layers multiply by the weights that they stand for.

    bitsandbytes' own products depend on the mode: in eight bits activations are rounded too, on a CPU only outside of
    training; in four bits a CPU repacks weights at the first pass without gradients and turns to bfloat16. Scoring
    and training would then disagree about the same policy, where PPO's ratio has to start at 1.
    """
    for module in model.modules():
        if is_quantized(module):
            module.forward = functools.partial(_full_linear, module)


def _full_linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return _FullLinear.apply(x, layer)


class _FullLinear(torch.autograd.Function):
    """y = x W^T + b with W taken out of its quantised form for the time of a product, in backward once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return F.linear(x, dense_weight(layer, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ dense_weight(ctx.layer, gradient.dtype), None
