"""Gold of the experiments on a small model: a response should be positive and still go on with its own opening.

Gold is P(positive) by a bag of words from all labelled sentences, times the probability that a reader of the response
finds its opening among others: the softmax of the response's log-probabilities under the language model after its own
opening and after fixed others. P(positive) alone ranks the language model's own responses, and a reward model that is
trained on some of these rankings is the proxy: what it is to raise is half of what is wanted, and known from few
examples (as in Gao et al., 2210.10760, where a large reward model is gold).

`rlhf ppo --judge benchmarks.evidence.gold:gold`, with the folder of the shared runs in `EVIDENCE_SMALL`.
python -m benchmarks.evidence.gold rank --small FOLDER --candidates FILE --output_dir FOLDER
python -m benchmarks.evidence.gold measure --small FOLDER --models RUN ... --output_dir FOLDER
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.judge import accuracy, bag_of_words, distinct_bigrams, proxy_scores, sampled
from benchmarks.evidence.ranking import ranks
from benchmarks.evidence.runs import write_result
from benchmarks.evidence.sentiment_data import read_sentences
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Message, read_comparisons, read_prompts, write_comparisons
from rlhf.engine.backbone import REFERENCE, Backbone
from rlhf.engine.generation import Sampling
from rlhf.engine.packing import Group, pack
from rlhf.evaluation.metrics import bootstrap_mean
from rlhf.training.stage import load_tokenizer

MAX_NEW_TOKENS = 24
RIDGE = 0.1  # the likelihood of held-out sentences is higher than with 1
GROUP = 16  # responses read after one copy of an opening
PLACE = "EVIDENCE_SMALL"
DTYPE = "float32"  # everywhere: that of a machine with bfloat16 instructions would give other numbers


@dataclass(frozen=True)
class Reader:
    """Finds the opening of a response by its log-probability after each."""

    backbone: Backbone
    chat: Chat
    others: list[list[int]]  # the token ids of the other openings

    @classmethod
    def load(cls, small: Path) -> Reader:
        """The language model as the reader; the others are held-out openings that nobody continues."""
        model = small / "model" / "model"
        backbone = Backbone.load(str(model), dtype=torch.float32)
        backbone.eval()
        chat = Chat(load_tokenizer(model), 64, MAX_NEW_TOKENS)
        prompts, _ = read_prompts([str(small / "data" / "prompts_others.jsonl")])
        return cls(backbone, chat, [chat.encode_prompt(prompt.prompt) for prompt in prompts])

    @torch.no_grad()
    def fits(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """`[n]` probabilities of each response's own prompt; one without text tells nothing."""
        told = [index for index, text in enumerate(responses) if text.strip()]
        ids = [self.chat.encode_response(responses[index], finished=False) for index in told]
        groups = [list(group) for _, group in groupby(range(len(told)), key=lambda i: tuple(prompts[told[i]]))]
        own = [
            value
            for group in groups
            for value in self._logprobs(self.chat.encode_prompt(prompts[told[group[0]]]), [ids[i] for i in group])
        ]
        columns = torch.tensor([own, *(self._logprobs(other, ids) for other in self.others)], dtype=torch.float64)
        found = dict(zip(told, torch.softmax(columns, dim=0)[0].tolist(), strict=True)) if told else {}
        return [found.get(index, 1 / (1 + len(self.others))) for index in range(len(responses))]

    def _logprobs(self, prompt: list[int], responses: Sequence[list[int]]) -> list[float]:
        """`[n]` log-probabilities of responses after a prompt, in nats."""
        values: list[float] = []
        for start in range(0, len(responses), GROUP):
            batch = pack([Group(prompt, list(responses[start : start + GROUP]))])
            output = self.backbone(batch, [REFERENCE])[REFERENCE.name]
            values += batch.sum_by_response(output.logprobs).float().tolist()
        return values


