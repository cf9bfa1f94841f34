"""A plain copy of a backbone for sampling, with one adapter merged into it.

The policy is sampled from a copy because merging into and out of a bfloat16 backbone in place would drift it.
Weights that no adapter touches are shared with the backbone, not copied.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from rlhf.engine.backbone import Backbone, gathered
from rlhf.engine.quantization import dense_weight, is_quantized


class MergedCopy:
    """A plain model with one adapter of a backbone merged into it.

    Make it before DeepSpeed takes the backbone, call `sync` after each update of the adapter.

    Args:
        backbone: whose adapter is followed.
        adapter: its name.
        merged: False copies no weight: the copy reads the backbone's own, and adds what the adapter adds at every
            layer. Slower, but without the memory of a second set of weights.

    Raises:
        ValueError: `merged` is False and DeepSpeed ZeRO-3 has partitioned the backbone.
    """

    def __init__(self, backbone: Backbone, adapter: str, *, merged: bool = True):
        if not merged and any(hasattr(parameter, "ds_id") for parameter in backbone.model.parameters()):
            raise ValueError("merged is False under DeepSpeed ZeRO-3, where no process holds a whole backbone to share")
        self.backbone = backbone
        self.adapter = adapter
        self.merged = merged
        self.model = _plain_copy(backbone, adapter if merged else None)
        if not merged:
            _add_adapter_layers(self.model, self._layers(), adapter)
        self.sync()

    @torch.no_grad()
    def sync(self) -> None:
        """Write base + scaling * B A into the copy, added in float32 and cast once; nothing to do if unmerged."""
        if not self.merged:
            return
        for name, layer in self._layers().items():
            base, a, b = layer.base_layer.weight, layer.lora_A[self.adapter].weight, layer.lora_B[self.adapter].weight
            with gathered([base, a, b]):
                added = (b @ a) * layer.scaling[self.adapter]
                dense = dense_weight(layer.base_layer, a.dtype)
                merged = dense + (added.T if layer.fan_in_fan_out else added)  # Conv1D keeps W^T
                self.model.get_submodule(name).weight.copy_(merged)

    def _layers(self) -> dict[str, lora.Linear]:
        return {name: layer for name, layer in self.backbone.lora_layers().items() if self.adapter in layer.lora_A}


class AdapterLinear(nn.Module):
    """A layer and what an adapter adds to it, weights shared with the backbone: W x + scaling * B A x."""

    def __init__(self, base: nn.Module, layer: lora.Linear, adapter: str):
        super().__init__()
        self.base = base
        self.a = layer.lora_A[adapter].weight
        self.b = layer.lora_B[adapter].weight
        self.scaling = layer.scaling[adapter]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        delta = F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return self.base(x) + delta * self.scaling


def _add_adapter_layers(model: PreTrainedModel, layers: dict[str, lora.Linear], adapter: str) -> None:
    for name, layer in layers.items():
        model.set_submodule(name, AdapterLinear(model.get_submodule(name), layer, adapter))


def _plain_copy(backbone: Backbone, adapter: str | None) -> PreTrainedModel:
    """A model of the same class; weights that `adapter` touches get storage of their own, all others are shared."""
    source = backbone.model
    config = copy.deepcopy(source.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        plain = type(source)(config)
    layers = backbone.lora_layers()
    tensors = dict(source.named_parameters(remove_duplicate=False)) | dict(source.named_buffers())
    for name, module in list(plain.named_modules()):
        source_name = f"{name}.base_layer" if name in layers else name
        own = name in layers and adapter in layers[name].lora_A
        original_module = source.get_submodule(source_name)
        if is_quantized(original_module) and not own:
            plain.set_submodule(name, original_module)
            continue
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            original = tensors[f"{source_name}.{key}" if source_name else key]
            with gathered([original]):
                # what ZeRO-3 has partitioned is whole inside this block only
                keep = hasattr(original, "ds_id") or (own and key == "weight")
                tensor = original.detach().clone() if keep else original.detach()
                if own and is_quantized(original_module) and key == "weight":
                    tensor = dense_weight(original_module, source.dtype)
            if isinstance(value, nn.Parameter):
                module.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
            else:
                module.register_buffer(key, tensor, persistent=key not in module._non_persistent_buffers_set)
    plain.tie_weights()
    if source.generation_config is not None:
        plain.generation_config = copy.deepcopy(source.generation_config)
    return plain.eval()
