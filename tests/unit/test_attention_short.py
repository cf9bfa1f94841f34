"""Tiles of probabilities against PyTorch's kernel, by which longer segments are computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rlhf.engine import attention_short
from rlhf.engine.attention_segments import buckets, segments_of
from rlhf.engine.attention_tiles import Softmax, bucketed_attention
from rlhf.engine.packing import Group, pack

HEADS, KEY_VALUE_HEADS, HEAD_DIM, SCALING = 4, 2, 8, 0.3
BATCH = pack([Group([5, 9, 13, 7], [[8, 30, 2], [11, 12, 13, 14, 2], [40]]), Group([33, 34], [[35, 36, 2]])])


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_a_tile_and_its_gradients_are_those_of_the_formula() -> None:
    q, k, v = (random(3, heads, 6, HEAD_DIM, seed=heads) for heads in (HEADS, KEY_VALUE_HEADS, KEY_VALUE_HEADS))
    mask = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~torch.ones(6, 6).tril().bool(), float("-inf"))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALING, enable_gqa=True)
    direction = random(*expected.shape, seed=9).detach()
    expected.backward(direction)
    output, probabilities = attention_short.attend(q.detach(), k.detach(), v.detach(), mask, SCALING)
    torch.testing.assert_close(output, expected.detach(), rtol=0, atol=1e-14)
    gradients = attention_short.differentiate(direction, q.detach(), k.detach(), v.detach(), probabilities, SCALING)
    for gradient, tensor in zip(gradients, (q, k, v), strict=True):
        torch.testing.assert_close(gradient, tensor.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sliding_window", [None, 3])
def test_tiles_and_the_kernel_agree_over_a_packed_row(monkeypatch, sliding_window) -> None:
    segments = segments_of(BATCH)
    tokens = len(BATCH.input_ids)
    results = []
    for max_pairs in (attention_short.MAX_PAIRS, 0):
        monkeypatch.setattr(attention_short, "MAX_PAIRS", max_pairs)
        tensors = [
            random(tokens, heads, HEAD_DIM, seed=seed)
            for seed, heads in enumerate((HEADS, KEY_VALUE_HEADS, KEY_VALUE_HEADS))
        ]
        output = bucketed_attention(*tensors, segments, buckets(segments), Softmax(SCALING), sliding_window)
        output.square().sum().backward()
        results.append([output.detach(), *(tensor.grad for tensor in tensors)])
    for tile, kernel in zip(*results, strict=True):
        torch.testing.assert_close(tile, kernel, rtol=0, atol=1e-12)
