"""Shared-prefix attention against stock transformers, which reads every sequence alone."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from transformers import (
    Cohere2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.packing import Group, pack

MIXED = [
    Group([5, 9, 13, 7, 22], [[8, 30, 2], [11, 12, 13, 14, 2], [40], [41, 8]]),
    Group([33, 34], [[35, 36, 37, 2]]),
    Group([20, 21, 22], [[23, 24, 2], [25, 26, 2], [27, 28, 2]]),
]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def groups_with(num_responses: int, *, equal: bool) -> list[Group]:
    lengths = [3] * num_responses if equal else [1 + (3 * k) % 5 for k in range(num_responses)]
    return [Group([5, 6, 7, 8], [[10 + 7 * k + i for i in range(n)] for k, n in enumerate(lengths)])]


def read_alone(model, groups, response_logprobs) -> torch.Tensor:
    return torch.cat([response_logprobs(model, g.prompt_ids, r) for g in groups for r in g.response_ids])


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("num_responses", [1, 2, 3, 4])
def test_packed_logprobs_equal_those_of_separate_sequences(tiny_model, response_logprobs, num_responses, equal) -> None:
    groups = groups_with(num_responses, equal=equal)
    packed = Backbone(tiny_model())(pack(groups), [REFERENCE])["reference"].logprobs
    torch.testing.assert_close(packed, read_alone(tiny_model(), groups, response_logprobs), rtol=0, atol=1e-5)


def test_packed_hidden_states_equal_those_of_separate_sequences(tiny_model) -> None:
    plain, backbone = tiny_model(), Backbone(tiny_model())
    seen = []
    hook = backbone.model.base_model.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    batch = pack(MIXED)
    backbone(batch, [REFERENCE])
    hook.remove()
    ends = iter(batch.last_index.tolist())
    for group in MIXED:
        for response in group.response_ids:
            ids = torch.tensor([[*group.prompt_ids, *response]])
            alone = plain.base_model(ids).last_hidden_state[0, len(group.prompt_ids) :]
            end = next(ends) + 1
            torch.testing.assert_close(seen[0][0, end - len(response) : end], alone, rtol=0, atol=3e-5)


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_adapter_gradients_equal_those_of_separate_sequences(
    tiny_model, response_logprobs, fill_adapter, float64_norms, dtype, atol
) -> None:
    backbone = Backbone(tiny_model(dtype=dtype))
    backbone.add_adapter("policy", LoraConfig(**LORA))
    fill_adapter(backbone, "policy")
    backbone.train_only(adapters=["policy"])
    batch = pack(MIXED)
    weights = torch.randn(len(batch.target_ids), generator=torch.Generator().manual_seed(5), dtype=dtype)
    logprobs = backbone(batch, [POLICY])["policy"].logprobs
    (logprobs * weights).sum().backward()

    # the oracle: a stock model whose weights are W + 2 B A, one sequence at a time; its dW gives dA = 2 B' dW, ...
    stock = tiny_model(dtype=dtype)
    factors = {}
    for name, parameter in backbone.adapter_parameters("policy").items():
        layer, kind = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        factors.setdefault(layer, {})[kind] = parameter
    stock.requires_grad_(False)
    for layer, pair in factors.items():
        weight = stock.get_submodule(layer).weight
        weight += (2 * pair["lora_B"] @ pair["lora_A"]).detach()
        weight.requires_grad_(True)
    alone = read_alone(stock, MIXED, response_logprobs)
    (alone * weights).sum().backward()

    assert (logprobs - alone).norm() / alone.norm() < atol
    assert len(factors) == 14
    for layer, pair in factors.items():
        outer = stock.get_submodule(layer).weight.grad
        for ours, theirs in (
            (pair["lora_A"].grad, 2 * pair["lora_B"].T @ outer),
            (pair["lora_B"].grad, 2 * outer @ pair["lora_A"].T),
        ):
            assert theirs.norm() > 1e-3
            assert (ours - theirs).norm() / theirs.norm() < atol, layer


def test_a_response_changes_neither_its_siblings_nor_other_groups(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    before = backbone(pack(MIXED), [REFERENCE])["reference"].logprobs
    changed = [Group(MIXED[0].prompt_ids, [[8, 30, 2], [50, 51, 52, 53, 54], [40], [41, 8]]), *MIXED[1:]]
    after = backbone(pack(changed), [REFERENCE])["reference"].logprobs
    same = torch.ones(len(before), dtype=torch.bool)
    same[3:8] = False
    assert before[same].equal(after[same])
    assert not before[~same].equal(after[~same])


def test_order_of_groups_and_of_responses_only_reorders_logprobs(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    forwards = pack(MIXED)
    mirrored = pack([Group(g.prompt_ids, g.response_ids[::-1]) for g in MIXED[::-1]])
    one, other = (batch.to_rows(backbone(batch, [REFERENCE])["reference"].logprobs) for batch in (forwards, mirrored))
    torch.testing.assert_close(one, other.flip(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_reentrant": True}], ids=["default", "reentrant"])
def test_activation_checkpointing_leaves_every_gradient_bit_equal(tiny_model, fill_adapter, settings) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = Backbone(tiny_model())
        backbone.add_adapter("policy", LoraConfig(**LORA))
        fill_adapter(backbone, "policy")
        backbone.train_only(adapters=["policy"])
        backbone.train()
        if checkpointing:
            backbone.activation_checkpointing_enable(settings)
            # the reentrant kind needs an input that wants a gradient
            backbone.model.enable_input_require_grads()
        backbone(pack(MIXED), [REFERENCE, POLICY])["policy"].logprobs.square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.adapter_parameters("policy").values()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


@pytest.mark.parametrize(
    "config_class, settings",
    [
        pytest.param(LlamaConfig, {"tie_word_embeddings": True}, id="llama-tied"),
        pytest.param(LlamaConfig, {"attention_bias": True, "mlp_bias": True}, id="llama-biases"),
        pytest.param(Qwen2Config, {}, id="qwen2"),
        pytest.param(Qwen3Config, {"head_dim": 8}, id="qwen3"),
        pytest.param(MistralConfig, {"sliding_window": 10}, id="mistral-window-of-the-longest-sequence"),
        pytest.param(GemmaConfig, {"head_dim": 8}, id="gemma"),
        pytest.param(Gemma3TextConfig, {"head_dim": 8, "sliding_window": 64}, id="gemma3"),
        pytest.param(Phi3Config, {"resid_pdrop": 0.3}, id="phi3"),
        pytest.param(GPT2Config, GPT2, id="gpt2"),
        pytest.param(Starcoder2Config, {"residual_dropout": 0.5, "embedding_dropout": 0.5}, id="starcoder2"),
        pytest.param(Cohere2Config, {"logit_scale": 1.0, "sliding_window": 64}, id="cohere2"),
    ],
)
def test_other_architectures_read_a_shared_prompt_too_and_without_dropout(
    tiny_model, response_logprobs, config_class, settings
) -> None:
    alone = read_alone(tiny_model(config_class, **settings), MIXED, response_logprobs)
    backbone = Backbone(tiny_model(config_class, **settings))
    backbone.add_adapter("policy", LoraConfig(**LORA))
    backbone.train()  # as the Trainer does before every step
    outputs = backbone(pack(MIXED), [REFERENCE, POLICY])
    torch.testing.assert_close(outputs["reference"].logprobs, alone, rtol=0, atol=2e-5)
    assert outputs["policy"].logprobs.equal(outputs["reference"].logprobs)


def test_a_model_that_hands_no_keywords_to_its_layers_is_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="does not hand keywords on"):
        Backbone(tiny_model(StableLmConfig, attention="eager"))(pack(MIXED), [REFERENCE])


def test_a_layer_that_flattens_rows_says_which_setting_leaves_it_out(tiny_model) -> None:
    backbone = Backbone(tiny_model(OPTConfig, ffn_dim=48, word_embed_proj_dim=32))
    backbone.add_adapter("policy", LoraConfig(**LORA))
    with pytest.raises(ValueError, match="choose lora_target_modules without it"):
        backbone(pack(MIXED), [REFERENCE, POLICY])


def test_a_shared_prompt_is_computed_once(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    lengths = []
    layer = backbone.model.model.layers[0]
    layer.register_forward_hook(lambda _module, args, _output: lengths.append(args[0].shape[1]))
    backbone(pack([Group([1] * 20, [[2] * 3] * 4)]), [REFERENCE])
    assert lengths == [20 + 4 * 3]
