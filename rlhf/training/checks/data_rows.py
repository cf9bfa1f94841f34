"""The rows of a data file, as the checks before a run see them: special tokens, duplicates, pairs that say nothing."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.comparisons import (
    Comparison,
    Demonstration,
    Message,
    ReadReport,
    Response,
    read_comparisons,
    read_demonstrations,
    read_prompts,
)
from rlhf.data.json_lines import Paths, read_json_lines
from rlhf.training.checks.findings import WARNING, Finding, by_share, shown

MIN_PAIRS = 20  # below, a share of pairs says little
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class DataRow:
    """One row: a prompt, its responses, (chosen, rejected) pairs of them, and who ordered them where that is known."""

    prompt: Prompt
    responses: tuple[Response, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    annotators: tuple[str, ...] = ()

    def texts(self) -> tuple[str, ...]:
        return tuple(response.text for response in self.responses)


@dataclass(frozen=True)
class DataRows:
    """All rows of one argument.

    Attributes:
        field: the argument that named the files.
        rows: in the order of the files.
    """

    field: str
    rows: list[DataRow]

    @classmethod
    def of(cls, field: str, records: Sequence[Comparison | Demonstration]) -> DataRows:
        """The rows of comparisons, prompts or demonstrations."""
        return cls(field, [_row(record) for record in records])

    @property
    def with_system(self) -> bool:
        return any(message.role == "system" for row in self.rows for message in row.prompt)

    @property
    def responses(self) -> list[Response]:
        return [response for row in self.rows for response in row.responses]

    def place(self, index: int) -> str:
        """Where a row is, for a reader."""
        return f"row {index + 1} of {self.field}"


def _row(record: Comparison | Demonstration) -> DataRow:
    if isinstance(record, Demonstration):
        return DataRow(record.prompt, (Response(record.response),))
    return DataRow(record.prompt, record.responses, tuple(record.pairs()), record.annotators)


def read_rows(paths: Paths, *, skip_bad_lines: bool = False) -> tuple[list[Comparison | Demonstration], ReadReport]:
    """Demonstrations, comparisons or prompts, whichever the first row is.

    Raises:
        DataError: as the reader of that kind.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    ((keys, *_), _) = read_json_lines(files[:1], set, skip_bad_lines=True)
    read: Callable[..., tuple[Sequence[Comparison | Demonstration], ReadReport]] = read_prompts
    if keys & {"messages", "completion"}:
        read = read_demonstrations
    elif keys & {"chosen", "rejected", "responses"}:
        read = read_comparisons
    rows, report = read(paths, skip_bad_lines=skip_bad_lines)
    return list(rows), report


def check_rows(data: DataRows, tokenizer: Any = None) -> Iterator[Finding]:
    """Special tokens in texts (with a tokenizer), duplicates, and pairs that teach nothing or two things at once."""
    if tokenizer is not None:
        yield from check_special_tokens(data, tokenizer)
    yield from _check_duplicates(data)
    yield from check_pairs(data)


