"""An ensemble from its training to its scores, by the commands, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reward import evaluate_reward
from rlhf.data.comparisons import read_comparisons
from rlhf.data.folds import held_out_fold


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, tiny_chat_model, data, rlhf) -> Path:
    """Two reward models trained in one run, with the second of three folds held out."""
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    settings = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 4, "--learning_rate", "1e-3", "--num_members", 2]
    settings += ["--folds", 3, "--fold", 1, "--reference_file", data / "pairs.jsonl"]
    files = ["--model", tiny_chat_model, "--train_file", data / "pairs.jsonl"]
    rlhf("reward", *files, *settings, "--output_dir", folder)
    return folder


def test_a_run_holds_its_members_and_the_margins_of_its_fold(ensemble, data) -> None:
    comparisons = read_comparisons([data / "pairs.jsonl"])[0]
    train, held_out = held_out_fold(comparisons, 3, 1)
    metrics = json.loads((ensemble / "metrics.json").read_text())
    assert metrics["num_train"] == len(train)
    assert metrics["eval_accuracy"]["n"] == len(held_out)
    assert [row["num_responses"] for row in metrics["normalised_from"]] == [48, 48]
    rows = [json.loads(line) for line in (ensemble / "pairs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [comparison.id for comparison in held_out]
    for row in rows:
        margins = row["margins"]
        assert margins["reward model"] == pytest.approx((margins["member 1"] + margins["member 2"]) / 2, abs=1e-6)
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        assert (ensemble / "member_1" / name).read_bytes() == (ensemble / name).read_bytes()
        assert (ensemble / "member_2" / name).read_bytes() != (ensemble / name).read_bytes()
    for number in (1, 2):
        manifest = json.loads((ensemble / f"member_{number}" / "manifest.json").read_text())
        assert (manifest["member"], manifest["status"]) == (number, "finished")


def test_its_fold_is_evaluated_with_every_member_beside_the_mean(ensemble, data, capsys) -> None:
    file = str(data / "pairs.jsonl")
    evaluate_reward.main([str(ensemble), file, "--folds", "3", "--fold", "1", "--baseline_train_file", file])
    assert "report.html" in capsys.readouterr().out
    metrics = json.loads((ensemble / "evaluation" / "metrics.json").read_text())
    trained = json.loads((ensemble / "metrics.json").read_text())
    assert metrics["accuracy"]["pairs"]["reward model"] == trained["eval_accuracy"]
    assert set(metrics["ensemble"]["accuracy"]) == {
        "reward model",
        "minimum",
        "mean less deviation",
        "member 1",
        "member 2",
    }
    rows = [json.loads(line) for line in (ensemble / "evaluation" / "pairs.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (ensemble / "pairs.jsonl").read_text().splitlines()]
    for row, earlier in zip(rows, before, strict=True):
        assert row["id"] == earlier["id"]
        for name, margin in earlier["margins"].items():
            assert row["margins"][name] == pytest.approx(margin, abs=1e-4)
    assert "<h2>Ensemble</h2>" in (ensemble / "evaluation" / "report.html").read_text()
