"""Segments, buckets and the index of gathered keys against attention with a dense mask, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from rlhf.engine.attention import prefix_layout, shared_prefix_attention
from rlhf.engine.attention_kernels import (
    FlexMasks,
    chosen_kernel,
    flex_prefix_attention,
    takes_heads,
    torch_varlen,
    varlen_attention,
)
from rlhf.engine.attention_segments import Bucket, Segment, VarlenIndex, buckets, segments_of
from rlhf.engine.packing import Group, PackedBatch, pack

SMALL = pack([Group([1, 2], [[3], [4, 5]]), Group([6, 7, 8], [[9, 10]])])
RAGGED = pack(
    [
        Group([1] * 7, [[2] * 3, [3] * 5, [4]]),
        Group([1] * 7, [[2] * 3, [3] * 3]),
        Group([5] * 2, [[6] * 4]),
        Group([5] * 4, [[6] * 2]),
    ]
)
GROUPS = st.lists(
    st.builds(
        lambda prompt, responses: Group([1] * prompt, [[2] * length for length in responses]),
        st.integers(1, 6),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)
windows = pytest.mark.parametrize("window", [None, 100, 4, 1])


def dense_mask(batch: PackedBatch, window: int | None) -> torch.Tensor:
    """`[tokens, tokens]`, token by token."""
    tokens = len(batch.input_ids)
    group = [number for number, length in enumerate(batch.group_lengths) for _ in range(length)]
    segment, position = batch.segment_ids.tolist(), batch.position_ids.tolist()
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for q in range(tokens):
        for k in range(q + 1):
            mine = segment[k] == 0 or segment[k] == segment[q]
            near = window is None or position[q] - position[k] < window
            mask[q, k] = group[q] == group[k] and mine and near
    return mask


def dense_attention(query, key, value, mask, scaling, softcap=None, sinks=None) -> torch.Tensor:
    """`[rows, heads, tokens, head_dim]` to `[rows, tokens, heads, head_dim]`."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.mT * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.exp() * mask
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp()[None, :, None, None]
    return (weights / total @ value).transpose(1, 2)


