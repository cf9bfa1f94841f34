"""The type of the weights: chosen by the hardware where it is left open, kept by a resumed run, refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.engine.precision import multiplies_bfloat16
from rlhf.training.arguments import ModelArguments, settled_dtype
from rlhf.training.dpo_arguments import DPOArguments
from rlhf.training.run_folder import CONFIG


@pytest.fixture
def plain_cpu(monkeypatch) -> None:
    """A machine without an accelerator, whose CPU has no instructions for bfloat16."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_taken_where_the_hardware_multiplies_it(plain_cpu, monkeypatch, name: str) -> None:
    assert settled_dtype("auto") == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert settled_dtype("auto") == "bfloat16"


def test_a_gpu_decides_unless_the_run_stays_on_the_cpu(plain_cpu, monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    for supported, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=supported: found)
        assert settled_dtype("auto") == name
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert settled_dtype("auto", use_cpu=True) == "float32"
    assert multiplies_bfloat16("mps")


def test_a_named_type_is_taken_as_it_is(plain_cpu) -> None:
    assert settled_dtype("bfloat16") == "bfloat16"
    with pytest.raises(ValueError, match="dtype is 'int8': choose one of auto, bfloat16, float32, float64"):
        settled_dtype("int8")


def test_a_resumed_run_keeps_its_own(plain_cpu, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("dtype: bfloat16\n", encoding="utf-8")
    assert DPOArguments(output_dir=str(tmp_path)).dtype == "float32"
    resumed = {"output_dir": str(tmp_path), "resume_from_checkpoint": "latest"}
    assert DPOArguments(**resumed).dtype == "bfloat16"
    assert DPOArguments(**resumed, dtype="float32").dtype == "float32"


def test_what_is_left_open_is_settled_by_the_check(plain_cpu) -> None:
    arguments = ModelArguments()
    assert arguments.dtype == "auto"
    arguments.check_model_arguments()
    assert arguments.dtype == "float32"
