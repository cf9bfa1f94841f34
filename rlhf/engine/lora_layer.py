"""LoRA layers that route each row of a pass to the adapter of its role.

A layer computes x W^T + s (x A^T) B^T (Hu et al., arXiv 2106.09685). On plain linear layers this is one autograd
function: what LoRA adds is fused into the products that are there anyway, no product of tokens x width is kept or
added up on its own, and the frozen weight gets no gradient. Other layers (dropout, quantised or transposed weights,
weights that ZeRO-3 has partitioned) call their own modules.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable

from rlhf.engine.precision import at_least_float32
from rlhf.engine.quantization import is_quantized


def is_linear_adapter(module: nn.Module) -> bool:
    """Whether a module adds LoRA to a linear layer; PEFT wraps quantised ones in classes of their own."""
    return isinstance(module, lora.Linear) or (isinstance(module, lora.LoraLayer) and is_quantized(module.base_layer))


def route_by_role(layer: lora.Linear, name: str, adapters_by_row: list[str | None]) -> None:
    """Make a layer read its adapter from the row, and keep the weights of adapter `name` in float32 or better.

    Args:
        layer: carries the adapter `name`.
        name: the adapter that was just added.
        adapters_by_row: the adapter of each row of the present pass; None adds nothing.
    """
    for linear in (layer.lora_A[name], layer.lora_B[name]):
        linear.to(at_least_float32(layer.base_layer.weight.dtype))
        linear.forward = functools.partial(_cast_linear, linear)
    layer.forward = functools.partial(_routed_forward, layer, adapters_by_row)


def _routed_forward(layer: lora.Linear, adapters_by_row: list[str | None], x: torch.Tensor) -> torch.Tensor:
    """`[rows, tokens, in]` to `[rows, tokens, out]`, every row through its own adapter, in a fixed order.

    Each row is a matrix product of its own, so that what a role computes does not depend, down to the last bit,
    on which roles stand beside it; and all processes walk the adapters in the same order, as ZeRO-3 demands.
    """
    if len(x) == 1 and not any(adapter in layer.lora_A for adapter in adapters_by_row):
        adapters_by_row = [None]  # a row that all roles of the pass share still
    if len(x) != len(adapters_by_row):
        raise ValueError(
            f"a layer with an adapter got input of shape {tuple(x.shape)} for {len(adapters_by_row)} roles: this "
            "model flattens rows there; choose lora_target_modules without it, such as q_proj,v_proj"
        )
    if all(_is_plain(layer, adapter) for adapter in adapters_by_row):
        return _fused(layer, adapters_by_row, x)
    outputs = []
    for row, adapter in zip(x.unbind(0), adapters_by_row, strict=True):
        output = layer.base_layer(row)
        if adapter is not None and adapter in layer.lora_A:
            dropped = layer.lora_dropout[adapter](row)
            delta = layer.lora_B[adapter](layer.lora_A[adapter](dropped))
            output = output + delta * layer.scaling[adapter]
        outputs.append(output)
    return outputs[0][None] if len(outputs) == 1 else torch.stack(outputs)


def _is_plain(layer: lora.Linear, adapter: str | None) -> bool:
    base = layer.base_layer
    if type(base) is not nn.Linear or hasattr(base.weight, "ds_id"):
        return False
    drops = adapter in layer.lora_A and layer.training and not isinstance(layer.lora_dropout[adapter], nn.Identity)
    return not drops


def _fused(layer: lora.Linear, adapters_by_row: list[str | None], x: torch.Tensor) -> torch.Tensor:
    scalings: list[float | None] = []
    factors: list[torch.Tensor] = []
    for adapter in adapters_by_row:
        if adapter is None or adapter not in layer.lora_A:
            scalings.append(None)
            continue
        scalings.append(layer.scaling[adapter])
        factors += [layer.lora_A[adapter].weight, layer.lora_B[adapter].weight]
    return _RoleLinear.apply(x, layer.base_layer.weight, layer.base_layer.bias, scalings, *factors)


class _RoleLinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T for each row, W and b frozen.

    With g = dL/dy:  dL/dx = g W + s (g B) A,  dL/dA = s (g B)^T x,  dL/dB = s g^T (x A^T).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scalings: list[float | None],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        cast = [factor.to(x.dtype) for factor in factors]
        reduced: list[torch.Tensor] = []  # x A^T, `[tokens, r]`
        output = x.new_empty(*x.shape[:-1], len(weight))
        remaining = iter(cast)
        for row, scaling in enumerate(scalings):
            if bias is None:
                torch.mm(x[row], weight.T, out=output[row])
            else:
                torch.addmm(bias, x[row], weight.T, out=output[row])
            if scaling is not None:
                a, b = next(remaining), next(remaining)
                reduced.append(F.linear(x[row], a))
                output[row].addmm_(reduced[-1], b.T, alpha=scaling)
        ctx.scalings, ctx.num_factors = scalings, len(factors)
        ctx.save_for_backward(x if factors else None, weight, *cast, *reduced)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        factors, reduced = iter(saved[: ctx.num_factors]), iter(saved[ctx.num_factors :])
        needs_x, needs_factors = ctx.needs_input_grad[0], iter(ctx.needs_input_grad[4:])
        x_gradient = gradient.new_empty(*gradient.shape[:-1], weight.shape[1]) if needs_x else None
        factor_gradients: list[torch.Tensor | None] = []
        for row, scaling in enumerate(ctx.scalings):
            g = gradient[row]
            if x_gradient is not None:
                torch.mm(g, weight, out=x_gradient[row])
            if scaling is None:
                continue
            a, b = next(factors), next(factors)
            through_b = g @ b * scaling
            if x_gradient is not None:
                x_gradient[row].addmm_(through_b, a)
            dtype = at_least_float32(g.dtype)
            factor_gradients.append((through_b.T @ x[row]).to(dtype) if next(needs_factors) else None)
            row_reduced = next(reduced)
            factor_gradients.append((g.T @ row_reduced).to(dtype) * scaling if next(needs_factors) else None)
        return x_gradient, None, None, None, *factor_gradients


def _cast_linear(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, linear.weight.to(x.dtype))
