"""The token ids that both sides work on: random ones of fixed length, or rows of a file."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.case import Case
from benchmarks.shapes import RANDOM, model_config, model_folder
from rlhf.data.chat import Chat
from rlhf.data.comparisons import read_comparisons, read_prompts
from rlhf.engine import embedded
from rlhf.engine.packing import Group
from rlhf.training.examples import RankedGroup, ranked_groups

LONGEST = 1024  # tokens of a prompt and of a response from a file; longer ones are cut
FIRST_ID = 16  # random token ids start here, past the special tokens


@dataclass(frozen=True)
class Workload:
    """What one run computes on.

    Attributes:
        steps: for each turn its groups, `batch` of them.
        pairs: (chosen, rejected) indices of responses, the same for all groups.
        stop_ids: tokens that end a sampled response.
        pad_id: a token to pad with that ends no response.
        own_pad_id: the one the tokenizer itself names.
    """

    steps: list[list[Group]]
    pairs: list[tuple[int, int]]
    stop_ids: list[int]
    pad_id: int
    own_pad_id: int

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Workload:
        fields: dict[str, Any] = json.loads(path.read_text())
        fields["steps"] = [[Group(**group) for group in groups] for groups in fields["steps"]]
        fields["pairs"] = [(chosen, rejected) for chosen, rejected in fields["pairs"]]
        return cls(**fields)

    def ranked(self) -> list[RankedGroup]:
        """The groups of all turns in order, as our trainers take them."""
        return [
            RankedGroup(group, self.pairs, margin=0.0, weight=1.0, prompt_id=f"{step}-{position}")
            for step, groups in enumerate(self.steps)
            for position, group in enumerate(groups)
        ]

    def prompts(self) -> list[Sequence[int]]:
        """The prompts of the first turn; where responses are sampled all turns have the same."""
        return [group.prompt_ids for group in self.steps[0]]


def comparisons_workload(case: Case) -> Workload:
    """Ranked groups for each turn."""
    if case.data is None:
        responses = case.num_responses
        steps = random_steps(case, responses)
        return Workload(steps, list(combinations(range(responses), 2)), **special_tokens(case))
    chat = chat_of(case)
    rows = sample(read_comparisons(case.data)[0], case)
    ranked = [best_first(example) for example in ranked_groups(chat, rows)]
    # every step has the same number of pairs, as the peer counts its batches in pairs
    pairs = ranked[0][1]
    examples = [group for group, its_pairs in ranked if its_pairs == pairs]
    needed = case.batch * case.turns
    if len(examples) < needed:  # none twice: what the reference says of it would be remembered
        raise ValueError(
            f"data has {len(examples)} comparisons ranked as its first: {case.turns} turns of {case.batch} prompts "
            f"need {needed}; lower --batch or --repeats"
        )
    return Workload(in_steps(examples[:needed], case.batch), pairs, **special_tokens(case, chat))


def best_first(example: RankedGroup) -> tuple[Group, list[tuple[int, int]]]:
    """The group with its responses in the order of their wins, and its pairs in that order."""
    wins = Counter(chosen for chosen, _ in example.pairs)
    order = sorted(range(len(example.group.response_ids)), key=lambda index: -wins[index])
    place = {index: position for position, index in enumerate(order)}
    group = Group(example.group.prompt_ids, [example.group.response_ids[index] for index in order])
    return group, sorted((place[chosen], place[rejected]) for chosen, rejected in example.pairs)


def prompts_workload(case: Case) -> Workload:
    """Prompts, the same in each turn: the peer's trainer shuffles them, so that a turn is always all of them."""
    if case.data is None:
        return Workload(random_steps(case, 0)[:1] * case.turns, [], **special_tokens(case))
    chat = chat_of(case)
    rows = sample(read_prompts(case.data)[0], case)[: case.batch]
    if len(rows) < case.batch:
        raise ValueError(f"data has {len(rows)} prompts: --batch {case.batch} needs more")
    groups = [Group(chat.encode_prompt(row.prompt), []) for row in rows]
    return Workload([groups] * case.turns, [], **special_tokens(case, chat))


def random_steps(case: Case, num_responses: int) -> list[list[Group]]:
    draw = random.Random(case.seed)
    vocabulary = range(FIRST_ID, model_config(case).get_text_config().vocab_size)

    def ids(length: int) -> list[int]:
        return draw.choices(vocabulary, k=length)

    groups = [
        Group(ids(case.prompt_length), [ids(case.response_length) for _ in range(num_responses)])
        for _ in range(case.batch * case.turns)
    ]
    return in_steps(groups, case.batch)


def in_steps(groups: list[Group], batch: int) -> list[list[Group]]:
    return [groups[i : i + batch] for i in range(0, len(groups), batch)]


def sample(rows: list[Any], case: Case) -> list[Any]:
    """Rows of the whole file in a fixed random order, a few more than are needed."""
    return random.Random(case.seed).sample(rows, min(len(rows), 2 * case.batch * case.turns))


def chat_of(case: Case) -> Chat:
    """The model's chat format; random weights read the embedded model's."""
    folder = embedded.materialise() if case.model.startswith(RANDOM) else model_folder(case)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    if len(tokenizer) > model_config(case).get_text_config().vocab_size:
        raise ValueError(f"--data needs a vocabulary of {len(tokenizer)} tokens, more than {case.model} has")
    return Chat(tokenizer, LONGEST, LONGEST)


def special_tokens(case: Case, chat: Chat | None = None) -> dict[str, Any]:
    """Stop tokens and padding; random ids hold no special token, so that any of them pads."""
    if chat is None and not case.model.startswith(RANDOM):
        try:
            chat = chat_of(case)
        except (ValueError, OSError):  # a folder without a tokenizer or a chat format does for random ids
            chat = None
    if chat is None:
        config = model_config(case).get_text_config()
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        stop_ids = [token_id for token_id in ends if token_id is not None]
        pad_id = next(i for i in range(FIRST_ID) if i not in (*stop_ids, config.bos_token_id))
        return {"stop_ids": stop_ids, "pad_id": pad_id, "own_pad_id": next(iter(stop_ids), pad_id)}
    added = chat.tokenizer.added_tokens_decoder.items()
    taken = (*chat.stop_ids, chat.tokenizer.bos_token_id)
    spare = (token_id for token_id, token in added if token.special and token_id not in taken)
    own_pad_id = chat.end_of_turn_id if chat.pad_id is None else chat.pad_id
    return {"stop_ids": sorted(chat.stop_ids), "pad_id": next(spare, own_pad_id), "own_pad_id": own_pad_id}


def pair_tokens(case: Case, work: Workload, side: str, said: Sequence[Any]) -> tuple[int, int]:
    """Tokens of the counted turns, real ones and with padding: ours as they lie, the peer's each with its prompt."""
    counted = work.steps[1 : 1 + len(said)]
    if side == "ours":
        count = sum(group.num_tokens for groups in counted for group in groups)
        return count, count
    real = padded = 0
    for groups in counted:
        lengths = [
            len(group.prompt_ids) + len(group.response_ids[index])
            for group in groups
            for pair in work.pairs
            for index in pair
        ]
        real += sum(lengths)
        padded += len(lengths) * max(lengths)
    return real, padded
