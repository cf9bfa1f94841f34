"""Exports go straight into TRL's trainers: each prepares its own data from them, and collates a batch."""

from __future__ import annotations

import itertools
import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import load_dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from annotation.export import export_dataset
from annotation.store import Store
from rlhf.data.comparisons import Comparison, Message
from tests.annotation.items import comparison
from tests.annotation.saying import Desk
from tests.conftest import SIZES

COMMON = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "bf16": False}
SETTINGS = {**COMMON, "activation_checkpointing": False, "per_device_train_batch_size": 2}
WORDS = ["<s>", "</s>", "user", "assistant", "system", "question", "first", "second", "better", "1", "2", "3", "4", "?"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/annotations.db"


@pytest.fixture
def judged(store: Store) -> Store:
    """Four items, of which one is a conversation where `plain` is not asked for."""
    desk = Desk(store)
    for number in range(1, 5):
        item = desk.add(comparison(number))[0]
        desk.say(item, "ann", (1, 2), strength=2.0, edits={"0": f"{number} better"})
        desk.say(item, "bob", (1, 2) if number % 2 else (1, 1), both_bad=not number % 2)
    return store


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<s>",
        unk_token="?",
        chat_template=TEMPLATE,
    )


def dataset(store: Store, tmp_path: Path, *, container: str, **options: Any) -> Any:
    out = tmp_path / "out"
    export_dataset(store, out, container=container, **options)
    if container == "datasets":
        return load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    return load_dataset("json", data_files=str(out / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))


def words_of(tokenizer: PreTrainedTokenizerFast, ids: Any) -> str:
    return tokenizer.decode([number for number in ids if number != tokenizer.pad_token_id])


@pytest.mark.parametrize("container", ["jsonl", "datasets"])
@pytest.mark.parametrize("plain", [False, True])
def test_pairs_go_into_trls_dpo_and_reward_trainers(
    judged: Store, tmp_path: Path, tiny_model, tokenizer, container: str, plain: bool
) -> None:
    if not plain:
        talk = (Message("user", "1 ?"), Message("assistant", "2"), Message("user", "question 3"))
        desk = Desk(judged)
        desk.numbers = itertools.count(100)
        desk.say(*desk.add(Comparison(talk, comparison(4).responses)), "ann", (2, 1))
    rows = dataset(judged, tmp_path, container=container, form="trl", plain=plain, edit_pairs=True)
    settings = trl.DPOConfig(str(tmp_path / "dpo"), **SETTINGS)
    dpo = trl.DPOTrainer(tiny_model(), tiny_model(), args=settings, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(dpo.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 4  # two pairs
    reward_model = AutoModelForSequenceClassification.from_config(
        LlamaConfig(**SIZES, num_labels=1, pad_token_id=0, bos_token_id=0, eos_token_id=1)
    )
    settings = trl.RewardConfig(str(tmp_path / "reward"), **SETTINGS)
    reward = trl.RewardTrainer(reward_model, args=settings, train_dataset=rows, processing_class=tokenizer)
    assert reward.train_dataset.num_rows == dpo.train_dataset.num_rows == rows.num_rows
    batch = next(iter(reward.get_train_dataloader()))
    assert set(batch["margin"].tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("plain", [False, True])
def test_single_responses_go_into_trls_kto_trainer(judged: Store, tmp_path: Path, tiny_model, tokenizer, plain) -> None:
    rows = dataset(judged, tmp_path, container="jsonl", form="kto", aggregation="every", plain=plain)
    assert rows["label"] == [True, False, True, False, True, False, False, False] * 2
    settings = trl.KTOConfig(str(tmp_path / "kto"), **SETTINGS)
    kto = trl.KTOTrainer(tiny_model(), tiny_model(), args=settings, train_dataset=rows, processing_class=tokenizer)
    assert kto.train_dataset.num_rows == 16
    assert next(iter(kto.get_train_dataloader()))


@pytest.mark.parametrize("plain", [False, True])
def test_edits_go_into_trls_sft_trainer(judged: Store, tmp_path: Path, tiny_model, tokenizer, plain: bool) -> None:
    rows = dataset(judged, tmp_path, container="jsonl", form="sft", plain=plain)
    settings = trl.SFTConfig(str(tmp_path / "sft"), **SETTINGS)
    sft = trl.SFTTrainer(tiny_model(), args=settings, train_dataset=rows, processing_class=tokenizer)
    assert sft.train_dataset.num_rows == 4
    batch = next(iter(sft.get_train_dataloader()))
    # only the answer is learned, and it is the edit
    learned = batch["labels"][0]
    assert "better" in words_of(tokenizer, learned[learned >= 0])
    assert "question" not in words_of(tokenizer, learned[learned >= 0])
