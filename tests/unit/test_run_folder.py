"""A run's folder: what is refused, what is recorded, and what survives a crash."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers.trainer_utils import SchedulerType

from rlhf.training.parser import parse
from rlhf.training.run_folder import RunFolder, hash_file, hash_model


@dataclass
class Toy:
    max_steps: int = 3
    learning_rate: float = 1e-5
    hub_token: str | None = None


@pytest.fixture
def start(tmp_path: Path):
    """Open the run folder `tmp_path/run` on one data file and one parent model."""
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"abc")
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "config.json").write_text("{}")
    (parent / "model.safetensors").write_bytes(b"weights")

    def open_run(resume: bool = False, **changes) -> RunFolder:
        arguments = {
            "stage": "dpo",
            "config": {"max_steps": 3},
            "parents": {"policy": str(parent)},
            "data_files": [str(data)],
        }
        return RunFolder.open(tmp_path / "run", resume=resume, **(arguments | changes))

    return open_run


def rows_of(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def manifest_of(run: RunFolder) -> dict:
    return json.loads((run.path / "manifest.json").read_text())


def test_manifest_records_what_the_run_is_made_from(start, tmp_path: Path) -> None:
    manifest = manifest_of(start())
    assert manifest["schema_version"] == 1
    assert (manifest["stage"], manifest["status"]) == ("dpo", "running")
    # FIPS 180-2's example: the SHA-256 of "abc".
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["data"] == {str(tmp_path / "data.jsonl"): abc}
    assert manifest["parents"]["policy"]["path"] == str(tmp_path / "parent")
    assert len(manifest["parents"]["policy"]["sha256"]) == 64
    assert manifest["packages"]["transformers"]
    assert manifest["code"]["version"]
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_second_run_in_the_same_folder_is_refused(start) -> None:
    start()
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint latest"):
        start()


def test_a_folder_with_other_files_is_refused_and_left_alone(start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        start()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_output_dir_that_is_a_file_is_refused(start, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        start()


def test_an_empty_folder_is_taken(start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert start().path == tmp_path / "run"


def test_nothing_is_written_when_data_is_missing(start, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        start(data_files=[str(tmp_path / "nowhere.jsonl")])
    assert not (tmp_path / "run").exists()


def test_resuming_needs_a_run(start) -> None:
    with pytest.raises(FileNotFoundError, match="leave out --resume_from_checkpoint"):
        start(resume=True)


def test_resuming_keeps_the_start_and_the_log(start) -> None:
    run = start()
    run.log({"step": 1})
    created = manifest_of(run)["created"]
    resumed = start(resume=True, config={"max_steps": 9})
    assert manifest_of(resumed)["created"] == created
    assert yaml.safe_load((resumed.path / "config.yaml").read_text()) == {"max_steps": 9}
    assert rows_of(resumed) == [{"step": 1}]


@pytest.mark.parametrize("name", ["lora_r", "lora_alpha", "lora_target_modules", "value_model"])
def test_a_resume_with_other_adapters_is_refused_by_name(start, name: str) -> None:
    run = start(config={name: 8})
    with pytest.raises(ValueError, match=f"has {name} 8, not 16"):
        start(resume=True, config={name: 16})
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {name: 8}


def test_resuming_on_other_data_is_refused(start, tmp_path: Path) -> None:
    start()
    (tmp_path / "data.jsonl").write_bytes(b"abd")
    with pytest.raises(ValueError, match="has changed"):
        start(resume=True)


def test_resuming_another_stage_is_refused(start) -> None:
    start()
    with pytest.raises(ValueError, match="stage 'dpo', not 'ppo'"):
        start(resume=True, stage="ppo")


def test_config_is_written_without_secrets(start) -> None:
    config = {
        "hub_token": "hf_secret",
        "nested": {"wandb_api_key": "secret", "pad_token": "<pad>"},
        "lr_scheduler_type": SchedulerType.COSINE,
        "folder": Path("a/b"),
        "betas": (0.9, 0.999),
        "nothing": None,
    }
    text = (start(config=config).path / "config.yaml").read_text()
    assert "secret" not in text
    assert yaml.safe_load(text) == {
        "nested": {"pad_token": "<pad>"},
        "lr_scheduler_type": "cosine",
        "folder": "a/b",
        "betas": [0.9, 0.999],
        "nothing": None,
    }


def test_config_can_be_given_back_to_the_parser(start) -> None:
    toy = Toy(max_steps=7, learning_rate=3e-7)
    run = start(config=vars(toy))
    assert parse(Toy, ["--config", str(run.path / "config.yaml")]) == toy


def test_floats_are_logged_exactly_and_non_finite_ones_as_text(start) -> None:
    run = start()
    value = 0.1 + 0.2
    run.log({"step": 1, "loss": value, "bad": [float("nan"), float("inf"), -float("inf")]})
    run.log({"step": np.int64(2), "loss": np.float32(0.1), "kl": torch.tensor(float("nan"))})
    first, second = rows_of(run)
    assert first["loss"] == value
    assert first["bad"] == ["nan", "inf", "-inf"]
    assert second == {"step": 2, "loss": float(np.float32(0.1)), "kl": "nan"}


def test_rewinding_drops_later_rows_and_a_torn_line(start) -> None:
    run = start()
    for step in (1, 2, 3, 4):
        run.log({"step": step})
    run.log({"note": "no step"})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.rewind(2)
    run.log({"step": 3, "again": True})
    assert rows_of(run) == [{"step": 1}, {"step": 2}, {"note": "no step"}, {"step": 3, "again": True}]


def test_rewinding_drops_later_samples_and_keeps_line_separators_in_text(start) -> None:
    run = start()
    rows = [{"step": step, "response": "one\u2028two\x85three"} for step in (1, 2, 3)]
    log = run.path / "samples.jsonl"
    log.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    run.rewind(2)
    assert [json.loads(line) for line in log.read_text(encoding="utf-8").split("\n")[:-1]] == rows[:2]


def test_rewinding_without_a_log_does_nothing(start) -> None:
    run = start()
    run.rewind(0)
    assert not (run.path / "metrics.jsonl").exists()


def test_finishing_writes_metrics_and_status(start) -> None:
    run = start()
    run.finish({"accuracy": 0.75, "kl": float("nan")})
    assert json.loads((run.path / "metrics.json").read_text()) == {"accuracy": 0.75, "kl": "nan"}
    assert manifest_of(run)["status"] == "finished"
    assert manifest_of(run)["stage"] == "dpo"


def test_a_stopped_run_is_not_marked_as_finished(start) -> None:
    run = start()
    run.finish({"stopped_by": ["kl_target"]})
    assert manifest_of(run)["status"] == "stopped"


def test_a_crash_while_writing_leaves_the_old_manifest(start, monkeypatch) -> None:
    run = start()
    before = manifest_of(run)

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="disk full"):
        run.finish({})
    assert manifest_of(run) == before


def test_a_file_is_hashed_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_models_hash_follows_its_weights_and_names_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").write_bytes(b"1")
    before = hash_model(tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert hash_model(tmp_path) == before
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert hash_model(tmp_path) != before
    (tmp_path / "b.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"2")
    assert hash_model(tmp_path) != before


def test_a_folder_without_a_model_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        hash_model(tmp_path)


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, rlhf.training.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_resume_on_another_parent_is_refused(start, tmp_path: Path) -> None:
    start()
    (tmp_path / "parent" / "config.json").write_text('{"retrained": true}')
    with pytest.raises(ValueError, match=r"the policy of the run in .* was another one"):
        start(resume=True)
