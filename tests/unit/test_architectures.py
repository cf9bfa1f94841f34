"""The exactness gates on every family: a shared prompt against stock transformers, one sequence at a time.

The oracle is a stock model with eager attention whose weights are W + 2 B A; its dW gives dA = 2 B' dW and
dB = 2 dW A'.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from transformers import (
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from rlhf.engine.backbone import POLICY, REFERENCE, Backbone, decoder_layers, load_causal_lm
from rlhf.engine.packing import Group, pack
from rlhf.training.arguments import ModelArguments

GROUPS = [
    Group([5, 9, 13, 7, 22], [[8, 30, 2], [11, 12, 13, 14, 2], [40], [41, 8]]),
    Group([33, 34], [[35, 36, 37, 2]]),
    Group([20, 21, 22], [[23, 24, 2], [25, 26, 2], [27, 28, 2]]),
]
# shorter than the longest sequence, 10 tokens, so that windows cut prompts off from the ends of responses
WINDOW = {"sliding_window": 4}
ALTERNATING = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen2-window": (Qwen2Config, {"use_sliding_window": True, **ALTERNATING}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, **WINDOW}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, **ALTERNATING}),
    "mistral": (MistralConfig, {}),
    "mistral-window": (MistralConfig, WINDOW),
    "phi": (PhiConfig, {}),
    "phi3": (Phi3Config, {"resid_pdrop": 0.3}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-oss": (GptOssConfig, {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **ALTERNATING}),
    "cohere": (CohereConfig, {}),
    "cohere2": (Cohere2Config, ALTERNATING),
    "granite": (GraniteConfig, {"logits_scaling": 4.0}),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
everywhere_or_last = pytest.mark.parametrize("last_layers", [0, 1], ids=["all-layers", "last-layer"])


@pytest.fixture
def no_casts_down(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Norms, rotary embeddings and eager softmax cast to float32; here they leave float64 as it is."""
    to, as_float, softmax = torch.Tensor.to, torch.Tensor.float, F.softmax

    def keep(tensor: torch.Tensor, *args: object, **keywords: object) -> torch.Tensor:
        down = torch.float32 in args or keywords.get("dtype") is torch.float32
        return tensor if tensor.dtype == torch.float64 and down else to(tensor, *args, **keywords)

    def keep_softmax(scores: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(scores, dim=dim, dtype=None if scores.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.Tensor, "to", keep)
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else as_float(t))
    monkeypatch.setattr(F, "softmax", keep_softmax)


def stock_model(tiny_model, family: str, dtype: torch.dtype = torch.float32):
    config_class, settings = FAMILIES[family]
    model = tiny_model(config_class, attention="eager", dtype=dtype, **settings)
    if family == "gpt-oss":
        model.set_experts_implementation("eager")  # the grouped product takes no float64
    return model


def backbone_of(
    tiny_model, fill_adapter, family: str, dtype: torch.dtype = torch.float32, last_layers: int = 0
) -> Backbone:
    backbone = Backbone(stock_model(tiny_model, family, dtype))
    target = "q_proj,k_proj,v_proj,o_proj" if family == "gpt-oss" else "all-linear"
    settings = ModelArguments(lora_r=4, lora_alpha=8, lora_target_modules=target, lora_last_layers=last_layers)
    backbone.add_adapter("policy", settings.lora_config(backbone.model))
    fill_adapter(backbone, "policy")
    backbone.train_only(adapters=["policy"])
    backbone.train()  # as the Trainer does before every step
    return backbone


