from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from peft import LoraConfig
from transformers import GenerationConfig, LlamaConfig

from rlhf.engine import generation
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.generation import MergedCopy, Sample, Sampler, Sampling
from rlhf.engine.packing import Group, pack

PROMPTS = [[5, 9, 13, 7, 22], [33, 34], [20, 21, 22, 23, 24, 25, 26], [40], [50, 51, 52]]
STOP = {2, 3, 4}


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()


def sampler(model, **settings) -> Sampler:
    return Sampler(model, **{"stop_ids": STOP, "pad_id": 0, **settings})


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")


def flat(samples: list[list[Sample]]) -> list[Sample]:
    return [sample for row in samples for sample in row]


@pytest.mark.parametrize("stop_ids", [{2}, {7, 2, 30}, set()], ids=["one", "several", "none"])
def test_greedy_equals_generate_of_transformers(model, stop_ids) -> None:
    sampled = sampler(model, stop_ids=stop_ids).sample(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
    for prompt, (sample,) in zip(PROMPTS, sampled, strict=True):
        ids = torch.tensor([prompt])
        config = GenerationConfig(
            do_sample=False, max_new_tokens=24, eos_token_id=sorted(stop_ids) or [-1], pad_token_id=0
        )
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert sample.token_ids == output[0, len(prompt) :].tolist()
        assert sample.finished == (sample.token_ids[-1] in stop_ids)


def test_some_greedy_sample_stops_early_so_that_the_comparison_means_something(model) -> None:
    lengths = [
        len(sample.token_ids)
        for (sample,) in sampler(model, stop_ids={7, 2, 30}).sample(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
    ]
    assert min(lengths) < 24


def test_a_sample_does_not_depend_on_its_batch(model) -> None:
    sampling = Sampling(num_samples=4, max_new_tokens=12, seed=3)
    together = sampler(model).sample(PROMPTS, sampling)
    backwards = sampler(model).sample(PROMPTS[::-1], sampling)[::-1]
    few_rows = sampler(model, max_rows=1).sample(PROMPTS, sampling)
    alone = [sampler(model, max_rows=4).sample([prompt], sampling)[0] for prompt in PROMPTS]
    for other in (backwards, few_rows, alone):
        assert [[s.token_ids for s in row] for row in other] == [[s.token_ids for s in row] for row in together]
        for one, same in zip(flat(other), flat(together), strict=True):
            assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)
            assert one.finished == same.finished
    lengths = {len(s.token_ids) for row in together for s in row}
    assert len(lengths) > 2, "rows that end at different steps are what could go wrong"


def test_the_first_samples_stay_when_more_are_drawn(model) -> None:
    few = sampler(model).sample(PROMPTS, Sampling(num_samples=2, max_new_tokens=8))
    many = sampler(model).sample(PROMPTS, Sampling(num_samples=5, max_new_tokens=8))
    assert [[s.token_ids for s in row] for row in few] == [[s.token_ids for s in row[:2]] for row in many]


def test_a_longer_limit_only_extends_a_sample(model) -> None:
    short = sampler(model).sample(PROMPTS, Sampling(max_new_tokens=4))
    longer = sampler(model).sample(PROMPTS, Sampling(max_new_tokens=20))
    for (one,), (other,) in zip(short, longer, strict=True):
        assert other.token_ids[: len(one.token_ids)] == one.token_ids
        assert one.finished == (other.finished and len(other.token_ids) <= 4)


def test_seed_prompt_and_index_each_change_the_sample(model) -> None:
    def draw(prompt, seed):
        rows = sampler(model, stop_ids=set()).sample([prompt], Sampling(num_samples=3, max_new_tokens=10, seed=seed))
        return [tuple(sample.token_ids) for sample in rows[0]]

    assert len({*draw([33, 34], 0), *draw([33, 34], 1)}) == 6
    assert draw([33, 34], 0) == draw([33, 34], 0)


def test_the_global_generator_is_neither_read_nor_moved(model) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sampler(model).sample(PROMPTS, Sampling(max_new_tokens=6))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert sampler(model).sample(PROMPTS, Sampling(max_new_tokens=6)) == first


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_sampled_logprobs_equal_those_of_the_training_pass(tiny_model, fill_adapter, temperature) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", lora())
    fill_adapter(backbone, "policy")
    merged = MergedCopy(backbone, "policy")
    samples = sampler(merged.model).sample(PROMPTS, Sampling(num_samples=3, max_new_tokens=10, temperature=temperature))
    batch = pack([Group(p, [s.token_ids for s in row]) for p, row in zip(PROMPTS, samples, strict=True)])
    with torch.no_grad():
        outputs = backbone(batch, [POLICY, REFERENCE], temperature=temperature)
    drawn = torch.tensor([value for row in samples for sample in row for value in sample.logprobs])
    torch.testing.assert_close(drawn, outputs["policy"].logprobs, rtol=0, atol=1e-4)
    assert (drawn - outputs["reference"].logprobs).abs().max() > 0.01


def test_a_sample_ends_at_its_first_stop_token_and_keeps_it(model) -> None:
    samples = flat(sampler(model).sample(PROMPTS, Sampling(num_samples=8, max_new_tokens=16)))
    assert {sample.finished for sample in samples} == {True, False}
    for sample in samples:
        assert len(sample.logprobs) == len(sample.token_ids)
        assert STOP.isdisjoint(sample.token_ids[:-1])
        assert sample.finished == (sample.token_ids[-1] in STOP)
        assert sample.finished or len(sample.token_ids) == 16


def test_without_stop_tokens_every_sample_is_cut_off(model) -> None:
    samples = flat(sampler(model, stop_ids=set()).sample(PROMPTS, Sampling(max_new_tokens=5)))
    assert all(len(sample.token_ids) == 5 and not sample.finished for sample in samples)


def test_a_pad_token_that_is_a_stop_token_changes_nothing(model) -> None:
    sampling = Sampling(num_samples=3, max_new_tokens=10)
    expected = sampler(model, pad_id=0).sample(PROMPTS, sampling)
    got = sampler(model, pad_id=2).sample(PROMPTS, sampling)
    assert [[s.token_ids for s in row] for row in got] == [[s.token_ids for s in row] for row in expected]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_frequencies_match_the_softmax(tiny_model, temperature) -> None:
    model = tiny_model(LlamaConfig, vocab_size=8, num_hidden_layers=1)
    prompt, num_samples = [3, 5, 1], 4000
    with torch.no_grad():
        probabilities = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(dim=-1)
    samples = sampler(model, stop_ids=set(), max_rows=num_samples).sample(
        [prompt], Sampling(num_samples=num_samples, max_new_tokens=1, temperature=temperature, seed=11)
    )[0]
    counts = Counter(sample.token_ids[0] for sample in samples)
    expected = probabilities * num_samples
    common = expected >= 5
    observed = torch.tensor([counts[token] for token in range(8)], dtype=torch.float64)
    chi_square = float(((observed - expected)[common].square() / expected[common]).sum())
    assert common.sum() >= 3
    # 7 degrees of freedom at most: above 24.3 once in a thousand draws; the seed is fixed
    assert chi_square < 24.3
    for sample in samples[:20]:
        assert sample.logprobs[0] == pytest.approx(math.log(probabilities[sample.token_ids[0]]), abs=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24], ids=["least", "middle", "greatest"])
