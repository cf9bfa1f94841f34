"""`rlhf export-reward`, word for word, and its outcome in plain transformers and beside other scorers in PPO."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward.scorers import build_scorers
from rlhf.data.comparisons import Message
from tests.unit.scorer_stand_in import StandIn, lengths

CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there, how are you today?"}],
    [{"role": "user", "content": "What is 2 plus 3?"}, {"role": "assistant", "content": "5."}],
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exported_model_scores_in_plain_transformers(exported, reward_model, side) -> None:
    folder, said = exported
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    inputs = tokenizer.apply_chat_template(CONVERSATIONS, return_tensors="pt", return_dict=True, padding=True)
    with torch.no_grad():
        plain = model(**inputs).logits[:, 0].tolist()
    prompts = [[Message("user", conversation[0]["content"])] for conversation in CONVERSATIONS]
    responses = [conversation[1]["content"] for conversation in CONVERSATIONS]
    specs = [f"run={reward_model}", f"hub:{folder}"]
    own, hub = (scorer.score(prompts, responses) for scorer in build_scorers(specs, timeout=1, retries=0, batch_size=2))
    assert [score + model.config.reward_score_shift for score in plain] == pytest.approx(own, abs=1e-4)
    assert hub == pytest.approx(own, abs=1e-4)
    assert "scores lack the shift" in said


@pytest.fixture(scope="module")
def exported(tmp_path_factory, reward_model, rlhf):
    """The exported folder, and what the command said."""
    folder = tmp_path_factory.mktemp("exports") / "export"
    return folder, rlhf("export-reward", reward_model, folder).stdout


def test_ppo_adds_up_scorers_of_every_kind_and_logs_each(
    exported, reward_model, stage_arguments, rlhf, tmp_path
) -> None:
    folder, _ = exported
    server = StandIn(lengths)
    try:
        specs = [f"length={server.url}", "tests.unit.scorer_stand_in:brevity", f"hub={folder}", f"run={reward_model}"]
        weights = ["--scorer_weights", 0.5, 0.25, 1, 2]
        shape = ["--max_steps", 1, "--num_mini_batches", 1, "--samples_per_prompt", 2, "--value_model", "shared"]
        arguments = [*stage_arguments("ppo"), *shape, "--missing_eos_penalty", 0, "--normalize_scores", "false"]
        rlhf("ppo", *arguments, "--scorer", *specs, *weights, "--output_dir", tmp_path / "run")
    finally:
        server.close()
    assert [len(request["responses"]) for request in server.requests] == [1, 8]  # one score before the run
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    # brevity is minus the length: half of the length less a quarter of it is left
    assert row["score/length"] == -row["score/brevity"] > 0
    # the same model twice, in two classes and on two backbones
    assert row["score/hub"] == pytest.approx(row["score/run"], abs=1e-4)
    parts = row["score/reward_model"] + 0.25 * row["score/length"] + 3 * row["score/run"]
    assert row["objective/score"] == pytest.approx(parts, abs=1e-3)
