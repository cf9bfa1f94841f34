"""Tiny random models built in code, and what stock transformers says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that at the end no worker waits for the other one's last test."""
    items.sort(key=lambda item: ("test_docs" not in item.path.stem, "end_to_end" not in item.path.parts))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model(config_class, dtype=, attention=, **settings)`: the same weights at every call."""

    def build(
        config_class: type = LlamaConfig,
        *,
        dtype: torch.dtype = torch.float32,
        attention: str = "sdpa",
        **settings: object,
    ) -> PreTrainedModel:
        config = config_class(**{**SIZES, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **settings})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # some vectors, such as attention sinks, start at random
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            # wide enough that attention and softmax are far from uniform; norm weights and biases vary too
            noise = torch.randn(parameter.shape, generator=generator)
            with torch.no_grad():
                parameter.copy_(noise * 0.25 if parameter.dim() > 1 else parameter + noise * 0.1)
        return model.to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def response_logprobs() -> Callable[..., torch.Tensor]:
    """Log-probabilities of a response by a plain forward over prompt and response alone."""

    def compute(
        model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
    ) -> torch.Tensor:
        logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0] / temperature
        predicting = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        return predicting[torch.arange(len(response)), torch.tensor(list(response))]

    return compute


@pytest.fixture
def float64_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """LlamaRMSNorm computes in float32 whatever its input is; here in the input's own type."""

    def forward(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.fixture
def fill_adapter() -> Callable[..., None]:
    """Give an adapter weights as if it had been trained: A and B both far from zero."""

    def fill(backbone: torch.nn.Module, name: str, seed: int = 1, std: float = 0.15) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in backbone.adapter_parameters(name).values():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    return fill