def test_a_token_of_probability_0_is_never_drawn(uniform) -> None:
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    logits[:, [0, 1, 500, -2, -1]] = -math.inf
    drawn, logprobs = generation._draw(logits, torch.full((200,), uniform), 1.0)
    assert logprobs.isfinite().all()
    assert (logits.gather(1, drawn[:, None]) > -math.inf).all()


def test_second_tokens_follow_the_softmax_after_the_first(tiny_model) -> None:
    model = tiny_model(LlamaConfig, vocab_size=4, num_hidden_layers=1)
    num_samples = 4000
    with torch.no_grad():
        first = model(torch.tensor([[3, 1]])).logits[0, -1].double().softmax(dim=-1)
        second = torch.stack([model(torch.tensor([[3, 1, t]])).logits[0, -1].double().softmax(-1) for t in range(4)])
    expected = (first[:, None] * second * num_samples).flatten()
    samples = sampler(model, stop_ids=set(), max_rows=num_samples).sample(
        [[3, 1]], Sampling(num_samples=num_samples, max_new_tokens=2, seed=5)
    )[0]
    counts = Counter(tuple(sample.token_ids) for sample in samples)
    observed = torch.tensor([counts[i, j] for i in range(4) for j in range(4)], dtype=torch.float64)
    common = expected >= 5
    chi_square = float(((observed - expected)[common].square() / expected[common]).sum())
    assert common.sum() >= 8
    assert chi_square < 37.7  # 15 degrees of freedom: once in a thousand draws


