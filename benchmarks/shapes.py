"""Models to measure: real ones from a folder, or random weights of a known shape, built and never saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from benchmarks.case import Case
from rlhf.engine.sources import resolve_model

RANDOM = "random:"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}


def model_config(case: Case) -> Any:
    """The configuration of the case's model.

    Raises:
        ValueError: there is no such model or shape.
    """
    if not case.model.startswith(RANDOM):
        return AutoConfig.from_pretrained(model_folder(case), trust_remote_code=False)
    name = case.model.removeprefix(RANDOM)
    if name not in SHAPES:
        raise ValueError(
            f"model is {case.model}: random shapes are {', '.join(f'{RANDOM}{shape}' for shape in SHAPES)}"
        )
    return LlamaConfig(**SHAPES[name], max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def model_folder(case: Case) -> str:
    """The folder of a model that is not random."""
    source = resolve_model(case.model)
    if source.adapter is not None:
        raise ValueError(f"model is {case.model}, an adapter: name the model it was trained on")
    return str(source.backbone)


def causal_lm(case: Case, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The language model of a case on its device."""
    return build(case, AutoModelForCausalLM, dtype or case.torch_dtype)


def sequence_classifier(case: Case, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The same weights under a head that gives one number."""
    return build(case, AutoModelForSequenceClassification, dtype or case.torch_dtype, num_labels=1)


def build(case: Case, auto_class: Any, dtype: torch.dtype, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(case.seed)
    if not case.model.startswith(RANDOM):
        model = auto_class.from_pretrained(model_folder(case), dtype=dtype, trust_remote_code=False, **settings)
        return model.to(case.device)
    config = model_config(case)
    for name, value in settings.items():
        setattr(config, name, value)
    with torch.device(case.device):
        return auto_class.from_config(config, dtype=dtype)


@dataclass(frozen=True)
class Shape:
    """The sizes that decide what a pass costs.

    Attributes:
        linears: how many linear layers of the body have each `(outputs, inputs)`.
        vocabulary, hidden: of the output head.
        num_layers: decoder layers.
        attention_width: heads x head_dim, of the queries.
        key_value_width: key-value heads x head_dim.
    """

    linears: dict[tuple[int, int], int]
    vocabulary: int
    hidden: int
    num_layers: int
    attention_width: int
    key_value_width: int

    @property
    def body(self) -> int:
        """N: weights of the linear layers, without embeddings and head."""
        return sum(outputs * inputs * count for (outputs, inputs), count in self.linears.items())

    @property
    def head(self) -> int:
        """H: vocabulary x hidden."""
        return self.vocabulary * self.hidden


def shape_of(case: Case) -> Shape:
    """Sizes of the case's model, read from its layers without making their weights."""
    config = model_config(case)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears: Counter[tuple[int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            rows, columns = module.weight.shape
            linears[(columns, rows) if isinstance(module, Conv1D) else (rows, columns)] += 1
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_value_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    vocabulary, hidden = head.weight.shape
    return Shape(
        dict(linears),
        vocabulary,
        hidden,
        text.num_hidden_layers,
        text.num_attention_heads * head_dim,
        key_value_heads * head_dim,
    )
