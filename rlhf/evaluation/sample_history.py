"""What was said to the same prompt at different steps of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptHistory:
    """A prompt that was answered at two or more steps.

    Attributes:
        prompt: its text.
        rows: two or three sampled rows: of the first step, of one in the middle, of the last.
    """

    prompt: str
    rows: tuple[Row, ...]


def histories(rows: Iterable[Row], *, most_prompts: int) -> list[PromptHistory]:
    """The prompts with answers at several steps, as they come, by the first answer of each step.

    `rows` have `step`, `prompt` (messages) and `response`, as `samples.jsonl` has them.
    """
    by_prompt: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_step = by_prompt.setdefault(json.dumps(row["prompt"], sort_keys=True), {})
        by_step.setdefault(row["step"], row)
    repeated = [list(by_step.values()) for by_step in by_prompt.values() if len(by_step) > 1]
    return [PromptHistory(prompt_text(kept[0]["prompt"]), _spread(kept)) for kept in repeated[:most_prompts]]


def _spread(rows: Sequence[Row]) -> tuple[Row, ...]:
    ordered = sorted(rows, key=lambda row: row["step"])
    middle = [ordered[len(ordered) // 2]] if len(ordered) > 2 else []
    return (ordered[0], *middle, ordered[-1])


def prompt_text(prompt: Any) -> str:
    """The messages of a prompt, or a prompt that is text already, as one text."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
