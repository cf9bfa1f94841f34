"""What a pass costs at least, in operations and bytes, and the seconds that the machine's own rates allow for it.

N weights of the body, H = vocabulary x hidden. Per token: forward 2N; forward and backward of an adapter on frozen
weights 4N, because a frozen weight needs no gradient; the head 2H for each scored position, 4H with its gradient.
The adapters' own products (some percent) are left out: what the limit leaves out only lowers the share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Rates
from benchmarks.shapes import Shape
from rlhf.engine.packing import Group


@dataclass(frozen=True)
class Work:
    """Operations of one pass, by what sets their rate.

    Attributes:
        body: floating-point operations in the linear layers and in attention.
        head: those in the output head.
        bytes: weights and cache that are read.
    """

    body: float = 0
    head: float = 0
    bytes: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.body + other.body, self.head + other.head, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.body * times, self.head * times, self.bytes * times)

    def seconds(self, rates: Rates) -> float:
        """The larger of the time for the operations and the time for the bytes."""
        return max(self.body / rates.body + self.head / rates.head, self.bytes / rates.copy)


def num_tokens(groups: Sequence[Group]) -> int:
    """T: each prompt once, and its responses."""
    return sum(group.num_tokens for group in groups)


def num_scored(groups: Sequence[Group]) -> int:
    """S: response tokens."""
    return sum(len(ids) for group in groups for ids in group.response_ids)


def visible_pairs(group: Group) -> int:
    """How many (query, key) pairs attention has to look at, each prompt computed once."""
    prompt = len(group.prompt_ids)
    responses = [len(ids) for ids in group.response_ids]
    return prompt * (prompt + 1) // 2 + sum(length * prompt + length * (length + 1) // 2 for length in responses)


def forward(shape: Shape, groups: Sequence[Group], *, scored: int, weight_bytes: int) -> Work:
    """One row of a forward pass over packed groups, `scored` positions read by the head."""
    # two products (scores, values) of two operations each
    attention = 4 * shape.attention_width * shape.num_layers * sum(map(visible_pairs, groups))
    weights = (shape.body + (shape.head if scored else 0)) * weight_bytes
    return Work(2 * shape.body * num_tokens(groups) + attention, 2 * shape.head * scored, weights)


def backward(shape: Shape, groups: Sequence[Group], *, weight_bytes: int) -> Work:
    """The backward pass to the inputs of the body's layers; attention has twice the products of its forward."""
    ahead = forward(shape, groups, scored=0, weight_bytes=weight_bytes)
    linear = 2 * shape.body * num_tokens(groups)
    return Work(linear + 2 * (ahead.body - linear), 0, ahead.bytes)


def rollout_seconds(
    shape: Shape, prompts: Sequence[Sequence[int]], lengths: Sequence[int], rates: Rates, *, weight_bytes: int
) -> float:
    """Least time to sample responses: each prompt once, then a step per token for the rows that are not finished.

    A step reads the weights, the keys and values of a prompt once for all of its responses that are not finished, and
    those of each response.

    Args:
        prompts: token ids of each prompt.
        lengths: tokens of every response sampled, prompt by prompt, the same number for each.
    """
    groups = [Group(ids, []) for ids in prompts]
    seconds = forward(shape, groups, scored=len(prompts), weight_bytes=weight_bytes).seconds(rates)
    num_samples = len(lengths) // len(prompts)
    samples = [lengths[i * num_samples : (i + 1) * num_samples] for i in range(len(prompts))]
    for step in range(1, max(lengths)):
        live = [sum(length > step for length in own) for own in samples]
        rows = sum(live)
        keys_read = sum(len(prompt) for prompt, alive in zip(prompts, live, strict=True) if alive) + rows * step
        keys_seen = sum(alive * (len(prompt) + step) for prompt, alive in zip(prompts, live, strict=True))
        cache = keys_read * 2 * shape.key_value_width * shape.num_layers
        attention = 4 * shape.attention_width * shape.num_layers * keys_seen
        work = Work(
            2 * shape.body * rows + attention,
            2 * shape.head * rows,
            (shape.body + shape.head + cache) * weight_bytes,
        )
        seconds += work.seconds(rates)
    return seconds
