from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.engine.packing import Group, pack, unshare

TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=6)
GROUPS = st.lists(st.builds(Group, TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=4)


@pytest.fixture
def batch():
    return pack([Group([10, 11], [[20, 21, 22], [30]]), Group([40], [[50, 51]])])


def test_groups_stand_one_after_the_other_without_padding(batch) -> None:
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 22, 30, 40, 50, 51]
    assert batch.group_lengths == (6, 3)
    assert batch.response_lengths == (3, 1, 2)
    assert (batch.num_groups, batch.num_responses) == (2, 3)


def test_every_response_continues_the_positions_of_its_prompt(batch) -> None:
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 0, 1, 2]
    assert batch.segment_ids.tolist() == [0, 0, 1, 1, 1, 2, 0, 1, 1]


def test_first_token_of_every_response_is_predicted_from_the_last_prompt_token(batch) -> None:
    assert batch.predict_index.tolist() == [1, 2, 3, 1, 6, 7]
    assert batch.target_ids.tolist() == [20, 21, 22, 30, 50, 51]
    assert batch.response_index.tolist() == [0, 0, 0, 1, 2, 2]


def test_last_index_is_a_position_in_the_row_and_not_a_length(batch) -> None:
    assert batch.last_index.tolist() == [4, 5, 8]
    assert batch.group_index.tolist() == [0, 0, 1]


def test_rows_of_responses_are_zero_after_their_end(batch) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    rows = batch.to_rows(values)
    assert rows.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert batch.response_mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert batch.from_rows(rows).equal(values)
    assert batch.from_rows(rows + 100 * ~batch.response_mask).equal(values)


def test_sum_by_response_never_crosses_responses(batch) -> None:
    assert batch.sum_by_response(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])).tolist() == [7, 8, 48]


def test_layouts_pass_gradients_to_every_token_once(batch) -> None:
    values = torch.ones(6, requires_grad=True)
    batch.to_rows(values).sum().backward()
    assert values.grad.tolist() == [1.0] * 6
    values.grad = None
    (batch.sum_by_response(values) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1, 1, 1, 10, 100, 100]


@settings(deadline=None, max_examples=50)
@given(groups=GROUPS)
def test_row_holds_every_sequence_in_order_and_predicts_each_response_token_from_the_one_before(groups) -> None:
    batch = pack(groups)
    sequences = [(g.prompt_ids, r) for g in groups for r in g.response_ids]
    start, positions, row = 0, iter(range(len(batch.target_ids))), batch.input_ids.tolist()
    assert len(row) == sum(len(g.prompt_ids) + sum(map(len, g.response_ids)) for g in groups)
    for number, (prompt, response) in enumerate(sequences):
        group = int(batch.group_index[number])
        start = sum(batch.group_lengths[:group])
        seen_through = []
        for offset, token in enumerate(response):
            here = next(positions)
            seen_through.append(int(batch.predict_index[here]))
            assert int(batch.target_ids[here]) == token
            assert int(batch.response_index[here]) == number
            assert int(batch.position_ids[seen_through[-1]]) == len(prompt) + offset - 1
        assert row[start : start + len(prompt)] == prompt
        assert [row[index] for index in seen_through] == [prompt[-1], *response[:-1]]
        assert row[int(batch.last_index[number])] == response[-1]
    assert next(positions, None) is None


@settings(deadline=None, max_examples=20)
@given(groups=GROUPS)
def test_order_of_groups_only_reorders_the_row(groups) -> None:
    forwards, backwards = pack(groups), pack(groups[::-1])

    def parts(batch):
        return list(
            zip(batch.input_ids.split(batch.group_lengths), batch.position_ids.split(batch.group_lengths), strict=True)
        )

    for (ids, positions), (other_ids, other_positions) in zip(parts(forwards), reversed(parts(backwards)), strict=True):
        assert ids.equal(other_ids)
        assert positions.equal(other_positions)


@pytest.mark.parametrize("group", [Group([], [[1]]), Group([1], []), Group([1], [[]]), Group([1], [[2], []])])
def test_empty_prompts_and_responses_are_refused_by_number(group) -> None:
    with pytest.raises(ValueError, match="group 1 has"):
        pack([Group([1], [[2]]), group])


def test_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="groups is empty"):
        pack([])


def test_unshared_rows_are_the_separate_sequences_and_positions_follow() -> None:
    shared = pack([Group([5, 6], [[7], [8, 9, 10]]), Group([11], [[12, 13]])])
    rows, separate = unshare(shared)
    assert rows.tolist() == [[5, 6, 7, 0, 0], [5, 6, 8, 9, 10], [11, 12, 13, 0, 0]]
    # 7 and 8 are predicted from their own copy of 6, 12 from 11
    assert separate.predict_index.tolist() == [1, 6, 7, 8, 10, 11]
    assert separate.last_index.tolist() == [2, 9, 12]
    assert separate.target_ids.equal(shared.target_ids)


def test_batch_moves_as_a_whole(batch) -> None:
    moved = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 8
    assert moved.group_lengths == batch.group_lengths
