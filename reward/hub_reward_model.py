"""A reward model in transformers' class for sequence classification, with its own tokenizer and chat template."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.integrations import deepspeed

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Message
from rlhf.engine.sources import resolve_model
from rlhf.training.stage import load_tokenizer

logger = logging.getLogger(__name__)

# What `rlhf export-reward` writes into config.json: the class has no place for a constant behind its head.
SHIFT = "reward_score_shift"


class HubRewardModel:
    """Scores a conversation, rendered by the model's own template, with the one label of a classifier.

    A score is what transformers gives for the conversation alone: read at its last token that is not the pad token of
    the model's configuration. It does not depend, beyond rounding, on what stands beside it in a batch, since padding
    goes to the right, under the attention mask, and with the very token that the model looks for. Conversations that
    are too long lose their beginning, but not a token that marks it; they are counted. The shift of a model that this
    framework exported is added.

    Args:
        name: the scorer's.
        model: a hub name or a folder.
        batch_size: conversations per forward pass.

    Attributes:
        max_length: most tokens of a conversation, by configuration and tokenizer.
        num_scored, num_cut: conversations so far, and those of them that were too long.

    Raises:
        ValueError: there is no such model, or it is no reward model that can be used here, with the fix.
    """

    def __init__(self, name: str, model: str, *, batch_size: int = 8):
        source = resolve_model(model)
        if source.adapter is not None:
            raise ValueError(f"reward model {model} is an adapter: merge it into its model and name the merged folder")
        _check_configuration(model, source.backbone)
        self.name = name
        self.batch_size = batch_size
        self.tokenizer = load_tokenizer(source.backbone)
        self.model = _load(model, source.backbone)
        self.text_config = self.model.config.get_text_config()
        self.max_length = _longest_conversation(self.text_config, self.tokenizer)
        self.shift = float(getattr(self.model.config, SHIFT, 0.0))
        # its maximum lengths are not used: a whole conversation is cut, not its parts
        self.chat = Chat(self.tokenizer, self.max_length, self.max_length)
        self.takes_system = self._probe()
        self.num_scored = self.num_cut = 0

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """`[n]` scores for `[n]` prompts with one response each; conversations of like length share a pass."""
        rows = [self.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = [0.0] * len(rows)
        for start in range(0, len(rows), self.batch_size):
            batch = order[start : start + self.batch_size]
            for index, score in zip(batch, self._forward([rows[index] for index in batch]), strict=True):
                scores[index] = score
        return scores

    def encode(self, prompt: Sequence[Message], response: str) -> list[int]:
        """Token ids of the conversation, the response its last message, as the model's own template has it.

        Raises:
            ValueError: the template refuses the roles of the prompt.
        """
        messages = list(prompt) if self.takes_system else _without_system(prompt)
        ids = self.chat.encode_conversation([*messages, Message("assistant", response)], add_generation_prompt=False)
        self.num_scored += 1
        if len(ids) <= self.max_length:
            return ids
        self.num_cut += 1
        if self.num_cut == 1:
            logger.warning(
                "scorer %s: a conversation of %d tokens lost its beginning, the model takes %d; further cuts are "
                "counted only",
                *(self.name, len(ids), self.max_length),
            )
        kept = ids[:1] if ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) else []
        return kept + ids[len(ids) - self.max_length + len(kept) :]

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """`[n]` scores of `[n]` rows of token ids."""
        pad_id = self.text_config.pad_token_id
        if pad_id is None:
            # transformers reads the last position of a single row; a token that no row has stands for the same
            pad_id = _absent(rows)
        longest = max(map(len, rows))
        input_ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
        attention_mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with _pad_token(self.text_config, pad_id):
            output = self.model(
                input_ids=input_ids.to(self.model.device), attention_mask=attention_mask.to(self.model.device)
            )
        return [score + self.shift for score in output.logits.float().squeeze(-1).tolist()]

    def _probe(self) -> bool:
        """Score two short conversations; whether the template takes a system message.

        Raises:
            ValueError: the template refuses a plain question, or the model gives no finite number.
        """
        question, answer = Message("user", "What is two and two?"), Message("assistant", "Four.")
        plain = self.chat.encode_conversation([question, answer], add_generation_prompt=False)
        takes_system = True
        try:
            self.chat.encode_conversation([Message("system", "Be brief."), question, answer])
        except ValueError:
            takes_system = False
            logger.warning("scorer %s: its template takes no system message; the first user message gets it", self.name)
        highest = max(plain)
        if highest >= self.text_config.vocab_size:
            raise ValueError(
                f"reward model {self.name}: its tokenizer gives token {highest}, and its vocabulary has "
                f"{self.text_config.vocab_size}: tokenizer and model do not belong together"
            )
        with torch.no_grad():
            score = self._forward([plain])[0]
        if not math.isfinite(score):
            raise ValueError(f"reward model {self.name} gives {score} for a short conversation: its weights are broken")
        return takes_system


@contextlib.contextmanager
def without_partitioning() -> Iterator[None]:
    """Load models whole inside the block, where DeepSpeed ZeRO-3 would partition whatever is loaded.

    A scorer is no part of what DeepSpeed trains, and nothing would gather its weights.
    """
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


def _check_configuration(name: str, folder: Path) -> None:
    """Refuse what the class would load as something else than a reward model: a head at random, or several labels."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or ["no architecture"]
    if not any(architecture.endswith("ForSequenceClassification") for architecture in architectures):
        raise ValueError(
            f"reward model {name}: its config.json says {', '.join(architectures)}, which has no score head; name a "
            "model for sequence classification with one label (rlhf export-reward makes one of a reward run)"
        )
    if config.get("is_encoder_decoder"):
        raise ValueError(f"reward model {name} has an encoder and a decoder: call it in a Python function instead")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"reward model {name} has no weights in safetensors in {folder}: save them in that format")


def _load(name: str, folder: Path) -> PreTrainedModel:
    try:
        with without_partitioning():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (ValueError, OSError, KeyError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"reward model {name} cannot be loaded as AutoModelForSequenceClassification: {reason}"
        ) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        lost = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ValueError(
            f"reward model {name}: {len(lost)} of its weights are not in its files, the first is {lost[0]}; they would "
            "be random"
        )
    if model.config.num_labels != 1:
        labels = ", ".join(map(str, model.config.id2label.values()))
        raise ValueError(
            f"reward model {name} has {model.config.num_labels} labels ({labels}) where a reward model has 1: score "
            "with the label that you mean in a Python function, --scorer module:function"
        )
    if torch.cuda.is_available():
        model.to("cuda")
    return model.eval()


def _longest_conversation(config: Any, tokenizer: Any) -> int:
    """Tokens that positions and tokenizer allow; a tokenizer without a limit names an astronomic number."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=10**9)


def _without_system(prompt: Sequence[Message]) -> list[Message]:
    """The conversation with system texts put in front of the user message that follows."""
    messages: list[Message] = []
    waiting: list[str] = []
    for message in prompt:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            messages.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            messages.append(message)
    return messages


def _absent(rows: Iterable[Sequence[int]]) -> int:
    """The lowest token id that no row holds."""
    present = set(itertools.chain.from_iterable(rows))
    return next(token_id for token_id in itertools.count() if token_id not in present)


@contextlib.contextmanager
def _pad_token(config: Any, pad_id: int) -> Iterator[None]:
    before = config.pad_token_id
    config.pad_token_id = pad_id
    try:
        yield
    finally:
        config.pad_token_id = before
