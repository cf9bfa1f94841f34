"""Comparisons as one flat row of tokens in which every prompt stands once.

A *group* is one prompt followed by its K responses. Groups stand one after the other in a single row without
padding; a response sees its prompt and itself, nothing else. Pairs, rankings, rollouts and single
demonstrations all are this one shape, and K responses of length R to a prompt of length P cost P + K R tokens
instead of K (P + R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Group:
    """One tokenised prompt and its tokenised responses (each with its end-of-turn token where it has one)."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + sum(len(ids) for ids in self.response_ids)


@dataclass(frozen=True)
class PackedBatch:
    """Groups packed into one row.

    Attributes:
        input_ids: `[tokens]` token ids, prompt by prompt, each followed by its responses.
        position_ids: `[tokens]` position of each token in its own sequence; every response continues its prompt.
        segment_ids: `[tokens]` 0 for a prompt token, k + 1 for a token of the k-th response of its group.
        predict_index: `[response_tokens]` where in the row each response token is predicted from: the last
            prompt token for the first one, the token before it for the others.
        target_ids: `[response_tokens]` the response tokens themselves.
        response_index: `[response_tokens]` which response each of them belongs to, counted over the batch.
        last_index: `[responses]` where in the row each response ends.
        group_index: `[responses]` which group each response belongs to.
        group_lengths: tokens of each group.
        prompt_lengths: tokens of each group's prompt.
        response_counts: responses of each group.
        response_lengths: tokens of each response.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    predict_index: torch.Tensor
    target_ids: torch.Tensor
    response_index: torch.Tensor
    last_index: torch.Tensor
    group_index: torch.Tensor
    group_lengths: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    response_counts: tuple[int, ...]
    response_lengths: tuple[int, ...]

    @property
    def num_groups(self) -> int:
        return len(self.group_lengths)

    @property
    def num_responses(self) -> int:
        return len(self.response_lengths)

    def to(self, device: torch.device | str) -> PackedBatch:
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in _tensor_fields(self)}
        return replace(self, **moved)

    def sum_by_response(self, per_token: torch.Tensor) -> torch.Tensor:
        """Sum `[response_tokens]` values over each response: `[responses]`."""
        total = per_token.new_zeros(self.num_responses)
        return total.index_add(0, self.response_index, per_token)

    def to_rows(self, per_token: torch.Tensor) -> torch.Tensor:
        """Lay `[response_tokens]` values out as `[responses, max_response]`, zero after each response's end."""
        rows = per_token.new_zeros(self.num_responses, max(self.response_lengths))
        return rows.masked_scatter(self.response_mask, per_token)

    def from_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_rows`: `[responses, max_response]` back to `[response_tokens]`."""
        return rows[self.response_mask]

    @property
    def response_mask(self) -> torch.Tensor:
        """`[responses, max_response]`, True where a token counts."""
        lengths = torch.tensor(self.response_lengths, device=self.input_ids.device)
        return torch.arange(max(self.response_lengths), device=lengths.device) < lengths[:, None]


def _tensor_fields(batch: PackedBatch) -> list[Field[Any]]:
    return [f for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]


def pack(groups: Sequence[Group]) -> PackedBatch:
    """Pack groups into one row.

    Raises:
        ValueError: no group, a group without a prompt or without responses, or an empty response.
    """
    if not groups:
        raise ValueError("groups is empty: a batch needs at least one prompt with one response")
    columns: dict[str, list[int]] = {
        name: []
        for name in (
            "input_ids",
            "position_ids",
            "segment_ids",
            "predict_index",
            "target_ids",
            "response_index",
            "last_index",
            "group_index",
        )
    }
    response_lengths: list[int] = []
    for group_number, group in enumerate(groups):
        _append_group(columns, response_lengths, group_number, group)
    return PackedBatch(
        **{name: torch.tensor(values, dtype=torch.long) for name, values in columns.items()},
        group_lengths=tuple(group.num_tokens for group in groups),
        prompt_lengths=tuple(len(group.prompt_ids) for group in groups),
        response_counts=tuple(len(group.response_ids) for group in groups),
        response_lengths=tuple(response_lengths),
    )


def unshare(batch: PackedBatch) -> tuple[torch.Tensor, PackedBatch]:
    """The same responses as separate sequences, for models that cannot share a prompt.

    Returns:
        input_ids: `[responses, longest]`, each row a prompt and one response, then zeros that no position read from
            the row can see.
        batch: the given one with `predict_index` and `last_index` pointing into the flattened rows.
    """
    sequences: list[torch.Tensor] = []
    responses = iter(batch.response_lengths)
    for group, prompt_length, count in zip(
        batch.input_ids.split(batch.group_lengths), batch.prompt_lengths, batch.response_counts, strict=True
    ):
        lengths = [next(responses) for _ in range(count)]
        prompt, *parts = group.split([prompt_length, *lengths])
        sequences += [torch.cat([prompt, part]) for part in parts]
    rows = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    start = torch.arange(len(sequences), device=rows.device) * rows.shape[1]
    at = batch.position_ids
    return rows, replace(
        batch,
        predict_index=start[batch.response_index] + at[batch.predict_index],
        last_index=start + at[batch.last_index],
    )


def _append_group(columns: dict[str, list[int]], response_lengths: list[int], group_number: int, group: Group) -> None:
    prompt_length = len(group.prompt_ids)
    if prompt_length == 0 or not group.response_ids or not all(group.response_ids):
        raise ValueError(
            f"group {group_number} has {prompt_length} prompt tokens and responses of "
            f"{[len(ids) for ids in group.response_ids]} tokens: each needs at least one"
        )
    columns["input_ids"] += group.prompt_ids
    columns["position_ids"] += range(prompt_length)
    columns["segment_ids"] += [0] * prompt_length
    last_prompt_index = len(columns["input_ids"]) - 1
    for k, response_ids in enumerate(group.response_ids):
        start, length = len(columns["input_ids"]), len(response_ids)
        columns["input_ids"] += response_ids
        columns["position_ids"] += range(prompt_length, prompt_length + length)
        columns["segment_ids"] += [k + 1] * length
        columns["predict_index"] += [last_prompt_index, *range(start, start + length - 1)]
        columns["target_ids"] += response_ids
        columns["response_index"] += [len(response_lengths)] * length
        columns["last_index"].append(start + length - 1)
        columns["group_index"].append(group_number)
        response_lengths.append(length)
