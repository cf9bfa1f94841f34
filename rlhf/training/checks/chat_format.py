"""A tokenizer and its chat template against the model: beginning, end, padding, vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError

from rlhf.data.chat import Chat, ChatFault
from rlhf.data.comparisons import Message
from rlhf.training.checks.findings import FATAL, NOTE, WARNING, Finding, shown
from rlhf.training.checks.model_files import ModelSettings

PROBE_LENGTH = 4096  # tokens, more than a probe has
TURNS = (
    Message("user", "Qfirstprobequestion"),
    Message("assistant", "Qfirstprobeanswer"),
    Message("user", "Qsecondprobequestion"),
)
SYSTEM = Message("system", "Qprobesystem")


def check_chat_format(
    tokenizer: Any, settings: ModelSettings, *, field: str, with_system: bool = False
) -> Iterator[Finding]:
    """All that can be seen of a tokenizer, its template and the model's settings, without the model.

    Args:
        tokenizer: as the model's folder has it.
        settings: of that folder.
        field: the argument that named the model, for messages.
        with_system: whether the data have system messages: then a template without them is fatal.
    """
    yield from check_vocabulary(tokenizer, settings, field=field)
    try:
        chat = Chat(tokenizer, PROBE_LENGTH, PROBE_LENGTH)
        chat.encode_prompt(TURNS)
    except ChatFault as fault:
        yield Finding(fault.name, FATAL, f"{field}: {fault.found}", fault.fix)
        return
    try:
        chat.encode_prompt([SYSTEM, TURNS[0]])
    except ChatFault as fault:
        found = f"{field}: {fault.found}"
        yield Finding("template_drops_system", FATAL if with_system else NOTE, found, fault.fix)
    yield from _check_contents(tokenizer, field)
    yield from _check_beginning(tokenizer, chat.encode_prompt(TURNS[:1]), settings, field)
    yield from _check_end(chat, settings, field)


def check_scoring_format(tokenizer: Any, settings: ModelSettings, *, field: str) -> Iterator[Finding]:
    """What of the above a model needs that only reads whole conversations, such as a reward model of the hub."""
    yield from check_vocabulary(tokenizer, settings, field=field)
    if not tokenizer.chat_template:
        yield Finding(
            "no_chat_template",
            FATAL,
            f"{field}: the tokenizer has no chat template: it is not known how the reward model read conversations",
            "set the template that it was trained with as tokenizer.chat_template, and save the tokenizer beside it",
        )
        return
    try:
        rendered = _render(tokenizer, TURNS[:2], add_generation_prompt=False)
    except TemplateError as error:
        yield Finding(
            "template_refuses_roles",
            FATAL,
            f"{field}: the chat template refuses a question and an answer ({error})",
            "set a template that takes user and assistant in turn",
        )
        return
    yield from _check_contents(tokenizer, field)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    yield from _check_beginning(tokenizer, ids, settings, field)


def check_vocabulary(tokenizer: Any, settings: ModelSettings, *, field: str) -> Iterator[Finding]:
    """Tokens that the embedding has no row for, and the padding token.

    Tokens that stand for images or sound do not count: in families with both, the models of text alone share the
    tokenizer and have no rows for these (Gemma 3 1B), and no text becomes one of them.
    """
    rows, pad = settings.vocab_size, tokenizer.pad_token_id
    named = tokenizer.special_tokens_map.items()
    media = {token for name, token in named if name not in type(tokenizer).SPECIAL_TOKENS_ATTRIBUTES}
    token, largest = max(
        (item for item in tokenizer.get_vocab().items() if item[0] not in media), key=lambda item: item[1]
    )
    if rows is not None and largest >= rows:
        yield Finding(
            "vocabulary_too_large",
            FATAL,
            f"{field}: the tokenizer has token ids up to {largest}, the embedding of the model {rows} rows",
            "take the tokenizer that belongs to the model, or model.resize_token_embeddings(len(tokenizer)) and train "
            "the new rows",
            example=f"token {largest} is {token!r}",
        )
    pads = {"the tokenizer": pad, "config.json": settings.config.get("pad_token_id")}
    outside = {name: value for name, value in pads.items() if value is not None and rows and value >= rows}
    if outside:
        where = " and ".join(outside)
        yield Finding(
            "pad_outside_vocabulary",
            FATAL,
            f"{field}: the padding token of {where} is {max(outside.values())}, the embedding has {rows} rows",
            "set tokenizer.pad_token to a special token that the model has, and save the tokenizer beside the model",
        )
    if pad is None:
        yield Finding(
            "no_pad",
            NOTE,
            f"{field}: the tokenizer has no padding token; training here needs none, many other tools do",
            "set tokenizer.pad_token to a special token that is not the end of sequence",
        )
    elif pad == tokenizer.eos_token_id:
        yield Finding(
            "pad_equals_eos",
            NOTE,
            f"{field}: padding and end of sequence are one token, {tokenizer.pad_token!r}; masks here are made from "
            "lengths and see no difference, those of other tools may leave the end of sequence unlearned",
            "set tokenizer.pad_token to a spare special token before you train with other tools",
        )


def _render(tokenizer: Any, messages: tuple[Message, ...], add_generation_prompt: bool = True) -> str:
    rows = [message.to_dict() for message in messages]
    text: str = tokenizer.apply_chat_template(rows, add_generation_prompt=add_generation_prompt, tokenize=False)
    return text


def _check_contents(tokenizer: Any, field: str) -> Iterator[Finding]:
    rendered = _render(tokenizer, TURNS, add_generation_prompt=False)
    dropped = [message for message in TURNS if message.content not in rendered]
    if dropped:
        yield Finding(
            "template_drops_content",
            FATAL,
            f"{field}: the chat template leaves out what earlier turns of a conversation say",
            "set a template that writes every message",
            example=f"the text of the {dropped[0].role} turn {TURNS.index(dropped[0]) + 1} of {len(TURNS)}",
        )


def _check_beginning(tokenizer: Any, ids: list[int], settings: ModelSettings, field: str) -> Iterator[Finding]:
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    adds_bos = tokenizer("a")["input_ids"][:1] == [bos]
    example = f"a prompt begins with {shown(tokenizer.decode(ids[:4]))}"
    if ids[:2] == [bos, bos]:
        yield Finding(
            "double_bos",
            FATAL,
            f"{field}: the chat template writes the beginning-of-sequence token {tokenizer.bos_token!r} twice",
            "remove one from the template",
            example,
        )
    elif ids[0] == bos and adds_bos:
        yield Finding(
            "double_bos",
            NOTE,
            f"{field}: the chat template writes {tokenizer.bos_token!r} and the tokenizer adds one too; it is not "
            "asked to here, but tools that tokenise the rendered text get two",
            "elsewhere tokenise rendered conversations with add_special_tokens=False",
        )
    elif ids[0] != bos and adds_bos:
        yield Finding(
            "missing_bos",
            FATAL,
            f"{field}: the tokenizer begins every text with {tokenizer.bos_token!r}, as the model was trained with, "
            "but the chat template does not write it",
            "put {{ bos_token }} at the beginning of the template; allow this if the model was tuned without the token",
            example,
        )
    of_model = settings.bos_ids
    if of_model and bos not in of_model and (ids[0] == bos or adds_bos):
        yield Finding(
            "bos_mismatch",
            FATAL,
            f"{field}: sequences begin with token {bos} ({tokenizer.bos_token!r}), config.json and "
            f"generation_config.json of the model say {tokenizer.convert_ids_to_tokens(sorted(of_model))}",
            "take the tokenizer that belongs to the model, or correct bos_token_id in config.json",
            example,
        )


def _check_end(chat: Chat, settings: ModelSettings, field: str) -> Iterator[Finding]:
    tokenizer, eos = chat.tokenizer, chat.tokenizer.eos_token_id
    ids_to_tokens = tokenizer.convert_ids_to_tokens
    if eos is None:
        yield Finding(
            "no_eos",
            FATAL,
            f"{field}: the tokenizer has no end-of-sequence token",
            f"set tokenizer.eos_token to what ends a turn, {ids_to_tokens(chat.end_of_turn_id)!r}, and save it",
        )
        return
    of_model = settings.stop_ids
    if of_model and eos not in of_model:
        yield Finding(
            "eos_mismatch",
            FATAL,
            f"{field}: the tokenizer ends a sequence with token {eos} ({tokenizer.eos_token!r}), config.json and "
            f"generation_config.json of the model with {sorted(of_model)}",
            f"add {eos} to eos_token_id in generation_config.json, or take the tokenizer that belongs to the model",
        )
    if of_model and eos in of_model and chat.end_of_turn_id not in of_model:
        yield Finding(
            "end_of_turn_not_a_stop",
            WARNING,
            f"{field}: a turn ends with token {chat.end_of_turn_id} ({ids_to_tokens(chat.end_of_turn_id)!r}), but "
            f"`generate` of other tools stops at {sorted(of_model)} only and would go on behind the answer",
            f"add {chat.end_of_turn_id} to eos_token_id in generation_config.json",
        )
    closed = _render(tokenizer, TURNS[:2], add_generation_prompt=False).rpartition(TURNS[1].content)[2]
    if chat.end_of_turn_id not in tokenizer(closed, add_special_tokens=False)["input_ids"]:
        yield Finding(
            "no_end_of_turn",
            WARNING,
            f"{field}: the chat template puts no special token behind an answer; {tokenizer.eos_token!r} is learned "
            "as its end, which the template will not show in a conversation of several turns",
            "put {{ eos_token }} behind the assistant's content in the template",
            example=f"behind an answer it writes {closed!r}",
        )
