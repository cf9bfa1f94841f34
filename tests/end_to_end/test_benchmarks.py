"""The benchmarks run, on the tiny model, and compare like with like."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import last_layers
from benchmarks.case import Case
from benchmarks.cost import Work, backward, forward, rollout_seconds, visible_pairs
from benchmarks.generation import tokens
from benchmarks.machine import Rates
from benchmarks.shapes import Shape
from benchmarks.side_by_side import exponent
from benchmarks.workload import Workload, best_first
from rlhf.engine.packing import Group
from rlhf.training.examples import RankedGroup
from tests.end_to_end.launching import ROOT, launched


def test_reward_training_beside_trl(reward_model, data, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--ours", str(reward_model)]
    done = launched([*command, "--eval_file", str(data / "pairs.jsonl"), "--output_dir", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    accuracy = result["accuracy"]["pairs"]
    trained = json.loads((reward_model / "metrics.json").read_text())["eval_accuracy"]
    assert accuracy["ours"] == trained
    assert accuracy["trl"]["n"] == accuracy["difference"]["n"] == 24
    assert accuracy["difference"]["value"] == pytest.approx(accuracy["ours"]["value"] - accuracy["trl"]["value"])
    assert result["settings"]["max_steps"] == 4
    assert result["settings"]["learning_rate"] == 1e-3
    assert result["training_seconds"]["trl"] > 0
    assert result["peak_gb"]["trl"] > 0.1
    assert "| pairs | difference |" in done.stdout
    losses = [row["loss"] for row in json.loads((tmp_path / "out" / "trl.json").read_text())["log"] if "loss" in row]
    assert len(losses) == 4


def test_one_of_ours_or_config_is_needed(data, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--eval_file", str(data / "pairs.jsonl")]
    refused = launched([*command, "--output_dir", str(tmp_path / "out")], check=False)
    assert refused.returncode == 2
    assert "give --ours, or --config and --model" in refused.stderr


def measured(module: str, *flags: object, peer: bool = True) -> dict[str, Any]:
    """The numbers of a run on the tiny random model, two repeats."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.json"
        small = ["--device", "cpu", "--repeats", 2, "--json", file, *(["--peer"] if peer else [])]
        command = [sys.executable, "-m", f"benchmarks.{module}", *small, *flags]
        launched([str(part) for part in command])
        return json.loads(file.read_text())


def check_protocol(numbers: dict[str, Any]) -> None:
    """What every run must say, recomputed from the seconds it lists."""
    ours = numbers["ours"]
    assert len(ours["seconds"]) == 2
    assert ours["median_s"] == pytest.approx(sum(ours["seconds"]) / 2)
    assert ours["tokens_per_s"] == pytest.approx(ours["tokens"] / ours["median_s"])
    assert 0.1 < ours["peak_gb"] < 10
    assert 0 < numbers["limit_share"] < 1
    for phase in numbers["phases"].values():
        assert phase["limit_share"] == pytest.approx(phase["limit_s"] / phase["seconds"])
    assert numbers["machine"]["copy_gb_per_s"] > 0
    assert numbers["machine"]["gemm_gflops"][numbers["case"]["dtype"]] > 0
    assert numbers["command"].startswith(f"python -m benchmarks.{numbers['name']} ")
    if "peer" in numbers:
        each = [peer / own for own, peer in zip(ours["seconds"], numbers["peer"]["seconds"], strict=True)]
        assert numbers["ratio_time"] == pytest.approx(sum(each) / 2)
        # the quartiles of two values lie a quarter of their distance inside
        assert numbers["ratio_time_spread"] == pytest.approx(abs(each[0] - each[1]) / 2 / numbers["ratio_time"])
        assert numbers["ratio_memory"] == pytest.approx(ours["peak_gb"] / numbers["peer"]["peak_gb"])


LENGTHS = ["--model", "random:tiny", "--prompt_length", 12, "--response_length", 6, "--batch", 2]


def test_dpo_beside_trl() -> None:
    numbers = measured("dpo", *LENGTHS, "--num_responses", 3)
    check_protocol(numbers)
    assert numbers["ours"]["tokens"] == numbers["ours"]["padded_tokens"] == 2 * (12 + 3 * 6)
    assert numbers["peer"]["tokens"] == 2 * 3 * 2 * (12 + 6)  # prompts, pairs, responses of a pair
    assert set(numbers["phases"]) == {"reference", "policy", "backward and optimiser", "step"}
    assert numbers["peer"]["settings"]["gradient_checkpointing"] is False


