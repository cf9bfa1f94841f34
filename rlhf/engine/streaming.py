"""One response, token by token, for somebody who watches it grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from rlhf.engine.decoding import IMPLEMENTATION, CacheDecoder, Decoder, SharedPromptDecoder, attention_of
from rlhf.engine.generation import Sample, Sampler, Sampling
from rlhf.engine.merged import AdapterLinear
from rlhf.engine.packed_linears import packed_linears
from rlhf.engine.sampling import draw, uniforms


@contextmanager
def ready_to_stream(sampler: Sampler) -> Iterator[None]:
    """Prepare a sampler's model for `stream`, inside the block; it must not be sampled from otherwise meanwhile.

    Several streams of one model may run at once inside one block.
    """
    with ExitStack() as stack:
        if sampler.shares_prompts:
            stack.enter_context(attention_of(sampler.model, IMPLEMENTATION))
        if not any(isinstance(module, AdapterLinear) for module in sampler.model.modules()):
            stack.enter_context(packed_linears(sampler.model))
        yield


@torch.inference_mode()
def stream(sampler: Sampler, prompt: Sequence[int], sampling: Sampling) -> Iterator[Sample]:
    """Sample one response; after each token, what there is of it so far. To be used inside `ready_to_stream`.

    The last one equals `sampler.sample([prompt], sampling)`: the same random numbers meet the same logits, to the bit
    where the model computes the same twice.

    Raises:
        ValueError: more than one response is asked for, or stop strings of a sampler that cannot decode.
    """
    if sampling.num_samples != 1:
        raise ValueError(f"num_samples is {sampling.num_samples}; a stream is one response")
    if sampling.stop_strings and sampler.decode is None:
        raise ValueError(f"stop_strings is {sampling.stop_strings}, which needs a Sampler with `decode`")
    decoder = _decoder(sampler, prompt, sampling)
    numbers = uniforms(prompt, 0, sampling).to(sampler.model.device)
    stop_ids = sampler.stop_ids.to(sampler.model.device)
    token_ids: list[int] = []
    logprobs: list[float] = []
    logits = decoder.read_prompts()
    for step in range(sampling.max_new_tokens):
        if step < sampling.min_new_tokens:
            logits = logits.index_fill(-1, stop_ids, -torch.inf)
        drawn, logprob = draw(logits, numbers[step : step + 1], sampling.temperature)
        token_ids.append(int(drawn))
        logprobs.append(float(logprob))
        finished = bool(torch.isin(drawn, stop_ids))
        if sampler.decode is not None and sampling.stop_strings and not finished:
            text = sampler.decode(token_ids)
            finished = any(string in text for string in sampling.stop_strings)
        yield Sample(list(token_ids), list(logprobs), finished)
        if finished or step + 1 == sampling.max_new_tokens:
            return
        logits = decoder.step(drawn)


def _decoder(sampler: Sampler, prompt: Sequence[int], sampling: Sampling) -> Decoder:
    if sampler.shares_prompts:
        return SharedPromptDecoder(sampler.model, [prompt], 1, sampling.max_new_tokens)
    return CacheDecoder(sampler.model, [prompt], 1, sampler.pad_id)
