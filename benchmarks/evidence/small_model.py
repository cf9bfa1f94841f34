"""A small language model of film reviews, trained from nothing: `python -m benchmarks.evidence.small_model --help`.

A Llama of a million weights with a tokenizer of its own writes sentences that look like reviews, badly. A step of PPO
on it takes a fraction of a second, so that an experiment can be made again with several seeds.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.evidence.runs import write_result
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Demonstration, read_demonstrations

VOCABULARY = 2048
BEGIN, END, ON = "<s>", "</s>", "<|on|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|on|>' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|on|>' }}{% endif %}"
)
LENGTH = 64  # tokens of a row at most
BATCH, POOL = 32, 16  # rows; batches that are sorted by length together, against padding
WARM_UP, PEAK_RATE = 0.1, 3e-3
IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """Size of the model."""

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Train tokenizer and model, and write both as a model folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.small_model", allow_abbrev=False)
    for name in ("train_file", "eval_file", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    train, held_out = (read_demonstrations([str(file)])[0] for file in (arguments.train_file, arguments.eval_file))
    tokenizer = train_tokenizer(text for row in train for text in (row.prompt[-1].content, row.response))
    torch.manual_seed(arguments.seed)
    model = build(tokenizer, Shape())
    rows, held_out_rows = (token_rows(tokenizer, part) for part in (train, held_out))
    train_model(model, rows, epochs=arguments.epochs, seed=arguments.seed)
    folder = arguments.output_dir / "model"
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    found = {
        "num_weights": sum(parameter.numel() for parameter in model.parameters()),
        "num_train": len(train),
        "perplexity": perplexity(model, rows[: len(held_out_rows)]),
        "held_out_perplexity": perplexity(model, held_out_rows),
    }
    print(found)
    write_result(arguments.output_dir, found)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCABULARY` pieces with a chat template: an opening, `ON`, and how it goes on."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [BEGIN, END, ON]
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[ON],
        chat_template=TEMPLATE,
    )


def build(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> LlamaForCausalLM:
    """A Llama with random weights; embedding and head are one."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=3 * shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_heads,
            max_position_embeddings=4 * LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def token_rows(tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[Demonstration]) -> list[list[int]]:
    """Token ids of each opening and its rest, as the stages read them."""
    chat = Chat(tokenizer, LENGTH, LENGTH)
    return [(chat.encode_prompt(row.prompt) + chat.encode_response(row.response))[:LENGTH] for row in demonstrations]


def train_model(model: LlamaForCausalLM, rows: Sequence[list[int]], *, epochs: int, seed: int) -> None:
    """Train all weights on all tokens, with AdamW and a cosine after a warm-up."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}])
    drawn = random.Random(seed)
    order = [batch for _ in range(epochs) for batch in batches(rows, drawn)]
    model.train()
    for step, batch in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_at((step + 1) / len(order))
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} of {len(order)}: loss {loss.item():.3f}", flush=True)
    model.eval()


def rate_at(progress: float) -> float:
    """Share of the peak rate after a share of the steps: a straight line up, then half a cosine down."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def batches(rows: Sequence[list[int]], drawn: random.Random) -> Iterator[list[list[int]]]:
    """All rows in random batches, alike in length within each."""
    order = drawn.sample(range(len(rows)), len(rows))
    for start in range(0, len(order), BATCH * POOL):
        pool = sorted(order[start : start + BATCH * POOL], key=lambda index: len(rows[index]))
        parts = [pool[begin : begin + BATCH] for begin in range(0, len(pool), BATCH)]
        drawn.shuffle(parts)
        yield from ([rows[index] for index in part] for part in parts)


def loss_of(model: LlamaForCausalLM, batch: Sequence[list[int]]) -> torch.Tensor:
    """Mean negative log-likelihood of a token."""
    longest = max(map(len, batch))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
    counts = torch.arange(longest) < torch.tensor([len(row) for row in batch])[:, None]
    logits = model(ids[:, :-1]).logits  # what is padded lies behind all that counts
    return F.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].masked_fill(~counts[:, 1:], IGNORED).flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, rows: Sequence[list[int]]) -> float:
    """Of a token of these rows."""
    total = count = 0.0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        tokens = sum(map(len, batch)) - len(batch)
        total += float(loss_of(model, batch)) * tokens
        count += tokens
    return math.exp(total / count)


if __name__ == "__main__":
    main()
