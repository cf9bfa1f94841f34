"""The planned memory against the measured peak of training on the embedded model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlhf.engine.memory import ModelShape, RunShape, memory_parts
from tests.end_to_end.launching import launched

SMOLLM2 = ModelShape(30, 576, 1536, 9, 3, 64, 49152, True)
CHILD = Path(__file__).with_name("memory_peak.py")


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize(
    ("stage", "prompts", "checkpointing"),
    [
        ("reward", 4, False),
        ("reward", 4, True),
        ("reward", 12, True),
        ("dpo", 8, False),
        ("dpo", 4, True),
        ("ppo", 4, False),
    ],
)
def test_the_plan_is_within_a_fifth_of_the_measured_peak(stage, prompts, checkpointing, tmp_path) -> None:
    settings = {"stage": stage, "prompts": prompts, "samples": 2, "prompt_length": 64, "response_length": 32}
    settings["checkpointing"] = checkpointing
    done = launched([sys.executable, str(CHILD), json.dumps(settings), str(tmp_path / "run")])
    measured = json.loads(done.stdout.splitlines()[-1])["peak"]
    planned = sum(memory_parts(SMOLLM2, RunShape(**settings)).values())
    assert planned == pytest.approx(measured, rel=0.2)