def states(batch: PackedBatch, *, rows: int = 2, heads: int = 4, key_value_heads: int = 2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(rows, n, len(batch.input_ids), 8, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for n in (heads, key_value_heads, key_value_heads)
    ]


def assert_same_output_and_gradients(output, expected, tensors) -> None:
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
    for one, other in zip(
        torch.autograd.grad((output * upstream).sum(), tensors),
        torch.autograd.grad((expected * upstream).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_segments_tile_the_row_and_name_their_prompts() -> None:
    assert segments_of(SMALL) == (
        Segment(0, 2),
        Segment(2, 1, prefix=0, prefix_length=2),
        Segment(3, 2, prefix=0, prefix_length=2),
        Segment(5, 5),  # one response: prompt and response are plainly causal
    )


def test_key_index_and_offsets_of_two_rows_by_hand() -> None:
    index = VarlenIndex.of(segments_of(SMALL), num_rows=2, device="cpu")
    assert index.query_offsets.tolist() == [0, 2, 3, 5, 10, 12, 13, 15, 20]
    assert index.key_offsets.tolist() == [0, 2, 5, 9, 14, 16, 19, 23, 28]
    one_row = [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert index.key_index.tolist() == [*one_row, *(10 + i for i in one_row)]
    assert (index.longest_query, index.longest_key) == (5, 5)
    assert index.query_offsets.dtype == index.key_offsets.dtype == torch.int32


@settings(deadline=None, max_examples=40)
@given(groups=GROUPS, num_rows=st.integers(1, 3))
def test_every_query_finds_exactly_the_keys_that_it_may_see(groups, num_rows) -> None:
    batch = pack(groups)
    index = VarlenIndex.of(segments_of(batch), num_rows=num_rows, device="cpu")
    tokens = len(batch.input_ids)
    seen = torch.zeros(num_rows * tokens, num_rows * tokens, dtype=torch.bool)
    queries, keys = index.query_offsets.tolist(), index.key_offsets.tolist()
    for i in range(len(queries) - 1):
        own_keys = index.key_index[keys[i] : keys[i + 1]]
        for offset, query in enumerate(range(queries[i], queries[i + 1])):
            behind = queries[i + 1] - queries[i] - 1 - offset  # causal, aligned at the end
            seen[query, own_keys[: len(own_keys) - behind]] = True
    assert seen.equal(torch.block_diag(*[dense_mask(batch, None)] * num_rows).bool())


def written_out(query, key, value, index, scaling, window) -> torch.Tensor:
    """What a kernel for ragged rows computes, segment by segment."""
    outputs = []
    queries, keys = index.query_offsets.tolist(), index.key_offsets.tolist()
    for i in range(len(queries) - 1):
        q, k, v = query[queries[i] : queries[i + 1]], *(t[keys[i] : keys[i + 1]] for t in (key, value))
        mask = torch.ones(len(q), len(k)).tril(len(k) - len(q))
        if window is not None:
            mask = mask.triu(len(k) - len(q) - window + 1)
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        outputs.append(dense_attention(q, k, v, mask, scaling)[0])
    return torch.cat(outputs)


@windows
@pytest.mark.parametrize("batch", [SMALL, RAGGED], ids=["small", "ragged"])
def test_gathered_keys_give_the_attention_of_the_dense_mask(batch, window) -> None:
    tensors = states(batch)
    index = VarlenIndex.of(segments_of(batch), num_rows=2, device="cpu")
    output = varlen_attention(*tensors, index, 0.3, window, written_out)
    assert_same_output_and_gradients(output, dense_attention(*tensors, dense_mask(batch, window), 0.3), tensors)


@windows
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True], ids=["no-sinks", "sinks"])
def test_buckets_give_the_attention_of_the_dense_mask(window, softcap, with_sinks) -> None:
    tensors = states(RAGGED)
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True) if with_sinks else None
    keywords = {"scaling": 0.3, "sliding_window": window, "softcap": softcap, "s_aux": sinks}
    layout = prefix_layout(RAGGED, num_rows=(2,), dtype=torch.float64)
    output, _ = shared_prefix_attention(torch.nn.Module(), *tensors, None, prefix_layout=layout, **keywords)
    expected = dense_attention(*tensors, dense_mask(RAGGED, window), 0.3, softcap, sinks)
    assert_same_output_and_gradients(output, expected, tensors + ([sinks] if with_sinks else []))


@settings(deadline=None, max_examples=30)
@given(groups=GROUPS)
def test_any_groups_give_the_attention_of_the_dense_mask(groups) -> None:
    batch = pack(groups)
    tensors = states(batch, rows=1)
    output, _ = shared_prefix_attention(torch.nn.Module(), *tensors, None, prefix_layout=prefix_layout(batch))
    assert_same_output_and_gradients(output, dense_attention(*tensors, dense_mask(batch, None), 8**-0.5), tensors)


def test_bfloat16_goes_in_and_comes_out() -> None:
    tensors = states(RAGGED, dtype=torch.bfloat16)
    output, _ = shared_prefix_attention(torch.nn.Module(), *tensors, None, prefix_layout=prefix_layout(RAGGED))
    assert output.dtype == torch.bfloat16
    wide = [tensor.detach().double() for tensor in tensors]
    expected = dense_attention(*wide, dense_mask(RAGGED, None), 8**-0.5)
    torch.testing.assert_close(output.double(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_backward_pass_keeps_probabilities_and_no_copies_of_queries_and_keys(dtype) -> None:
    batch = pack([Group([1] * 30, [[2] * 20] * 4)])
    tensors = states(batch, rows=1, dtype=dtype)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = shared_prefix_attention(torch.nn.Module(), *tensors, None, prefix_layout=prefix_layout(batch))
    inputs_and_output = sum(tensor.nbytes for tensor in [*tensors, output])
    # 4 heads: of the prompt 30 queries and keys, of each response 20 queries and 50 keys
    probabilities = 4 * (30 * 30 + 4 * 20 * 50) * dtype.itemsize
    assert sum(kept.values()) <= inputs_and_output + probabilities


def test_segments_share_a_call_where_padding_costs_less_than_one() -> None:
    def lengths(*pairs: tuple[int, int]) -> tuple[Segment, ...]:
        return tuple(Segment(0, length, 0 if prefix else None, prefix) for prefix, length in pairs)

    assert buckets(lengths((0, 90), (0, 94), (0, 94))) == (Bucket((0, 1, 2), 94, 0),)
    assert buckets(lengths((0, 20), (0, 94))) == (Bucket((1,), 94, 0), Bucket((0,), 20, 0))
    # responses share a call under prompts of one length only
    assert buckets(lengths((8, 4), (9, 4), (8, 4))) == (Bucket((1,), 4, 9), Bucket((0, 2), 4, 8))


@windows
def test_flex_attention_sees_the_dense_mask(window) -> None:
    masks = FlexMasks.of(RAGGED)
    at = torch.arange(len(RAGGED.input_ids))
    visible = masks.visible(window)(None, None, at[:, None], at[None, :])
    assert visible.equal(dense_mask(RAGGED, window))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_uncompiled_gives_the_attention_of_the_dense_mask() -> None:
    tensors = [tensor.detach().float() for tensor in states(RAGGED)]
    for window in (None, 4):
        output = flex_prefix_attention(*tensors, FlexMasks.of(RAGGED), 0.3, window)
        expected = dense_attention(*tensors, dense_mask(RAGGED, window), 0.3)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_kernels_are_chosen_by_device_and_type() -> None:
    assert chosen_kernel("cpu", torch.bfloat16) == "sdpa"
    assert chosen_kernel("cuda", torch.float32) == "sdpa"
    assert chosen_kernel("cuda", torch.bfloat16) in ("varlen", "flash_attn", "flex")


def test_kernels_take_heads_of_multiples_of_8_up_to_256() -> None:
    widths = [8, 64, 256, 12, 264]
    assert [takes_heads(torch.empty(1, w), torch.empty(1, w)) for w in widths] == [True, True, True, False, False]
    assert not takes_heads(torch.empty(1, 192), torch.empty(1, 128))


@windows
def test_torchs_kernel_takes_the_index(window) -> None:
    """Shapes and arguments only: the kernel itself needs a GPU."""
    if chosen_kernel("cuda", torch.bfloat16) != "varlen":
        pytest.skip("this torch has no varlen_attn that takes windows and grouped heads")
    index = VarlenIndex.of(segments_of(RAGGED), num_rows=2, device="cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = states(RAGGED, dtype=torch.bfloat16)
        output = varlen_attention(*tensors, index, 0.3, window, torch_varlen)
        output.sum().backward()
        assert output.shape == (2, len(RAGGED.input_ids), 4, 8)
        assert [tensor.grad.shape for tensor in tensors] == [tensor.shape for tensor in tensors]
