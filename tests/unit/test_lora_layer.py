"""The fused LoRA product against plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from rlhf.engine.lora_layer import _RoleLinear

TOKENS, IN, OUT, R = 5, 7, 6, 2
SCALING = 1.5


def factors(seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(R, IN, generator=generator, dtype=dtype)
    return a.requires_grad_(), torch.randn(OUT, R, generator=generator, dtype=dtype).requires_grad_()


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT).double().requires_grad_(False)


@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_are_the_derivatives_by_finite_differences(layer, has_bias) -> None:
    x = torch.randn(3, TOKENS, IN, dtype=torch.float64, requires_grad=True)
    bias = layer.bias if has_bias else None

    def product(x, *pairs):
        return _RoleLinear.apply(x, layer.weight, bias, [None, SCALING, 0.5], *pairs)

    assert gradcheck(product, (x, *factors(1, torch.float64), *factors(2, torch.float64)))


def test_each_row_adds_its_own_adapter(layer) -> None:
    x = torch.randn(2, TOKENS, IN, dtype=torch.float64)
    a, b = factors(1, torch.float64)
    output = _RoleLinear.apply(x, layer.weight, layer.bias, [None, SCALING], a, b)
    torch.testing.assert_close(output[0], layer(x[0]), rtol=0, atol=1e-14)
    torch.testing.assert_close(output[1], layer(x[1]) + SCALING * (x[1] @ a.T) @ b.T, rtol=0, atol=1e-14)


def test_a_frozen_factor_and_a_frozen_input_get_no_gradient(layer) -> None:
    x = torch.randn(1, TOKENS, IN, dtype=torch.float64)
    a, b = factors(1, torch.float64)
    a.requires_grad_(False)
    _RoleLinear.apply(x, layer.weight, layer.bias, [SCALING], a, b).sum().backward()
    assert a.grad is None
    assert x.grad is None
    # dL/dB = s g^T (x A^T) with g of ones: every row of B gets the same
    torch.testing.assert_close(b.grad, SCALING * (x[0] @ a.T).sum(0).expand(OUT, R))


def test_factors_in_float32_get_float32_gradients_from_a_bfloat16_layer(layer) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 64, IN, generator=generator)
    a, b = factors(1, torch.float32)
    weight = layer.weight.to(torch.bfloat16)
    output = _RoleLinear.apply(x.bfloat16(), weight, None, [SCALING], a, b)
    output.float().square().sum().backward()
    exact_a, exact_b = (factor.detach().clone().requires_grad_() for factor in (a, b))
    exact = x.bfloat16().float() @ weight.float().T + SCALING * (x.bfloat16().float() @ exact_a.T) @ exact_b.T
    exact.square().sum().backward()
    for factor, expected in ((a, exact_a), (b, exact_b)):
        assert factor.grad.dtype == torch.float32
        # bfloat16 keeps 8 bits: a relative error of 2^-8 at each of a few roundings
        assert (factor.grad - expected.grad).norm() < 0.02 * expected.grad.norm()
