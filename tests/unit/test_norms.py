"""Root-mean-square norms against the models' own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf.engine.norms import _RMSNorm, fuse_norms


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_gradient_is_the_derivative_by_finite_differences(offset) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64)
    assert gradcheck(lambda x: _RMSNorm.apply(x, weight, offset, 1e-5), (x,))


@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
def test_a_models_norm_keeps_its_values_and_gradients(kind) -> None:
    torch.manual_seed(0)
    stock = kind(16)
    nn.init.normal_(stock.weight)
    stock.requires_grad_(False)
    fused = copy.deepcopy(stock)
    fuse_norms(fused)
    assert "forward" in vars(fused)
    x, direction = torch.randn(4, 16), torch.randn(4, 16)
    gradients = []
    for norm in (stock, fused):
        leaf = x.clone().requires_grad_()
        (norm(leaf) * direction).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(fused(x), stock(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_a_norm_that_computes_something_else_stays_as_it_is() -> None:
    class HalvedRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) / 2

    norm = HalvedRMSNorm(8)
    fuse_norms(norm)
    assert "forward" not in vars(norm)


def test_a_norm_that_learns_gets_its_gradient() -> None:
    norm = LlamaRMSNorm(8)
    fuse_norms(norm)
    norm(torch.ones(1, 8)).sum().backward()
    # x / s = 1 / sqrt(1 + eps) in every place
    torch.testing.assert_close(norm.weight.grad, torch.full((8,), (1 + 1e-6) ** -0.5))