@pytest.mark.slow
def test_reward_on_a_file_beside_trl_as_it_comes(tiny_chat_model, data) -> None:
    flags = ["--model", tiny_chat_model, "--data", data / "pairs.jsonl", "--batch", 3, "--peer_settings", "default"]
    numbers = measured("reward", *flags)
    check_protocol(numbers)
    ours, peer = numbers["ours"], numbers["peer"]
    assert ours["tokens"] == ours["padded_tokens"] < peer["tokens"] < peer["padded_tokens"]
    assert "gradient_checkpointing" not in peer["settings"]
    assert peer["settings"]["dtype"] == "torch.float32"


@pytest.mark.slow
def test_generation_beside_generate() -> None:
    numbers = measured("generation", *LENGTHS, "--samples_per_prompt", 3)
    check_protocol(numbers)
    ours, peer = numbers["ours"], numbers["peer"]
    assert 2 * 12 + 2 * 3 < ours["tokens"] <= 2 * (12 + 3 * 6)
    assert 2 * 3 * (12 + 1) < peer["tokens"] <= peer["padded_tokens"] <= 2 * 3 * (12 + 6)


@pytest.mark.parametrize("value_model", ["shared", pytest.param("adapter", marks=pytest.mark.slow)])
def test_an_update_of_ppo(value_model) -> None:
    flags = [*LENGTHS, "--samples_per_prompt", 2, "--epochs", 2, "--value_model", value_model]
    numbers = measured("ppo", *flags, peer=False)
    check_protocol(numbers)
    assert numbers["ours"]["tokens"] == 2 * (12 + 2 * 6)
    assert set(numbers["phases"]) == {"rollout", "scoring", "update"}
    assert sum(phase["seconds"] for phase in numbers["phases"].values()) < 1.5 * max(numbers["ours"]["seconds"])


PPO_PEER = ROOT / ".benchmark-peers" / "trl-1.12.0"


@pytest.mark.slow
@pytest.mark.skipif(not PPO_PEER.is_dir(), reason="TRL 1.12.0 is not there: `make benchmark-peers` fetches it")
def test_an_update_of_ppo_beside_trl() -> None:
    numbers = measured("ppo", *LENGTHS, "--samples_per_prompt", 2, "--epochs", 2)
    check_protocol(numbers)
    assert numbers["machine"]["trl"]["peer"] == "1.12.0"
    assert numbers["machine"]["trl"]["ours"] != "1.12.0"
    assert numbers["peer"]["tokens"] == 2 * 2 * (12 + 6)
    assert numbers["peer"]["response_lengths"] == [6]


def test_what_adapters_on_the_last_layers_cost_is_told(tiny_chat_model, capsys) -> None:
    last_layers.main(["--model", str(tiny_chat_model), "--members", "2", "--last_layers", "1", "--repeats", "1"])
    told, header, *rows = capsys.readouterr().out.splitlines()
    assert told.startswith("2 reward models, 900 tokens, ")
    assert header.split() == ["adapters", "on", "training,", "s", "ratio", "scoring,", "s", "ratio"]
    assert [row.rsplit(maxsplit=4)[0].strip() for row in rows] == ["all layers", "last 1 layers"]
    assert rows[0].split()[-3] == rows[0].split()[-1] == "1.00"


@pytest.mark.slow
def test_growth_says_how_time_goes_with_tokens() -> None:
    flags = ["--model", "random:tiny", "--prompt_length", 16, "--response_length", 8, "--batch", 1]
    numbers = measured("reward", *flags, "--growth", "length", peer=False)
    # a quarter to four times 16 + 2 * 8
    assert [point["tokens"] for point in numbers["points"]] == [8, 16, 32, 64, 128]
    assert all(0 < point["linear_s"] < 10 for point in numbers["points"])
    assert numbers["exponent"] < 1.5


def test_exponent_is_the_slope_in_logarithms() -> None:
    points = [{"tokens": tokens, "seconds": 0.01 * tokens**1.5} for tokens in (10, 20, 80, 160)]
    assert exponent(points, "seconds") == pytest.approx(1.5)


