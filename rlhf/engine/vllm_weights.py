"""How the policy's weights reach a vLLM server: as adapter files, or merged and by NCCL."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Protocol

import torch.distributed as dist
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhf.engine.adapters import adapter_tensors, write_adapter
from rlhf.engine.backbone import Backbone
from rlhf.engine.generation import MergedCopy
from rlhf.engine.vllm_server import API_KEY_VARIABLE, Server, serve_command


class WeightRoute(Protocol):
    """One way to a server; every process must call `send`, the main process alone speaks to the server."""

    def send(self) -> str:
        """Send the policy's present weights; returns the name of the model to ask the server for."""


class AdapterFiles:
    """Gives a server the policy as adapter files, under a new name each time.

    A new name, because vLLM reuses cached prompts by the name of their adapter: under the old name a prompt would
    keep what the old weights made of it.
    """

    def __init__(self, server: Server, backbone: Backbone, adapter: str, folder: Path):
        self.server, self.backbone, self.adapter = server, backbone, adapter
        self.folder = folder.resolve()
        self.run = _agreed(secrets.token_hex(4))
        self.num_sent = 0

    def send(self) -> str:
        """Write and load the adapter; returns the name to ask the server for."""
        before, self.num_sent = self._name(), self.num_sent + 1
        tensors = adapter_tensors(self.backbone, self.adapter)  # under ZeRO-3 all processes gather
        if _is_main_process():
            folder = self.folder / self._name()
            config = self.backbone.adapter_configs[self.adapter]
            write_adapter(folder, tensors, config, backbone_path=self.server.base_model)
            self._load(folder, rank=config.r)
            if self.num_sent > 1:
                self.server.post("/v1/unload_lora_adapter", {"lora_name": before})
                shutil.rmtree(self.folder / before)
        return self._name()

    def _name(self) -> str:
        return f"{self.adapter}-{self.run}-{self.num_sent}"

    def _load(self, folder: Path, *, rank: int) -> None:
        try:
            self.server.post("/v1/load_lora_adapter", {"lora_name": folder.name, "lora_path": str(folder)})
        except RuntimeError as error:
            raise ValueError(
                f"{error}; the server must see the folder {self.folder} under this path, and be started with\n  "
                f"{serve_command(self.server.base_model, max_rank=rank)}"
            ) from None


class Broadcast:
    """Overwrites a server's weights with the merged ones by NCCL, through TRL's client; NCCL itself has not run.

    All weights go, not only the touched ones: vLLM loads layer by layer and cannot take a part of one, such as the
    q of a fused qkv. The merged copy is in the main process alone, which sends it; under ZeRO-3 in all of them, since
    to merge a layer all processes must gather it.
    """

    def __init__(self, server: Server, backbone: Backbone, adapter: str):
        self.server = server
        merges = _is_main_process() or is_deepspeed_zero3_enabled()
        self.merged = MergedCopy(backbone, adapter) if merges else None
        if os.environ.get(API_KEY_VARIABLE):
            raise ValueError(
                f"{API_KEY_VARIABLE} is set, and TRL's client, which sends the weights by NCCL, sends no key: start "
                f"the server without a key or with\n  {serve_command(server.base_model)}"
            )
        if _is_main_process():
            from trl.generation.vllm_client import VLLMClient

            self.client = VLLMClient(base_url=server.url)
            self.client.init_communicator(device="cuda")  # the current one, which accelerate has chosen

    def send(self) -> str:
        """Merge and send; returns the name to ask the server for."""
        if self.merged is not None:
            self.merged.sync()
        if _is_main_process():
            assert self.merged is not None
            self.client.update_model_params(self.merged.model)
            self.client.reset_prefix_cache()
        return self.server.base_model


def _is_main_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _agreed(value: str) -> str:
    """The value that the main process has."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
