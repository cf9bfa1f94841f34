"""Adapters and heads on disk: PEFT's format for adapters, safetensors for heads, never the backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rlhf.engine.backbone import Backbone, gathered

ADAPTER_FILE = "adapter_model.safetensors"
# Settings of LoRA under which a layer adds scaling * B A x and nothing else. What changes the forward pass, the
# backbone's weights or what is trained besides A and B is not in this list.
ORDINARY_SETTINGS = frozenset(
    """task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r lora_alpha
    lora_dropout use_rslora rank_pattern alpha_pattern target_modules exclude_modules layers_to_transform
    layers_pattern fan_in_fan_out megatron_core runtime_config qalora_group_size""".split()
)


def adapter_tensors(backbone: Backbone, name: str) -> dict[str, torch.Tensor]:
    """Copies of an adapter's weights on the CPU; under ZeRO-3 every process must call it."""
    parameters = backbone.adapter_parameters(name)
    with gathered(list(parameters.values())):
        return {key: parameter.detach().cpu().clone().contiguous() for key, parameter in parameters.items()}


def head_tensors(backbone: Backbone, name: str) -> dict[str, torch.Tensor]:
    """Copies of a head's weights and normalisation on the CPU; under ZeRO-3 every process must call it."""
    head = backbone.heads[name]
    with gathered(list(head.parameters())):
        return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in head.state_dict().items()}


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], config: LoraConfig, *, backbone_path: str) -> None:
    """Write an adapter so that `peft.PeftModel.from_pretrained` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(**{**config.to_dict(), "base_model_name_or_path": backbone_path, "inference_mode": True})
    config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):  # a set in PEFT: in order, equal runs write equal bytes
        settings["target_modules"].sort()
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})


def write_head(folder: Path, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Write a head to `<name>_head.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}_head.safetensors", metadata={"format": "pt"})


def add_adapter_from(backbone: Backbone, name: str, folder: Path) -> None:
    """Add an adapter under `name` with the settings and weights of a folder.

    Raises:
        ValueError: the folder holds no LoRA adapter, one of a variant that does not share a backbone, or one whose
            layers are not those of this backbone.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / ADAPTER_FILE).is_file():
        raise ValueError(f"{folder} holds no adapter: adapter_config.json and {ADAPTER_FILE} are expected there")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder} holds a {config.peft_type} adapter: only LoRA shares a backbone with other roles")
    _refuse_variants(config, folder)
    config.lora_dropout = 0.0  # it was for the training that made the adapter; here it would make scores random
    backbone.add_adapter(name, config)
    load_adapter_weights(backbone, name, folder)


def _refuse_variants(config: LoraConfig, folder: Path) -> None:
    plain = LoraConfig().to_dict()
    unusual = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ORDINARY_SETTINGS and value != plain.get(key)
    }
    if unusual.get("init_lora_weights") in (False, "gaussian"):  # how A began; others change the backbone
        del unusual["init_lora_weights"]
    if unusual:
        raise ValueError(
            f"{folder} holds a variant of LoRA with {unusual}: only plain LoRA shares a backbone with other roles; "
            "merge that adapter into its model and use the merged model"
        )


def last_layers(folder: Path) -> int:
    """How many decoder layers, the last ones, the adapter in a folder sits on; 0: all, or there is no adapter."""
    if not (folder / ADAPTER_FILE).is_file():
        return 0
    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        numbers = [int(found[1]) for key in file.keys() if (found := re.search(r"\.(\d+)\.", key))]  # noqa: SIM118
    return max(numbers) + 1 - min(numbers) if min(numbers, default=0) else 0


def load_adapter_weights(backbone: Backbone, name: str, folder: Path) -> None:
    """Copy an adapter's weights from a folder into the adapter `name`."""
    _copy_into(backbone.adapter_parameters(name), load_file(folder / ADAPTER_FILE), folder / ADAPTER_FILE)


def copy_adapter(backbone: Backbone, source: str, target: str) -> None:
    """Give the adapter `target` the weights of `source`, of the same settings; every process must call it."""
    _copy_into(backbone.adapter_parameters(target), adapter_tensors(backbone, source), Path(target))


def load_head_weights(backbone: Backbone, name: str, folder: Path, *, saved_as: str | None = None) -> None:
    """Copy a head's weights and normalisation from a folder into the head `name`."""
    path = folder / f"{saved_as or name}_head.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} holds no {path.name}: it is not the output of a stage that trains this head")
    head = backbone.heads[name]
    _copy_into({**dict(head.named_parameters()), **dict(head.named_buffers())}, load_file(path), path)


@torch.no_grad()
def _copy_into(targets: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor], path: Path) -> None:
    wrong = sorted(targets.keys() ^ tensors.keys())
    if wrong:
        raise ValueError(
            f"{path} does not fit this backbone: {len(wrong)} tensors differ, the first is {wrong[0]}; "
            "use it with the model it was trained on"
        )
    parameters = [target for target in targets.values() if isinstance(target, torch.nn.Parameter)]
    with gathered(parameters, write=True):
        for key, target in targets.items():
            if target.numel() == 0:  # partitioned away from this process
                continue
            if target.shape != tensors[key].shape:
                raise ValueError(
                    f"{path} does not fit this backbone: {key} is {tuple(tensors[key].shape)} there and "
                    f"{tuple(target.shape)} here; use it with the model it was trained on"
                )
            target.copy_(tensors[key])
