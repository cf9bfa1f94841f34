"""`rlhf evaluate-reward` and reward models as judges of `rlhf evaluate`, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from reward import evaluate_reward


def test_it_finds_the_accuracy_that_training_found_and_puts_baselines_beside_it(
    reward_model, data, tmp_path, rlhf
) -> None:
    second = tmp_path / "held_out" / "pairs.jsonl"
    second.parent.mkdir()
    second.write_text("".join((data / "pairs.jsonl").read_text().splitlines(keepends=True)[:5]))
    files = ["--eval_file", data / "pairs.jsonl", second, "--baseline_train_file", data / "pairs.jsonl"]
    done = rlhf("evaluate-reward", "--reward_model", reward_model, *files, "--output_dir", tmp_path / "out")

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    first, other, total = metrics["accuracy"]
    assert (other, total) == ("held_out/pairs", "all")
    trained = json.loads((reward_model / "metrics.json").read_text())["eval_accuracy"]
    assert metrics["accuracy"][first]["reward model"] == trained
    assert set(metrics["accuracy"][total]) == {"reward model", "longer wins", "bag of words"}
    assert [metrics["accuracy"][name]["longer wins"]["n"] for name in (first, other, total)] == [24, 5, 29]
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 29
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    assert [row["margins"]["longer wins"] for row in rows[:24]] == [
        len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs
    ]
    right = [row["margins"]["longer wins"] > 0 for row in rows[:24]]
    ties = [row["margins"]["longer wins"] == 0 for row in rows[:24]]
    assert metrics["accuracy"][first]["longer wins"]["value"] == pytest.approx((sum(right) + sum(ties) / 2) / 24)
    ours, theirs = (metrics["accuracy"][first][name]["value"] for name in ("reward model", "longer wins"))
    assert metrics["lead"][first]["over longer wins"]["value"] == pytest.approx(ours - theirs)
    assert "bag of words" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<h2>{title}</h2>" in page for title in ("Accuracy", "Calibration", "What the score goes with"))
    assert metrics["calibration"]["num_bins"] == 1
    assert metrics["position"]["chosen_second"] is None, "rows of chosen and rejected have the chosen one first"


def test_reward_models_judge_policies(reward_model, tiny_chat_model, data, tmp_path, rlhf) -> None:
    short = ["--max_new_tokens", 6, "--dtype", "float32", "--samples_per_prompt", 2]
    models = ["--model", tiny_chat_model, "--opponent", tiny_chat_model, "--reward_model", reward_model]
    rlhf("evaluate", *models, "--prompt_file", data / "prompts.jsonl", *short, "--output_dir", tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # the same model with the same seed against itself: every pair is a tie
    assert metrics["win_rate_by_reward_model"]["reward"]["value"] == 0.5
    assert metrics["score_lead_by_reward_model"]["reward"]["value"] == 0
    assert metrics["win_rate_by_reward_model"]["reward"]["n"] == metrics["policy"]["num_responses"]


@pytest.fixture
def classifier(tiny_chat_model, tmp_path) -> Path:
    """A reward model as others publish them: a classifier with one label and its own tokenizer."""
    folder = tmp_path / "classifier"
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_chat_model))
    config = LlamaConfig.from_pretrained(str(tiny_chat_model), num_labels=1)
    torch.manual_seed(3)
    LlamaForSequenceClassification(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def test_a_classifier_is_measured_as_our_own_models_are(classifier, data, capsys) -> None:
    evaluate_reward.main([str(classifier), str(data / "pairs.jsonl")])
    metrics = json.loads((classifier / "evaluation" / "metrics.json").read_text())
    rows = [json.loads(line) for line in (classifier / "evaluation" / "pairs.jsonl").read_text().splitlines()]
    right = [row["margins"]["reward model"] > 0 for row in rows]
    assert metrics["accuracy"]["pairs"]["reward model"]["value"] == pytest.approx(sum(right) / 24)
    assert metrics["order_change"] < 1e-3
    assert metrics["truncation"] == {"conversations": 48, "conversations_cut": 0}
    assert "ensemble" not in metrics
    # nothing is overwritten
    with pytest.raises(SystemExit):
        evaluate_reward.main([str(classifier), str(data / "pairs.jsonl")])
    assert "choose another --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eval_file", "{data}/pairs.jsonl"], "reward_model and eval_file are needed"),
        (["{data}"], "reward_model and eval_file are needed"),
        (["{data}", "{data}/pairs.jsonl", "--folds", "3", "--fold", "3"], "fold is 3 of folds 3"),
        (["{data}", "{data}/prompts.jsonl"], "a row needs prompt, chosen and rejected, or prompt and responses"),
        (["--reward_model", "{data}", "--eval_file", "{data}/pairs.jsonl"], "holds no finished reward model"),
        (["--reward_model", "{data}", "--eval_file", "{data}/pairs.jsonl", "{data}/pairs.jsonl"], "names a file twice"),
        (["--reward_model", "{data}", "--eval_file", "{data}/absent.jsonl"], "absent.jsonl"),
    ],
)
def test_wrong_input_is_refused_before_a_run_begins(arguments, words, data, tmp_path, capsys) -> None:
    filled = [argument.format(data=data) for argument in arguments]
    with pytest.raises(SystemExit) as refused:
        evaluate_reward.main([*filled, "--output_dir", str(tmp_path / "out")])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
