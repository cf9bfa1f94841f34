"""A small HTTP server that answers what rollouts ask of vLLM, from a real tiny model by plain forward passes.

It keeps what goes wrong with the real one: prompts stay cached under the name of their model until the cache is
reset, adapters are known by name, and its settings are hidden unless it was started in development mode. Weights
that would come by NCCL are taken from `sent`, a queue.
"""

from __future__ import annotations

import copy
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from rlhf.engine.backbone import Backbone
from rlhf.engine.generation import Sampling
from rlhf.engine.vllm_rollouts import ServerEngine

BASE = "base"


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Raw(str):
    """An answer that is sent as it is, not as JSON."""


class StandIn:
    """What the server knows; `requests` lists what it was asked: path and body."""

    def __init__(
        self, model: PreTrainedModel, *, lora: bool = True, nccl: bool = False, key: str | None = None, old=False
    ):
        self.models = {BASE: model}
        self.lora, self.nccl, self.key, self.old = lora, nccl, key, old
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.sent: queue.Queue[tuple[str, torch.Tensor]] = queue.Queue()
        self.updating = False
        self.cached: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self.lock = threading.Lock()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.requests if asked == path]

    def answer(self, path: str, body: dict[str, Any], key: str) -> Any:
        with self.lock:
            self.requests.append((path, body))
            if path.startswith("/v1/") and self.key is not None and key != f"Bearer {self.key}":
                raise Refusal(401, "Unauthorized")
            name = path.removeprefix("/v1/").strip("/")
            handler = self.list_models if name == "models" else getattr(self, name, None)
            if handler is None:
                raise Refusal(404, "Not Found")
            return handler(body)

    def health(self, _: dict) -> dict:
        return {}

    def list_models(self, _: dict) -> dict:
        return {"data": [{"id": name} for name in self.models]}

    def server_info(self, _: dict) -> dict:
        if not self.nccl:
            raise Refusal(404, "Not Found")
        return {"vllm_config": {"weight_transfer_config": {"backend": "nccl"}}}

    # ---- adapters

    def load_lora_adapter(self, body: dict) -> str:
        if not self.lora:
            raise Refusal(404, "Not Found")
        if body["lora_name"] in self.models:
            raise Refusal(400, "already loaded")
        wrapped = PeftModel.from_pretrained(copy.deepcopy(self.models[BASE]), body["lora_path"])
        self.models[body["lora_name"]] = wrapped.merge_and_unload()
        return "Success"

    def unload_lora_adapter(self, body: dict) -> str:
        del self.models[body["lora_name"]]
        return "Success"

    # ---- weights by broadcast

    def get_world_size(self, _: dict) -> dict:
        return {"world_size": 1}

    def init_weight_transfer_engine(self, body: dict) -> dict:
        assert body["init_info"]["world_size"] == 2
        return {}

    def start_weight_update(self, _: dict) -> dict:
        assert not self.updating
        self.updating = True
        return {}

    @torch.no_grad()
    def update_weights(self, body: dict) -> dict:
        assert self.updating
        info, parameters = body["update_info"], dict(self.models[BASE].named_parameters())
        assert set(info["names"]) == set(parameters), "a part of a fused layer would not be taken"
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            came, tensor = self.sent.get(timeout=30)
            assert (came, str(tensor.dtype), list(tensor.shape)) == (name, f"torch.{dtype}", shape)
            parameters[name].copy_(tensor)
        return {}

    def finish_weight_update(self, _: dict) -> dict:
        assert self.updating
        self.updating = False
        return {}

    def reset_prefix_cache(self, _: dict) -> dict:
        self.cached.clear()
        return {"success": True}

    # ---- sampling

    def completions(self, body: dict) -> dict:
        assert body["model"] in self.models, "no such model"
        assert body["ignore_eos"]
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
        assert body["temperature"] > 0 or body["n"] == 1, "n must be 1 when using greedy sampling"
        choices = [self._choice(body, index) for index in range(body["n"])]
        return {"choices": choices[::-1]}  # no order is promised

    @torch.no_grad()
    def _choice(self, body: dict, index: int) -> dict:
        generator = torch.Generator().manual_seed(body["seed"] + index)
        ids, logprobs, reason = [], [], "length"
        while len(ids) < body["max_tokens"] and reason == "length":
            logits = self._logits(body["model"], body["prompt"], ids) / (body["temperature"] or 1.0)
            if len(ids) < body["min_tokens"]:
                logits[body["stop_token_ids"]] = -torch.inf
            row = logits.log_softmax(dim=-1)
            greedy = body["temperature"] == 0
            token = int(row.argmax()) if greedy else int(torch.multinomial(row.exp(), 1, generator=generator))
            ids.append(token)
            logprobs.append(float(row[token]))
            if token in body["stop_token_ids"]:
                reason = "stop"
        if self.old:
            return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}
        tokens = [f"token_id:{token}" for token in ids]
        top = [{token: value} for token, value in zip(tokens, logprobs, strict=True)]
        return {
            "index": index,
            "text": "",
            "token_ids": ids,
            "logprobs": {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top},
            "finish_reason": reason,
        }

    def _logits(self, name: str, prompt: list[int], ids: list[int]) -> torch.Tensor:
        if ids:
            return self.models[name](torch.tensor([prompt + ids])).logits[0, -1].float()
        key = (name, tuple(prompt))
        if key not in self.cached:
            self.cached[key] = self.models[name](torch.tensor([prompt])).logits[0, -1].float()
        return self.cached[key].clone()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, body: dict) -> None:
        path = self.path.partition("?")[0]
        try:
            status, answer = 200, self.server.stand_in.answer(path, body, self.headers.get("Authorization", ""))
        except Refusal as error:
            status, answer = error.status, {"error": {"message": str(error)}}
        except Exception as error:
            status, answer = 400, {"error": {"message": f"{type(error).__name__}: {error}"}}
        data = (answer if isinstance(answer, Raw) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output short."""


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """The address under which it answers inside the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.stand_in = stand_in
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def sample_in_one_of_two_processes(
    rank: int, url: str, model: str, folder: str, prompts: list[list[int]], sampling: Sampling
) -> None:
    """Sample every second prompt after one more sync, and write the token ids to `rank.json`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    backbone = Backbone.load(model, dtype=torch.float32)
    backbone.add_adapter("policy", LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    engine = ServerEngine(backbone, "policy", stop_ids={2, 3, 4}, url=url, exchange_folder=Path(folder) / "exchange")
    generator = torch.Generator().manual_seed(7)
    for parameter in backbone.adapter_parameters("policy").values():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    engine.sync()
    samples = engine.sample(prompts[rank::2], sampling)
    (Path(folder) / f"{rank}.json").write_text(json.dumps([[s.token_ids for s in row] for row in samples]))
    dist.destroy_process_group()
