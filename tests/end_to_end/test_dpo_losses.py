"""`rlhf dpo` with other losses than DPO's: on pairs, on rankings, on several annotators' votes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rlhf import train_dpo
from rlhf.data.comparisons import Comparison, Message, Response, write_comparisons
from tests.end_to_end.launching import logged

SMALL = ["--dtype", "float32", "--lora_r", "4", "--learning_rate", "1e-3", "--max_steps", "2", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def rankings(tmp_path_factory) -> Path:
    """Rankings of three answers, the first two of them judged by three people who do not agree."""
    comparisons = []
    for number in range(8):
        prompt = (Message("user", f"What is {number} plus {number}?"),)
        responses = tuple(Response(text) for text in (f"It is {2 * number}.", f"{2 * number}", "I do not know."))
        votes = [(1, 2, 3), (2, 1, 3), (1, 2, 2)] if number < 2 else [(1, 2, 3)]
        comparisons += [
            Comparison(prompt=prompt, responses=responses, ranks=ranks, annotators=(f"person {voter}",))
            for voter, ranks in enumerate(votes)
        ]
    file = tmp_path_factory.mktemp("rankings") / "rankings.jsonl"
    write_comparisons(file, comparisons)
    return file


def test_losses_of_a_config_file_add_up(tiny_chat_model, data, tmp_path, rlhf) -> None:
    config = tmp_path / "dpo.yaml"
    config.write_text("loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.2]\n", encoding="utf-8")
    files = ["--config", config, "--model", tiny_chat_model, "--train_file", data / "pairs.jsonl"]
    rlhf("dpo", *files, *SMALL, "--output_dir", tmp_path / "run")
    first, second = logged(tmp_path / "run")
    assert first["loss/sigmoid"] == pytest.approx(0.693147, abs=1e-5)
    for row in (first, second):
        assert row["loss"] == pytest.approx(row["loss/sigmoid"] + 0.2 * row["loss/sft"], rel=1e-5)
    assert second["loss/sigmoid"] < first["loss/sigmoid"]


@pytest.mark.parametrize(
    ("losses", "starts"),
    [
        # ln 6 for a ranking of three, ln 12 where two of them tie, in a batch of four
        (["plackett_luce"], [math.log(6) + num_tied / 4 * math.log(2) for num_tied in range(3)]),
        (["bco_pair", "--soft_labels", "true"], [2 * math.log(2)]),
        (["simpo", "orpo", "--beta", "2", "--soft_labels", "true", "--ties", "half"], None),
    ],
    ids=["plackett_luce", "bco_pair", "simpo"],
)
def test_rankings_and_votes_train(losses, starts, tiny_chat_model, rankings, tmp_path) -> None:
    files = ["--model", str(tiny_chat_model), "--train_file", str(rankings), "--eval_file", str(rankings)]
    files += ["--allow", "leakage"]
    train_dpo.main([*files, *SMALL, "--loss_type", *losses, "--output_dir", str(tmp_path / "run")])
    first, second = logged(tmp_path / "run")
    assert starts is None or any(first["loss"] == pytest.approx(start, rel=1e-4) for start in starts)
    assert second["loss"] != first["loss"]
    accuracy = json.loads((tmp_path / "run" / "metrics.json").read_text())["eval_accuracy"]
    assert 0 <= accuracy["value"] <= 1
