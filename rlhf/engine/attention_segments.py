"""How a packed row falls into segments, and how segments are put together for kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf.engine.packing import PackedBatch

# One more call of a kernel costs about as much as this many pairs of a query and a key; measured on a CPU with 9
# heads of 64. Segments share a call where padding them to one length costs less.
PAIRS_PER_CALL = 500


@dataclass(frozen=True)
class Segment:
    """Queries that stand side by side in the row and are causal among themselves.

    Attributes:
        start: where in the row it begins.
        length: its tokens.
        prefix: None, or the number of the segment, a prompt, that all of it sees besides.
        prefix_length: tokens of that prompt, 0 without one.
    """

    start: int
    length: int
    prefix: int | None = None
    prefix_length: int = 0

    @property
    def num_keys(self) -> int:
        return self.prefix_length + self.length


@dataclass(frozen=True)
class Bucket:
    """Segments that are computed in one call, padded at their ends to the longest.

    Attributes:
        members: numbers of the segments.
        length: tokens of the longest.
        prefix_length: tokens of the prompt of each.
    """

    members: tuple[int, ...]
    length: int
    prefix_length: int

    @property
    def num_keys(self) -> int:
        return self.prefix_length + self.length


def segments_of(batch: PackedBatch) -> tuple[Segment, ...]:
    """The segments of a packed row in order; a prompt with one response is one segment with it."""
    segments: list[Segment] = []
    response_lengths = iter(batch.response_lengths)
    start = 0
    for prompt_length, count in zip(batch.prompt_lengths, batch.response_counts, strict=True):
        if count == 1:
            segments.append(Segment(start, prompt_length + next(response_lengths)))
            start += segments[-1].length
            continue
        prompt = len(segments)
        segments.append(Segment(start, prompt_length))
        start += prompt_length
        for _ in range(count):
            segments.append(Segment(start, next(response_lengths), prompt, prompt_length))
            start += segments[-1].length
    return tuple(segments)


def buckets(segments: Sequence[Segment]) -> tuple[Bucket, ...]:
    """Put segments with prompts of one length together where padding costs less than another call."""
    order = sorted(range(len(segments)), key=lambda i: (segments[i].prefix_length, segments[i].length), reverse=True)
    found: list[list[int]] = []
    for number in order:
        if found and _waste(segments[found[-1][0]], segments[number]) < PAIRS_PER_CALL:
            found[-1].append(number)
        else:
            found.append([number])
    return tuple(
        Bucket(tuple(sorted(members)), segments[members[0]].length, segments[members[0]].prefix_length)
        for members in found
    )


def _waste(longest: Segment, segment: Segment) -> float:
    if longest.prefix_length != segment.prefix_length:
        return float("inf")
    return _pairs(longest) - _pairs(segment)


def _pairs(segment: Segment) -> float:
    # a causal kernel skips half of the square; a masked one computes all of the rectangle
    return segment.length * (segment.num_keys if segment.prefix_length else segment.length / 2)


@dataclass(frozen=True)
class VarlenIndex:
    """Segments as kernels for ragged rows read them: queries as they lie, keys gathered.

    Queries are the packed row once per role, `[rows * tokens]`. Segment i of all of them has the queries
    `query_offsets[i]:query_offsets[i + 1]` and the gathered keys `key_offsets[i]:key_offsets[i + 1]`.

    Attributes:
        query_offsets: `[rows * segments + 1]` int32.
        key_offsets: `[rows * segments + 1]` int32.
        key_index: `[keys]` where in the flattened rows each gathered key lies.
        longest_query: tokens of the longest segment.
        longest_key: keys of the segment that sees most.
    """

    query_offsets: torch.Tensor
    key_offsets: torch.Tensor
    key_index: torch.Tensor
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, segments: Sequence[Segment], *, num_rows: int, device: torch.device | str) -> VarlenIndex:
        """The index of `num_rows` copies of a packed row."""
        pieces: list[torch.Tensor] = []
        for segment in segments:
            if segment.prefix is not None:
                start = segments[segment.prefix].start
                pieces.append(torch.arange(start, start + segment.prefix_length))
            pieces.append(torch.arange(segment.start, segment.start + segment.length))
        tokens = sum(segment.length for segment in segments)
        one_row = torch.cat(pieces)
        key_index = (torch.arange(num_rows)[:, None] * tokens + one_row).flatten()
        return cls(
            _offsets([segment.length for segment in segments] * num_rows).to(device, non_blocking=True),
            _offsets([segment.num_keys for segment in segments] * num_rows).to(device, non_blocking=True),
            key_index.to(device, non_blocking=True),
            max(segment.length for segment in segments),
            max(segment.num_keys for segment in segments),
        )


def _offsets(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
