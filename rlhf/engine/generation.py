"""Sampling from the policy: one prefill per prompt, finished rows dropped, a sample decided by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from rlhf.engine.decoding import (
    IMPLEMENTATION,
    CacheDecoder,
    Decoder,
    SharedPromptDecoder,
    attention_of,
    shares_prompts,
)
from rlhf.engine.decoding_graphs import GraphedDecoder
from rlhf.engine.merged import AdapterLinear, MergedCopy
from rlhf.engine.packed_linears import packed_linears
from rlhf.engine.sampling import Sampling, draw, uniforms

__all__ = ["MergedCopy", "Sample", "Sampler", "Sampling"]

STEPS_BETWEEN_CHECKS = 8  # on a GPU, which would have to wait to say who has finished


@dataclass(frozen=True)
class Sample:
    """One sampled response.

    Attributes:
        token_ids: the response, ending with a stop token where it finished.
        logprobs: for each token its log-probability under the sampler, in nats.
        finished: whether it ended by itself.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool


class Sampler:
    """Samples responses from a plain causal language model.

    Args:
        model: the model that is sampled from.
        stop_ids: tokens that end a response.
        pad_id: fills the left of shorter prompts where the model decodes through transformers' cache; masked out.
        max_rows: how many sequences are decoded side by side.
        decode: gives the text of token ids; needed for stop strings.
        cuda_graphs: replay steps as CUDA graphs, which suits small models; rows are then dropped by powers of two.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stop_ids: set[int],
        pad_id: int,
        max_rows: int = 64,
        decode: Callable[[list[int]], str] | None = None,
        cuda_graphs: bool = False,
    ):
        self.model = model.eval()
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long)
        self.pad_id = pad_id
        self.max_rows = max_rows
        self.decode = decode
        self.shares_prompts = shares_prompts(model)
        self.cuda_graphs = cuda_graphs and self.shares_prompts

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, progress: str | None = None
    ) -> list[list[Sample]]:
        """Sample `num_samples` responses to each prompt.

        A sample is decided by its prompt, its index and the seed alone, whatever else is in the batch, up to the
        rounding of the logits.

        Args:
            prompts: token ids of each prompt.
            progress: the label of a progress bar; None shows none.

        Returns:
            For each prompt, in the order given, its samples.

        Raises:
            ValueError: stop strings are asked for, but the sampler cannot decode.
        """
        if sampling.stop_strings and self.decode is None:
            raise ValueError(f"stop_strings is {sampling.stop_strings}, which needs a Sampler with `decode`")
        results: list[list[Sample]] = [[] for _ in prompts]
        prompts_at_once = max(1, self.max_rows // sampling.num_samples)
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=len(prompts), desc=progress, unit="prompt", disable=progress is None))
            if self.shares_prompts:
                stack.enter_context(attention_of(self.model, IMPLEMENTATION))
            if not any(isinstance(module, AdapterLinear) for module in self.model.modules()):  # made to save memory
                stack.enter_context(packed_linears(self.model))
            for start in range(0, len(by_length), prompts_at_once):
                chosen = by_length[start : start + prompts_at_once]
                samples = self._decode_batch([prompts[index] for index in chosen], sampling)
                for index in chosen:
                    results[index] = [next(samples) for _ in range(sampling.num_samples)]
                bar.update(len(chosen))
        return results

    def _decode_batch(self, prompts: list[Sequence[int]], sampling: Sampling) -> Iterator[Sample]:
        batch = _Batch(prompts, sampling, self.stop_ids.to(self.model.device))
        decoder = self._decoder(prompts, sampling)
        # 1. the prompts, once each
        logits = decoder.read_prompts()
        for step in range(sampling.max_new_tokens):
            # 2. draw one token per row
            drawn = batch.draw(logits, step)
            if self.decode is not None and sampling.stop_strings:
                batch.end_at_strings(step, sampling.stop_strings, self.decode)
            if step + 1 == sampling.max_new_tokens:
                break
            # 3. drop rows that have ended, then one step for the others
            if self.model.device.type == "cpu" or (step + 1) % STEPS_BETWEEN_CHECKS == 0:
                order = batch.drop_finished(by_powers_of_two=self.cuda_graphs)
                if order is None:
                    break
                if len(order) < len(drawn):
                    decoder.keep(order)
                    drawn = drawn[torch.tensor(order, device=drawn.device)]
            logits = decoder.step(drawn)
        return batch.samples()

    def _decoder(self, prompts: list[Sequence[int]], sampling: Sampling) -> Decoder:
        if not self.shares_prompts:
            return CacheDecoder(self.model, prompts, sampling.num_samples, self.pad_id)
        if self.cuda_graphs:
            return GraphedDecoder(self.model, prompts, sampling.num_samples, sampling.max_new_tokens)
        return SharedPromptDecoder(self.model, prompts, sampling.num_samples, sampling.max_new_tokens)


class _Batch:
    """What has been drawn for a batch of prompts.

    Attributes:
        tokens, logprobs: `[samples, max_new_tokens]`; what lies behind a sample's length means nothing.
        lengths: `[samples]`.
        finished: `[samples]` whether the sample ended by itself.
        rows: `[rows]` the sample of each row that is still decoded.
    """

    def __init__(self, prompts: list[Sequence[int]], sampling: Sampling, stop_ids: torch.Tensor):
        device, num_rows = stop_ids.device, len(prompts) * sampling.num_samples
        self.sampling = sampling
        self.stop_ids = stop_ids
        each = [uniforms(prompt, index, sampling) for prompt in prompts for index in range(sampling.num_samples)]
        self.uniforms = torch.stack(each).to(device)
        self.tokens = torch.zeros(num_rows, sampling.max_new_tokens, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(num_rows, sampling.max_new_tokens, device=device)
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.rows = torch.arange(num_rows, device=device)

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Draw token `step` of every row from `[rows, vocabulary]` logits; rows that have finished draw in vain."""
        if step < self.sampling.min_new_tokens:
            logits = logits.index_fill(-1, self.stop_ids, -torch.inf)
        drawn, logprobs = draw(logits, self.uniforms[self.rows, step], self.sampling.temperature)
        self.tokens[self.rows, step] = drawn
        self.logprobs[self.rows, step] = logprobs
        finished = self.finished[self.rows]
        self.lengths[self.rows] += ~finished
        self.finished[self.rows] = finished | torch.isin(drawn, self.stop_ids)
        return drawn

    def end_at_strings(self, step: int, strings: tuple[str, ...], decode: Callable[[list[int]], str]) -> None:
        """End rows whose text contains one of the strings since token `step`."""
        for row in self.rows[~self.finished[self.rows]].tolist():
            text = decode(self.tokens[row, : step + 1].tolist())
            if any(string in text for string in strings):
                self.finished[row] = True

    def drop_finished(self, *, by_powers_of_two: bool = False) -> list[int] | None:
        """Leave finished rows out; the order of the others, where rows from the end take the places left free.

        Args:
            by_powers_of_two: keep as many finished rows as fill up the next power of two.

        Returns:
            The rows kept; None when all have finished.
        """
        live = (~self.finished[self.rows]).tolist()
        if not any(live):
            return None
        size = 2 ** (sum(live) - 1).bit_length() if by_powers_of_two else sum(live)
        size = min(size, len(live))
        behind = iter(row for row in range(size, len(live)) if live[row])
        order = [row if live[row] else next(behind, row) for row in range(size)]
        if len(order) < len(live):
            self.rows = self.rows[torch.tensor(order, dtype=torch.long, device=self.rows.device)]
        return order

    def samples(self) -> Iterator[Sample]:
        """Each sample, in the order of prompts and indices."""
        columns = (self.tokens.tolist(), self.logprobs.tolist(), self.lengths.tolist(), self.finished.tolist())
        for tokens, logprobs, length, finished in zip(*columns, strict=True):
            yield Sample(tokens[:length], logprobs[:length], finished)
