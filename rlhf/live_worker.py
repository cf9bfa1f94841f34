"""Answer the prompts that annotators write in the annotation app, until stopped.

rlhf annotate worker --store sqlite:///annotations.db --policy sft=runs/sft ppo=runs/ppo
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from annotation.store import Store, StoreUnavailable
from annotation.worker import LEASE_SECONDS, Answer, LivePolicy, LiveQueue, Unanswerable, Worker
from rlhf.data.chat import Chat, ChatFault
from rlhf.data.comparisons import Message, Response
from rlhf.engine.generation import Sample, Sampling
from rlhf.engine.policy import Policy
from rlhf.engine.sources import resolve_model
from rlhf.engine.streaming import ready_to_stream, stream
from rlhf.sample import origin_of
from rlhf.training.arguments import DTYPES, dtype_field, settled_dtype
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.stage import load_tokenizer

FEWEST_POLICIES, MOST_POLICIES = 2, 9  # a rank is one key
HALF_CHARACTER = "\ufffd"


@dataclass
class WorkerArguments:
    """Settings of a worker."""

    store: str | None = field(
        default=None, metadata={"help": "The app's store: sqlite:///annotations.db or postgresql://..."}
    )
    policy: list[str] = field(
        default_factory=list,
        metadata={"help": "2 to 9 policies that answer: a model, or NAME=MODEL to call it otherwise.", "nargs": "+"},
    )
    dtype: str = dtype_field()
    max_prompt_length: int = field(default=2048, metadata={"help": "Tokens of a conversation; longer ones fail."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest response in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 takes the likeliest token."})
    lease_seconds: float = field(
        default=LEASE_SECONDS,
        metadata={"help": "Seconds after which another worker takes over from one that is not heard of, 1 to 20."},
    )

    def check(self) -> None:
        """Settle the type of the weights, and refuse values that no worker can use."""
        if not self.store:
            raise ValueError("store is missing: name the app's with --store")
        if not FEWEST_POLICIES <= len(self.policy) <= MOST_POLICIES:
            fix = f"name {FEWEST_POLICIES} to {MOST_POLICIES} after --policy; an annotator ranks their answers"
            raise ValueError(f"policy names {len(self.policy)}; {fix}")
        names = [name for name, _ in map(named, self.policy)]
        if len(set(names)) < len(names):
            raise ValueError(f"policy is {' '.join(names)}: give each a name of its own, as in NAME=MODEL")
        self.dtype = settled_dtype(self.dtype)
        if self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length is {self.max_prompt_length}: it must be at least 1")
        if not 1 <= self.lease_seconds <= LEASE_SECONDS:
            raise ValueError(f"lease_seconds is {self.lease_seconds}: it must lie between 1 and {LEASE_SECONDS:.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Load the policies, then answer until SIGINT or SIGTERM; what is not finished then is given back."""
    args = parse(WorkerArguments, argv)
    with exit_on_error():
        args.check()
        sampling = Sampling(1, args.max_new_tokens, args.temperature)
        store = Store.open(str(args.store), create=False)
        policies = [LoadedPolicy.load(text, args, sampling) for text in args.policy]
    queue = LiveQueue(store, [policy.known for policy in policies], lease_seconds=args.lease_seconds)
    worker = Worker(queue, Policies(policies))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stopping.set())
    with ExitStack() as stack:
        for policy in policies:
            stack.enter_context(ready_to_stream(policy.policy.sampler))
        names = ", ".join(policy.known.name for policy in policies)
        print(f"worker {queue.name}: {names}  ({store.address}; Ctrl-C stops)", flush=True)
        try:
            worker.run()
        except StoreUnavailable as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error
        finally:
            store.close()


def named(text: str) -> tuple[str, str]:
    """Name and model of `NAME=MODEL`; a model alone is called what `rlhf sample` calls it."""
    name, equals, model = text.partition("=")
    return (name, model) if equals else (text, text)


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy ready to stream.

    Attributes:
        known: what the store keeps of it.
        policy: the policy, without the backbone that its sampler's copy was made from.
        sampling: how it is sampled, but for the seed.
    """

    known: LivePolicy
    policy: Policy
    sampling: Sampling

    @classmethod
    def load(cls, text: str, args: WorkerArguments, sampling: Sampling) -> LoadedPolicy:
        """Load `MODEL` or `NAME=MODEL`.

        Raises:
            ValueError: there is no such policy.
        """
        name, model = named(text)
        source = resolve_model(model)
        chat = Chat(load_tokenizer(source.backbone), args.max_prompt_length, args.max_new_tokens)
        policy = Policy(source, chat, dtype=DTYPES[args.dtype], max_rows=1)
        policy.name = name
        del policy.backbone  # the sampler has a merged copy, and policies on one backbone need not keep it each
        settings = policy.record(Sample([], [], False), sampling).sampling
        return cls(LivePolicy(name, origin_of(source), settings), policy, sampling)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that fits; what annotators write is text, never a special token.

        Raises:
            Unanswerable: it is too long, or the template does not take it.
        """
        chat = self.policy.chat
        try:
            ids = chat.encode_conversation(messages)
        except ChatFault:
            roles = ", ".join(message.role for message in messages)
            fix = "leave the system message out, and let user and assistant alternate"
            raise Unanswerable(f"a policy takes no conversation of {roles}; {fix}") from None
        if len(ids) > chat.max_prompt_length:
            raise Unanswerable(
                f"the conversation has {len(ids)} tokens, and at most {chat.max_prompt_length} are read; shorten it"
            )
        room = getattr(self.policy.sampler.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) + self.sampling.max_new_tokens > room:
            fits = max(room - self.sampling.max_new_tokens, 0)
            raise Unanswerable(f"the conversation has {len(ids)} tokens, and a policy has room for {fits}; shorten it")
        return ids


class Policies:
    """Policies in this process, as `annotation.worker.Answering`."""

    def __init__(self, policies: Sequence[LoadedPolicy]):
        self.policies = policies

    def start(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[Answer]:
        encoded = [policy.encode(messages) for policy in self.policies]
        return [StreamedAnswer(*each) for each in zip(self.policies, encoded, seeds, strict=True)]


class StreamedAnswer:
    """A response that one policy is generating, as `annotation.worker.Answer`."""

    def __init__(self, loaded: LoadedPolicy, prompt: Sequence[int], seed: int):
        self.ended = False
        self._policy = loaded.policy
        self._sampling = dataclasses.replace(loaded.sampling, seed=seed)
        self._stream = stream(loaded.policy.sampler, prompt, self._sampling)
        self._sample = Sample([], [], False)
        self._shown = ""

    def step(self) -> None:
        self._sample = next(self._stream)
        self.ended = self._sample.finished or len(self._sample.token_ids) == self._sampling.max_new_tokens

    def text(self) -> str:
        """Without a character at its end of which not all bytes are there."""
        text = self._policy.chat.decode(self._sample.token_ids).rstrip(HALF_CHARACTER)
        if text.startswith(self._shown):
            self._shown = text
        return self._shown

    def response(self) -> Response:
        return self._policy.record(self._sample, self._sampling)


if __name__ == "__main__":
    main()