@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"max_new_tokens": 0}, {"temperature": -0.1}])
def test_sampling_that_cannot_be_is_refused(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sampling(**settings)


# ---- the merged copy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_merged_copy_shares_every_weight_that_the_adapter_does_not_touch(tiny_model, fill_adapter, tied) -> None:
    backbone = Backbone(tiny_model(tie_word_embeddings=tied))
    backbone.add_adapter("value", LoraConfig(r=4, target_modules=["v_proj", "down_proj"], task_type="CAUSAL_LM"))
    backbone.add_adapter("policy", lora())
    fill_adapter(backbone, "policy")
    merged = MergedCopy(backbone, "policy").model
    originals = {
        name.replace(".base_layer", ""): parameter
        for name, parameter in backbone.model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    copies = dict(merged.named_parameters(remove_duplicate=False))
    assert copies.keys() == originals.keys()
    touched = {name for name in copies if "q_proj" in name or "down_proj" in name}
    assert len(touched) == 4
    for name, parameter in copies.items():
        shared = parameter.data_ptr() == originals[name].data_ptr()
        assert shared == (name not in touched), name
        assert not parameter.requires_grad
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied


def test_neither_merging_nor_sampling_changes_the_backbone(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", lora())
    fill_adapter(backbone, "policy")
    before = {name: parameter.clone() for name, parameter in backbone.named_parameters()}
    merged = MergedCopy(backbone, "policy")
    for seed in range(3):
        fill_adapter(backbone, "policy", seed=seed)
        merged.sync()
        sampler(merged.model).sample(PROMPTS[:2], Sampling(max_new_tokens=3))
    for name, parameter in backbone.named_parameters():
        if ".lora_" not in name:
            assert parameter.equal(before[name]), name


def test_merging_into_bfloat16_rounds_once(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model(dtype=torch.bfloat16))
    backbone.add_adapter("policy", lora())
    fill_adapter(backbone, "policy")
    merged = MergedCopy(backbone, "policy").model
    base = tiny_model(dtype=torch.bfloat16).model.layers[0].mlp.down_proj.weight
    factors = backbone.lora_layers()["model.layers.0.mlp.down_proj"]
    a, b = factors.lora_A["policy"].weight, factors.lora_B["policy"].weight
    expected = (base.double() + 2 * b.double() @ a.double()).bfloat16()
    ours = merged.model.layers[0].mlp.down_proj.weight
    assert ours.dtype == torch.bfloat16
    # the sum itself in float32 may fall to the other side of a rounding edge, rarely
    assert (ours != expected).float().mean() < 0.01


def test_merged_copy_has_the_ordinary_attention_and_dropout_off(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", lora())
    merged = MergedCopy(backbone, "policy").model
    assert merged.config._attn_implementation == "sdpa"
    assert backbone.config._attn_implementation == "shared_prefix"
    assert not merged.training
    assert not any(parameter.is_meta for parameter in merged.parameters())
    assert not any(buffer.is_meta for buffer in merged.buffers())


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64},
    ],
    ids=["dynamic", "yarn"],
)
def test_merged_copy_keeps_scaled_positions(tiny_model, fill_adapter, response_logprobs, rope) -> None:
    backbone = Backbone(tiny_model(rope_parameters=rope))
    backbone.add_adapter("policy", lora())
    merged = MergedCopy(backbone, "policy").model
    plain = tiny_model(rope_parameters=rope)
    prompt, response = list(range(5, 45)), list(range(10, 50)) * 3
    torch.testing.assert_close(
        response_logprobs(merged, prompt, response), response_logprobs(plain, prompt, response), rtol=0, atol=1e-5
    )
