"""Whether a run's weights and checkpoints fit what the machine has left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf.engine.free_memory import free_bytes
from rlhf.engine.memory import ModelShape
from rlhf.engine.precision import multiplies_bfloat16
from rlhf.training.checks.findings import FATAL, WARNING, Finding
from rlhf.training.checks.model_files import ModelSettings

STATES = 3  # a weight and Adam's two moments of it, all in float32


def loaded_bytes(folder: Path, settings: ModelSettings, dtype: torch.dtype) -> float:
    """Bytes of a folder's weights once they are loaded in a type."""
    stored = getattr(torch, str(settings.config.get("dtype") or settings.config.get("torch_dtype")), dtype)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) * dtype.itemsize / stored.itemsize


def check_memory(needed: float, device: torch.device) -> Iterator[Finding]:
    """Whether frozen weights alone fit; a run needs more, which `rlhf plan` reckons."""
    free = free_bytes(device)
    if free is not None and needed > free:
        yield Finding(
            "memory_low",
            FATAL,
            f"the weights alone take {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free on {device}",
            "take a smaller model, --dtype bfloat16 or --quantization nf4, or free memory; rlhf plan says what fits",
        )


def check_dtype(dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    """Whether the hardware multiplies what the weights are kept in."""
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device.type):
        yield Finding(
            "dtype_slow",
            WARNING,
            f"dtype is bfloat16, for which this {device.type} has no instructions: products take many times as long",
            "leave --dtype out, or use --dtype float32 where twice the memory is there",
        )


def adapter_weights(settings: ModelSettings, lora_r: int, last_layers: int = 0) -> int:
    """Weights of a LoRA adapter on the linear layers of all or the last decoder layers; 0 where sizes are missing."""
    try:
        return ModelShape.from_config(settings.config).adapter_weights(lora_r, last_layers)
    except ValueError:
        return 0


def check_disk(needed: float, output_dir: Path) -> Iterator[Finding]:
    """Whether what a run writes fits the disk of its folder."""
    free = shutil.disk_usage(_existing(output_dir)).free
    if needed > free:
        yield Finding(
            "disk_low",
            FATAL,
            f"checkpoints and the result take about {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free where "
            f"{output_dir} would be",
            "free space, choose another --output_dir, or lower --save_total_limit",
        )


def checkpoint_bytes(num_trained: int, kept: int, num_standing: int = 0) -> float:
    """Bytes of the checkpoints that a run keeps, of the one it writes meanwhile, and of what it ends with.

    Args:
        num_trained: weights that learn.
        kept: checkpoints.
        num_standing: weights that are written without having moments, as those of a reference.
    """
    return 4 * (num_trained * (STATES * (kept + 1) + 1) + num_standing * (kept + 2))


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
