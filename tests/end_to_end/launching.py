"""Commands in processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.end_to_end.nursery import Nursery

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}
OURS = ("rlhf.", "reward.", "benchmarks.")
NURSERY = Nursery(ROOT, ENVIRONMENT)


def launched(
    command: Sequence[str], *, check: bool = True, cwd: Path = ROOT, env: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says; a failure shows its end. Our own modules start in the nursery."""
    if list(command[:2]) == [sys.executable, "-m"] and command[2].startswith(OURS) and NURSERY.takes(env):
        done = NURSERY.run(command[1:], cwd=cwd, environment=env, timeout=280)
    else:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done


def logged(folder: Path) -> list[dict[str, object]]:
    """The rows of `metrics.jsonl` that training steps logged, without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in rows
        if "grad_norm" in row
    ]
