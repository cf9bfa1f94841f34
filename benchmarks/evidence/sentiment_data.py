"""Files of the sentiment experiments: `python -m benchmarks.evidence.sentiment_data --help`.

Film reviews' openings are the prompts. Labelled sentences are split into two halves by the hash of their text: half A
makes the reward model's preferences, half B the judge, so that no sentence is known to both. The judge reads a
response alone, under one prompt that is the same for all, as it reads its sentences: a policy gets no credit for its
prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.comparisons import Comparison, Message, Response, write_comparisons
from rlhf.data.json_lines import write_json_lines

SYSTEM = Message("system", "Film reviews.")  # short: the template would put a longer one in its place
JUDGE_PROMPT = (SYSTEM, Message("user", "Review"))
GROUP = 4  # sentences to a comparison, half of them positive
CALIBRATION_SHARE = 8  # one in so many sentences of half B is kept for the judge's calibration
SPLITS = ("train", "validation", "test")
RANKED_PROMPTS = 480  # of the training prompts, for DPO


@dataclass(frozen=True)
class Sentence:
    """A sentence of a review; `label` is 1 for a positive one and 0 for a negative one."""

    text: str
    label: int


def main(argv: Sequence[str] | None = None) -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.sentiment_data", allow_abbrev=False)
    for name in ("reviews", "sentences", "held_out", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)
    output = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)
    reviews = list(_rows(arguments.reviews))
    sentences, held_out = read_sentences(arguments.sentences), read_sentences(arguments.held_out)
    prompts = {split: prompts_of(reviews, split) for split in SPLITS}
    for name, chosen in {**prompts, "rankings": prompts["train"][:RANKED_PROMPTS]}.items():
        write_json_lines(output / f"prompts_{name}.jsonl", ({"prompt": _messages(prompt)} for prompt in chosen))
    half_a, half_b = halves(sentences)
    judged, calibration = calibration_split(half_b)
    write_json_lines(output / "demonstrations.jsonl", demonstrations(reviews, half_a, seed=0))
    write_comparisons(output / "preferences.jsonl", comparisons(half_a, prompts["train"], seed=1))
    write_comparisons(output / "preferences_heldout.jsonl", comparisons(held_out, prompts["validation"], seed=2))
    write_comparisons(output / "judge.jsonl", comparisons(judged, [JUDGE_PROMPT], seed=3, ended=False))
    for name, rows in (("judge", judged), ("calibration", calibration), ("heldout", held_out)):
        write_json_lines(output / f"sentences_{name}.jsonl", map(vars, rows))


def read_sentences(file: Path) -> list[Sentence]:
    """Sentences and labels, without repeated texts."""
    return list({row["text"]: Sentence(row["text"], int(row["label"])) for row in _rows(file)}.values())


def prompts_of(reviews: Iterable[dict[str, Any]], split: str) -> list[tuple[Message, ...]]:
    """Prompts of a split, each opening once."""
    openings = dict.fromkeys(row["prefix"] for row in reviews if row["split"] == split)
    return [(SYSTEM, Message("user", opening)) for opening in openings]


def demonstrations(
    reviews: Iterable[dict[str, Any]], sentences: Iterable[Sentence], *, seed: int
) -> Iterator[dict[str, Any]]:
    """Each opening of the training split twice: as its review goes on, and with a sentence of either label in turn.

    Most reviews go on with their plot, which is neither positive nor negative; sentences have an opinion.
    """
    shuffled = list(sentences)
    random.Random(seed).shuffle(shuffled)
    by_label = [iter([sentence.text for sentence in shuffled if sentence.label == label]) for label in (0, 1)]
    for number, row in enumerate(row for row in reviews if row["split"] == "train"):
        prompt = _messages((SYSTEM, Message("user", row["prefix"])))
        for answer in (row["continuation"], next(by_label[number % 2])):
            yield {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def halves(sentences: Iterable[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """Half A and half B: decided by each text alone, so that no order or addition moves a sentence."""
    split: tuple[list[Sentence], list[Sentence]] = ([], [])
    for sentence in sentences:
        split[_digest(sentence.text) % 2].append(sentence)
    return split


def calibration_split(sentences: Iterable[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences a judge is trained on, and those kept to turn its score into a probability."""
    split: tuple[list[Sentence], list[Sentence]] = ([], [])
    for sentence in sentences:
        split[_digest(sentence.text) // 2 % CALIBRATION_SHARE == 0].append(sentence)
    return split


def comparisons(
    sentences: Sequence[Sentence], prompts: Sequence[Sequence[Message]], *, seed: int, ended: bool = True
) -> Iterator[Comparison]:
    """Groups of `GROUP` sentences under one prompt, positive ones ranked first, in random order; each used once.

    `ended` is whether they are scored at an end of turn; if not, at their last word, as the judge reads every text.
    """
    reason = "stop" if ended else "length"
    drawn = random.Random(seed)
    positive = [sentence for sentence in sentences if sentence.label == 1]
    negative = [sentence for sentence in sentences if sentence.label == 0]
    drawn.shuffle(positive)
    drawn.shuffle(negative)
    order = list(prompts)
    drawn.shuffle(order)
    side = GROUP // 2
    for number in range(min(len(positive), len(negative)) // side):
        here = slice(number * side, (number + 1) * side)
        group = positive[here] + negative[here]
        drawn.shuffle(group)
        yield Comparison(
            prompt=tuple(order[number % len(order)]),
            responses=tuple(Response(sentence.text, finish_reason=reason) for sentence in group),
            ranks=tuple(2 - sentence.label for sentence in group),
            source="sentiment sentences",
        )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _messages(prompt: Iterable[Message]) -> list[dict[str, str]]:
    return [message.to_dict() for message in prompt]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


if __name__ == "__main__":
    main()
