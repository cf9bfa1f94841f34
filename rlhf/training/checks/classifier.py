"""A reward model of the hub, `AutoModelForSequenceClassification` with one output: its settings and its scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.data.comparisons import Message
from rlhf.training.checks.findings import FATAL, Finding
from rlhf.training.checks.model_passes import SCORE_TOLERANCE, judge_scores

Conversation = Sequence[Message]


def is_classifier(folder: Path) -> bool:
    """Whether a model folder says that it holds a sequence classifier."""
    architectures = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def check_classifier_settings(folder: Path, tokenizer: Any, *, field: str) -> Iterator[Finding]:
    """The number of outputs, and the padding token by which the class finds the end of a response."""
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    text = config.get_text_config()
    if config.num_labels != 1:
        yield Finding(
            "head_not_scalar",
            FATAL,
            f"{field} has {config.num_labels} outputs, a reward model has one",
            "choose a reward model with num_labels 1, or write a --scorer function that makes one number of them",
        )
    pad, eos = text.pad_token_id, tokenizer.eos_token_id
    if pad is None:
        yield Finding(
            "reward_pad_missing",
            FATAL,
            f"config.json of {field} has no pad_token_id: its class then cannot tell where a response ends in a batch",
            f"set it to the padding token it was trained with; the tokenizer says {tokenizer.pad_token_id}",
        )
    elif pad == eos:
        yield Finding(
            "reward_pad_equals_eos",
            FATAL,
            f"config.json of {field} pads with its end of sequence, token {pad}: the score is read at the last token "
            "that is not padding, hence before the end of the response",
            "set pad_token_id to a spare special token if the model was trained so; else take another model",
        )
    elif tokenizer.pad_token_id is not None and tokenizer.pad_token_id != pad:
        yield Finding(
            "reward_pad_mismatch",
            FATAL,
            f"the tokenizer of {field} pads with token {tokenizer.pad_token_id}, its config.json says {pad}: the score "
            "would be read behind the response, at padding",
            "set both to the token that it was trained with",
        )


@dataclass(frozen=True)
class Classifier:
    """A loaded sequence classifier with its tokenizer."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype) -> Classifier:
        """Load from safetensors; no code of the model's author is run."""
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        if torch.cuda.is_available():
            model = model.to("cuda")
        return cls(model.eval(), AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False))

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of a whole conversation as the model's own template writes it."""
        rows = [message.to_dict() for message in conversation]
        text = self.tokenizer.apply_chat_template(rows, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.no_grad()
    def scores(self, rows: Sequence[Sequence[int]], *, padding_side: str) -> torch.Tensor:
        """`[n]` first outputs of n token rows in one batch, padded on one side."""
        width = max(map(len, rows))
        pad = self.model.config.get_text_config().pad_token_id or 0
        input_ids = torch.full((len(rows), width), pad)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
            input_ids[number, place] = torch.tensor(row)
            mask[number, place] = 1
        device = self.model.device
        logits = self.model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].float().cpu()


def check_classifier_scores(
    classifier: Classifier, conversations: Sequence[Conversation], *, field: str
) -> Iterator[Finding]:
    """Scores of conversations alone and in batches padded on the tokenizer's side and on the other.

    Raises:
        ValueError: the model refuses a batch, as it does without a padding token.
    """
    rows = [classifier.encode(conversation) for conversation in conversations]
    tolerance = SCORE_TOLERANCE.get(classifier.model.dtype, 0.2)
    alone = torch.cat([classifier.scores([row], padding_side="right") for row in rows])
    side = classifier.tokenizer.padding_side
    own = classifier.scores(rows, padding_side=side)
    other_side = "left" if side == "right" else "right"
    if _far(own, alone, tolerance):
        other = classifier.scores(rows, padding_side=other_side)
        change = float((own - alone).abs().max())
        if _far(other, alone, tolerance):
            yield Finding(
                "scores_depend_on_padding",
                FATAL,
                f"{field} gives a response another score when its batch is padded, by up to {change:.4g}, on either "
                "side",
                "set pad_token_id of config.json and tokenizer to what it was trained with, or score one at a time",
            )
        else:
            yield Finding(
                "reward_padding_side",
                FATAL,
                f"the tokenizer of {field} pads on the {side}, where the model gives other scores, by up to "
                f"{change:.4g}; on the {other_side} it does not",
                f'set padding_side to "{other_side}" in its tokenizer_config.json',
            )
        return
    backwards = classifier.scores(rows[::-1], padding_side=side).flip(0)
    yield from judge_scores(alone, {"another order of the batch": backwards}, tolerance=tolerance, field=field)


def _far(scores: torch.Tensor, others: torch.Tensor, tolerance: float) -> bool:
    both = torch.isfinite(scores) & torch.isfinite(others)
    change = (scores - others).abs()[both] / others.abs()[both].clamp(min=1)
    return bool(len(change)) and float(change.max()) > tolerance
