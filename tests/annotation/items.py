"""Comparisons for the store."""

from __future__ import annotations

from rlhf.data.comparisons import Comparison, Message, Response


def comparison(number: int, num_responses: int = 2, **settings: object) -> Comparison:
    """Prompt "question N" with responses "N first", "N second", ..."""
    words = ("first", "second", "third", "fourth", "fifth")[:num_responses]
    responses = tuple(Response(f"{number} {word}", policy="runs/sft", seed=7) for word in words)
    return Comparison(prompt=(Message("user", f"question {number}"),), responses=responses, **settings)
