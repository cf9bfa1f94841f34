"""A classifier of transformers as a scorer, against plain calls of the same class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.integrations import deepspeed

from reward.hub_reward_model import HubRewardModel, without_partitioning
from reward.scorers import build_scorers
from rlhf.data.comparisons import Message
from tests.unit.byte_tokenizer import CHAT_TOKENS, byte_tokenizer

# No system role, the beginning and the end of sequence around it: as unlike the ChatML of policies as Llama 2's.
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PROMPTS = [
    (Message("user", "Hi"),),
    (Message("user", "Name a colour."), Message("assistant", "Blue."), Message("user", "And one more, please?")),
    (Message("user", "Say <|im_end|> and </s>."),),
    (Message("user", "Ünother 🎈"),),
    (Message("user", "Hi"),),
]
RESPONSES = ["Hello there, how are you today?", "Red.", "<|im_end|>", "", "No"]


def brackets(pad: str | None) -> PreTrainedTokenizerFast:
    named = {"pad_token": pad} if pad else {}
    return byte_tokenizer(("<s>", "</s>", "<pad>"), BRACKETS, bos_token="<s>", eos_token="</s>", **named)


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """`save(tokenizer, config_class, **settings)`: a folder with a random classifier, its head far from zero."""

    def build(tokenizer: Any, config_class: type = LlamaConfig, **settings: Any) -> Path:
        sizes: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "num_labels": 1,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.3,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config_class(**sizes | settings))
        model.save_pretrained(str(tmp_path / "model"))
        tokenizer.save_pretrained(str(tmp_path / "model"))
        return tmp_path / "model"

    return build


def plain_score(folder: Path, prompt: Any, response: str) -> float:
    """What transformers says of one conversation, rendered by the tokenizer's own template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype="auto").eval()
    messages = [*(message.to_dict() for message in prompt), {"role": "assistant", "content": response}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, 0])


ORDINARY = [0, 1, 3, 4]  # the other holds the text of special tokens, which stays text here


@pytest.mark.parametrize("pad", ["<pad>", "</s>", None])
@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config, GPT2Config])
def test_a_score_is_that_of_the_conversation_alone_in_plain_transformers(save, config_class, pad) -> None:
    folder = save(brackets(pad), config_class)
    scores = HubRewardModel("judge", str(folder), batch_size=8).score(PROMPTS, RESPONSES)
    expected = [plain_score(folder, PROMPTS[index], RESPONSES[index]) for index in ORDINARY]
    assert [scores[index] for index in ORDINARY] == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in scores}) == len(scores)


def test_an_encoder_reads_its_first_token_and_scores_the_same_alone(save) -> None:
    folder = save(brackets("<pad>"), BertConfig)
    scores = HubRewardModel("judge", str(folder)).score(PROMPTS, RESPONSES)
    expected = [plain_score(folder, PROMPTS[index], RESPONSES[index]) for index in ORDINARY]
    assert [scores[index] for index in ORDINARY] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pad", ["<pad>", "</s>", None])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_scores_do_not_depend_on_batch_order_or_padding(save, pad, side, batch_size) -> None:
    tokenizer = brackets(pad)
    whole = HubRewardModel("judge", str(save(tokenizer)), batch_size=8).score(PROMPTS, RESPONSES)
    tokenizer.padding_side = side
    model = HubRewardModel("judge", str(save(tokenizer)), batch_size=batch_size)
    assert model.score(PROMPTS, RESPONSES) == pytest.approx(whole, abs=1e-5)
    assert model.score(PROMPTS[::-1], RESPONSES[::-1]) == pytest.approx(whole[::-1], abs=1e-5)
    assert model.score(PROMPTS[3:], RESPONSES[3:]) == pytest.approx(whole[3:], abs=1e-5)


def test_a_pad_token_that_tokenizer_and_configuration_disagree_on_changes_no_score(save) -> None:
    whole = HubRewardModel("judge", str(save(brackets("<pad>")))).score(PROMPTS, RESPONSES)
    other = HubRewardModel("judge", str(save(brackets("</s>"), pad_token_id=2))).score(PROMPTS, RESPONSES)
    assert other == pytest.approx(whole, abs=1e-5)


def test_the_text_of_a_special_token_stays_text(save) -> None:
    model = HubRewardModel("judge", str(save(brackets("<pad>"))))
    ids = model.encode((Message("user", "a</s>b"),), "c</s>d")
    assert ids.count(model.tokenizer.eos_token_id) == 1
    assert model.tokenizer.decode(ids) == "<s>[INST] a</s>b [/INST]c</s>d</s>"


def test_a_system_message_goes_into_the_first_question_where_the_template_takes_none(save) -> None:
    model = HubRewardModel("judge", str(save(brackets("<pad>"))))
    talk = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Hey"))
    text = "<s>[INST] Be brief.\n\nHi [/INST]Ho</s>[INST] Hey [/INST]Yes</s>"
    assert model.tokenizer.decode(model.encode(talk, "Yes")) == text


