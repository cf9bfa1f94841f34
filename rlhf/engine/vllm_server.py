"""A vLLM server as rollouts see it: the requests, and what a rollout must be asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx

from rlhf.engine.generation import Sample, Sampling
from rlhf.engine.sampling import batch_seed

API_KEY_VARIABLE = "VLLM_API_KEY"  # the variable that vLLM's own server reads
REQUESTS_AT_ONCE = 64
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_ANSWER = 1800.0  # a long rollout of a large model
# what reading fields of an answer raises that is no JSON or has other fields
NOT_AS_EXPECTED = (ValueError, KeyError, IndexError, TypeError)


class Server:
    """The requests to a vLLM server that rollouts need. A key is taken from the environment, VLLM_API_KEY.

    Args:
        url: such as http://localhost:8000.

    Raises:
        ValueError: it does not answer, not as vLLM does, or the address holds a name or a key.
    """

    def __init__(self, url: str):
        if "@" in url:  # would stand in config.yaml, in logs and in errors, this one excepted
            raise ValueError(
                "vllm_server_url holds a name or a key before an @: leave them out, and put the server's key into "
                f"the environment variable {API_KEY_VARIABLE}"
            )
        self.url = url.rstrip("/")
        key = os.environ.get(API_KEY_VARIABLE)
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SECONDS_TO_ANSWER, connect=SECONDS_TO_CONNECT),
            # a client that is given a transport leaves the limits to it; retries are of connecting: a request that
            # arrived is not repeated
            transport=httpx.HTTPTransport(limits=httpx.Limits(max_connections=REQUESTS_AT_ONCE), retries=3),
        )
        try:
            self._checked(self.client.get(f"{self.url}/health", timeout=SECONDS_TO_CONNECT))
            self.base_model = self._first_model()
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError) as error:
            self.close()
            raise ValueError(
                f"vllm_server_url is {url}: no vLLM server answers there ({error}); start one with\n  "
                f"{serve_command('MODEL')}"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The answer to a POST."""
        return self._checked(self.client.post(self.url + path, json=body))

    def takes_broadcasts(self) -> bool:
        """Whether it was started to take weights by NCCL; servers that keep their settings to themselves do not."""
        answer = self.client.get(f"{self.url}/server_info", params={"config_format": "json"})
        if answer.status_code != 200:
            return False
        return (answer.json().get("vllm_config") or {}).get("weight_transfer_config") is not None

    def complete(self, model: str, prompt: Sequence[int], sampling: Sampling, stop_ids: set[int]) -> list[Sample]:
        """The samples of one prompt."""
        parameters = sampling_parameters(prompt, sampling, stop_ids)
        body = {
            "model": model,
            "prompt": list(prompt),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **parameters,
        }
        response = self.post("/v1/completions", body)
        try:
            choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
        except NOT_AS_EXPECTED:
            raise self._unlike_vllm(response) from None
        samples = [self._sample(choice) for choice in choices]
        return samples * (sampling.num_samples // parameters["n"])

    def _first_model(self) -> str:
        response = self._checked(self.client.get(f"{self.url}/v1/models", timeout=SECONDS_TO_CONNECT))
        try:
            return str(response.json()["data"][0]["id"])
        except NOT_AS_EXPECTED:
            raise self._unlike_vllm(response) from None

    def _sample(self, choice: dict[str, Any]) -> Sample:
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        if choice.get("token_ids") is None or logprobs is None:
            raise RuntimeError(
                f"the server at {self.url} answered without token ids or log-probabilities: it must be vLLM 0.22 or "
                "newer"
            )
        return Sample(choice["token_ids"], logprobs, choice["finish_reason"] == "stop")

    def _unlike_vllm(self, response: httpx.Response) -> ValueError:
        return ValueError(
            f"the server at {self.url} answered {response.request.url.path} with what vLLM does not answer: "
            f"{response.text[:200]}"
        )

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise RuntimeError(
                f"the server at {self.url} answered {response.request.url.path} with {response.status_code}: "
                f"{response.text[:500]}"
            )
        return response


def sampling_parameters(prompt: Sequence[int], sampling: Sampling, stop_ids: set[int]) -> dict[str, Any]:
    """What both a completion request and `vllm.SamplingParams` call a prompt's settings.

    Whatever the model's author recommends (top-k, penalties, end tokens) is overruled by name: a rollout must be
    drawn from the policy as it is. Several samples of one prompt get the seeds seed, seed + 1, ... from vLLM.
    """
    return {
        "n": sampling.num_samples if sampling.temperature > 0 else 1,  # vLLM refuses several equal ones
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": sampling.min_new_tokens,
        "stop": list(sampling.stop_strings),
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": batch_seed(sampling.seed, [prompt]),
        "logprobs": 0,  # that of the token drawn, and no others
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,  # the end token counts where it is one of stop_ids
    }


def serve_command(model: str, *, max_rank: int = 16) -> str:
    """The line that starts a server which takes the policy's adapter as files."""
    return (
        f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {model} --enable-lora --max-lora-rank {max_rank} "
        "--logprobs-mode processed_logprobs"
    )
