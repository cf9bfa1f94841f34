"""Rows of each form, from an item and its verdicts.

Every row of an item carries the same `prompt_id`, and all pairs of one ranking the same `comparison_id`, so that they
can be kept together. Columns are the same in all rows of an export.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from annotation.exporting.judged import JudgedItem
from annotation.exporting.options import Options
from annotation.exporting.verdicts import Verdict
from rlhf.data.comparisons import Comparison, DataError, Message, Response
from rlhf.data.folds import fold_of
from rlhf.data.wording import wording

Row = dict[str, Any]
SHARES = 1_000_000  # parts of which a share of the prompts is made up
# A spreadsheet takes a cell that begins with one of these for a formula, or drops it and looks at the next one.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
QUOTE = "'"


@dataclass(frozen=True)
class Edit:
    """A better text that annotators wrote for a response; who wrote the same one stands together."""

    position: int
    text: str
    annotators: tuple[str, ...]


def in_validation(comparison: Comparison, share: float, seed: int) -> bool:
    """Whether a prompt is held out: by a hash of the first message of a user, whatever its case and punctuation.

    So two conversations with the same beginning, and one prompt in two campaigns, are always on the same side.
    """
    question = next(message.content for message in comparison.prompt if message.role == "user")
    return fold_of(f"{seed}\n{wording(question)}", SHARES) < share * SHARES


def rows_of(
    judged: JudgedItem, verdicts: Sequence[Verdict], options: Options, left_out: Counter[str], *, with_margin: bool
) -> Iterator[Row]:
    """The rows of one item in the form that is asked for; none where it has no place in that form.

    Args:
        judged: the item.
        verdicts: what holds for it.
        options: names the form.
        left_out: counts what has no place, by the reason.
        with_margin: give every pair a margin, 0 where nobody said how much better: TRL reads a column without holes.

    Raises:
        DataError: plain texts are asked for, and the prompt has several messages.
    """
    if options.form == "comparisons":
        yield from _comparison_rows(judged, verdicts, options)
    elif options.form == "trl":
        yield from _preference_rows(judged, verdicts, options, left_out, with_margin)
    elif options.form == "kto":
        yield from _kto_rows(judged, verdicts, options, left_out)
    else:
        yield from _sft_rows(judged, verdicts, options, left_out)


def edits_of(judged: JudgedItem) -> list[Edit]:
    """The edits in the judgments that count, without those that leave the text as it was or say nothing."""
    writers: dict[tuple[int, str], list[str]] = {}
    for said in judged.counting:
        for position, text in said.edits.items():
            if text.strip() and text != judged.comparison.responses[position].text:
                writers.setdefault((position, text), []).append(said.annotator)
    return [Edit(position, text, tuple(names)) for (position, text), names in writers.items()]


def judged_comparison(judged: JudgedItem, verdict: Verdict) -> Comparison:
    """A verdict as the trainers read it."""
    return replace(judged.comparison, ranks=verdict.ranks, strength=verdict.strength, annotators=verdict.annotators)


def edited_comparison(judged: JudgedItem, edit: Edit) -> Comparison:
    """An edit as a pair: the new text before the one that it replaces."""
    original = judged.comparison.responses[edit.position]
    pair = (Response(edit.text), original)
    return Comparison(judged.comparison.prompt, pair, (1, 2), annotators=edit.annotators, source="edit")


def _comparison_rows(judged: JudgedItem, verdicts: Sequence[Verdict], options: Options) -> Iterator[Row]:
    row: Row = {}
    for verdict in verdicts:
        if not row or ("strength" in row) != (verdict.strength is not None):
            row = judged_comparison(judged, verdict).to_dict()
        else:  # the same texts, of which nothing is checked and hashed again
            said = {"ranks": list(verdict.ranks), "annotators": list(verdict.annotators)}
            row = row | said | ({} if verdict.strength is None else {"strength": verdict.strength})
        yield row
    for edit in edits_of(judged) if options.edit_pairs else ():
        yield edited_comparison(judged, edit).to_dict()


def _preference_rows(
    judged: JudgedItem, verdicts: Sequence[Verdict], options: Options, left_out: Counter[str], with_margin: bool
) -> Iterator[Row]:
    content = judged.comparison
    for verdict in verdicts:
        if verdict.is_tie:
            left_out["ties, which prefer nothing"] += 1
        for chosen, rejected in verdict.pairs():
            row = _pair(content, content.responses[chosen], content.responses[rejected], options)
            if with_margin:
                row["margin"] = float(verdict.strength or 0)
            row["vote_share"] = verdict.vote_share(chosen, rejected)
            row["num_votes"] = len(verdict.votes)
            if options.aggregation == "dawid_skene":
                row["probability"] = verdict.probability
            yield row | {"annotator": _only(verdict.annotators), "source": content.source}
    for edit in edits_of(judged) if options.edit_pairs else ():
        pair = edited_comparison(judged, edit)
        row = _pair(pair, pair.responses[0], pair.responses[1], options)
        if with_margin:
            row["margin"] = 0.0
        row |= {"vote_share": 1.0, "num_votes": len(edit.annotators)}
        if options.aggregation == "dawid_skene":
            row["probability"] = None
        yield row | {"annotator": _only(edit.annotators), "source": "edit"}


def _pair(content: Comparison, chosen: Response, rejected: Response, options: Options) -> Row:
    return {
        "prompt": _prompt(content, options),
        "chosen": _answer(chosen.text, options),
        "rejected": _answer(rejected.text, options),
        "prompt_id": content.prompt_id,
        "comparison_id": content.id,
        "chosen_model": chosen.policy,
        "rejected_model": rejected.policy,
    }


def _kto_rows(
    judged: JudgedItem, verdicts: Sequence[Verdict], options: Options, left_out: Counter[str]
) -> Iterator[Row]:
    content = judged.comparison
    for verdict in verdicts:
        if verdict.is_tie and not verdict.both_bad:
            left_out["ties of which not both are bad"] += 1
            continue
        best, worst = min(verdict.ranks), max(verdict.ranks)
        for response, rank in zip(content.responses, verdict.ranks, strict=True):
            if not verdict.both_bad and best < rank < worst:
                left_out["responses ranked between the best and the worst"] += 1
                continue
            yield {
                "prompt": _prompt(content, options),
                "completion": _answer(response.text, options),
                "label": rank == best and not verdict.both_bad,
                "prompt_id": content.prompt_id,
                "comparison_id": content.id,
                "model": response.policy,
            }


def _sft_rows(
    judged: JudgedItem, verdicts: Sequence[Verdict], options: Options, left_out: Counter[str]
) -> Iterator[Row]:
    content = judged.comparison
    edits = edits_of(judged)
    texts = {edit.text: "edit" for edit in edits}
    edited = {edit.position for edit in edits}
    for verdict in verdicts if options.best else ():
        if verdict.is_tie or verdict.both_bad:
            left_out["verdicts without a best response that is good"] += 1
            continue
        for position, response in enumerate(content.responses):
            if verdict.ranks[position] != min(verdict.ranks):
                continue
            if position in edited:
                left_out["best responses that an edit replaces"] += 1
            elif response.finish_reason == "length":
                left_out["best responses that were cut off"] += 1
            else:
                texts.setdefault(response.text, "best")
    for text, source in texts.items():
        yield {
            "prompt": _prompt(content, options),
            "completion": _answer(text, options),
            "prompt_id": content.prompt_id,
            "comparison_id": content.id,
            "source": source,
        }


def sheet_rows(judged: JudgedItem, most_responses: int) -> Iterator[Row]:
    """A row of cells for each judgment of an item; the columns are those of `sheet_columns`."""
    content = judged.comparison
    for said in judged.judgments:
        row: Row = {
            "number": said.number,
            "judgment_id": said.id,
            "campaign": judged.campaign,
            "item": judged.id,
            "prompt_id": content.prompt_id,
            "comparison_id": content.id,
            "annotator": said.annotator,
            "role": said.role,
            "prompt": _conversation(content.prompt),
            "ranks": _numbers(said.ranks),
            "strength": None if said.strength is None else f"{said.strength:g}",
            "both_bad": said.both_bad,
            "aspects": _json(said.aspects),
            "rationale": said.rationale,
            "edits": _json({str(position + 1): text for position, text in said.edits.items()}),
            "shown_order": _numbers([position + 1 for position in said.shown_order]),
            "guideline_version": said.guideline_version,
            "active_ms": said.active_ms,
            "app_version": said.app_version,
            "source": content.source,
        }
        for place in range(most_responses):
            response = content.responses[place] if place < len(content.responses) else None
            row[f"response_{place + 1}"] = None if response is None else response.text
            row[f"policy_{place + 1}"] = None if response is None else response.policy
        yield {name: cell(value) for name, value in row.items()}


def sheet_columns(most_responses: int) -> list[str]:
    """Names of the table's columns, with as many responses as the item with the most has."""
    before = ("number", "judgment_id", "campaign", "item", "prompt_id", "comparison_id", "annotator", "role", "prompt")
    said = ("ranks", "strength", "both_bad", "aspects", "rationale", "edits", "shown_order", "guideline_version")
    names = [*before, *said, "active_ms", "app_version", "source"]
    return names + [f"{kind}_{place + 1}" for place in range(most_responses) for kind in ("response", "policy")]


def cell(value: Any) -> str:
    """A value as the text of a cell that no spreadsheet takes for a formula.

    A text that would be one gets an apostrophe before it, and so does one that begins with an apostrophe: to read a
    cell back, take one apostrophe off its beginning.
    """
    if value is None:
        return ""
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return QUOTE + text if text.startswith((*FORMULA_STARTS, QUOTE)) else text


def _prompt(content: Comparison, options: Options) -> Any:
    if not options.plain:
        return [message.to_dict() for message in content.prompt]
    if len(content.prompt) > 1:
        raise DataError(
            f"plain is asked for, and a prompt has {len(content.prompt)} messages ({content.prompt[-1].content[:60]!r} "
            "is its last one), which one text cannot hold; leave plain out"
        )
    return content.prompt[0].content


def _answer(text: str, options: Options) -> Any:
    return text if options.plain else [Message("assistant", text).to_dict()]


def _only(annotators: Sequence[str]) -> str | None:
    return annotators[0] if len(annotators) == 1 else None


def _conversation(prompt: Sequence[Message]) -> str:
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in prompt)


def _numbers(values: Sequence[int]) -> str:
    return ";".join(str(value) for value in values)


def _json(value: Mapping[str, Any]) -> str | None:
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else None
