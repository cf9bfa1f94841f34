from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import partial

import pytest
import torch
from peft import LoraConfig
from transformers import (
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GenerationConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlhf.engine import generation
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone
from rlhf.engine.decoding import SharedPromptDecoder
from rlhf.engine.generation import MergedCopy, Sample, Sampler, Sampling
from rlhf.engine.packed_linears import packed_linears
from rlhf.engine.packing import Group, pack
from rlhf.engine.sampling import draw
from rlhf.sample import SampleArguments
from rlhf.training.parser import parse

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
    drawn, logprobs = draw(logits, torch.full((200,), uniform), 1.0)
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


REFUSED = [
    {"num_samples": 0},
    {"max_new_tokens": 0},
    {"temperature": -0.1},
    {"min_new_tokens": -1},
    {"min_new_tokens": 65},
    {"stop_strings": "text"},
    {"stop_strings": ("",)},
]


@pytest.mark.parametrize("settings", REFUSED)
def test_sampling_that_cannot_be_is_refused(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sampling(**settings)


# ---- architectures --------------------------------------------------------------------------------------

WIDE = {"num_hidden_layers": 2, "head_dim": 8}
LONG = [[5, 9, 13, 7, 22, 8, 30, 11], [33, 34], [20, 21, 22, 23, 24]]
ARCHITECTURES = [
    pytest.param(LlamaConfig, {}, id="llama"),
    pytest.param(Qwen2Config, {}, id="qwen2"),
    pytest.param(Qwen3Config, WIDE, id="qwen3"),
    pytest.param(GemmaConfig, WIDE, id="gemma"),
    pytest.param(
        Gemma2Config,
        WIDE | {"sliding_window": 6, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 8},
        id="gemma2-softcap-window",
    ),
    pytest.param(
        Gemma3TextConfig,
        WIDE
        | {
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
        id="gemma3-window",
    ),
    pytest.param(MistralConfig, {"sliding_window": 6}, id="mistral-window"),
    pytest.param(MistralConfig, {"sliding_window": None}, id="mistral"),
    pytest.param(PhiConfig, {}, id="phi"),
    pytest.param(Phi3Config, {}, id="phi3"),
    pytest.param(GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, id="gpt2"),
    pytest.param(GptOssConfig, WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2}, id="gpt-oss-sinks"),
    pytest.param(FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}, id="falcon-own-cache"),
]
OWN_CACHE = {"FalconForCausalLM"}


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed-shapes"])
@pytest.mark.parametrize("config, settings", ARCHITECTURES)
def test_decoded_logprobs_equal_those_of_a_plain_forward(
    tiny_model, response_logprobs, monkeypatch, config, settings, fixed
) -> None:
    attention = "eager" if config in (Gemma2Config, GptOssConfig) else "sdpa"  # SDPA leaves soft-capping out
    model = tiny_model(config, attention=attention, **settings)
    tested = sampler(model, stop_ids=set(range(2, 14)))
    assert tested.shares_prompts == (type(model).__name__ not in OWN_CACHE)
    if fixed:
        monkeypatch.setattr(generation, "SharedPromptDecoder", partial(SharedPromptDecoder, fixed=True))
    sampled = tested.sample(LONG, Sampling(num_samples=3, max_new_tokens=12, temperature=4.0, seed=1))
    assert len({len(sample.token_ids) for sample in flat(sampled)}) > 2, "rows must be dropped while others go on"
    for prompt, samples in zip(LONG, sampled, strict=True):
        for sample in samples:
            expected = response_logprobs(model, prompt, sample.token_ids, temperature=4.0)
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected, rtol=0, atol=1e-4)
    assert model.config._attn_implementation == attention


def test_the_cache_of_transformers_gives_the_same_samples(model) -> None:
    sampling = Sampling(num_samples=3, max_new_tokens=12, seed=1)
    other = sampler(model)
    other.shares_prompts = False
    for one, same in zip(flat(other.sample(LONG, sampling)), flat(sampler(model).sample(LONG, sampling)), strict=True):
        assert (one.token_ids, one.finished) == (same.token_ids, same.finished)
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-5)


def test_rows_dropped_by_powers_of_two_give_the_same_samples(model, monkeypatch) -> None:
    """All of the decoding by buckets that a CPU can run: the same steps, not captured."""
    sampling = Sampling(num_samples=4, max_new_tokens=16, seed=2)
    expected = sampler(model).sample(PROMPTS, sampling)
    monkeypatch.setattr(generation, "GraphedDecoder", partial(SharedPromptDecoder, fixed=True))
    sizes = []
    step = SharedPromptDecoder.step
    monkeypatch.setattr(SharedPromptDecoder, "step", lambda self, ids: sizes.append(len(ids)) or step(self, ids))
    bucketed = sampler(model, cuda_graphs=True).sample(PROMPTS, sampling)
    for one, same in zip(flat(bucketed), flat(expected), strict=True):
        assert (one.token_ids, one.finished) == (same.token_ids, same.finished)
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-5)
    assert len(set(sizes)) > 2
    assert set(sizes) <= {20, 16, 8, 4, 2, 1}


