"""Every engine draws from the policy as it was at the last sync, and says with which log-probability."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import trl.generation.vllm_client as trl_client
from peft import LoraConfig
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import GenerationConfig

from rlhf.engine.backbone import POLICY, Backbone
from rlhf.engine.generation import Sampling
from rlhf.engine.packing import Group, pack
from rlhf.engine.rollout_engines import NativeEngine, TransformersEngine, build_engine, check_engine
from rlhf.engine.vllm_rollouts import InProcessEngine, ServerEngine
from rlhf.engine.vllm_server import REQUESTS_AT_ONCE, Server
from rlhf.engine.vllm_weights import Broadcast
from tests.unit.vllm_stand_in import BASE, Raw, StandIn, sample_in_one_of_two_processes, serving

PROMPTS = [[5, 9, 13, 7, 22], [33, 34], [20, 21, 22, 23, 24, 25, 26], [40], [50, 51, 52]]
STOP = {2, 3, 4}


def policy(tiny_model, fill_adapter, *, target_modules=("q_proj", "down_proj"), **settings) -> Backbone:
    backbone = Backbone(tiny_model(**settings))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(target_modules), task_type="CAUSAL_LM")
    backbone.add_adapter("policy", lora)
    fill_adapter(backbone, "policy")
    return backbone


def ours(engine_class, backbone, *, stop_ids=STOP, max_rows=64):
    return engine_class(backbone, "policy", stop_ids=stop_ids, pad_id=0, max_rows=max_rows)


def over_http(url, backbone, folder, *, stop_ids=STOP) -> ServerEngine:
    engine = ServerEngine(backbone, "policy", stop_ids=stop_ids, url=url, exchange_folder=folder)
    engine.sync()
    return engine


def tokens(sampled) -> list[list[list[int]]]:
    return [[sample.token_ids for sample in samples] for samples in sampled]


def assert_drawn_from_the_policy(backbone, sampled, temperature=1.0) -> None:
    """The log-probabilities are those of the training pass, which knows neither merging nor caches."""
    batch = pack([Group(p, row) for p, row in zip(PROMPTS, tokens(sampled), strict=True)])
    with torch.no_grad():
        expected = backbone(batch, [POLICY], temperature=temperature)["policy"].logprobs
    drawn = torch.tensor([value for row in sampled for sample in row for value in sample.logprobs])
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)


def assert_ends_are_right(sampled, max_new_tokens) -> None:
    samples = [sample for row in sampled for sample in row]
    assert {sample.finished for sample in samples} == {True, False}
    for sample in samples:
        assert len(sample.logprobs) == len(sample.token_ids)
        assert STOP.isdisjoint(sample.token_ids[:-1])
        assert sample.finished == (sample.token_ids[-1] in STOP)
        assert sample.finished or len(sample.token_ids) == max_new_tokens


def assert_sync_takes_up_new_weights(engine, backbone, fill_adapter) -> None:
    sampling = Sampling(num_samples=3, max_new_tokens=8)
    frozen = {name: p.clone() for name, p in backbone.named_parameters() if ".lora_" not in name}
    first = engine.sample(PROMPTS, sampling)
    assert_drawn_from_the_policy(backbone, first)
    fill_adapter(backbone, "policy", seed=2)
    assert engine.sample(PROMPTS, sampling) == first, "no engine follows the policy before it is told to"
    for seed in (2, 3):
        fill_adapter(backbone, "policy", seed=seed)
        engine.sync()
        later = engine.sample(PROMPTS, sampling)
        assert tokens(later) != tokens(first)
        assert_drawn_from_the_policy(backbone, later)
    for name, parameter in backbone.named_parameters():
        if ".lora_" not in name:
            assert parameter.equal(frozen[name]), name


@pytest.fixture
def server(tiny_model):
    stand_in = StandIn(tiny_model())
    with serving(stand_in) as url:
        yield stand_in, url


# ---- all engines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_class", [NativeEngine, TransformersEngine])
def test_sync_takes_up_new_weights(tiny_model, fill_adapter, engine_class) -> None:
    backbone = policy(tiny_model, fill_adapter)
    assert_sync_takes_up_new_weights(ours(engine_class, backbone), backbone, fill_adapter)


@pytest.mark.parametrize("least", [0, 3])
def test_greedy_samples_agree_between_engines(tiny_model, fill_adapter, server, tmp_path, least) -> None:
    backbone = policy(tiny_model, fill_adapter)
    sampling = Sampling(num_samples=2, max_new_tokens=32, temperature=0, min_new_tokens=least)
    expected = ours(NativeEngine, backbone).sample(PROMPTS, sampling)
    lengths = {len(sample.token_ids) for (sample, _) in expected}
    assert len(lengths) > 1, "some must end early"
    assert (min(lengths) > 3) == (least == 3), "the minimum must make a difference"
    for engine in (ours(TransformersEngine, backbone), over_http(server[1], backbone, tmp_path)):
        got = engine.sample(PROMPTS, sampling)
        assert tokens(got) == tokens(expected)
        for row, other in zip(got, expected, strict=True):
            for one, same in zip(row, other, strict=True):
                assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)
                assert one.finished == same.finished


# ---- transformers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_generate_draws_from_the_policy_at_the_temperature(tiny_model, fill_adapter, temperature) -> None:
    backbone = policy(tiny_model, fill_adapter)
    sampling = Sampling(num_samples=4, max_new_tokens=10, temperature=temperature)
    sampled = ours(TransformersEngine, backbone, max_rows=8).sample(PROMPTS, sampling)
    assert_drawn_from_the_policy(backbone, sampled, temperature)
    assert_ends_are_right(sampled, 10)


def test_generate_follows_the_softmax(tiny_model, fill_adapter) -> None:
    backbone = policy(tiny_model, fill_adapter, vocab_size=8, num_hidden_layers=1)
    engine, num_samples = ours(TransformersEngine, backbone, stop_ids=set(), max_rows=4000), 4000
    with torch.no_grad():
        probabilities = engine.merged.model(torch.tensor([[3, 5, 1]])).logits[0, -1].double().softmax(dim=-1)
    (samples,) = engine.sample([[3, 5, 1]], Sampling(num_samples=num_samples, max_new_tokens=1, seed=11))
    counts = Counter(sample.token_ids[0] for sample in samples)
    expected = probabilities * num_samples
    observed = torch.tensor([counts[token] for token in range(8)], dtype=torch.float64)
    common = expected >= 5
    assert common.sum() >= 3
    # 7 degrees of freedom at most: above 24.3 once in a thousand draws; the seed is fixed
    assert ((observed - expected)[common].square() / expected[common]).sum() < 24.3


def test_generate_ignores_what_the_models_author_recommends(tiny_model, fill_adapter) -> None:
    backbone = policy(tiny_model, fill_adapter)
    sampling = Sampling(num_samples=2, max_new_tokens=8)
    expected = ours(TransformersEngine, backbone).sample(PROMPTS, sampling)
    backbone.model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, top_p=0.5, repetition_penalty=3.0, eos_token_id=[9, 10, 11, 12], max_length=3
    )
    assert ours(TransformersEngine, backbone).sample(PROMPTS, sampling) == expected


def test_generate_draws_by_seed_alone(tiny_model, fill_adapter) -> None:
    engine = ours(TransformersEngine, policy(tiny_model, fill_adapter))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = engine.sample(PROMPTS, Sampling(max_new_tokens=6))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert engine.sample(PROMPTS, Sampling(max_new_tokens=6)) == first
    assert engine.sample(PROMPTS, Sampling(max_new_tokens=6, seed=1)) != first


def test_generate_refuses_stop_strings(tiny_model, fill_adapter) -> None:
    engine = ours(TransformersEngine, policy(tiny_model, fill_adapter))
    with pytest.raises(ValueError, match="stop_strings need --rollout_engine native or vllm"):
        engine.sample(PROMPTS, Sampling(stop_strings=("end",)))


def test_stop_strings_reach_the_server(tiny_model, fill_adapter, server, tmp_path) -> None:
    engine = over_http(server[1], policy(tiny_model, fill_adapter), tmp_path)
    engine.sample(PROMPTS, Sampling(max_new_tokens=1, stop_strings=("end", "stop")))
    assert all(body["stop"] == ["end", "stop"] for body in server[0].bodies("/v1/completions"))


def test_without_stop_tokens_generate_goes_on_to_the_limit(tiny_model, fill_adapter) -> None:
    engine = ours(TransformersEngine, policy(tiny_model, fill_adapter), stop_ids=set())
    for (sample,) in engine.sample(PROMPTS, Sampling(max_new_tokens=20)):
        assert len(sample.token_ids) == 20
        assert not sample.finished


# ---- a vLLM server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")])
def test_a_server_samples_from_the_adapter_files(tiny_model, fill_adapter, server, tmp_path, targets) -> None:
    backbone = policy(tiny_model, fill_adapter, target_modules=targets)
    engine = over_http(server[1], backbone, tmp_path / "exchange")
    assert_sync_takes_up_new_weights(engine, backbone, fill_adapter)
    assert sorted(server[0].models) == [BASE, engine.model], "adapters of earlier steps are unloaded"
    assert [folder.name for folder in (tmp_path / "exchange").iterdir()] == [engine.model]


def test_samples_of_a_server_depend_on_prompt_index_and_seed(tiny_model, fill_adapter, server, tmp_path) -> None:
    backbone = policy(tiny_model, fill_adapter)
    engine = over_http(server[1], backbone, tmp_path)
    sampling = Sampling(num_samples=3, max_new_tokens=10, seed=4)
    together = engine.sample(PROMPTS, sampling)
    assert_ends_are_right(together, 10)
    assert_drawn_from_the_policy(backbone, together)
    assert [engine.sample([prompt], sampling)[0] for prompt in PROMPTS] == together
    assert engine.sample(PROMPTS[::-1], sampling)[::-1] == together
    assert tokens(engine.sample(PROMPTS, Sampling(num_samples=3, max_new_tokens=10, seed=5))) != tokens(together)
    seeds = {body["seed"] for body in server[0].bodies("/v1/completions")}
    assert len(seeds) == 2 * len(PROMPTS)


def test_the_temperature_reaches_the_server(tiny_model, fill_adapter, server, tmp_path) -> None:
    backbone = policy(tiny_model, fill_adapter)
    sampling = Sampling(num_samples=2, max_new_tokens=6, temperature=0.5)
    sampled = over_http(server[1], backbone, tmp_path).sample(PROMPTS, sampling)
    assert_drawn_from_the_policy(backbone, sampled, temperature=0.5)


def test_the_key_comes_from_the_environment(tiny_model, fill_adapter, tmp_path, monkeypatch) -> None:
    stand_in = StandIn(tiny_model(), key="k3y")
    with serving(stand_in) as url:
        with pytest.raises(ValueError, match="401"):
            check_engine("vllm", url)
        monkeypatch.setenv("VLLM_API_KEY", "k3y")
        engine = over_http(url, policy(tiny_model, fill_adapter), tmp_path)
        assert len(engine.sample(PROMPTS, Sampling(max_new_tokens=2))) == len(PROMPTS)


def test_a_server_that_loads_no_adapters_is_told_how_to_start(tiny_model, fill_adapter, tmp_path) -> None:
    with (
        serving(StandIn(tiny_model(), lora=False)) as url,
        pytest.raises(ValueError, match=r"(?s)VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.*--max-lora-rank 4"),
    ):
        over_http(url, policy(tiny_model, fill_adapter), tmp_path)


def test_a_server_without_token_ids_is_refused(tiny_model, fill_adapter, tmp_path) -> None:
    with serving(StandIn(tiny_model(), old=True)) as url:
        engine = over_http(url, policy(tiny_model, fill_adapter), tmp_path)
        with pytest.raises(RuntimeError, match="without token ids"):
            engine.sample(PROMPTS, Sampling(max_new_tokens=2))


def test_of_two_processes_one_sends_and_both_sample(tiny_model, server, tmp_path) -> None:
    stand_in, url = server
    tiny_model().save_pretrained(tmp_path / "model")
    sampling = Sampling(num_samples=2, max_new_tokens=6, seed=3)
    folder = tmp_path / "together"
    folder.mkdir()
    torch.multiprocessing.spawn(
        sample_in_one_of_two_processes,
        (url, str(tmp_path / "model"), str(folder), PROMPTS, sampling),
        nprocs=2,
    )
    names = [body["lora_name"] for body in stand_in.bodies("/v1/load_lora_adapter")]
    assert len(names) == 1, "by one of the processes, and not before the sync"
    asked = stand_in.bodies("/v1/completions")
    assert {body["model"] for body in asked} == set(names)
    assert sorted(body["prompt"] for body in asked) == sorted(PROMPTS)
    # what a process got is what anyone gets who asks for that model, prompt and seed
    for rank in range(2):
        mine = PROMPTS[rank::2]
        alone = [Server(url).complete(names[0], prompt, sampling, STOP) for prompt in mine]
        assert json.loads((folder / f"{rank}.json").read_text()) == tokens(alone)


# ---- weights by NCCL, through TRL's client --------------------------------------------------------------


@pytest.fixture
def nccl_by_queue(monkeypatch):
    """What TRL's client takes from vLLM 0.22 to 0.27, with a queue in place of NCCL; returns the queue's setter."""
    queues = []

    class WeightTransferEngine:
        @staticmethod
        def trainer_init(info):
            assert (info["rank_offset"], info["world_size"]) == (1, 2)
            return types.SimpleNamespace(group=types.SimpleNamespace(store=None, socket=None))

        @staticmethod
        def trainer_send_weights(iterator, trainer_args):
            for name, tensor in iterator:
                queues[0].put((name, tensor.clone()))

    monkeypatch.setattr(trl_client, "is_vllm_available", lambda *_: True)
    monkeypatch.setattr(trl_client, "get_ip", lambda: "127.0.0.1", raising=False)
    monkeypatch.setattr(trl_client, "NCCLWeightTransferEngine", WeightTransferEngine, raising=False)
    monkeypatch.setattr(trl_client, "NCCLTrainerSendWeightsArgs", types.SimpleNamespace, raising=False)
    return queues.append


def test_all_merged_weights_go_through_trls_client(tiny_model, fill_adapter, tmp_path, nccl_by_queue) -> None:
    backbone = policy(tiny_model, fill_adapter)
    stand_in = StandIn(tiny_model(), nccl=True)
    nccl_by_queue(stand_in.sent)
    with serving(stand_in) as url:
        engine = over_http(url, backbone, tmp_path)
        engine.weights = Broadcast(engine.server, backbone, "policy")  # a CPU never chooses it
        engine.sync()
        assert engine.model == BASE
        assert_sync_takes_up_new_weights(engine, backbone, fill_adapter)
        engine.weights.client.close_communicator()
    assert len(stand_in.bodies("/update_weights")) == 3
    assert not stand_in.updating


def test_a_server_says_whether_it_takes_broadcasts(tiny_model) -> None:
    for nccl in (True, False):
        with serving(StandIn(tiny_model(), nccl=nccl)) as url:
            server = Server(url)
            assert server.takes_broadcasts() == nccl
            server.close()


def test_only_the_process_that_sends_by_nccl_merges(tiny_model, fill_adapter, server) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        weights = Broadcast(Server(server[1]), policy(tiny_model, fill_adapter), "policy")
        before = len(server[0].requests)
        assert weights.send() == BASE
    finally:
        dist.destroy_process_group()
    assert weights.merged is None
    assert len(server[0].requests) == before


def test_a_key_and_trls_client_exclude_each_other(tiny_model, fill_adapter, server, monkeypatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "k3y")
    with pytest.raises(ValueError, match="VLLM_API_KEY is set"):
        Broadcast(Server(server[1]), policy(tiny_model, fill_adapter), "policy")


# ---- vLLM in this process -------------------------------------------------------------------------------


@pytest.fixture
def vllm_module(monkeypatch, tiny_model):
    """A module `vllm` whose `LLM` answers from the tiny model, with its prefix cache; no weights of the real one."""

    class LLM:
        def __init__(self, **settings):
            self.settings, self.stand_in = settings, StandIn(tiny_model())
            model = types.SimpleNamespace(load_weights=self.load_weights)
            worker = types.SimpleNamespace(model_runner=types.SimpleNamespace(model=model))
            self.llm_engine = types.SimpleNamespace(model_executor=types.SimpleNamespace(driver_worker=worker))

        @torch.no_grad()
        def load_weights(self, weights):
            for name, tensor in weights:
                self.stand_in.models[BASE].get_parameter(name).copy_(tensor)

        def reset_prefix_cache(self):
            self.stand_in.cached.clear()

        def generate(self, prompts, sampling_params, use_tqdm):
            return [
                types.SimpleNamespace(outputs=[self.completion(choice) for choice in self.choices(prompt, settings)])
                for prompt, settings in zip(prompts, sampling_params, strict=True)
            ]

        def choices(self, prompt, settings):
            body = {"model": BASE, "prompt": prompt["prompt_token_ids"], **vars(settings)}
            return self.stand_in.completions(body)["choices"][::-1]

        @staticmethod
        def completion(choice):
            values = zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
            return types.SimpleNamespace(
                token_ids=tuple(choice["token_ids"]),
                logprobs=[{token: types.SimpleNamespace(logprob=value)} for token, value in values],
                finish_reason=choice["finish_reason"],
            )

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, types.SimpleNamespace
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # so that what the engine sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("vllm_module")
def test_an_engine_in_this_process_is_handed_the_merged_layers(tiny_model, fill_adapter) -> None:
    backbone = policy(tiny_model, fill_adapter)
    engine = InProcessEngine(backbone, "policy", stop_ids=STOP, gpu_memory=0.4)
    engine.sync()
    assert engine.llm.settings["gpu_memory_utilization"] == 0.4
    assert engine.llm.settings["dtype"] == "float32"
    assert_sync_takes_up_new_weights(engine, backbone, fill_adapter)
    greedy = engine.sample(PROMPTS, Sampling(num_samples=2, max_new_tokens=4, temperature=0))
    expected = ours(NativeEngine, backbone).sample(PROMPTS, Sampling(num_samples=2, max_new_tokens=4, temperature=0))
    assert tokens(greedy) == tokens(expected)


# ---- choice and errors ----------------------------------------------------------------------------------


def test_engines_are_built_by_name(tiny_model, fill_adapter, server, tmp_path) -> None:
    def build(name, url=None):
        return build_engine(
            name,
            policy(tiny_model, fill_adapter),
            "policy",
            stop_ids=STOP,
            pad_id=0,
            max_rows=8,
            vllm_server_url=url,
            exchange_folder=tmp_path,
        )

    assert isinstance(build("native"), NativeEngine)
    assert isinstance(build("transformers"), TransformersEngine)
    assert isinstance(build("vllm", server[1]), ServerEngine)


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("vlm", None, "choose native, transformers, vllm"),
        ("native", "http://localhost:8000", "vllm_server_url is set but rollout_engine is native"),
        ("vllm", "http://127.0.0.1:9", "(?s)http://127.0.0.1:9: no vLLM server answers there.*vllm serve MODEL"),
        ("vllm", "127.0.0.1:8000", "no vLLM server answers there"),
    ],
)
def test_what_cannot_run_is_refused(name, url, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(name, url)


@pytest.mark.parametrize("url", ["http://ada:s3cret@127.0.0.1:9", "ada:s3cret@127.0.0.1:9", "http://s3cret@host"])
def test_a_key_in_the_address_is_refused_and_not_repeated(url) -> None:
    with pytest.raises(ValueError, match="environment variable VLLM_API_KEY") as refused:
        check_engine("vllm", url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("answer", ["<html>", "{}", "[]", '{"data": []}', '{"data": [{}]}', "null"])
def test_a_server_that_is_not_vllm_is_refused_by_its_address(tiny_model, answer) -> None:
    stand_in = StandIn(tiny_model())
    stand_in.list_models = lambda _: Raw(answer)
    with (
        serving(stand_in) as url,
        pytest.raises(ValueError, match=f"(?s){url}: no vLLM server answers there.*/v1/models with what vLLM does not"),
    ):
        check_engine("vllm", url)


@pytest.mark.parametrize("answer", ["<html>", "{}", '{"choices": null}', '{"choices": [{}]}'])
def test_completions_that_are_not_vllms_are_refused_by_the_address(tiny_model, answer) -> None:
    stand_in = StandIn(tiny_model())
    stand_in.completions = lambda _: Raw(answer)
    with serving(stand_in) as url, pytest.raises(ValueError, match=f"{url} answered /v1/completions with what vLLM"):
        Server(url).complete(BASE, PROMPTS[0], Sampling(), STOP)


def test_as_many_requests_go_out_at_once_as_there_are_threads(server) -> None:
    pool = Server(server[1]).client._transport._pool
    assert pool._max_connections == pool._max_keepalive_connections == REQUESTS_AT_ONCE


def test_cuda_graphs_need_the_native_decoder_and_a_gpu(tiny_model, fill_adapter, monkeypatch) -> None:
    with pytest.raises(ValueError, match="rollout_cuda_graphs is true but rollout_engine is transformers"):
        check_engine("transformers", None, cuda_graphs=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="rollout_cuda_graphs is true, and torch sees no GPU"):
        check_engine("native", None, cuda_graphs=True)
    with pytest.raises(ValueError, match="rollout_cuda_graphs is true, and the policy is on cpu"):
        NativeEngine(policy(tiny_model, fill_adapter), "policy", stop_ids=STOP, pad_id=0, max_rows=8, cuda_graphs=True)


def test_missing_vllm_names_the_ways_out(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # what an absent package looks like, also where it is installed
    with pytest.raises(ValueError, match=r"pip install 'trl\[vllm\]'.*--vllm_server_url.*native or transformers"):
        check_engine("vllm", None)


def test_the_start_command_of_the_docs_is_the_one_of_the_error() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rollout_engines.md").read_text()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16" in text
