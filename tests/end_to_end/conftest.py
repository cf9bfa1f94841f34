"""A tiny chat model, a little data, and ways to run whole stages on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from reward import train_reward
from rlhf import train_dpo, train_ppo, train_sft
from rlhf.engine import embedded

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "sft": "rlhf/train_sft.py",
    "reward": "reward/train_reward.py",
    "dpo": "rlhf/train_dpo.py",
    "ppo": "rlhf/train_ppo.py",
}
MAINS = {"sft": train_sft.main, "reward": train_reward.main, "dpo": train_dpo.main, "ppo": train_ppo.main}
# Four prompts a step; the learning rates move the weights far enough that a wrong gradient would show.
SETTINGS = {
    "sft": {"learning_rate": 1e-2, "per_device_train_batch_size": 2},
    "reward": {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "dpo": {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "ppo": {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "samples_per_prompt": 2,
        "max_new_tokens": 8,
        "kl_target": 6.0,
        "normalize_scores": True,
    },
}
TIMED = ("runtime", "_per_second", "time/")


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama with random float32 weights and the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_chat_model")
    write_model(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def another_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    folder = tmp_path_factory.mktemp("another_chat_model")
    write_model(folder, seed=1)
    return folder


def write_model(folder: Path, *, seed: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.materialise())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of twelve rows: `demonstrations`, `pairs` and `prompts`."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [
        {
            "prompt": f"Question {i}: what is {i} plus {i + 1}?",
            "chosen": f"It is {2 * i + 1}.",
            "rejected": f"Perhaps {i}, perhaps {7 * i}; ask someone else.",
        }
        for i in range(12)
    ]
    rows = {
        "pairs": pairs,
        "prompts": [{"prompt": pair["prompt"]} for pair in pairs],
        "demonstrations": [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs],
    }
    files = {name: folder / f"{name}.jsonl" for name in rows}
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def settings(
    tmp_path_factory: pytest.TempPathFactory, tiny_chat_model: Path, data: dict[str, Path]
) -> Callable[..., list[str]]:
    """`settings(stage, **changes)`: the arguments of a stage, by way of a config file."""
    folder = tmp_path_factory.mktemp("configs")
    inputs = {
        "sft": {"train_file": [str(data["demonstrations"])]},
        "reward": {"train_file": [str(data["pairs"])]},
        "dpo": {"train_file": [str(data["pairs"])], "eval_file": [str(data["pairs"])]},
        "ppo": {"prompt_file": [str(data["prompts"])]},
    }
    shared = {"model": str(tiny_chat_model), "dtype": "float32", "lora_r": 4, "disable_tqdm": True}

    def write(stage: str, **changes: Any) -> list[str]:
        config = {**shared, **inputs[stage], **SETTINGS[stage], **changes}
        file = folder / f"{stage}-{len(list(folder.iterdir()))}.yaml"
        file.write_text(yaml.safe_dump({key: str(v) if isinstance(v, Path) else v for key, v in config.items()}))
        return ["--config", str(file)]

    return write


@pytest.fixture(scope="session")
def reward_run(tmp_path_factory: pytest.TempPathFactory, settings: Callable[..., list[str]]) -> Path:
    """A finished reward model on the tiny model."""
    folder = tmp_path_factory.mktemp("reward") / "run"
    run_here("reward", [*settings("reward", max_steps=4), "--output_dir", str(folder)])
    return folder


def run_here(stage: str, arguments: list[str]) -> None:
    """Run a stage in this process, which spares the seconds of an import; its libraries' warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MAINS[stage](arguments)


@pytest.fixture(scope="session")
def run_stage() -> Callable[[str, list[str]], None]:
    """`run_stage(stage, arguments)`: run a stage in this process."""
    return run_here


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of processes that a test starts: one thread each, and this repository."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="session")
def run_script(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_script(stage, arguments)`: run a stage's script as a user does, from another folder."""

    def run(stage: str, arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / SCRIPTS[stage]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, **options)

    return run


@pytest.fixture(scope="session")
def logged() -> Callable[[Path], list[dict[str, Any]]]:
    """`logged(run)`: the rows of its log, one per step, without how long anything took."""

    def read(run: Path) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in row.items() if not any(word in key for word in TIMED)}
            for row in rows
            if "loss" in row
        ]

    return read


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed at once: runs with their checkpoints add up."""
    yield tmp_path
    shutil.rmtree(tmp_path)