def test_visible_pairs_are_those_of_a_mask() -> None:
    group = Group([0] * 4, [[0] * 2, [0] * 3])
    segments = [0] * 4 + [1] * 2 + [2] * 3
    visible = [(query, key) for query in range(9) for key in range(query + 1) if segments[key] in (0, segments[query])]
    assert visible_pairs(group) == len(visible)


def test_work_of_a_pass_by_hand() -> None:
    # one layer, one linear of 3 x 2, vocabulary 5, hidden 2, queries 4 wide
    shape = Shape({(3, 2): 1}, 5, 2, 1, 4, 4)
    groups = [Group([0, 0], [[0]])]
    ahead = forward(shape, groups, scored=1, weight_bytes=2)
    attention = 4 * 4 * (3 + 3)  # the prompt sees 1 + 2, the response 3
    assert ahead == Work(2 * 6 * 3 + attention, 2 * 10, 2 * (6 + 10))
    assert backward(shape, groups, weight_bytes=2).body == 2 * 6 * 3 + 2 * attention
    rates = Rates(body=100, head=10, copy=1000)
    assert ahead.seconds(rates) == pytest.approx((36 + 96) / 100 + 20 / 10)
    assert ahead.seconds(Rates(body=1e9, head=1e9, copy=16)) == pytest.approx(2)


def test_a_step_of_decoding_costs_its_live_rows() -> None:
    shape = Shape({(3, 2): 1}, 5, 2, 1, 4, 4)
    rates = Rates(body=1.0, head=1.0, copy=1e9)
    alone = rollout_seconds(shape, [[0, 0]], [1], rates, weight_bytes=2)
    assert alone == 2 * 6 * 2 + 4 * 4 * 3 + 2 * 10  # the prompt gives the first token
    three = rollout_seconds(shape, [[0, 0]], [1, 3], rates, weight_bytes=2)
    # two more steps of one row, over 3 and 4 positions
    assert three - alone == 2 * (2 * 6 + 2 * 10) + 4 * 4 * (3 + 4)


def test_a_step_of_decoding_reads_the_keys_of_a_prompt_once() -> None:
    shape = Shape({(3, 2): 1}, 5, 2, 1, 4, 4)
    rates = Rates(body=1e9, head=1e9, copy=1)
    prompts = [[0] * 3, [0] * 5]
    seconds = rollout_seconds(shape, prompts, [3, 2, 2, 1], rates, weight_bytes=2)
    weights = 2 * (6 + 10)
    # keys and values, 4 wide, of: both prompts and one token of three rows; the first prompt and two tokens of one
    first, second = (2 * 2 * 4 * keys for keys in (3 + 5 + 3 * 1, 3 + 1 * 2))
    assert seconds == pytest.approx(weights + (weights + first) + (weights + second), rel=1e-6)


def test_tokens_of_sampling_by_hand() -> None:
    work = Workload([[Group([0] * 3, []), Group([0] * 5, [])]], [], [], 0, 0)
    said = [{"lengths": [1, 9, 10, 8], "steps": 10}]
    case = Case("generation", batch=2, samples_per_prompt=2, response_length=10, device="cpu")
    assert tokens(case, work, "ours", said) == (8 + 28, 8 + 28)
    # on a GPU rows are dropped after steps 8 and 16, and the last is the tenth
    assert tokens(replace(case, device="cuda"), work, "ours", said) == (8 + 28, 8 + 8 + 10 + 10 + 8)
    generate = (2 * 8 + 28, 4 * (5 + 10))
    assert tokens(case, work, "peer", said) == generate
    assert tokens(replace(case, rollout_engine="transformers"), work, "ours", said) == generate


def test_rankings_in_any_order_give_the_same_pairs() -> None:
    ranked = RankedGroup(Group([7], [[1], [2], [3]]), [(2, 0), (2, 1), (0, 1)], 0.0, 1.0, "a")
    group, pairs = best_first(ranked)
    assert group.response_ids == [[3], [1], [2]]
    assert pairs == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--model", "random:llama-900b"], "random shapes are random:tiny"),
        (["--batch", "0"], "--batch is 0"),
        (["--data", "no_such_file.jsonl"], "no_such_file.jsonl is no file"),
    ],
)
def test_bad_flags_are_refused(flags, said) -> None:
    refused = launched([sys.executable, "-m", "benchmarks.dpo", *flags], check=False)
    assert refused.returncode == 2
    assert said in refused.stderr
