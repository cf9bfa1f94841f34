"""docs/doctor.md names exactly the findings that exist, each with the severities that it can have."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf.training.checks.findings import FINDINGS

ROOT = Path(__file__).parents[2]


def test_the_table_of_findings_is_complete_and_says_how_bad_they_are() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \|", text, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(FINDINGS)
    assert {name: tuple(severities.split(", ")) for name, severities in rows} == FINDINGS


def test_every_finding_is_made_somewhere() -> None:
    package = ROOT / "rlhf" / "training" / "checks"
    code = "".join(path.read_text() for path in package.glob("*.py") if path.name != "findings.py")
    code += (ROOT / "rlhf" / "data" / "chat.py").read_text()
    made = set(re.findall(r'"(\w+)"', code))
    by_form = {"duplicated_rows", "duplicated_prompts", "prompts_cut", "responses_cut"}
    assert set(FINDINGS) - by_form <= made
