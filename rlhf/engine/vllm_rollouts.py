"""Rollouts by vLLM: a server that is spoken to over HTTP, or an engine in this process.

The policy's weights reach vLLM out of place; the backbone is never written to. A server takes them in one of two
ways, chosen by what is there (`ServerEngine`): the adapter as files in a folder that both see, or all merged weights
by NCCL. An engine in this process is handed the merged layers.

What has run: the HTTP side, against a small server in the tests that speaks the same requests and loads the adapter
files for real. What has not been run: vLLM itself, the transfer by NCCL beyond the calls into TRL's client, and
`InProcessEngine` beyond its calls into `vllm.LLM`. They follow what TRL 1.16 does with vLLM 0.22 to 0.31.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rlhf.engine.backbone import Backbone
from rlhf.engine.generation import MergedCopy, Sample, Sampling
from rlhf.engine.vllm_server import REQUESTS_AT_ONCE, Server, sampling_parameters
from rlhf.engine.vllm_weights import AdapterFiles, Broadcast, WeightRoute

logger = logging.getLogger(__name__)


def check_installed() -> None:
    """Raises ValueError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "rollout_engine is vllm, and vllm is not installed here: pip install 'trl[vllm]' on a machine with a GPU, "
            "name a server with --vllm_server_url, or choose --rollout_engine native or transformers"
        )


def check_server(url: str) -> None:
    """Raises ValueError where no vLLM server answers."""
    Server(url).close()


class ServerEngine:
    """Samples from a vLLM server; each process sends its own prompts, the main process alone sends the weights.

    The weights go by NCCL, through TRL's client, where the server was started for that (`trl vllm-serve`), vLLM is
    installed here too and the policy is on a GPU; else the server loads the adapter from `exchange_folder`, which
    needs neither. A request per prompt carries a seed of its own, so that a sample depends on its prompt, its index
    and the seed, up to vLLM's rounding, which changes with the load.

    Log-probabilities are at the sampling temperature if the server runs with `--logprobs-mode processed_logprobs`.

    Args:
        backbone: whose adapter is followed; the server must have been started with the same model.
        adapter: its name.
        stop_ids: tokens that end a response.
        url: the server.
        exchange_folder: a folder that this process and the server see under the same path.
    """

    def __init__(self, backbone: Backbone, adapter: str, *, stop_ids: set[int], url: str, exchange_folder: Path):
        self.server, self.stop_ids = Server(url), stop_ids
        self.model: str | None = None  # the name of the policy there, from the first sync on
        on_gpu = backbone.device.type == "cuda" and importlib.util.find_spec("vllm") is not None
        self.weights: WeightRoute
        if on_gpu and self.server.takes_broadcasts():
            self.weights = Broadcast(self.server, backbone, adapter)
        else:
            self.weights = AdapterFiles(self.server, backbone, adapter, exchange_folder)
        logger.info("the policy reaches the server at %s by %s", url, type(self.weights).__name__)

    def sync(self) -> None:
        """Send the weights; no process goes on before the server has them."""
        self.model = self.weights.send()
        if dist.is_initialized():
            dist.barrier()

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """Sample all prompts at once; the server batches them."""
        model = self.model
        assert model is not None, "sync before sampling"

        def draw(prompt: Sequence[int]) -> list[Sample]:
            return self.server.complete(model, prompt, sampling, self.stop_ids)

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            return list(threads.map(draw, prompts))


class InProcessEngine:
    """Samples from vLLM beside the training, on the same GPU; every process has its own. Has not been run.

    Args:
        backbone: whose adapter is followed.
        adapter: its name.
        stop_ids: tokens that end a response.
        gpu_memory: share of the GPU's memory for vLLM's weights and caches.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str,
        *,
        stop_ids: set[int],
        gpu_memory: float,
    ):
        check_installed()
        vllm = importlib.import_module("vllm")
        self.stop_ids, self.parameters_class = stop_ids, vllm.SamplingParams
        self.merged = MergedCopy(backbone, adapter)
        self.touched = sorted(
            f"{name}.weight" for name, layer in backbone.lora_layers().items() if adapter in layer.lora_A
        )
        _describe_processes()
        self.llm = vllm.LLM(
            model=backbone.model.name_or_path,
            dtype=str(backbone.dtype).removeprefix("torch."),
            gpu_memory_utilization=gpu_memory,
            distributed_executor_backend="external_launcher",  # keeps the model in this process, within reach
            logprobs_mode="processed_logprobs",
            trust_remote_code=False,
        )

    def sync(self) -> None:
        """Write the merged layers into vLLM's own copy, and forget the prompts it has cached."""
        self.merged.sync()
        parameters = dict(self.merged.model.named_parameters())
        model = self.llm.llm_engine.model_executor.driver_worker.model_runner.model
        model.load_weights((name, parameters[name]) for name in self.touched)
        self.llm.reset_prefix_cache()

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """Sample all prompts at once, each under a seed of its own."""
        settings = [sampling_parameters(prompt, sampling, self.stop_ids) for prompt in prompts]
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            sampling_params=[self.parameters_class(**row) for row in settings],
            use_tqdm=False,
        )
        return [
            [_sample_of(completion) for completion in output.outputs] * (sampling.num_samples // row["n"])
            for output, row in zip(outputs, settings, strict=True)
        ]


def _sample_of(completion: Any) -> Sample:
    token_ids = list(completion.token_ids)
    logprobs = [place[token].logprob for place, token in zip(completion.logprobs, token_ids, strict=True)]
    return Sample(token_ids, logprobs, completion.finish_reason == "stop")


def _describe_processes() -> None:
    """vLLM under `external_launcher` reads from the environment what a launcher would have put there."""
    from trl.trainer.utils import ensure_master_addr_port

    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)
    ensure_master_addr_port()
