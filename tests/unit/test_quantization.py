"""Roles on a backbone of eight or four bits a weight, against one that holds the same weights in full."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from rlhf.engine import quantization
from rlhf.engine.backbone import POLICY, REFERENCE, VALUE, Backbone
from rlhf.engine.merged import MergedCopy
from rlhf.engine.packing import Group, pack
from rlhf.engine.quantization import dense_weight, is_quantized

BATCH = pack([Group([5, 9, 13, 7], [[8, 30, 2], [11, 12, 2], [40]]), Group([33, 34], [[35, 36, 2]])])
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # in blocks of 64 weights

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra `quantization`)"
)


def test_an_unknown_kind_and_a_missing_library_are_said_with_what_to_do(monkeypatch, tmp_path) -> None:
    with pytest.raises(ValueError, match="choose one of none, int8, nf4"):
        Backbone.load(str(tmp_path), quantization="int4")
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes: install the extra, pip install 'rlhf-loop\[quant"):
        Backbone.load(str(tmp_path), quantization="nf4")
    assert quantization.loading_config("none", torch.float32) is None


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    tiny_model(**WIDE).save_pretrained(str(tmp_path))
    return tmp_path


def with_roles(backbone: Backbone, fill_adapter) -> Backbone:
    for seed, name in enumerate(("policy", "value")):
        backbone.add_adapter(name, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        fill_adapter(backbone, name, seed=seed)
    torch.nn.init.normal_(backbone.add_head("value").linear.weight, generator=torch.Generator().manual_seed(9))
    backbone.train_only(adapters=["policy", "value"], heads=["value"])
    return backbone


def quantized(folder: Path, kind: str, fill_adapter) -> Backbone:
    return with_roles(Backbone.load(str(folder), dtype=torch.float32, quantization=kind), fill_adapter)


def in_full(backbone: Backbone, tiny_model, fill_adapter) -> Backbone:
    """A plain backbone whose weights are those that the quantised one stands for."""
    plain = tiny_model(**WIDE)
    layers = backbone.lora_layers()
    assert len(layers) == 14
    for name, layer in layers.items():
        assert is_quantized(layer.base_layer)
        plain.get_submodule(name).weight.data = dense_weight(layer.base_layer, torch.float32)
    return with_roles(Backbone(plain), fill_adapter)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_roles_and_gradients_are_those_of_the_same_weights_in_full(kind, folder, tiny_model, fill_adapter) -> None:
    backbone = quantized(folder, kind, fill_adapter)
    plain = in_full(backbone, tiny_model, fill_adapter)
    for each in (backbone, plain):
        each.train()
        outputs = each(BATCH, [POLICY, VALUE])
        (outputs["policy"].logprobs.sum() + outputs["value"].values.square().sum()).backward()
    found, expected = backbone(BATCH, [REFERENCE, POLICY, VALUE]), plain(BATCH, [REFERENCE, POLICY, VALUE])
    assert distance(found["reference"].logprobs, expected["reference"].logprobs) < 1e-5
    assert distance(found["policy"].logprobs, expected["policy"].logprobs) < 1e-5
    assert distance(found["value"].values, expected["value"].values) < 1e-5
    for adapter in ("policy", "value"):
        there = plain.adapter_parameters(adapter)
        for name, parameter in backbone.adapter_parameters(adapter).items():
            assert parameter.dtype == torch.float32
            assert distance(parameter.grad, there[name].grad) < 1e-4, name


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_what_a_role_computes_does_not_depend_on_gradients_mode_or_neighbours(kind, folder, fill_adapter) -> None:
    backbone = quantized(folder, kind, fill_adapter)
    with torch.no_grad():
        scored = backbone.eval()(BATCH, [REFERENCE, POLICY, VALUE])["policy"].logprobs
    assert backbone.train()(BATCH, [POLICY])["policy"].logprobs.equal(scored)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("merged", [True, False])
def test_a_copy_for_sampling_says_what_the_policy_says(merged, kind, folder, fill_adapter, response_logprobs) -> None:
    backbone = quantized(folder, kind, fill_adapter)
    copied = MergedCopy(backbone, "policy", merged=merged).model
    with torch.no_grad():
        found = response_logprobs(copied, [33, 34], [35, 36, 2])
        expected = backbone(BATCH, [POLICY])["policy"].logprobs[-3:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    has_dense_layers = type(copied.get_submodule("model.layers.0.mlp.up_proj")) is torch.nn.Linear
    assert has_dense_layers == merged


@needs_bitsandbytes
@pytest.mark.parametrize("kind, allowed", [("int8", 0.02), ("nf4", 0.15)])
def test_weights_are_kept_in_few_bits_near_what_they_were(kind, allowed, folder, tiny_model, fill_adapter) -> None:
    backbone = quantized(folder, kind, fill_adapter)
    plain = tiny_model(**WIDE)
    for name, layer in backbone.lora_layers().items():
        weight = layer.base_layer.weight
        assert weight.numel() * weight.element_size() == plain.get_submodule(name).weight.numel() // (
            1 + (kind == "nf4")
        )
        assert distance(dense_weight(layer.base_layer, torch.float32), plain.get_submodule(name).weight) < allowed
