"""What is tried on a model: the shortest prompts of the data, or questions of our own, and unlike answers."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Message
from rlhf.engine.packing import Group
from rlhf.training.checks.data_rows import DataRow, Prompt

LONGEST_PROMPT = 64  # tokens
QUESTIONS: tuple[Prompt, ...] = (
    (Message("user", "Name a colour."),),
    (Message("user", "Why does bread rise when it is baked, and what happens if the yeast is left out?"),),
    (
        Message("user", "Give me a word that rhymes with light."),
        Message("assistant", "Night."),
        Message("user", "Another one, please."),
    ),
)
ANSWERS = ("Yes.", "That depends on several things, the first of which is how much time there is. 12, 13 or 14 days!")


def probe_prompts(chat: Chat, rows: Sequence[DataRow] = ()) -> list[list[int]]:
    """Token ids of three prompts of unlike lengths: of the data where there are three, else of our own."""
    chosen = QUESTIONS
    if len(rows) >= len(QUESTIONS):
        by_length = sorted((row.prompt for row in rows), key=lambda prompt: sum(len(m.content) for m in prompt))
        chosen = (by_length[0], by_length[len(rows) // 4], by_length[len(rows) // 2])
    counts = chat.truncation
    chat.truncation = type(counts)(prompts_cut=1)  # what is cut here is neither counted nor said
    try:
        return [chat.encode_prompt(prompt)[-LONGEST_PROMPT:] for prompt in chosen]
    finally:
        chat.truncation = counts


def probe_groups(chat: Chat, rows: Sequence[DataRow] = ()) -> list[Group]:
    """The prompts above, each with two unlike responses."""
    prompts = probe_prompts(chat, rows)
    counts = chat.truncation
    chat.truncation = type(counts)(responses_cut=1)
    try:
        return [Group(prompt, [chat.encode_response(answer) for answer in ANSWERS]) for prompt in prompts]
    finally:
        chat.truncation = counts


def probe_conversations() -> list[Prompt]:
    """Whole conversations for a model with a template of its own."""
    return [(*question, Message("assistant", answer)) for question in QUESTIONS for answer in ANSWERS]