def test_what_finished_rows_leave_behind_changes_no_other_row(model, monkeypatch) -> None:
    sampling = Sampling(num_samples=4, max_new_tokens=16, seed=2)
    dropped = sampler(model).sample(PROMPTS, sampling)
    monkeypatch.setattr(generation._Batch, "drop_finished", lambda batch, **_: list(range(len(batch.rows))))
    kept = sampler(model).sample(PROMPTS, sampling)
    for one, same in zip(flat(dropped), flat(kept), strict=True):
        assert (one.token_ids, one.finished) == (same.token_ids, same.finished)
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-5)


def test_bfloat16_layers_laid_out_for_decoding_multiply_alike_and_are_put_back(tiny_model) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    ids = torch.tensor([[5, 9, 13]])
    with torch.no_grad():
        before = model(ids).logits
        with packed_linears(model):
            inside = model(ids).logits
        after = model(ids).logits
    assert after.equal(before)
    assert (inside - before).abs().max() < 0.05 * before.abs().max()
    assert not any("forward" in vars(module) for module in model.modules())


def test_bfloat16_samples_are_those_of_every_run(tiny_model) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    sampling = Sampling(num_samples=3, max_new_tokens=12)
    assert sampler(model).sample(PROMPTS, sampling) == sampler(model).sample(PROMPTS, sampling)


# ---- limits of a response -------------------------------------------------------------------------------


def test_a_response_cannot_stop_before_min_new_tokens(model, response_logprobs) -> None:
    free = flat(sampler(model).sample(PROMPTS, Sampling(num_samples=8, max_new_tokens=16)))
    held = flat(sampler(model).sample(PROMPTS, Sampling(num_samples=8, max_new_tokens=16, min_new_tokens=6)))
    assert min(len(sample.token_ids) for sample in free) < 6
    assert min(len(sample.token_ids) for sample in held) >= 6
    assert any(sample.finished for sample in held)
    for one, other in zip(free, held, strict=True):
        if len(one.token_ids) > 6:  # the same numbers, but other tokens share the weight of the stop tokens
            continue
        assert STOP.isdisjoint(other.token_ids[:6])


def test_before_min_new_tokens_logprobs_are_those_of_the_tokens_that_are_left(model) -> None:
    prompt = PROMPTS[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    logits[sorted(STOP)] = -math.inf
    expected = logits.log_softmax(dim=-1)
    for sample in sampler(model).sample([prompt], Sampling(num_samples=5, max_new_tokens=1, min_new_tokens=1))[0]:
        assert sample.logprobs[0] == pytest.approx(float(expected[sample.token_ids[0]]), abs=1e-5)


def spell(ids: list[int]) -> str:
    return " ".join(map(str, ids)) + " "


def test_a_response_ends_with_the_token_that_completes_a_stop_string(model) -> None:
    sampling = Sampling(num_samples=6, max_new_tokens=16)
    free = flat(sampler(model).sample(PROMPTS, sampling))
    pair = next(sample.token_ids[3:5] for sample in free if len(sample.token_ids) > 8)
    strings = (spell(pair), "no such text")
    ended = flat(sampler(model, decode=spell).sample(PROMPTS, dataclasses.replace(sampling, stop_strings=strings)))
    changed = 0
    for one, other in zip(free, ended, strict=True):
        places = [i for i in range(1, len(one.token_ids)) if spell(pair) in spell(one.token_ids[: i + 1])]
        expected = one.token_ids[: places[0] + 1] if places else one.token_ids
        changed += expected != one.token_ids
        assert other.token_ids == expected
        assert other.finished == (one.finished or bool(places))
    assert changed


def test_sampling_limits_come_from_the_flags_of_rlhf_sample() -> None:
    flags = ["--model", "m", "--min_new_tokens", "3", "--stop_strings", "a b", "c"]
    sampling = parse(SampleArguments, flags).sampling()
    assert (sampling.min_new_tokens, sampling.stop_strings) == (3, ("a b", "c"))


def test_stop_strings_without_a_decoder_are_refused(model) -> None:
    with pytest.raises(ValueError, match="stop_strings"):
        sampler(model).sample(PROMPTS, Sampling(stop_strings=("x",)))


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


@pytest.mark.parametrize(
    "config, settings, targets",
    [
        (LlamaConfig, {}, ["q_proj", "down_proj"]),
        (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, ["c_attn", "c_proj"]),
    ],
    ids=["llama", "gpt2-transposed"],
)
def test_unmerged_decoding_equals_merged(tiny_model, fill_adapter, config, settings, targets) -> None:
    backbone = Backbone(tiny_model(config, **settings))
    backbone.add_adapter("policy", LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    merged = MergedCopy(backbone, "policy")
    unmerged = MergedCopy(backbone, "policy", merged=False)
    fill_adapter(backbone, "policy")  # after the copies were made, as in training
    for copy in (merged, unmerged):
        copy.sync()
    sampling = Sampling(num_samples=3, max_new_tokens=10)
    ours, expected = (flat(sampler(copy.model).sample(PROMPTS, sampling)) for copy in (unmerged, merged))
    base = flat(sampler(tiny_model(config, **settings)).sample(PROMPTS, sampling))
    assert [s.token_ids for s in ours] == [s.token_ids for s in expected] != [s.token_ids for s in base]
    for one, same in zip(ours, expected, strict=True):
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)


def test_an_unmerged_copy_has_no_weight_of_its_own(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", lora())
    unmerged = MergedCopy(backbone, "policy", merged=False).model
    originals = {parameter.data_ptr() for parameter in backbone.model.parameters()}
    assert {parameter.data_ptr() for parameter in unmerged.parameters()} == originals
