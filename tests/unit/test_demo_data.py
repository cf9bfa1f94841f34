"""The files of configs/demo: enough of each, readable, varied, nothing shared by training and test."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from annotation.simulated import SimulatedAnnotator
from rlhf.data.comparisons import Response, read_demonstrations, read_prompts

DEMO = Path(__file__).parents[2] / "configs" / "demo"
TRAIN, HELDOUT, DEMONSTRATIONS = (
    DEMO / f"{name}.jsonl" for name in ("prompts_train", "prompts_heldout", "demonstrations")
)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts(path: Path) -> list[str]:
    return [row["prompt"] if "prompt" in row else row["messages"][0]["content"] for row in rows(path)]


def shingles(text: str) -> set[tuple[str, ...]]:
    """Runs of five words; a text of fewer words is one shingle."""
    said = re.findall(r"\w+", text.lower())
    return {tuple(said[start : start + 5]) for start in range(max(1, len(said) - 4))}


def test_files_hold_what_the_demo_needs() -> None:
    assert len(rows(TRAIN)) >= 240
    assert len(rows(HELDOUT)) == 120
    assert len(rows(DEMONSTRATIONS)) >= 100


def test_files_are_read_by_the_readers_without_a_bad_line() -> None:
    for path in (TRAIN, HELDOUT):
        comparisons, report = read_prompts([path])
        assert len(comparisons) == len(rows(path))
        assert report.num_bad == 0
    demonstrations, report = read_demonstrations([DEMONSTRATIONS])
    assert len(demonstrations) == len(rows(DEMONSTRATIONS))
    assert report.num_bad == 0


def test_no_prompt_is_like_another_within_or_across_files() -> None:
    every = [(path.name, text) for path in (TRAIN, HELDOUT, DEMONSTRATIONS) for text in prompts(path)]
    sets = [shingles(text) for _, text in every]
    for (one, first), (other, second) in itertools.combinations(zip(every, sets, strict=True), 2):
        assert len(first & second) / len(first | second) < 0.5, (one, other)


@pytest.mark.parametrize("path", [TRAIN, HELDOUT], ids=lambda path: path.stem)
def test_prompts_are_short_and_of_many_kinds_in_even_shares(path: Path) -> None:
    assert all(5 <= len(row["prompt"].split()) <= 25 for row in rows(path))
    kinds = Counter(row["kind"] for row in rows(path))
    assert len(kinds) >= 15
    assert max(kinds.values()) <= 2 * min(kinds.values())


def test_both_prompt_files_hold_the_same_kinds() -> None:
    assert {row["kind"] for row in rows(TRAIN)} == {row["kind"] for row in rows(HELDOUT)}


def test_prompts_are_no_template_filled_in() -> None:
    openings = Counter(" ".join(text.lower().split()[:3]) for text in prompts(TRAIN) + prompts(HELDOUT))
    assert openings.most_common(1)[0][1] <= 0.1 * openings.total()


def test_demonstrations_are_short_complete_answers() -> None:
    for row in rows(DEMONSTRATIONS):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert 12 <= len(assistant["content"].split()) <= 45, assistant["content"]
        assert re.search(r"[.!?][\"']?$", assistant["content"]), assistant["content"]


def test_simulated_annotator_likes_the_demonstrations() -> None:
    annotator = SimulatedAnnotator()
    totals = [
        annotator.score(demonstration.prompt, Response(demonstration.response, finish_reason="stop")).total
        for demonstration in read_demonstrations([DEMONSTRATIONS])[0]
    ]
    assert sum(totals) / len(totals) > 0.9
    assert min(totals) > 0.5
