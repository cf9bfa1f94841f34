"""Decoding steps replayed as CUDA graphs: on a GPU a step of a small model is mostly the launching of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf.engine.decoding import SharedPromptDecoder


class GraphedDecoder(SharedPromptDecoder):
    """Captures one step for each number of rows, and replays it until rows are dropped.

    Shapes stay fixed in between, so a step reads the whole of the own buffers. The model must not wait for the GPU in
    its forward, as position embeddings that follow the length and mixtures of experts do.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_samples: int, max_new_tokens: int):
        super().__init__(model, prompts, num_samples, max_new_tokens, fixed=True)
        self.graph: Any = None
        self.tokens: torch.Tensor
        self.logits: torch.Tensor

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.state.advance()  # in place: the graph reads the same tensors
        if self.graph is None:
            self._capture(tokens)
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.logits

    def keep(self, order: Sequence[int]) -> None:
        super().keep(order)
        self.graph = None

    def _capture(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # a first run outside: libraries allocate their workspaces in it
            self._forward(self.tokens, self.state.positions, 0)
        torch.cuda.current_stream().wait_stream(side)
        self.state.forget_biases()  # so that the graph computes them at every step
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._forward(self.tokens, self.state.positions, 0)