def check_special_tokens(data: DataRows, tokenizer: Any) -> Iterator[Finding]:
    """Text of special tokens inside messages: it stays text here, and in a response it is learned as text."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and str(token)]
    if not special:
        return
    pattern = re.compile("|".join(map(re.escape, special)))
    prompts = [
        (index, found[0])
        for index, row in enumerate(data.rows)
        if (found := pattern.search("\n".join(message.content for message in row.prompt)))
    ]
    if prompts:
        index, token = prompts[0]
        yield Finding(
            "special_tokens_in_prompts",
            WARNING,
            f"{len(prompts)} of {len(data.rows)} prompts of {data.field} hold the text of a special token; it is "
            "tokenised as text and never becomes that token",
            "remove it if a conversation was pasted with its markup; give turns as messages instead",
            example=f"{token!r} in {data.place(index)}",
        )
    responses = [
        (index, found[0])
        for index, row in enumerate(data.rows)
        for text in row.texts()
        if (found := pattern.search(text))
    ]
    if responses:
        index, token = responses[0]
        share = len(responses) / len(data.responses)
        yield Finding(
            "special_tokens_in_responses",
            by_share(share, warning=0, fatal=0.01),
            f"{len(responses)} of {len(data.responses)} responses of {data.field} hold the text of a special token: a "
            "policy would learn to spell it out, in place of the token that ends its turn",
            "remove the chat template's markup from the responses; the template writes it",
            example=f"{token!r} in {data.place(index)}",
        )


def _check_duplicates(data: DataRows) -> Iterator[Finding]:
    same_rows = _repeated([(row.prompt, row.texts(), row.pairs, row.annotators) for row in data.rows])
    is_prompts = not data.responses
    if not same_rows:
        return
    share = sum(number - 1 for _, number in same_rows.values()) / len(data.rows)
    first, number = next(iter(same_rows.values()))
    kind = "prompts" if is_prompts else "rows"
    yield Finding(
        f"duplicated_{kind}",
        by_share(share, warning=0.01, fatal=math.inf if is_prompts else 0.5),
        f"{share:.1%} of the {kind} of {data.field} repeat an earlier one word for word: they count double, and "
        "a split of the file would put them on both sides",
        "remove the repeated prompts"
        if is_prompts
        else "remove the repeated rows; several people's judgments of the "
        "same responses are none where `annotators` names them",
        example=f"{data.place(first)} stands there {number} times: {shown(data.rows[first].prompt[-1].content)}",
    )


def _repeated(keys: Sequence[Any]) -> dict[Any, tuple[int, int]]:
    """Each key that stands there more than once: the index of its first place, and how often."""
    counts = Counter(keys)
    first: dict[Any, tuple[int, int]] = {}
    for index, key in enumerate(keys):
        if counts[key] > 1 and key not in first:
            first[key] = (index, counts[key])
    return first


def check_pairs(data: DataRows) -> Iterator[Finding]:
    """Pairs of equal responses, pairs that stand there both ways, and pairs that length alone tells apart."""
    pairs = [
        (index, row.prompt, row.responses[chosen].text, row.responses[rejected].text)
        for index, row in enumerate(data.rows)
        for chosen, rejected in row.pairs
    ]
    if not pairs:
        return
    equal = [index for index, _, chosen, rejected in pairs if chosen.strip() == rejected.strip()]
    if equal:
        yield Finding(
            "identical_responses",
            by_share(len(equal) / len(pairs), warning=0, fatal=0.1),
            f"{len(equal)} of {len(pairs)} pairs of {data.field} have chosen and rejected with one text: nothing can "
            "be learned from them",
            "remove them, or look for what wrote one text into both",
            example=data.place(equal[0]),
        )
    yield from _check_contradictions(data, [pair for pair in pairs if pair[2] != pair[3]])
    yield from _check_lengths_of_pairs(data, [(len(chosen), len(rejected)) for _, _, chosen, rejected in pairs])


def _check_contradictions(data: DataRows, pairs: Sequence[tuple[int, Prompt, str, str]]) -> Iterator[Finding]:
    counts = Counter((prompt, chosen, rejected) for _, prompt, chosen, rejected in pairs)
    against = [counts[prompt, rejected, chosen] for _, prompt, chosen, rejected in pairs]
    if not any(against):
        return
    # each two responses are met in both orders here
    lost = sum(min(number, counts[prompt, worse, better]) for (prompt, better, worse), number in counts.items()) / 2
    yield Finding(
        "contradictory_pairs",
        by_share(lost / len(pairs), warning=0, fatal=0.4),
        f"{lost:.0f} of {len(pairs)} pairs of {data.field} stand against as many or more that order the same responses "
        "the other way round: no model can predict them",
        "keep the majority's order, or train on shares of votes: --soft_labels true",
        example=data.place(next(pair[0] for pair, number in zip(pairs, against, strict=True) if number)),
    )


def _check_lengths_of_pairs(data: DataRows, lengths: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    if len(unequal) < MIN_PAIRS:
        return
    longer = sum(unequal) / len(unequal)
    if max(longer, 1 - longer) > 0.9:
        yield Finding(
            "one_sided_length",
            WARNING,
            f"the chosen response is the {'longer' if longer > 0.5 else 'shorter'} one in "
            f"{max(longer, 1 - longer):.0%} of the pairs of {data.field}: a reward model can count characters",
            "add pairs in which length decides nothing, and evaluate beside the longer-wins baseline",
        )
