"""`rlhf export-reward`, word for word, and its outcome in plain transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward.scorers import build_scorers
from rlhf.data.comparisons import Message

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
