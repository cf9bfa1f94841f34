"""Messages to token ids and back: the only user of a chat template.

Two rules hold everywhere. Text is text: "<|im_end|>" typed into a message never becomes the token that ends a
turn. And nothing is cut silently: each cut is counted in `Chat.truncation`, the first of each kind is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from rlhf.data.comparisons import Message

logger = logging.getLogger(__name__)

# Letters only: a template that looks at contents (trims them, searches for tags) leaves them as they are.
_PROBE_QUESTION, _PROBE_ANSWER = "Qprobequestion", "Qprobeanswer"


class ChatFault(ValueError):
    """A tokenizer or template that conversations cannot go through: the fault's name, what was found, and the fix."""

    def __init__(self, name: str, found: str, fix: str):
        super().__init__(f"{found}; {fix}")
        self.name, self.found, self.fix = name, found, fix


@dataclass
class Truncation:
    """How many prompts and responses were encoded, and how many of them were cut to their maximum length."""

    prompts: int = 0
    responses: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0

    def __str__(self) -> str:
        return (
            f"{self.prompts_cut} of {self.prompts} prompts and "
            f"{self.responses_cut} of {self.responses} responses were cut to their maximum length"
        )


class Chat:
    """The chat format of one tokenizer.

    A prompt and a response together are what `apply_chat_template` gives for the whole conversation, up to
    and including the token that ends the turn, as long as no token runs across the border between the two and
    the template puts nothing but its generation prompt there.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        max_prompt_length: most tokens of a prompt; longer ones lose their beginning.
        max_response_length: most tokens of a response with its end-of-turn token; longer ones lose their end.

    Attributes:
        end_of_turn_id: the special token the template puts behind an answer; if none, the end of sequence.
        stop_ids: the tokens at which generation stops: `end_of_turn_id` and the end-of-sequence token.
        pad_id: the tokenizer's padding token, None if it has none. It may equal `end_of_turn_id`: make masks
            from lengths, never from `ids != pad_id`.
        truncation: what was encoded and what was cut so far.

    Raises:
        ChatFault: the tokenizer has no chat template, or the template has no generation prompt, drops what a
            message says, or marks no end of a turn.
    """

    def __init__(self, tokenizer: Any, max_prompt_length: int, max_response_length: int):
        for name, length in (
            ("max_prompt_length", max_prompt_length),
            ("max_response_length", max_response_length),
        ):
            if isinstance(length, bool) or not isinstance(length, int) or length < 1:
                raise ValueError(f"{name}: found {length!r}; give a whole number of tokens >= 1")
        if not tokenizer.chat_template:
            raise ChatFault(
                "no_chat_template",
                f"tokenizer: {_name(tokenizer)} has no chat template",
                "use an instruction-tuned model, or set tokenizer.chat_template and save the tokenizer beside the "
                "model",
            )
        self.tokenizer = tokenizer
        self.max_prompt_length = max_prompt_length
        self.max_response_length = max_response_length
        self.truncation = Truncation()
        self.pad_id: int | None = tokenizer.pad_token_id
        special = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = set(special)
        self._special_text = re.compile("|".join(map(re.escape, filter(None, special.values()))) or "(?!)")
        self._before_response, after_response = self._read_template()
        self.end_of_turn_id = self._find_end_of_turn(after_response)
        self.stop_ids = {self.end_of_turn_id}
        if tokenizer.eos_token_id is not None:
            self.stop_ids.add(tokenizer.eos_token_id)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation and the generation prompt; of a prompt too long, its last ones.

        Equal to `apply_chat_template(messages, add_generation_prompt=True)` while no message holds the text
        of a special token.

        Raises:
            ValueError: the template refuses or drops a message, as some do with the system role.
        """
        ids = self.encode_conversation(messages)
        self.truncation.prompts += 1
        if len(ids) > self.max_prompt_length:
            self.truncation.prompts_cut += 1
            if self.truncation.prompts_cut == 1:
                self._log_cut("prompt", len(ids), "last", self.max_prompt_length)
        return ids[-self.max_prompt_length :]

    def encode_response(self, text: str, finished: bool = True) -> list[int]:
        """Token ids of an answer, closed by the end-of-turn token if `finished` and not cut; never empty.

        Raises:
            ValueError: the text has no tokens, and the answer is not finished either.
        """
        ids = self._encode_text(text, behind=self._before_response)
        if finished:
            ids = [*ids, self.end_of_turn_id]
        if not ids:
            raise ValueError(f"text: found {text!r}, which has no tokens and no end of turn; remove it")
        self.truncation.responses += 1
        if len(ids) > self.max_response_length:
            self.truncation.responses_cut += 1
            if self.truncation.responses_cut == 1:
                self._log_cut("response", len(ids), "first", self.max_response_length)
        return ids[: self.max_response_length]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(
            [int(token_id) for token_id in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode_conversation(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of the whole conversation, never cut; the generation prompt at its end if asked for.

        Contents that hold special text are kept out of the rendering: placeholders stand in for them.

        Raises:
            ValueError: the template refuses or drops a message, as some do with the system role.
        """
        self._check_system_is_kept(messages)
        hidden: dict[str, str] = {}
        shown = [self._hide(message, messages, hidden) for message in messages]
        rendered = self._render(shown, add_generation_prompt)
        if not hidden:
            return self._tokenize(rendered)
        ids: list[int] = []
        before = ""
        for piece in re.split(f"({'|'.join(hidden)})", rendered):
            ids += self._encode_text(hidden[piece], behind=before) if piece in hidden else self._tokenize(piece)
            before = piece
        return ids

    def _hide(self, message: Message, messages: Sequence[Message], hidden: dict[str, str]) -> Message:
        """The message with a placeholder for its text if that holds special text; records both in `hidden`.

        White space around the text stays outside, so that a template that trims contents still does.
        """
        text = message.content.strip()
        if not self._special_text.search(text):
            return message
        placeholder = f"Qplaceholder{len(hidden)}Q"
        while any(placeholder in other.content for other in messages):
            placeholder += "Q"
        hidden[placeholder] = text
        return Message(message.role, message.content.replace(text, placeholder))

    def _encode_text(self, text: str, behind: str) -> list[int]:
        """Token ids of plain text as it is tokenised behind the rendered `behind`, special tokens split.

        Tokenizers of the SentencePiece kind treat the beginning of a string differently from its inside. So
        `text` is tokenised together with what precedes it, unless a token runs across the border.
        """
        split = self._special_text.search(text) is not None
        before = self._tokenize(behind, split)
        both = self._tokenize(behind + text, split)
        if both[: len(before)] == before:
            return both[len(before) :]
        return self._tokenize(text, split)

    def _tokenize(self, text: str, split_special_tokens: bool = False) -> list[int]:
        # The template has written the beginning-of-sequence token, if there is one: never add it again.
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
        )["input_ids"]
        return ids

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                [message.to_dict() for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ChatFault(
                "template_refuses_roles",
                f"messages: the chat template of {_name(self.tokenizer)} refuses the roles {roles} ({error})",
                "put a system text into the first user message, let user and assistant alternate, or use a model whose "
                "template takes these roles",
            ) from error
        return rendered

    def _check_system_is_kept(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.role == "system" and message.content.strip() not in self._render(messages):
                raise ChatFault(
                    "template_drops_system",
                    f"messages: the chat template of {_name(self.tokenizer)} drops the system message",
                    "put its text into the first user message",
                )

    def _read_template(self) -> tuple[str, str]:
        """What the template puts between a question and its answer, and what it puts behind the answer."""
        question, answer = Message("user", _PROBE_QUESTION), Message("assistant", _PROBE_ANSWER)
        closed = self._render([question], add_generation_prompt=False)
        opened = self._render([question])
        whole = self._render([question, answer], add_generation_prompt=False)
        if _PROBE_QUESTION not in opened or _PROBE_ANSWER not in whole:
            raise ChatFault(
                "template_drops_content",
                f"tokenizer: the chat template of {_name(self.tokenizer)} drops message contents",
                "set a template that writes them",
            )
        header, _, after_response = whole.rpartition(_PROBE_ANSWER)
        # Some templates need no generation prompt: their user turn ends where the answer begins.
        if opened == closed and header.rstrip() != closed.rstrip():
            raise ChatFault(
                "no_generation_prompt",
                f"tokenizer: the chat template of {_name(self.tokenizer)} has no generation prompt",
                "add one to it: {% if add_generation_prompt %}...{% endif %}",
            )
        return opened.rpartition(_PROBE_QUESTION)[2], after_response

    def _find_end_of_turn(self, after_response: str) -> int:
        special_ids = [token_id for token_id in self._tokenize(after_response) if token_id in self._special_ids]
        if special_ids:
            return special_ids[0]
        if self.tokenizer.eos_token_id is None:
            raise ChatFault(
                "no_eos",
                f"tokenizer: {_name(self.tokenizer)} has no end-of-sequence token, and its chat template ends an "
                "answer with no special token",
                "set tokenizer.eos_token",
            )
        eos_token_id: int = self.tokenizer.eos_token_id
        return eos_token_id

    def _log_cut(self, what: str, length: int, end: str, maximum: int) -> None:
        logger.warning(
            f"A {what} of {length} tokens was cut to its {end} {maximum} (max_{what}_length); "
            "further cuts are counted only."
        )


def _name(tokenizer: Any) -> str:
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)
