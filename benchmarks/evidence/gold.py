"""Gold of the over-optimisation experiment: a response should be positive and still go on with its own opening.

The reward models know nothing of the opening, as a designer may forget what goes without saying. Gold is P(positive)
by the judge, times the probability that a reader of the response finds its opening among others: the softmax of the
response's log-probabilities under the SFT model after its own opening and after `OTHERS` fixed ones.

`rlhf ppo --judge benchmarks.evidence.gold:gold`, with the folder of the shared runs in `EVIDENCE_SENTIMENT`.
python -m benchmarks.evidence.gold --measured FOLDER --output_dir FOLDER
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.judge import MAX_NEW_TOKENS, Judge
from benchmarks.evidence.runs import RESPONSES, write_result
from benchmarks.evidence.sentiment_data import SYSTEM
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Message, read_prompts
from rlhf.engine.backbone import REFERENCE, Backbone
from rlhf.engine.packing import Group, pack
from rlhf.evaluation.metrics import bootstrap_mean
from rlhf.training.arguments import DTYPES, settled_dtype
from rlhf.training.run_folder import read_rows
from rlhf.training.stage import load_tokenizer

OTHERS = 3
GROUP = 16  # responses read after one copy of an opening
PLACE = "EVIDENCE_SENTIMENT"


@dataclass(frozen=True)
class Reader:
    """Finds the opening of a response by its log-probability after each."""

    backbone: Backbone
    chat: Chat
    others: list[list[int]]  # the token ids of the other openings

    @classmethod
    def load(cls, sentiment: str | Path) -> Reader:
        """The SFT model as the reader; the others are openings of the validation split, which nobody continues."""
        model = Path(sentiment) / "sft" / "model"
        backbone = Backbone.load(str(model), dtype=DTYPES[settled_dtype("auto")])
        backbone.eval()
        chat = Chat(load_tokenizer(model), 64, MAX_NEW_TOKENS)
        prompts, _ = read_prompts([str(Path(sentiment) / "data" / "prompts_validation.jsonl")])
        return cls(backbone, chat, [chat.encode_prompt(prompt.prompt) for prompt in prompts[:OTHERS]])

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
        return [found.get(index, 1 / (1 + OTHERS)) for index in range(len(responses))]

    def _logprobs(self, prompt: list[int], responses: Sequence[list[int]]) -> list[float]:
        """`[n]` log-probabilities of responses after a prompt, in nats."""
        values: list[float] = []
        for start in range(0, len(responses), GROUP):
            batch = pack([Group(prompt, list(responses[start : start + GROUP]))])
            output = self.backbone(batch, [REFERENCE])[REFERENCE.name]
            values += batch.sum_by_response(output.logprobs).float().tolist()
        return values


@lru_cache(maxsize=1)
def loaded(sentiment: str) -> tuple[Judge, Reader]:
    return Judge.load(Path(sentiment) / "judge"), Reader.load(sentiment)


def gold(prompts: Sequence[Sequence[Any]], responses: Sequence[str]) -> list[float]:
    """`[n]` golds: P(positive) times the probability of the own opening."""
    judge, reader = loaded(os.environ[PLACE])
    messages = [[Message(message["role"], message["content"]) for message in prompt] for prompt in prompts]
    rewards = judge.rewards(responses, progress=False)
    return [reward * fit for reward, fit in zip(rewards, reader.fits(messages, responses), strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    """Gold of responses that `benchmarks.evidence.judge measure` has sampled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.gold", allow_abbrev=False)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = list(read_rows(arguments.measured / RESPONSES))
    prompts = [[SYSTEM.to_dict(), {"role": "user", "content": row["prompt"]}] for row in rows]
    golds = gold(prompts, [row["response"] for row in rows])
    groups = [row["prompt_id"] for row in rows]
    means = {name: bootstrap_mean([row[name] for row in rows], groups=groups).to_dict() for name in ("reward", "kl")}
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_result(arguments.output_dir, means | {"gold": bootstrap_mean(golds, groups=groups).to_dict()})


if __name__ == "__main__":
    main()
