"""Files of the experiments on a small model: `python -m benchmarks.evidence.small_data --help`.

A sentence of a film review is cut behind its first words: they are the prompt, the rest is what a response should be.
The language model learns from all training sentences and those of the training reviews, without their labels; prompts
to train on are the openings of training sentences, prompts to measure on those of held-out ones.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.sentiment_data import Sentence, read_sentences
from rlhf.data.comparisons import Message
from rlhf.data.json_lines import write_json_lines

OPENING_WORDS = 5
LEAST_WORDS = 4  # of the rest
OTHERS = 7  # openings that gold holds a response against


def main(argv: Sequence[str] | None = None) -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.small_data", allow_abbrev=False)
    for name in ("reviews", "sentences", "held_out", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num_sampled", type=int, required=True, help="training prompts whose responses are ranked")
    arguments = parser.parse_args(argv)
    output = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)
    sentences, held_out = read_sentences(arguments.sentences), read_sentences(arguments.held_out)
    for name, labelled in (("train", sentences), ("heldout", held_out)):
        write_json_lines(output / f"sentences_{name}.jsonl", map(vars, labelled))
    texts = [sentence.text for sentence in sentences] + list(review_sentences(arguments.reviews))
    write_json_lines(output / "demonstrations.jsonl", demonstrations(texts))
    write_json_lines(output / "demonstrations_heldout.jsonl", demonstrations(sentence.text for sentence in held_out))
    train, test = prompts_of(sentences, held_out)
    chosen = {"train": train, "sampled": train[: arguments.num_sampled], "others": test[:OTHERS], "test": test[OTHERS:]}
    for name, openings in chosen.items():
        rows = ({"prompt": [Message("user", opening).to_dict()]} for opening in openings)
        write_json_lines(output / f"prompts_{name}.jsonl", rows)


def review_sentences(file: Path) -> Iterator[str]:
    """Whole sentences of the training reviews: what stands between two full stops."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["split"] == "train":
                text = f"{row['prefix']} {row['continuation']}"
                yield from (f"{part} ." for part in text.split(" . ")[1:-1])


def demonstrations(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Opening and rest of each text that is long enough."""
    for text in texts:
        if cut := opened(text):
            messages = [{"role": "user", "content": cut[0]}], [{"role": "assistant", "content": cut[1]}]
            yield dict(zip(("prompt", "completion"), messages, strict=True))


def prompts_of(sentences: Iterable[Sentence], held_out: Iterable[Sentence]) -> tuple[list[str], list[str]]:
    """Openings to train on and to measure on, each once and none in both, in random order."""
    train, test = (
        dict.fromkeys(cut[0] for sentence in part if (cut := opened(sentence.text))) for part in (sentences, held_out)
    )
    openings = list(train), [opening for opening in test if opening not in train]
    for part in openings:
        random.Random(0).shuffle(part)
    return openings


def opened(text: str) -> tuple[str, str] | None:
    """The first words of a text and the rest; None if there are too few."""
    words = text.split()
    if len(words) < OPENING_WORDS + LEAST_WORDS:
        return None
    return " ".join(words[:OPENING_WORDS]), " ".join(words[OPENING_WORDS:])


if __name__ == "__main__":
    main()
