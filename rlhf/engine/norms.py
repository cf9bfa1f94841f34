"""Root-mean-square norms (Zhang and Sennrich, arXiv 1910.07467) with a backward pass of their own.

Written out in tensor operations, as models do, a norm spends three times as long in its backward pass as it needs and
keeps its input twice, in the model's type and in float32. Here it keeps the input and one number per token.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from rlhf.engine.precision import at_least_float32


class _RMSNorm(torch.autograd.Function):
    """y = w x / s with s = sqrt(mean(x^2) + eps), w frozen; in float32 or better, rounded once.

    With u = w dL/dy and n entries:  dL/dx = (u - x (u . x) / (n s^2)) / s.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, offset: float, eps: float) -> torch.Tensor:
        wide = x.to(at_least_float32(x.dtype), copy=True)
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.offset = offset
        ctx.save_for_backward(x, weight, inverse)
        return wide.mul_(inverse).mul_(weight.to(wide.dtype) + offset).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.to(inverse.dtype)
        scaled = gradient.to(inverse.dtype, copy=True).mul_(weight.to(inverse.dtype) + ctx.offset)
        along_x = torch.linalg.vecdot(scaled, wide).unsqueeze(-1)
        along_x.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, along_x).to(gradient.dtype), None, None, None


def fuse_norms(model: nn.Module) -> None:
    """Give every root-mean-square norm of a frozen model the form above; on GPUs, torch's own kernel.

    A norm is recognised by what it computes, tried on random numbers, so that variants stay as they are.
    """
    offsets: dict[type[nn.Module], float | None] = {}
    for module in model.modules():
        eps = _eps(module)
        if not type(module).__name__.endswith("RMSNorm") or eps is None:
            continue
        if type(module) not in offsets:
            offsets[type(module)] = _weight_offset(module, eps)
        offset = offsets[type(module)]
        if offset is not None:
            module.forward = functools.partial(_forward, module, offset, eps)


def _forward(module: nn.Module, offset: float, eps: float, x: torch.Tensor) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if weight.requires_grad:  # the form above is for frozen weights
        return type(module).forward(module, x)
    if x.is_cuda and offset == 0:  # 1 + weight would have to be rounded to the type of x
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return _RMSNorm.apply(x, weight, offset, eps)


def _eps(module: nn.Module) -> float | None:
    values = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    return next((value for value in values if isinstance(value, float)), None)


@torch.no_grad()
def _weight_offset(module: nn.Module, eps: float) -> float | None:
    """0 where the norm multiplies by its weight, 1 where by 1 + weight, None where it computes something else."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or hasattr(weight, "ds_id"):
        return None
    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(module).float().cpu()
    trial.weight = nn.Parameter(torch.randn(weight.shape, generator=generator))
    x = torch.randn(3, len(weight), generator=generator)
    for offset in (0.0, 1.0):
        if torch.allclose(trial(x), _RMSNorm.apply(x, trial.weight, offset, eps), rtol=1e-5, atol=1e-5):
            return offset
    return None