@dataclass(frozen=True)
class Gold:
    """P(positive) times the probability of the own opening."""

    positive: Callable[[Sequence[str]], list[float]]
    reader: Reader

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls, small: Path) -> Gold:
        """Gold from the folder of the shared runs."""
        sentences = read_sentences(small / "data" / "sentences_train.jsonl")
        return cls(bag_of_words(sentences, ridge=RIDGE), Reader.load(small))

    def parts(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> dict[str, list[float]]:
        """`[n]` golds, and what they are the product of."""
        positive, fit = self.positive(responses), self.reader.fits(prompts, responses)
        return {"gold": [a * b for a, b in zip(positive, fit, strict=True)], "positive": positive, "fit": fit}


def gold(prompts: Sequence[Sequence[Any]], responses: Sequence[str]) -> list[float]:
    """`[n]` golds, for `rlhf ppo --judge`."""
    messages = [[Message(message["role"], message["content"]) for message in prompt] for prompt in prompts]
    return Gold.load(Path(os.environ[PLACE])).parts(messages, responses)["gold"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.gold", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    ranking = commands.add_parser("rank", allow_abbrev=False)
    ranking.add_argument("--candidates", required=True)
    for name in ("draws", "rankings", "held_out"):
        ranking.add_argument(f"--{name}", type=int, required=True)
    measuring = commands.add_parser("measure", allow_abbrev=False)
    measuring.add_argument("--models", nargs="+", required=True)
    measuring.add_argument("--reward_model", required=True)
    measuring.add_argument("--seed", type=int, default=1)
    for command in (ranking, measuring):
        command.add_argument("--small", type=Path, required=True)
        command.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    {"rank": rank, "measure": measure}[arguments.command](arguments)


def rank(arguments: argparse.Namespace) -> None:
    """Rank sampled responses by P(positive): draws to train on and a held-out one, no prompt in two of them."""
    found = Gold.load(arguments.small)
    candidates = [item for item in read_comparisons([arguments.candidates])[0] if len(item.responses) > 1]
    parts = parts_of(found, candidates)
    values = iter(parts["positive"])
    ranked = [replace(item, ranks=ranks([next(values) for _ in item.responses])) for item in candidates]
    for draw in range(arguments.draws):
        chosen = ranked[draw * arguments.rankings : (draw + 1) * arguments.rankings]
        write_comparisons(arguments.output_dir / f"draw_{draw}.jsonl", chosen)
    held_out = ranked[arguments.draws * arguments.rankings :][: arguments.held_out]
    write_comparisons(arguments.output_dir / "heldout.jsonl", held_out)
    sentences = read_sentences(arguments.small / "data" / "sentences_heldout.jsonl")
    positive = found.positive([sentence.text for sentence in sentences])
    write_result(
        arguments.output_dir,
        {
            "accuracy": accuracy(positive, [sentence.label for sentence in sentences]).to_dict(),
            "means": {name: sum(values) / len(values) for name, values in parts.items()},
            "num_ranked": len(ranked),
        },
    )


def parts_of(found: Gold, items: Sequence[Comparison]) -> dict[str, list[float]]:
    """Gold of all responses, those of the first prompt first."""
    texts = [response.text for item in items for response in item.responses]
    return found.parts([item.prompt for item in items for _ in item.responses], texts)


def measure(arguments: argparse.Namespace) -> None:
    """Gold, KL and score of each policy's responses to the test prompts, with intervals by prompt."""
    prompts = read_prompts([str(arguments.small / "data" / "prompts_test.jsonl")])[0]
    results = [
        measured(model, prompts, Gold.load(arguments.small), arguments.reward_model, arguments.seed)
        for model in arguments.models
    ]
    write_result(arguments.output_dir, {"policies": results})


def measured(model: str, prompts: Sequence[Comparison], found: Gold, reward_model: str, seed: int) -> Mapping[str, Any]:
    """What one policy's responses come to, one to each prompt."""
    columns = sampled(model, prompts, Sampling(1, MAX_NEW_TOKENS, 1.0, seed), dtype=DTYPE)
    texts = columns["response"]
    numbers = found.parts([prompt.prompt for prompt in prompts], texts) | {
        "kl": columns["kl"],
        "score": proxy_scores(reward_model, prompts, texts, columns["finished"]),
    }
    return {name: bootstrap_mean(values).to_dict() for name, values in numbers.items()} | {
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "distinct_bigrams": distinct_bigrams(texts),
        "num_responses": len(texts),
    }


if __name__ == "__main__":
    main()
