from __future__ import annotations

import json

import pytest
import torch

from rlhf.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.open(tmp_path / "run", stage="ppo", config={}, parents={}, data_files=[], resume=False)


def read(run: RunFolder, name: str) -> list[dict]:
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


def test_alarms_and_histograms_are_kept_and_rewound_like_other_rows(run) -> None:
    for step in (1, 2, 3):
        run.log_alarm({"step": step, "monitor": "kl", "severity": "warn", "message": "moved"})
        run.log_histograms(step, {"score": torch.tensor([1.0, float(step)]), "length": [3.0]})
    run.rewind(2)
    assert [row["step"] for row in read(run, "alarms.jsonl")] == [1, 2]
    assert read(run, "histograms.jsonl")[1] == {"step": 2, "score": [1.0, 2.0], "length": [3.0]}
