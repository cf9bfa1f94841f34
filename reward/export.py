"""A trained reward model as transformers' class for sequence classification, readable without this framework."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from reward.hub_reward_model import SHIFT, HubRewardModel
from reward.model_card import card
from reward.reward_model import RewardModel
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.engine.backbone import Backbone, ScoreHead
from rlhf.engine.merged import MergedCopy
from rlhf.engine.quantization import dense_weight, is_quantized

# Tokens made for no text, the likeliest first.
SPARE_NAMES = ("pad", "endoftext", "reserved", "unused", "")
SYSTEM, QUESTION, ANSWER = Message("system", "Be brief."), Message("user", "Name a colour."), "Blue."
PROBES = (
    Comparison((QUESTION,), (Response(ANSWER), Response("It depends on the light, and on who looks at it."))),
    Comparison((QUESTION, Message("assistant", ANSWER), Message("user", "Why?")), (Response("I like it."),)),
)


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        shift: what the class cannot carry: the run's scores are those of the class plus this.
        pad_token: None where the tokenizer has no token to spare.
        difference: largest one between the run's scores of a few conversations and those of the class plus the shift.
    """

    folder: Path
    shift: float
    pad_token: str | None
    difference: float


def export_reward_model(run: Path, folder: Path) -> Export:
    """Write the reward model of a run into a new folder: weights, tokenizer and a card, or nothing.

    The adapter is merged into the backbone, the head's scale into its weight. Its bias and shift have no place in the
    class, whose head has no bias: they go into `config.json` and the card, and differences of scores do not need them.
    The chat template ends a conversation with the token at which the score is read.

    Raises:
        ValueError: the run holds no reward model that the class can carry, or the folder is taken.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: name a new folder")
    model = RewardModel(run)
    if len(model.roles) > 1:
        raise ValueError(f"{run} holds an ensemble of {len(model.roles)}: export one member, as {run / 'member_1'}")
    expected = [score for scores in model.score(PROBES, progress=False) for score in scores]
    classifier, shift = classifier_of(model.backbone)
    tokenizer = copy.deepcopy(model.chat.tokenizer)
    tokenizer.pad_token = pad_token = spare_token(model.chat, classifier.config.get_text_config().vocab_size)
    tokenizer.padding_side = "right"
    tokenizer.chat_template = ending_template(model.chat)
    classifier.config.get_text_config().pad_token_id = classifier.config.pad_token_id = tokenizer.pad_token_id
    setattr(classifier.config, SHIFT, shift)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        classifier.save_pretrained(str(staging))
        tokenizer.save_pretrained(str(staging))
        found = HubRewardModel("the export", str(staging)).score(
            [probe.prompt for probe in PROBES for _ in probe.responses],
            [response.text for probe in PROBES for response in probe.responses],
        )
        difference = max(abs(ours - theirs) for ours, theirs in zip(expected, found, strict=True))
        export = Export(folder, shift, pad_token, difference)
        text = card(
            folder.name,
            run=run,
            shift=shift,
            pad_token=pad_token,
            end_token=str(tokenizer.convert_ids_to_tokens(model.chat.end_of_turn_id)),
            dtype=str(classifier.dtype).removeprefix("torch."),
            difference=difference,
        )
        (staging / "README.md").write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # empty, as seen above
        staging.chmod(0o755)  # temporary folders are closed to others
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return export


def classifier_of(backbone: Backbone) -> tuple[PreTrainedModel, float]:
    """The reward adapter and head of a backbone as a classifier with one label, and the shift it leaves behind.

    Raises:
        ValueError: transformers has no such class for this model, or one with another head.
    """
    plain = MergedCopy(backbone, "reward").model
    config = copy.deepcopy(plain.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):  # its weights are replaced, all of them
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise ValueError(f"transformers has no class for sequence classification for {config.model_type}") from None
    score = getattr(classifier, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        raise ValueError(f"{type(classifier).__name__} has another head than a linear map without bias called score")
    base = plain.base_model
    tensors = {key: _dense(base, key) for key in classifier.base_model.state_dict()}
    classifier.base_model.load_state_dict(tensors, assign=True)
    head = backbone.head("reward")
    weight, shift = folded(head)
    score.weight = nn.Parameter(weight, requires_grad=False)  # in float32, whatever the others are kept in
    classifier.config.dtype = backbone.dtype
    return classifier, shift


@torch.no_grad()
def folded(head: ScoreHead) -> tuple[torch.Tensor, float]:
    """`(w . h + b) * scale + shift` as a weight `[1, hidden]` and the constant behind it."""
    weight = (head.linear.weight * head.scale).detach().clone()
    return weight, float(head.linear.bias.double() * head.scale.double() + head.shift.double())


def spare_token(chat: Chat, vocab_size: int) -> str | None:
    """A special token that ends no conversation and occurs in none: the pad token if it is one; None without any.

    The class reads a score at the last token that is not the pad token, so that a pad token which also ends turns
    would make it read before the end. The vocabulary is never enlarged: the embeddings would not fit.
    """
    tokenizer = chat.tokenizer
    taken = chat.stop_ids | {tokenizer.bos_token_id, tokenizer.eos_token_id, *_probe_ids(chat)}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return str(tokenizer.pad_token)
    spare = [
        str(token)
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token_id not in taken and token_id < vocab_size
    ]
    ranked = sorted(spare, key=lambda token: next(i for i, name in enumerate(SPARE_NAMES) if name in token.lower()))
    return ranked[0] if ranked else None


def ending_template(chat: Chat) -> str:
    """The chat template, changed where it must be so that a whole conversation ends with the end-of-turn token.

    Many templates put a line break behind that token. A score read there would be of a position that training never
    saw.
    """
    tokenizer = chat.tokenizer
    own: str = tokenizer.get_chat_template()
    whole = _rendered(tokenizer, own)
    tail = whole.rpartition(ANSWER)[2]
    ending = str(tokenizer.convert_ids_to_tokens(chat.end_of_turn_id))
    if tail == ending:
        return own
    condition = "not add_generation_prompt and messages[-1]['role'] == 'assistant'"
    literal, literal_ending = (json.dumps(text, ensure_ascii=False) for text in (tail, ending))
    changed = (
        f"{{% set conversation %}}{own.removesuffix(chr(10))}{{% endset %}}"
        f"{{% if {condition} and conversation.endswith({literal}) %}}"
        f"{{{{ conversation[:conversation | length - {len(tail)}] + {literal_ending} }}}}"
        "{% else %}{{ conversation }}{% endif %}"
    )
    assert _rendered(tokenizer, changed) == whole.removesuffix(tail) + ending
    return changed


def _rendered(tokenizer: Any, template: str) -> str:
    messages = [QUESTION.to_dict(), Message("assistant", ANSWER).to_dict()]
    text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    return text


def _probe_ids(chat: Chat) -> Sequence[int]:
    """Tokens of a conversation with all roles that the template takes."""
    messages = [QUESTION, Message("assistant", ANSWER), QUESTION]
    try:
        return chat.encode_conversation([SYSTEM, *messages])
    except ValueError:
        return chat.encode_conversation(messages)


def _dense(base: nn.Module, key: str) -> torch.Tensor:
    """A tensor of a model, out of its quantised form where it has one."""
    module = base.get_submodule(key.rpartition(".")[0])
    name = key.rpartition(".")[2]
    if name == "weight" and is_quantized(module):
        return dense_weight(module, next(p.dtype for p in base.parameters() if p.dtype.is_floating_point))
    tensor: torch.Tensor = getattr(module, name)
    return tensor.detach()
