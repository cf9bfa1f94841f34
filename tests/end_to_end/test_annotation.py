"""The round from a policy to comparisons and back, by the commands; the browser's part is in tests/browser."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path

import pytest

from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store
from rlhf.data.comparisons import read_comparisons


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_chat_model: Path, data: Path, rlhf) -> Path:
    """A store with two responses to each prompt."""
    file = tmp_path_factory.mktemp("store") / "annotations.db"
    sampling = ["--samples_per_prompt", 2, "--max_new_tokens", 12, "--dtype", "float32"]
    prompts = ["--prompt_file", data / "prompts.jsonl"]
    rlhf("sample", "--model", tiny_chat_model, *prompts, "--store", f"sqlite:///{file}", *sampling)
    return file


@pytest.fixture
def judged(tmp_path: Path, sampled: Path) -> Path:
    """A copy of it in which everything was judged: the shorter response is better."""
    file = tmp_path / "annotations.db"
    with sqlite3.connect(sampled) as source, sqlite3.connect(file) as target:
        source.backup(target)
    source.close()
    target.close()
    store = Store.open(f"sqlite:///{file}")
    service = AnnotationService(store)
    annotator = service.annotator_of(service.sign_in("Ada"))
    while (card := service.next_card(annotator.id, "tab").card) is not None:
        first, second = map(len, card.responses)
        said = Said("ranking", (1, 2) if first <= second else (2, 1))
        service.submit(annotator.id, Judgment(f"judgment-{card.item_id}", card.item_id, said))
    store.close()
    return file


def test_what_was_sampled_and_judged_trains_a_reward_model(judged: Path, tiny_chat_model, rlhf, tmp_path) -> None:
    said = rlhf("annotate", "export", "--store", f"sqlite:///{judged}", "--out", tmp_path / "ranked.jsonl").stdout
    rows, _ = read_comparisons(tmp_path / "ranked.jsonl")
    assert len(rows) == 24
    assert said.startswith("24 rows")
    for row in rows:
        assert row.responses[0].policy == str(tiny_chat_model)
        assert row.responses[0].sampling["max_new_tokens"] == 12
    small = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 2]
    files = ["--train_file", tmp_path / "ranked.jsonl", "--output_dir", tmp_path / "reward"]
    rlhf("reward", "--model", tiny_chat_model, *files, *small)
    assert json.loads((tmp_path / "reward" / "metrics.json").read_text())["steps"] == 2


def test_the_store_knows_the_policy_by_its_weights(sampled: Path, tiny_chat_model: Path) -> None:
    from rlhf.training.run_folder import hash_model

    connection = sqlite3.connect(sampled)
    assert connection.execute("SELECT name, sha256 FROM policy").fetchall() == [
        (str(tiny_chat_model), hash_model(tiny_chat_model))
    ]
    connection.close()


def test_sampling_again_adds_nothing(sampled: Path, tiny_chat_model, data, rlhf) -> None:
    sampling = ["--samples_per_prompt", 2, "--max_new_tokens", 12, "--dtype", "float32"]
    prompts = ["--prompt_file", data / "prompts.jsonl"]
    said = rlhf("sample", "--model", tiny_chat_model, *prompts, "--store", f"sqlite:///{sampled}", *sampling).stdout
    assert "0 items added, 24 were there already" in said


# TRL's default for a setting that transformers renamed
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.timeout(600)
def test_the_export_trains_trls_own_reward_trainer(judged: Path, tiny_chat_model, rlhf, tmp_path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    rlhf("annotate", "export", "--store", f"sqlite:///{judged}", "--out", tmp_path / "p.jsonl", "--format", "trl")
    rows = load_dataset("json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 24
    model = AutoModelForSequenceClassification.from_pretrained(str(tiny_chat_model), num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_chat_model))
    settings = RewardConfig(
        str(tmp_path / "trl"),
        max_steps=2,
        report_to="none",
        save_strategy="no",
        bf16=False,
        dataloader_pin_memory=False,
    )
    result = RewardTrainer(model, settings, train_dataset=rows, processing_class=tokenizer).train()
    assert result.global_step == 2
    assert 0 < result.training_loss < 5


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(rlhf):
    """Runs a command that must end with status 2 and words, no traceback; gives the words."""

    def run(*arguments: object) -> str:
        done = rlhf(*arguments, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    return run


def test_a_port_in_use(refused, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("annotate", "--store", f"sqlite:///{tmp_path}/a.db", "--port", port)
    assert str(port) in said
    assert "--port" in said


@pytest.mark.parametrize("command", [("annotate",), ("annotate", "export", "--out", "out.jsonl")])
def test_a_store_that_is_no_database(refused, tmp_path, command) -> None:
    (tmp_path / "a.db").write_text("no database " * 100)
    name, *rest = command
    action = [name, rest[0]] if rest else [name]
    assert "not a database" in refused(*action, "--store", f"sqlite:///{tmp_path}/a.db", *rest[1:])
    assert (tmp_path / "a.db").read_text() == "no database " * 100


@pytest.mark.parametrize("command", [("annotate",), ("annotate", "export", "--out", "out.jsonl")])
def test_a_store_of_a_later_version(refused, tmp_path, command) -> None:
    Store.open(f"sqlite:///{tmp_path}/a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE rlhf_annotation_version SET version_num = '9999'")
    connection.close()
    name, *rest = command
    action = [name, rest[0]] if rest else [name]
    said = refused(*action, "--store", f"sqlite:///{tmp_path}/a.db", *rest[1:])
    assert "later version (schema 9999)" in said
    assert "update rlhf-loop" in said


def test_an_export_of_nothing(refused, sampled, tmp_path) -> None:
    said = refused("annotate", "export", "--store", f"sqlite:///{sampled}", "--out", tmp_path / "out.jsonl")
    assert "no judgments yet" in said
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_would_overwrite(refused, judged, tmp_path) -> None:
    (tmp_path / "out.jsonl").write_text("kept")
    said = refused("annotate", "export", "--store", f"sqlite:///{judged}", "--out", tmp_path / "out.jsonl")
    assert "exists" in said
    assert (tmp_path / "out.jsonl").read_text() == "kept"


def test_a_file_without_responses(refused, data, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": [{"role": "user", "content": "Why?"}], "responses": []}\n')
    store = f"sqlite:///{tmp_path}/a.db"
    assert "field 'responses': missing; have responses sampled first" in refused(
        "annotate", "import", "--store", store, "--file", tmp_path / "in.jsonl"
    )
    said = refused("annotate", "import", "--store", store, "--file", data / "prompts.jsonl")
    assert "24 of 24 lines cannot be used" in said
    assert "rlhf sample --prompt_file" in said
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["annotate"], "--store"),
        (["annotate", "--store", "sqlite:///{}/a.db", "--port", "0"], "port is 0"),
        (["annotate", "--store", "sqlite:///{}/a.db", "--host", "0.0.0.0"], "other machines"),
        (["annotate", "--store", "sqlite:///{}/a.db", "--por", "7860"], "--por"),
        (["annotate", "--store", "annotations.db"], "sqlite:///annotations.db"),
        (["annotate", "export", "--store", "sqlite:///{}/a.db", "--out", "x"], "is not there"),
        (["annotate", "export", "--store", "sqlite:///{}/a.db", "--out", "x", "--format", "xls"], "comparisons"),
        (["sample", "--prompt_file", "p.jsonl"], "output_file and store are missing"),
        (["sample", "--prompt_file", "p", "--store", "x"], "no URL"),
        (["sample", "--prompt_file", "p", "--store", "sqlite:///{}/a.db", "--samples_per_prompt", "1"], "2 to 9"),
        (["sample", "--prompt_file", "p", "--store", "sqlite:///{}/a.db", "--overlap", "0"], "overlap is 0"),
    ],
)
def test_settings_that_cannot_be_used(refused, tmp_path, arguments, words) -> None:
    assert words in refused(*[argument.format(tmp_path) for argument in arguments])