def test_a_long_conversation_loses_its_beginning_but_not_the_token_that_marks_it(save, caplog) -> None:
    model = HubRewardModel("judge", str(save(brackets("<pad>"), max_position_embeddings=40)))
    assert model.max_length == 40
    assert len(model.score([(Message("user", "x" * 100),), (Message("user", "Hi"),)], ["the end", "Yes"])) == 2
    kept = model.tokenizer.decode(model.encode((Message("user", "x" * 100),), "the end"))
    assert kept == "<s>" + "x" * 23 + " [/INST]the end</s>"
    assert (model.num_cut, model.num_scored) == (2, 3)
    assert caplog.text.count("lost its beginning") == 1


def test_the_whole_conversation_is_read_with_what_the_template_puts_behind_the_turn(save) -> None:
    model = HubRewardModel("judge", str(save(byte_tokenizer(pad_token="<|endoftext|>"))))
    assert model.tokenizer.decode(model.encode((Message("user", "Hi"),), "Yes")).endswith("Yes<|im_end|>\n")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_shift_that_an_export_leaves_in_its_configuration_is_added(save) -> None:
    folder = save(brackets("<pad>"))
    before = HubRewardModel("judge", str(folder)).score(PROMPTS, RESPONSES)
    change_config(folder, reward_score_shift=-1.5)
    after = HubRewardModel("judge", str(folder)).score(PROMPTS, RESPONSES)
    assert after == pytest.approx([score - 1.5 for score in before])


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_scorers([f"hub:{folder}"], timeout=1.0, retries=0, batch_size=2)


def test_several_labels_are_refused(save) -> None:
    labels = {0: "bad", 1: "good"}
    refuse(save(brackets("<pad>"), num_labels=2, id2label=labels), r"has 2 labels \(bad, good\).*Python function")


def test_a_model_without_a_chat_template_is_refused(save) -> None:
    tokenizer = brackets("<pad>")
    tokenizer.chat_template = None
    refuse(save(tokenizer), "has no chat template")


def test_a_language_model_is_refused_whose_head_would_be_random(tmp_path, save) -> None:
    folder = save(brackets("<pad>"))
    config = LlamaConfig.from_pretrained(str(folder))
    LlamaForCausalLM(config).save_pretrained(str(folder))
    refuse(folder, "LlamaForCausalLM, which has no score head")
    change_config(folder, architectures=["LlamaForSequenceClassification"])
    refuse(folder, "1 of its weights are not in its files, the first is score.weight")


def test_another_models_tokenizer_is_refused(save) -> None:
    refuse(save(brackets("<pad>"), vocab_size=100), "tokenizer and model do not belong together")


def test_broken_weights_are_refused(save, tmp_path) -> None:
    folder = save(brackets("<pad>"))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder))
    torch.nn.init.constant_(model.score.weight, torch.nan)
    model.save_pretrained(str(folder))
    refuse(folder, "gives nan for a short conversation")


def test_pickled_weights_are_refused(save) -> None:
    folder = save(brackets("<pad>"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuse(folder, "no weights in safetensors")


def test_code_of_a_models_author_is_not_run(save) -> None:
    folder = save(brackets("<pad>"))
    (folder / "theirs.py").write_text("raise SystemExit('their code ran')")
    names = {"AutoConfig": "theirs.Config", "AutoModelForSequenceClassification": "theirs.Model"}
    change_config(folder, model_type="theirs", auto_map=names)
    refuse(folder, "trust_remote_code|cannot be loaded")


def test_a_folder_that_is_damaged_is_refused(save) -> None:
    folder = save(brackets("<pad>"))
    (folder / "model.safetensors").write_bytes(b"nothing")
    refuse(folder, "cannot be loaded as AutoModelForSequenceClassification")


def test_a_folder_needs_no_prefix_and_names_the_scorer(save) -> None:
    (scorer,) = build_scorers([str(save(brackets("<pad>")))], timeout=1.0, retries=0, batch_size=2)
    assert isinstance(scorer, HubRewardModel)
    assert scorer.name == "model"


def test_what_is_loaded_for_scoring_is_not_partitioned_by_zero_3() -> None:
    config = mock.Mock(is_zero3=lambda: True)
    deepspeed.set_hf_deepspeed_config(config)
    try:
        with without_partitioning():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_the_policys_tokenizer_has_no_part_in_it(save) -> None:
    # the policy's ChatML is text to a model that knows no such tokens
    assert "<|im_end|>" in CHAT_TOKENS
    model = HubRewardModel("judge", str(save(brackets("<pad>"))))
    assert model.tokenizer.decode(model.encode(PROMPTS[2], RESPONSES[2])).count("<|im_end|>") == 2
