"""Where a policy's responses are drawn: by the decoder of this framework, transformers' `generate`, or vLLM.

Every engine draws from the whole softmax at the sampling temperature, with no top-k, top-p or repetition penalty.
None of them writes to the backbone. PPO takes its old log-probabilities from its own scoring pass, so those of an
engine are a diagnostic: `policy/sampler_gap` shows how far the two are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from rlhf.engine import vllm_rollouts
from rlhf.engine.backbone import Backbone
from rlhf.engine.generation import MergedCopy, Sample, Sampler, Sampling
from rlhf.engine.transformers_rollouts import TransformersEngine

ENGINES = ("native", "transformers", "vllm")


class RolloutEngine(Protocol):
    """Draws responses from a policy as it was at the last `sync`, which must come before the first of them."""

    def sync(self) -> None:
        """Take up the policy's present weights; every process must call it."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """For each prompt of this process, in the order given, `num_samples` samples."""


def check_engine(name: str, vllm_server_url: str | None, *, cuda_graphs: bool = False) -> None:
    """Refuse an engine that cannot run here.

    Raises:
        ValueError: there is no such engine, vLLM is not installed, a server is named for another engine, it does not
            answer, or CUDA graphs are asked of another engine or without a GPU.
    """
    if name not in ENGINES:
        raise ValueError(f"rollout_engine is {name!r}: choose {', '.join(ENGINES)}")
    if cuda_graphs and name != "native":
        raise ValueError(f"rollout_cuda_graphs is true but rollout_engine is {name}: only native has them")
    if cuda_graphs and not torch.cuda.is_available():
        raise ValueError("rollout_cuda_graphs is true, and torch sees no GPU here: leave it out")
    if name != "vllm":
        if vllm_server_url is not None:
            raise ValueError(
                f"vllm_server_url is set but rollout_engine is {name}: choose --rollout_engine vllm, or leave it out"
            )
    elif vllm_server_url is None:
        vllm_rollouts.check_installed()
    else:
        vllm_rollouts.check_server(vllm_server_url)


def build_engine(
    name: str,
    backbone: Backbone,
    adapter: str,
    *,
    stop_ids: set[int],
    pad_id: int,
    max_rows: int,
    merged: bool = True,
    vllm_server_url: str | None = None,
    vllm_gpu_memory: float = 0.3,
    cuda_graphs: bool = False,
    exchange_folder: Path,
) -> RolloutEngine:
    """The engine of that name. Make it before DeepSpeed takes the backbone.

    Args:
        name: one of `ENGINES`.
        backbone: whose adapter is followed.
        adapter: its name.
        stop_ids: tokens that end a response.
        pad_id: fills the left of shorter prompts.
        max_rows: responses decoded side by side; vLLM decides that for itself.
        merged: False lets `native` sample without a copy of the weights.
        vllm_server_url: a server; None runs vLLM in this process.
        vllm_gpu_memory: share of the GPU's memory for vLLM in this process.
        cuda_graphs: replay the steps of the native decoder as CUDA graphs; has not been run.
        exchange_folder: where adapters are written for a server that reads them from there.

    Raises:
        ValueError: as `check_engine`.
    """
    check_engine(name, vllm_server_url, cuda_graphs=cuda_graphs)
    if name == "native":
        return NativeEngine(
            backbone,
            adapter,
            stop_ids=stop_ids,
            pad_id=pad_id,
            max_rows=max_rows,
            merged=merged,
            cuda_graphs=cuda_graphs,
        )
    if name == "transformers":
        return TransformersEngine(backbone, adapter, stop_ids=stop_ids, pad_id=pad_id, max_rows=max_rows)
    if vllm_server_url is None:
        return vllm_rollouts.InProcessEngine(backbone, adapter, stop_ids=stop_ids, gpu_memory=vllm_gpu_memory)
    return vllm_rollouts.ServerEngine(
        backbone, adapter, stop_ids=stop_ids, url=vllm_server_url, exchange_folder=exchange_folder
    )


class NativeEngine:
    """The decoder of this framework, by default on a merged copy: one prefill per prompt, finished rows dropped."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: str,
        *,
        stop_ids: set[int],
        pad_id: int,
        max_rows: int,
        merged: bool = True,
        cuda_graphs: bool = False,
    ):
        if cuda_graphs and backbone.device.type != "cuda":
            raise ValueError(f"rollout_cuda_graphs is true, and the policy is on {backbone.device}: leave it out")
        self.merged = MergedCopy(backbone, adapter, merged=merged)
        self.sampler = Sampler(
            self.merged.model, stop_ids=stop_ids, pad_id=pad_id, max_rows=max_rows, cuda_graphs=cuda_graphs
        )

    def sync(self) -> None:
        """Merge the adapter into the copy."""
        self.merged.sync()

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """A sample is decided by its prompt, its index and the seed."""
        return self.sampler.sample(prompts, sampling)
