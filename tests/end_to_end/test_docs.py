"""What the README and the docs say is what runs: their commands, word for word, on the embedded model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.data.comparisons import read_comparisons

ROOT = Path(__file__).resolve().parents[2]
# Appended to a command, so that it ends soon; nothing of the command itself is changed.
SHORTENED = {
    "sft": "--max_steps 1 --gradient_accumulation_steps 1",
    "sample": "--max_new_tokens 24 --samples_per_prompt 2",
    "reward": "--max_steps 1 --gradient_accumulation_steps 1 --normalise_examples 8",
    "ppo": "--max_steps 1 --gradient_accumulation_steps 1 --num_ppo_epochs 1 --max_new_tokens 8",
    "dpo": "--max_steps 1 --gradient_accumulation_steps 1",
    "evaluate": "--max_new_tokens 8",
    "rank": "",
}


def commands(document: str) -> list[str]:
    """The `rlhf` commands of a document's shell blocks, in order, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("rlhf ")]


@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_the_readme_takes_a_newcomer_from_demonstrations_to_a_judged_policy(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    ran = []
    for line in commands("README.md"):
        _, name, *rest = shlex.split(line)
        command = [sys.executable, "-m", "rlhf.cli", name, *rest, *shlex.split(SHORTENED[name])]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        ran.append(name)
    assert ran == ["sft", "sample", "rank", "reward", "ppo", "dpo", "evaluate"]
    metrics = json.loads((tmp_path / "runs" / "ppo_vs_sft" / "metrics.json").read_text())
    assert metrics["win_rate"]["n"] == 120
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert snippet is not None
    subprocess.run([sys.executable, "-c", snippet[1]], cwd=tmp_path, env=environment, check=True, timeout=120)


def test_the_comparison_in_the_docs_is_read(tmp_path: Path) -> None:
    example = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    assert example is not None
    file = tmp_path / "comparisons.jsonl"
    file.write_text(" ".join(example[1].splitlines()) + "\n", encoding="utf-8")
    (comparison,), _ = read_comparisons([str(file)])
    assert comparison.pairs() == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("document", ["README.md", "docs/data.md", "docs/results.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
