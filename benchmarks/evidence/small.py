"""What the experiments on a small model share: the language model, rankings of its responses, a reward model."""

from __future__ import annotations

from benchmarks.evidence.gold import DTYPE, MAX_NEW_TOKENS
from benchmarks.evidence.runs import DATA, HERE, RUNS, Run

SMALL = f"{RUNS}/small"
MODEL = f"{SMALL}/model/model"
FILES = f"{SMALL}/data"
RANKED = f"{SMALL}/ranked"
REWARD = f"{SMALL}/reward/model"
RANKINGS, DRAWS, HELD_OUT = 1000, 6, 200  # rankings of the language model's own responses: so many in each draw
TUNING_DRAW = 0  # of rankings: settings were tuned on it
MADE = ("small/data", "small/model", "small/ranked")
SHARED = (
    *("--dtype", DTYPE, "--max_prompt_length", "64", "--max_response_length", str(MAX_NEW_TOKENS)),
    *("--allow", "responses_cut"),  # responses are sampled to that length: that is meant
    *("--save_strategy", "no"),
)
PYTHON = ("python", "-m")


def runs() -> list[Run]:
    """The shared runs in order."""
    return [
        Run(
            "small/data",
            (
                (
                    *(*PYTHON, "benchmarks.evidence.small_data", "--output_dir", HERE),
                    *("--reviews", f"{DATA}/eval/sentiment_review_prefixes.jsonl"),
                    *("--sentences", f"{DATA}/eval/sentiment_sentences_train.jsonl"),
                    *("--held_out", f"{DATA}/eval/sentiment_sentences_validation.jsonl"),
                    *("--num_sampled", str(RANKINGS * DRAWS + HELD_OUT + 20)),  # a few more: responses may be empty
                ),
            ),
            seconds=5,
        ),
        Run(
            "small/model",
            (
                (
                    *(*PYTHON, "benchmarks.evidence.small_model", "--output_dir", HERE),
                    *("--train_file", f"{FILES}/demonstrations.jsonl"),
                    *("--eval_file", f"{FILES}/demonstrations_heldout.jsonl"),
                ),
            ),
            needs=("small/data",),
            seconds=240,
        ),
        Run(
            "small/ranked",
            (
                (
                    *("rlhf", "sample", "--model", MODEL, "--prompt_file", f"{FILES}/prompts_sampled.jsonl"),
                    *("--output_file", f"{HERE}/candidates.jsonl", "--samples_per_prompt", "4", "--dtype", DTYPE),
                    *("--max_new_tokens", str(MAX_NEW_TOKENS), "--max_prompt_length", "64"),
                ),
                (
                    *(*PYTHON, "benchmarks.evidence.gold", "rank", "--small", SMALL),
                    *("--candidates", f"{HERE}/candidates.jsonl", "--output_dir", HERE),
                    *("--draws", str(DRAWS), "--rankings", str(RANKINGS), "--held_out", str(HELD_OUT)),
                ),
            ),
            needs=("small/data", "small/model"),
            seconds=90,
        ),
        Run(
            "small/reward",
            (reward_command(TUNING_DRAW),),
            needs=MADE,
            seconds=90,
            records=("model/metrics.json",),
        ),
        Run("small/measured", (measured(MODEL, reward_model=REWARD),), needs=(*MADE, "small/reward"), seconds=30),
    ]


def reward_command(draw: int, *settings: str) -> tuple[str, ...]:
    """Reward models on one draw of rankings by P(positive)."""
    train_file = f"{RANKED}/draw_{draw}.jsonl"
    return (
        *("rlhf", "reward", "--model", MODEL, "--train_file", train_file, "--eval_file", f"{RANKED}/heldout.jsonl"),
        *("--output_dir", f"{HERE}/model", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"),
        *("--lr_scheduler_type", "cosine", "--num_train_epochs", "2", *settings, *SHARED),
    )


def ppo_command(seed: int, reward_model: tuple[str, ...], *settings: str) -> tuple[str, ...]:
    """What all PPO runs have in common: rollouts of 16 prompts, two epochs of two optimiser steps."""
    return (
        *("rlhf", "ppo", "--model", MODEL, "--reward_model", *reward_model),
        *("--prompt_file", f"{FILES}/prompts_train.jsonl", "--output_dir", f"{HERE}/policy", "--seed", str(seed)),
        *("--max_new_tokens", str(MAX_NEW_TOKENS), "--missing_eos_penalty", "0", "--monitors", "warn"),
        *("--per_device_train_batch_size", "8", "--num_mini_batches", "2", "--num_ppo_epochs", "2"),
        *(*settings, *SHARED),
    )


def measured(*models: str, reward_model: str, seed: int = 1) -> tuple[str, ...]:
    """The command that samples from policies on the test prompts and measures what they say."""
    return (
        *(*PYTHON, "benchmarks.evidence.gold", "measure", "--small", SMALL, "--models", *models),
        *("--reward_model", reward_model, "--seed", str(seed), "--output_dir", HERE),
    )
