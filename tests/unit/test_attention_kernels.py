"""What stands around the kernels for ragged rows, in the type that they compute in."""

from __future__ import annotations

import itertools

import torch

from rlhf.engine.attention_kernels import FlexMasks, varlen_attention
from rlhf.engine.attention_segments import VarlenIndex, segments_of
from rlhf.engine.packing import Group, pack

BATCH = pack([Group([1], [[2]] * 600)])  # one prompt token, which 600 responses read


def only_keys(query, key, value, index, scaling, window) -> torch.Tensor:
    """In place of a kernel: each segment gives the sum of its keys and values, whose gradients are then all 1."""
    ends = index.key_offsets.tolist()
    return torch.stack([(key + value)[start:end].sum(dim=0) for start, end in itertools.pairwise(ends)])


def test_gradients_of_a_shared_prompt_are_added_in_float32() -> None:
    tokens = len(BATCH.input_ids)
    query, key, value = (torch.zeros(1, 1, tokens, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    index = VarlenIndex.of(segments_of(BATCH), num_rows=1, device="cpu")
    varlen_attention(query, key, value, index, 1.0, None, only_keys).sum().backward()
    for tensor in (key, value):
        assert tensor.grad.dtype == torch.bfloat16
        # the prompt's own segment and 600 more, which bfloat16 holds exactly
        assert tensor.grad[0, 0, 0].tolist() == [float(torch.tensor(601.0).bfloat16())] * 8
        assert tensor.grad[0, 0, 1:].eq(1).all()


def test_the_block_mask_of_flex_attention_keeps_what_may_be_seen() -> None:
    """Blocks of 128 x 128: every block sees itself, and the first, where the prompt is."""
    block_mask = FlexMasks.of(BATCH).block_mask(None)
    seen = block_mask.to_dense()[0, 0].int().tolist()
    assert seen == [[int(key in (0, query)) for key in range(5)] for query in range(5)]
