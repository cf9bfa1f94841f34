"""Rollouts by transformers' `generate`, with the log-probability of every token drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlhf.engine.backbone import Backbone
from rlhf.engine.generation import MergedCopy, Sample, Sampling
from rlhf.engine.sampling import batch_seed


class TransformersEngine:
    """`generate` of transformers on a merged copy: for caches that our own decoder does not know, and to check it.

    A batch is drawn under a seed made of the sampling seed and the prompts in it, so a sample depends on its batch:
    on `max_rows`, and on the other prompts.
    """

    def __init__(self, backbone: Backbone, adapter: str, *, stop_ids: set[int], pad_id: int, max_rows: int):
        self.merged = MergedCopy(backbone, adapter)
        # else `generate` fills what a call leaves open, such as a repetition penalty, from what the model came with
        self.merged.model.generation_config = GenerationConfig()
        self.stop_ids, self.pad_id, self.max_rows = stop_ids, pad_id, max_rows

    def sync(self) -> None:
        """Merge the adapter into the copy."""
        self.merged.sync()

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """Sample batch by batch, shorter prompts first; the generators of the process are left as they were."""
        if sampling.stop_strings:
            raise ValueError("stop_strings need --rollout_engine native or vllm: this engine ends at tokens only")
        results: list[list[Sample]] = [[] for _ in prompts]
        prompts_at_once = max(1, self.max_rows // sampling.num_samples)
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        device = self.merged.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for start in range(0, len(by_length), prompts_at_once):
                chosen = by_length[start : start + prompts_at_once]
                samples = self._generate([prompts[index] for index in chosen], sampling)
                for index, drawn in zip(chosen, samples, strict=True):
                    results[index] = drawn
        return results

    def _generate(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        model, greedy = self.merged.model, sampling.temperature == 0
        num_drawn = 1 if greedy else sampling.num_samples  # `generate` refuses several equal ones
        longest = max(len(prompt) for prompt in prompts)
        padded = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        drawn_logprobs = DrawnLogprobs(sampling.temperature or 1.0)
        config = GenerationConfig(
            **({"do_sample": False} if greedy else {"do_sample": True, "temperature": sampling.temperature}),
            **({} if greedy else {"top_k": 0, "top_p": 1.0}),
            num_return_sequences=num_drawn,
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.min_new_tokens or None,
            eos_token_id=sorted(self.stop_ids) or None,
            pad_token_id=self.pad_id,
        )
        torch.manual_seed(batch_seed(sampling.seed, prompts))
        ids = model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([drawn_logprobs]),
        )
        logprobs = drawn_logprobs.finish(ids[:, -1]).tolist()
        rows = zip(ids[:, longest:].tolist(), logprobs, strict=True)
        samples = [self._cut(*row) for row in rows]
        repeats = sampling.num_samples // num_drawn
        return [samples[i : i + num_drawn] * repeats for i in range(0, len(samples), num_drawn)]

    def _cut(self, token_ids: list[int], logprobs: list[float]) -> Sample:
        """A row up to its first stop token; `generate` pads what follows."""
        length = next((i + 1 for i, token in enumerate(token_ids) if token in self.stop_ids), len(token_ids))
        finished = bool(token_ids) and token_ids[length - 1] in self.stop_ids
        return Sample(token_ids[:length], logprobs[:length], finished)


class DrawnLogprobs(LogitsProcessor):
    """Keeps the log-probability of each token that `generate` draws; its own way keeps the scores of every step.

    `generate` runs given processors after its own bans of tokens and before the temperature.

    Args:
        temperature: what the scores are divided by.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature
        self.columns: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the token that the last step drew, `input_ids[:, -1]`, and the distribution of the next one."""
        self._note(input_ids[:, -1])
        self.last = (scores.float() / self.temperature).log_softmax(dim=-1)
        return scores

    def finish(self, drawn: torch.Tensor) -> torch.Tensor:
        """`[rows, steps]` in nats, after `drawn`, the `[rows]` tokens of the last step."""
        self._note(drawn)
        return torch.cat(self.columns, dim=1)

    def _note(self, drawn: torch.Tensor) -> None:
        if self.last is not None:
            self.columns.append(self.last.gather(1, drawn[:, None]))
