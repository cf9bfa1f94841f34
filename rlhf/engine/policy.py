"""A policy as those who sample and compare see it: prompts in, response records out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Response
from rlhf.engine.adapters import add_adapter_from
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.generation import MergedCopy, Sample, Sampler, Sampling
from rlhf.engine.packing import Group, pack
from rlhf.engine.sources import ModelSource


class Policy:
    """A backbone with or without an adapter, ready to answer.

    Args:
        source: where the weights are.
        chat: the chat format.
        dtype: type of the weights.
        max_rows: responses decoded side by side.
    """

    def __init__(self, source: ModelSource, chat: Chat, *, dtype: torch.dtype, max_rows: int = 64):
        if source.adapter is not None and (source.adapter / "reward_head.safetensors").exists():
            raise ValueError(f"model is {source.name}, a reward model: it gives scores, not responses; name a policy")
        self.name = source.name
        self.chat = chat
        self.backbone = Backbone.load(str(source.backbone), dtype=dtype, quantization=source.quantization)
        if torch.cuda.is_available():
            self.backbone.to("cuda")
        self.has_adapter = source.adapter is not None
        if source.adapter is not None:
            add_adapter_from(self.backbone, "policy", source.adapter)
        self.backbone.eval()
        self.sampler = Sampler(
            MergedCopy(self.backbone, "policy").model,
            stop_ids=chat.stop_ids,
            pad_id=chat.end_of_turn_id if chat.pad_id is None else chat.pad_id,
            max_rows=max_rows,
            decode=chat.decode,
        )

    def respond(self, prompts: Sequence[Comparison], sampling: Sampling) -> list[list[Response]]:
        """Sample responses to each prompt, with a progress bar; a response may be empty."""
        return [[self.record(sample, sampling) for sample in samples] for samples in self.sample(prompts, sampling)]

    def sample(self, prompts: Sequence[Comparison], sampling: Sampling) -> list[list[Sample]]:
        """Sample token ids for each prompt, with a progress bar."""
        encoded = [self.chat.encode_prompt(prompt.prompt) for prompt in prompts]
        return self.sampler.sample(encoded, sampling, progress=f"sample from {self.name}")

    def record(self, sample: Sample, sampling: Sampling) -> Response:
        """A sample as a record with its provenance."""
        settings: dict[str, Any] = dataclasses.asdict(sampling)
        seed = settings.pop("seed")
        settings["stop_strings"] = list(sampling.stop_strings)  # as JSON gives it back
        for name in ("min_new_tokens", "stop_strings"):  # said only where they are used
            if not settings[name]:
                del settings[name]
        return Response(
            text=self.chat.decode(sample.token_ids),
            policy=self.name,
            sampling=settings,
            seed=seed,
            finish_reason="stop" if sample.finished else "length",
        )

    @torch.no_grad()
    def sequence_kl(
        self, prompts: Sequence[Comparison], samples: Sequence[Sequence[Sample]], *, temperature: float
    ) -> list[float]:
        """KL from the backbone of each sampled response in nats (k1), all responses of the first prompt first.

        Both distributions are taken at `temperature`, the one that was sampled at.
        """
        if not self.has_adapter:
            return [0.0 for group in samples for _ in group]
        values: list[float] = []
        for prompt, group in zip(prompts, samples, strict=True):
            ids = Group(self.chat.encode_prompt(prompt.prompt), [sample.token_ids for sample in group])
            batch = pack([ids]).to(self.backbone.device)
            output = self.backbone(batch, [REFERENCE, POLICY], temperature=temperature)
            values += batch.sum_by_response(output["policy"].logprobs - output["reference"].logprobs).tolist()
        return values