def rows_by_layer(backbone: Backbone) -> list[int]:
    """What the next pass will have handed to each of the two layers."""
    rows: list[int] = []
    for layer in decoder_layers(backbone.model):
        layer.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def loss_and_gradients(backbone: Backbone) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = pack(GROUPS)
    weights = torch.randn(len(batch.target_ids), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logprobs = backbone(batch, [REFERENCE, POLICY])["policy"].logprobs
    (logprobs * weights).sum().backward()
    return logprobs.detach(), {name: p.grad for name, p in backbone.adapter_parameters("policy").items()}


def by_stock_model(tiny_model, response_logprobs, backbone: Backbone, family: str, dtype: torch.dtype):
    stock = stock_model(tiny_model, family, dtype).requires_grad_(False)
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in backbone.adapter_parameters("policy").items():
        layer, kind = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        factors.setdefault(layer, {})[kind] = parameter.detach()
    for layer, pair in factors.items():
        weight = stock.get_submodule(layer).weight
        delta = 2 * pair["lora_B"] @ pair["lora_A"]
        weight += delta.T if family == "gpt2" else delta  # GPT-2 keeps its weights transposed
        weight.requires_grad_(True)
    logprobs = torch.cat([response_logprobs(stock, g.prompt_ids, r) for g in GROUPS for r in g.response_ids])
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (logprobs * weights).sum().backward()
    gradients = {}
    for layer, pair in factors.items():
        outer = stock.get_submodule(layer).weight.grad
        outer = outer.T if family == "gpt2" else outer
        gradients[f"base_model.model.{layer}.lora_A.weight"] = 2 * pair["lora_B"].T @ outer
        gradients[f"base_model.model.{layer}.lora_B.weight"] = 2 * outer @ pair["lora_A"].T
    return logprobs.detach(), gradients


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@every_family
@everywhere_or_last
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_shared_prompt_equals_separate_sequences(
    tiny_model, response_logprobs, fill_adapter, no_casts_down, family, dtype, tolerance, last_layers
) -> None:
    backbone = backbone_of(tiny_model, fill_adapter, family, dtype, last_layers)
    assert backbone.shares_prompts
    rows = rows_by_layer(backbone)
    logprobs, gradients = loss_and_gradients(backbone)
    expected, expected_gradients = by_stock_model(tiny_model, response_logprobs, backbone, family, dtype)
    assert logprobs.dtype == dtype
    assert rows == ([1, 2] if last_layers else [2, 2])
    # in float32 this is also the adapter's forward against merged weights
    assert relative(logprobs, expected) < tolerance
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) >= (8 if last_layers else 16)
    for name, gradient in gradients.items():
        assert expected_gradients[name].norm() > 1e-4, name
        assert relative(gradient, expected_gradients[name]) < tolerance, name


@every_family
@everywhere_or_last
def test_activation_checkpointing_leaves_every_gradient_bit_equal(
    tiny_model, fill_adapter, family, last_layers
) -> None:
    plain, checkpointed = (backbone_of(tiny_model, fill_adapter, family, last_layers=last_layers) for _ in range(2))
    checkpointed.activation_checkpointing_enable()
    checkpointed.model.enable_input_require_grads()
    logprobs, gradients = loss_and_gradients(plain)
    again, same = loss_and_gradients(checkpointed)
    assert logprobs.equal(again)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert all(gradient.equal(same[name]) for name, gradient in gradients.items())


SEPARATE = {
    "falcon, which has an attention of its own": (FalconConfig, {"new_decoder_architecture": True}, "query_key_value"),
    "qwen3-next, which mixes by linear attention": (
        Qwen3NextConfig,
        {"num_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]}
        | {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "q_proj",
    ),
}


@pytest.mark.parametrize("name", SEPARATE)
def test_other_models_read_every_response_with_a_prompt_of_its_own_and_say_so(
    tiny_model, response_logprobs, fill_adapter, caplog, name
) -> None:
    config_class, settings, target = SEPARATE[name]
    stock = tiny_model(config_class, attention="eager", **settings)
    backbone = Backbone(tiny_model(config_class, attention="eager", **settings))
    assert not backbone.shares_prompts
    assert "each response is read with a prompt of its own" in caplog.text
    backbone.add_adapter("policy", LoraConfig(r=4, lora_alpha=8, target_modules=[target], task_type="CAUSAL_LM"))
    fill_adapter(backbone, "policy")
    backbone.train_only(adapters=["policy"])
    outputs = backbone(pack(GROUPS), [REFERENCE, POLICY])
    alone = torch.cat([response_logprobs(stock, g.prompt_ids, r) for g in GROUPS for r in g.response_ids])
    torch.testing.assert_close(outputs["reference"].logprobs, alone, rtol=0, atol=1e-4)
    assert (outputs["policy"].logprobs - alone).abs().max() > 0.01
    outputs["policy"].logprobs.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in backbone.adapter_parameters("policy").values())


@pytest.mark.parametrize("family", ["gemma2", "gpt-oss"])
def test_models_that_know_no_fused_attention_load_and_share_prompts(
    tiny_model, response_logprobs, tmp_path, family
) -> None:
    stock = stock_model(tiny_model, family)
    stock.save_pretrained(tmp_path)
    backbone = Backbone(load_causal_lm(str(tmp_path), dtype=torch.float32))
    alone = torch.cat([response_logprobs(stock, g.prompt_ids, r) for g in GROUPS for r in g.response_ids])
    torch.testing.assert_close(backbone(pack(GROUPS), [REFERENCE])["reference"].logprobs, alone, rtol=0, atol=1e-4)


def test_a_rotary_embedding_that_depends_on_the_length_refuses_lengths_that_change_it(tiny_model) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    backbone = Backbone(tiny_model(LlamaConfig, rope_parameters=rope, max_position_embeddings=16))
    fits, too_long = (pack([Group([5] * length, [[7, 8]])]) for length in (14, 15))
    assert backbone(fits, [REFERENCE])["reference"].logprobs.shape == (2,)
    with pytest.raises(ValueError, match="17 tokens: from 16 on"):
        backbone(too_long, [REFERENCE])
