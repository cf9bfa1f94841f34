"""A tiny chat model with the real tokenizer, and data for it, on disk as a user would have them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf.engine import embedded
from tests.end_to_end.launching import ROOT, launched


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama in float32 and SmolLM2's tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.materialise()))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs.jsonl, held_out.jsonl (other pairs), prompts.jsonl and demonstrations.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [
        {
            "prompt": f"Question number {i}: what is {i} plus {i + 1}?",
            "chosen": f"It is {2 * i + 1}.",
            "rejected": f"I do not know, but maybe {i} or {i * 7}. Ask someone else.",
        }
        for i in range(48)
    ]
    pairs, held_out = pairs[:24], pairs[24:]
    rows = {
        "pairs": pairs,
        "held_out": held_out,
        "prompts": [{"prompt": pair["prompt"]} for pair in pairs],
        "demonstrations": [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def rlhf() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`rlhf("ppo", "--max_steps", 2)` runs the command in a process of its own and returns it when it has ended."""

    def run(*arguments: object, check: bool = True, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return launched([sys.executable, "-m", "rlhf.cli", *map(str, arguments)], check=check, cwd=cwd)

    return run


@pytest.fixture(scope="session")
def stage_arguments(tiny_chat_model: Path, data: Path, reward_model: Path) -> Callable[[str], list[str]]:
    """The arguments with which a stage runs on the tiny model, without its output folder."""
    common = ["--model", str(tiny_chat_model), "--dtype", "float32", "--lora_r", "4", "--learning_rate", "1e-3"]
    pairs = ["--train_file", str(data / "pairs.jsonl")]
    prompts = ["--prompt_file", str(data / "prompts.jsonl"), "--reward_model", str(reward_model)]
    rollouts = [
        "--max_new_tokens",
        "8",
        "--num_mini_batches",
        "2",
        "--num_ppo_epochs",
        "2",
        "--normalize_scores",
        "true",
    ]
    own = {
        "reward": [*pairs, "--lora_dropout", "0.1"],
        "dpo": [*pairs, "--lora_dropout", "0.1"],
        "ppo": [*prompts, *rollouts, "--kl_target", "3"],
    }
    return lambda stage: [*common, *own[stage]]


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory, tiny_chat_model: Path, data: Path, rlhf) -> Path:
    """A finished reward run on the tiny model."""
    folder = tmp_path_factory.mktemp("runs") / "reward"
    files = ["--train_file", data / "pairs.jsonl", "--eval_file", data / "held_out.jsonl"]
    small = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 4, "--learning_rate", "1e-3"]
    rlhf("reward", "--model", tiny_chat_model, *files, *small, "--output_dir", folder)
    return folder
