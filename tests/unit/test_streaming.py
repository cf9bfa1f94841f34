"""A stream gives what the batch sampler gives, a token at a time."""

from __future__ import annotations

from itertools import zip_longest

import pytest
import torch

from rlhf.engine.generation import Sampler, Sampling
from rlhf.engine.streaming import ready_to_stream, stream

PROMPTS = [[5, 9, 13, 7, 22], [40], [20, 21, 22, 23, 24, 25, 26]]


def sampler(model, **settings) -> Sampler:
    return Sampler(model, **{"stop_ids": {2, 3, 4}, "pad_id": 0, **settings})


def letters(ids: list[int]) -> str:
    return "".join(chr(97 + token_id % 26) for token_id in ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0, 0.7, 1])
def test_a_stream_ends_as_the_sample_of_the_same_seed(tiny_model, dtype, temperature) -> None:
    batch = sampler(tiny_model(dtype=dtype))
    for seed, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_new_tokens=20, temperature=temperature, seed=seed)
        ((expected,),) = batch.sample([prompt], sampling)
        with ready_to_stream(batch):
            *_, last = stream(batch, prompt, sampling)
        assert last == expected


def test_a_model_with_a_cache_of_its_own_streams_too(tiny_model) -> None:
    plain = sampler(tiny_model())
    plain.shares_prompts = False
    sampling = Sampling(max_new_tokens=20, seed=3)
    ((expected,),) = plain.sample([PROMPTS[0]], sampling)
    with ready_to_stream(plain):
        *_, last = stream(plain, PROMPTS[0], sampling)
    assert last == expected


def test_each_step_adds_one_token_and_only_the_last_one_ends(tiny_model) -> None:
    batch = sampler(tiny_model(), stop_ids=set(range(2, 12)))
    with ready_to_stream(batch):
        parts = list(stream(batch, PROMPTS[0], Sampling(max_new_tokens=40, seed=5)))
    assert [len(part.token_ids) for part in parts] == list(range(1, len(parts) + 1))
    assert all(parts[-1].token_ids[: len(part.token_ids)] == part.token_ids for part in parts)
    assert [part.finished for part in parts] == [False] * (len(parts) - 1) + [True]
    assert 1 < len(parts) < 40


def test_streams_of_one_model_do_not_disturb_each_other(tiny_model) -> None:
    batch = sampler(tiny_model())
    sampling = Sampling(max_new_tokens=15, seed=1)
    expected = [batch.sample([prompt], sampling)[0][0] for prompt in PROMPTS[:2]]
    with ready_to_stream(batch):
        streams = [stream(batch, prompt, sampling) for prompt in PROMPTS[:2]]
        rounds = list(zip_longest(*streams))
    last = [[part for part in parts if part is not None][-1] for parts in zip(*rounds, strict=True)]
    assert last == expected


def test_stop_strings_and_the_fewest_tokens_hold_in_a_stream(tiny_model) -> None:
    batch = sampler(tiny_model(), decode=letters, stop_ids=set(range(2, 30)))
    sampling = Sampling(max_new_tokens=30, seed=2, min_new_tokens=6, stop_strings=("e", "k"))
    ((expected,),) = batch.sample([PROMPTS[0]], sampling)
    with ready_to_stream(batch):
        *_, last = stream(batch, PROMPTS[0], sampling)
    assert last == expected
    assert last.finished


def test_the_model_is_as_before_behind_the_block(tiny_model) -> None:
    batch = sampler(tiny_model(dtype=torch.bfloat16))
    before = batch.model.config._attn_implementation
    with ready_to_stream(batch):
        next(stream(batch, PROMPTS[0], Sampling(max_new_tokens=3)))
    assert batch.model.config._attn_implementation == before
    assert not any("forward" in vars(module) for module in batch.model.modules())


def test_several_responses_are_no_stream(tiny_model) -> None:
    with pytest.raises(ValueError, match="num_samples is 2"):
        next(stream(sampler(tiny_model()), PROMPTS[0], Sampling(num_samples=2)))
