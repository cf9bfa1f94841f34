"""A model's folder: its settings, and what in its files a run cannot or should not use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rlhf.engine.sources import ModelSource
from rlhf.training.checks.findings import FATAL, NOTE, Finding
from rlhf.training.run_folder import MANIFEST, hash_model

# Settings of generation_config.json that change which token is drawn, with the values that change nothing.
DRAWING = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "top_k": None, "top_p": 1.0, "min_p": None}


@dataclass(frozen=True)
class ModelSettings:
    """What `config.json` and `generation_config.json` of a folder say; empty where there is no such file."""

    config: dict[str, Any]
    generation: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> ModelSettings:
        """Read both files.

        Raises:
            ValueError: one of them is no JSON object.
        """
        config = _read(folder / "config.json")
        return cls(config | (config.get("text_config") or {}), _read(folder / "generation_config.json"))

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding."""
        return self.config.get("vocab_size")

    @property
    def longest(self) -> int | None:
        """Most tokens of a sequence that the positions of the model reach."""
        return self.config.get("max_position_embeddings") or self.config.get("n_positions")

    @property
    def stop_ids(self) -> set[int]:
        """The tokens at which `generate` stops by these files."""
        return self._ids("eos_token_id")

    @property
    def bos_ids(self) -> set[int]:
        """The tokens with which a sequence begins by these files; they need not agree."""
        return self._ids("bos_token_id")

    def _ids(self, name: str) -> set[int]:
        named = [settings.get(name) for settings in (self.generation, self.config)]
        return {token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids])}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); restore it") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds a {type(settings).__name__}; restore it: a JSON object is expected")
    return settings


def check_folder(folder: Path, settings: ModelSettings) -> Iterator[Finding]:
    """Weights as pickles only, an architecture that needs its author's code, and settings of generation."""
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if not any(folder.glob("*.safetensors")):
        found = f"weights as pickles only ({pickles[0]})" if pickles else "no weights"
        yield Finding(
            "no_safetensors",
            FATAL,
            f"{folder} has {found}: pickles run code when they are opened, so they are not",
            "convert the model once, where you trust it: model.save_pretrained(folder) writes safetensors",
        )
    if settings.config.get("auto_map"):
        known = settings.config.get("model_type") in CONFIG_MAPPING
        yield Finding(
            "remote_code",
            NOTE if known else FATAL,
            f"config.json of {folder} names code of the model's author, which is never run"
            + ("; transformers has a class of its own for it" if known else ""),
            "nothing to do" if known else "choose a model whose model_type transformers knows",
            example=f"model_type {settings.config.get('model_type')!r}, auto_map {settings.config['auto_map']}",
        )
    unused = {
        name: settings.generation[name]
        for name, neutral in DRAWING.items()
        if settings.generation.get(name) not in (None, neutral)
    }
    if unused:
        yield Finding(
            "generation_settings",
            NOTE,
            f"generation_config.json has {unused}, which sampling here does not use: log-probabilities would not "
            "be those of what was drawn",
            "expect other responses than from `generate` of transformers, which uses them",
        )


def check_base(source: ModelSource, field: str) -> Iterator[Finding]:
    """Whether an adapter still lies beside the weights that it was trained on, by the manifest of its run."""
    if source.adapter is None or not (source.adapter / MANIFEST).is_file():
        return
    parent = _read(source.adapter / MANIFEST).get("parents", {}).get("backbone", {})
    if parent and parent["sha256"] != hash_model(source.backbone):
        yield Finding(
            "adapter_of_another_base",
            FATAL,
            f"{field} {source.adapter} was trained on other weights than {source.backbone} has now "
            f"(SHA-256 {parent['sha256'][:12]}... where its manifest was written)",
            f"restore {parent['path']} as it was, or train the adapter again",
        )
