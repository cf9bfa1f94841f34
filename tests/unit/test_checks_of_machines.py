"""Memory and disk: refused where they are too small, not a byte earlier; and what may be allowed."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlhf.training.checks import machine
from rlhf.training.checks.findings import Finding, Report, check_allowed
from rlhf.training.checks.machine import check_disk, check_dtype, check_memory, checkpoint_bytes, loaded_bytes
from rlhf.training.checks.model_files import ModelSettings


def test_weights_beyond_free_memory_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda device: 1000.0)
    assert list(check_memory(1000.0, torch.device("cpu"))) == []
    (finding,) = check_memory(1001.0, torch.device("cpu"))
    assert (finding.name, finding.severity) == ("memory_low", "fatal")


def test_nothing_is_said_where_free_memory_cannot_be_read(monkeypatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda device: None)
    assert list(check_memory(1e30, torch.device("cpu"))) == []


def test_checkpoints_beyond_the_disk_are_refused(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def usage(folder: Path) -> types.SimpleNamespace:
        asked.append(folder)
        return types.SimpleNamespace(free=1000)

    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    assert list(check_disk(1000, tmp_path / "not" / "yet" / "there")) == []
    (finding,) = check_disk(1001, tmp_path / "not" / "yet" / "there")
    assert (finding.name, finding.severity) == ("disk_low", "fatal")
    assert asked == [tmp_path, tmp_path]


def test_checkpoints_hold_weights_and_two_moments_in_float32() -> None:
    # two kept and one being written, three numbers of four bytes for each weight, and the result
    assert checkpoint_bytes(10, 2) == 10 * 4 * (3 * 3 + 1)
    # what stands is in each of the three and in the result, without moments
    assert checkpoint_bytes(10, 2, 5) == 10 * 4 * (3 * 3 + 1) + 5 * 4 * (3 + 1)


def test_bfloat16_without_instructions_for_it_is_said(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    (finding,) = check_dtype(torch.bfloat16, torch.device("cpu"))
    assert (finding.name, finding.severity) == ("dtype_slow", "warning")
    assert list(check_dtype(torch.float32, torch.device("cpu"))) == []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert list(check_dtype(torch.bfloat16, torch.device("cpu"))) == []


def test_weights_are_counted_in_the_type_they_are_loaded_in(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1000, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    stored = (tmp_path / "model.safetensors").stat().st_size
    settings = ModelSettings({"dtype": "bfloat16"}, {})
    assert loaded_bytes(tmp_path, settings, torch.float32) == 2 * stored
    assert loaded_bytes(tmp_path, settings, torch.bfloat16) == stored


def test_what_is_allowed_is_not_refused() -> None:
    report = Report()
    report.add("disk", [Finding("disk_low", "fatal", "full", "empty it")])
    report.add("data", [Finding("one_sided_length", "warning", "short", "mix")])
    assert [finding.name for finding in report.refused([])] == ["disk_low"]
    assert report.refused(["disk_low"]) == []
    assert report.text(["disk_low"]).splitlines()[0] == "fatal   disk_low (allowed): full"
    assert report.text([]).splitlines()[-1] == "refused: 1 fatal, 1 warning, 0 note; checked: disk, data"


def test_allowing_a_name_that_no_finding_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allow is 'dsk_low'.* did you mean disk_low"):
        check_allowed(["dsk_low"])
