"""The key-value cache of decoding: each prompt once for all of its samples, each sample's own tokens beside.

Buffers are allocated once per batch. When samples finish, the last rows move into their places, so that what is
alive lies in front and nothing else is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class LayerCache:
    """Keys and values of one layer.

    Attributes:
        prompt_keys, prompt_values: `[prompts, key_value_heads, longest_prompt, head_dim]`.
        keys, values: `[rows, key_value_heads, max_new_tokens, head_dim]`, of the tokens drawn.
    """

    prompt_keys: torch.Tensor
    prompt_values: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class DecodingState:
    """What every attention layer needs of a batch of prompts and the samples of each.

    Args:
        lengths: of the prompts, in tokens.
        num_samples: rows per prompt at the start.
        max_new_tokens: room in the cache.
        fixed: keep all shapes as they are at the start, as a captured graph needs; else layers read what is filled.
        device: where the model is.

    Attributes:
        layers: the cache of each layer, made when the prompts are read.
        step: index of the token that is being read; -1 while prompts are.
        step_index: the same as `[1]` on the device.
        prompt_of_row: the prompt of each row alive.
        width: places per prompt in the grid of rows.
        slots: `[rows]` place of each row in the grid `[prompts, width]`; None while all are taken in order.
        positions: `[rows]` position of the token that is being read.
    """

    def __init__(
        self, lengths: Sequence[int], num_samples: int, max_new_tokens: int, *, fixed: bool, device: torch.device
    ):
        self.lengths = list(lengths)
        self.max_new_tokens = max_new_tokens
        self.fixed = fixed
        self.layers: dict[int, LayerCache] = {}
        self.step = -1
        self.step_index = torch.full((1,), -1, device=device)
        self.prompt_of_row = [prompt for prompt in range(len(lengths)) for _ in range(num_samples)]
        self.width = num_samples
        self.slots: torch.Tensor | None = None
        self.prompt_lengths = torch.tensor(self.lengths, device=device)
        self.positions = self.prompt_lengths.repeat_interleave(num_samples) - 1
        self._biases: dict[tuple[str, int | None], torch.Tensor | None] = {}

    @property
    def num_rows(self) -> int:
        return len(self.prompt_of_row)

    @property
    def own_length(self) -> int:
        """Tokens of the own buffers that a step reads."""
        return self.max_new_tokens if self.fixed else self.step + 1

    def add_layer(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> LayerCache:
        """Allocate a layer's buffers for keys and values of `[key_value_heads, tokens, head_dim]`.

        They are zeros: what a short prompt leaves free is multiplied by a weight of 0, so must be finite.
        """
        prompts, rows = (len(self.lengths), max(self.lengths)), (self.num_rows, self.max_new_tokens)
        buffers = [
            tensor.new_zeros(count, tensor.shape[0], length, tensor.shape[-1])
            for count, length in (prompts, rows)
            for tensor in (key, value)
        ]
        self.layers[layer] = LayerCache(*buffers)
        return self.layers[layer]

    def advance(self) -> None:
        """Begin the next step."""
        self.step += 1
        self.step_index += 1
        self.positions += 1
        self.forget_biases()

    def forget_biases(self) -> None:
        """Have them computed anew at their next use."""
        self._biases.clear()

    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows that `order` names, in that order.

        Args:
            order: rows to keep; entry i is i, or a row of at least `len(order)` that takes the place of row i.
        """
        places = [place for place, row in enumerate(order) if place != row]
        device = self.positions.device
        index = torch.tensor(places, dtype=torch.long, device=device)
        source = torch.tensor([order[place] for place in places], dtype=torch.long, device=device)
        filled = self.own_length
        for layer in self.layers.values():
            for buffer in (layer.keys, layer.values):
                buffer[:, :, :filled].index_copy_(0, index, buffer[:, :, :filled].index_select(0, source))
        self.positions = self.positions[torch.tensor(order, dtype=torch.long, device=device)]
        self.prompt_of_row = [self.prompt_of_row[row] for row in order]
        self._drop_prompts()
        self._place_rows()
        self.forget_biases()

    def _drop_prompts(self) -> None:
        """Drop prompts that have no row left."""
        alive = sorted(set(self.prompt_of_row))
        if self.fixed or len(alive) == len(self.lengths):
            return
        index = torch.tensor(alive, device=self.positions.device)
        for layer in self.layers.values():
            layer.prompt_keys = layer.prompt_keys[index]
            layer.prompt_values = layer.prompt_values[index]
        self.lengths = [self.lengths[prompt] for prompt in alive]
        self.prompt_lengths = self.prompt_lengths[index]
        place = {prompt: i for i, prompt in enumerate(alive)}
        self.prompt_of_row = [place[prompt] for prompt in self.prompt_of_row]

    def _place_rows(self) -> None:
        """Give each row a place in the grid."""
        counts = [0] * len(self.lengths)
        ranks = []
        for prompt in self.prompt_of_row:
            ranks.append(counts[prompt])
            counts[prompt] += 1
        self.width = max(counts)
        slots = [prompt * self.width + rank for prompt, rank in zip(self.prompt_of_row, ranks, strict=True)]
        in_order = slots == list(range(len(self.lengths) * self.width))
        self.slots = None if in_order else torch.tensor(slots, device=self.positions.device)

    def prompt_bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """`[prompts, 1, 1, longest_prompt]`: 0 where rows may see a token of their prompt, else -inf; None if all."""
        key = ("prompt", window)
        if key not in self._biases:
            longest = self.layers[min(self.layers)].prompt_keys.shape[2]
            positions = torch.arange(longest, device=self.prompt_lengths.device)
            hidden = positions >= self.prompt_lengths[:, None]
            if window is not None:
                hidden |= positions <= self.prompt_lengths[:, None] + self.step_index - window
            seen = window is None and min(self.lengths) == longest
            self._biases[key] = None if seen else bias(hidden, dtype)[:, None, None]
        return self._biases[key]

    def own_bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """`[own_length]`: 0 where rows may see a token of their own, else -inf; None if all."""
        key = ("own", window)
        if key not in self._biases:
            positions = torch.arange(self.own_length, device=self.step_index.device)
            hidden = positions > self.step_index
            if window is not None:
                hidden |= positions <= self.step_index - window
            seen = not self.fixed and (window is None or self.step < window)
            self._biases[key] = None if seen else bias(hidden, dtype)
        return self._biases[key]

    def to_grid(self, rows: torch.Tensor) -> torch.Tensor:
        """`[rows, heads, n, d]` to `[prompts, heads, width * n, d]`: the rows of a prompt as queries side by side."""
        num_prompts = len(self.lengths)
        if self.slots is not None:
            grid = rows.new_zeros(num_prompts * self.width, *rows.shape[1:])
            rows = grid.index_copy_(0, self.slots, rows)
        return rows.unflatten(0, (num_prompts, self.width)).transpose(1, 2).flatten(2, 3)

    def to_rows(self, grid: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_grid`."""
        rows = grid.unflatten(2, (self.width, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.slots is None else rows.index_select(0, self.slots)


def bias(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-inf where True, else 0."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
