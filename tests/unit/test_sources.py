"""Names of models: what each kind resolves to, and how the others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rlhf.engine import embedded
from rlhf.engine.sources import ModelSource, resolve_model


def backbone(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def adapter(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


@pytest.fixture(autouse=True)
def hub(monkeypatch) -> dict[str, Path]:
    """A hub with the given models, and an embedded model that takes no time."""
    models: dict[str, Path] = {}

    def snapshot_download(name: str, **_: object) -> str:
        if name not in models:
            raise LocalEntryNotFoundError("no network\nand more")
        return str(models[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(embedded, "materialise", lambda: Path("/cache/smollm2"))
    return models


def test_the_embedded_name() -> None:
    assert resolve_model("smollm2-135m") == ModelSource(Path("/cache/smollm2"), None, "smollm2-135m")


def test_a_local_backbone(tmp_path: Path, monkeypatch) -> None:
    folder = backbone(tmp_path / "runs" / "sft")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("runs/sft") == ModelSource(folder, None, "runs/sft")


def test_an_adapter_brings_its_backbone(tmp_path: Path) -> None:
    base = backbone(tmp_path / "sft")
    run = adapter(tmp_path / "dpo", str(base))
    assert resolve_model(run) == ModelSource(base, run, str(run))


def test_an_adapters_relative_backbone_is_found_from_its_folder(tmp_path: Path) -> None:
    backbone(tmp_path / "sft")
    run = adapter(tmp_path / "dpo", "../sft")
    assert resolve_model(run).backbone.resolve() == tmp_path / "sft"


def test_an_adapter_on_the_embedded_model(tmp_path: Path) -> None:
    run = adapter(tmp_path / "dpo", "smollm2-135m")
    assert resolve_model(run).backbone == Path("/cache/smollm2")


def test_a_hub_model(hub, tmp_path: Path) -> None:
    hub["org/model"] = backbone(tmp_path / "snapshot")
    (hub["org/model"] / "model.safetensors").write_bytes(b"")
    assert resolve_model("org/model").backbone == tmp_path / "snapshot"


def test_a_hub_model_of_pickles_is_refused(hub, tmp_path: Path) -> None:
    hub["org/model"] = backbone(tmp_path / "snapshot")
    with pytest.raises(ValueError, match="no safetensors"):
        resolve_model("org/model")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", "empty"),
        ("gpt2", "not known"),
        ("./nowhere", "not known"),
        ("a/b/c", "not known"),
        ("../x/y", "not known"),
        ("runs/sft", r"no local folder .* \(no network\)"),
    ],
)
def test_other_names_are_refused_with_what_is_accepted(tmp_path: Path, monkeypatch, name, found) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=found) as refused:
        resolve_model(name)
    assert "smollm2-135m" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither config\.json nor adapter_config\.json"):
        resolve_model(tmp_path)


@pytest.mark.parametrize("base", [None, "", 3])
def test_an_adapter_without_a_backbone_is_refused(tmp_path: Path, base: object) -> None:
    with pytest.raises(ValueError, match="base_model_name_or_path"):
        resolve_model(adapter(tmp_path / "dpo", base))


@pytest.mark.parametrize("base", [".", "../other"])
def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path, base: str) -> None:
    adapter(tmp_path / "other", "../dpo")
    with pytest.raises(ValueError, match="an adapter itself"):
        resolve_model(adapter(tmp_path / "dpo", base))


def test_an_adapter_says_how_its_backbone_was_quantised(tmp_path: Path) -> None:
    run = adapter(tmp_path / "dpo", str(backbone(tmp_path / "sft")))
    assert resolve_model(run).quantization == "none"
    (run / "config.yaml").write_text("quantization: nf4\n")
    assert resolve_model(run).quantization == "nf4"
