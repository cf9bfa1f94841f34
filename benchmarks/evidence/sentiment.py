"""What the sentiment experiments share: SFT model, reward model, judge, and rankings for DPO, each made once."""

from __future__ import annotations

from benchmarks.evidence.judge import MAX_NEW_TOKENS
from benchmarks.evidence.runs import DATA, HERE, RESPONSES, RUNS, Run

SFT = f"{RUNS}/sentiment/sft/model"
REWARD = f"{RUNS}/sentiment/reward/model"
JUDGE = f"{RUNS}/sentiment/judge"
FILES = f"{RUNS}/sentiment/data"
RANKINGS = f"{RUNS}/sentiment/rankings/rankings.jsonl"
MADE = ("sentiment/data", "sentiment/sft", "sentiment/reward", "sentiment/judge")
LENGTHS = ("--max_prompt_length", "64", "--max_response_length", str(MAX_NEW_TOKENS))
UNSAVED = ("--save_strategy", "no")
# Sentences are cut as responses are, so that the reward model sees them with and without an end of turn.
PAIRS = (*LENGTHS, *UNSAVED, "--normalise_examples", "64", "--allow", "responses_cut")
# The judge reads whole sentences at their last word: that none ends its turn is meant.
JUDGED = ("--max_prompt_length", "32", "--max_response_length", "48", *UNSAVED, "--allow", "responses_never_end")
PYTHON = ("python", "-m")


def runs() -> list[Run]:
    """The shared runs in order."""
    return [
        Run(
            "sentiment/data",
            (
                (
                    *(*PYTHON, "benchmarks.evidence.sentiment_data", "--output_dir", HERE),
                    *("--reviews", f"{DATA}/eval/sentiment_review_prefixes.jsonl"),
                    *("--sentences", f"{DATA}/eval/sentiment_sentences_train.jsonl"),
                    *("--held_out", f"{DATA}/eval/sentiment_sentences_validation.jsonl"),
                ),
            ),
            seconds=5,
        ),
        Run(
            "sentiment/sft",
            (
                (
                    *("rlhf", "sft", "--model", "smollm2-135m", "--train_file", f"{FILES}/demonstrations.jsonl"),
                    *("--output_dir", f"{HERE}/model", "--max_steps", "120", "--per_device_train_batch_size", "8"),
                    *("--learning_rate", "5e-4", "--lr_scheduler_type", "cosine"),
                    *("--max_prompt_length", "40", "--max_response_length", str(MAX_NEW_TOKENS), *UNSAVED),
                    *("--allow", "responses_cut", "responses_never_end"),  # reviews are cut off: that is meant
                ),
            ),
            needs=("sentiment/data",),
            seconds=180,
        ),
        Run(
            "sentiment/reward",
            (
                (
                    *("rlhf", "reward", "--model", SFT, "--train_file", f"{FILES}/preferences.jsonl"),
                    *("--eval_file", f"{FILES}/preferences_heldout.jsonl", "--output_dir", f"{HERE}/model"),
                    *("--max_steps", "90", "--per_device_train_batch_size", "8", "--learning_rate", "5e-4"),
                    *("--lr_scheduler_type", "cosine", *PAIRS),
                ),
            ),
            needs=("sentiment/sft",),
            seconds=300,
        ),
        Run(
            "sentiment/judge",
            (
                (
                    *("rlhf", "reward", "--model", "smollm2-135m", "--train_file", f"{FILES}/judge.jsonl"),
                    *("--output_dir", f"{HERE}/model", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"),
                    *("--learning_rate", "5e-4", "--lr_scheduler_type", "cosine", "--seed", "7", *JUDGED),
                ),
                (
                    *(*PYTHON, "benchmarks.evidence.judge", "calibrate", "--judge", f"{HERE}/model"),
                    *("--training_sentences", f"{FILES}/sentences_judge.jsonl"),
                    *("--sentences", f"{FILES}/sentences_calibration.jsonl"),
                    *("--held_out", f"{FILES}/sentences_heldout.jsonl", "--output_dir", HERE),
                ),
            ),
            needs=("sentiment/data",),
            seconds=300,
        ),
        Run(
            "sentiment/sft_measured",
            (measured(SFT, seed=1),),
            needs=MADE,
            kind="measured",
            records=(RESPONSES,),
            seconds=60,
        ),
        Run(
            "sentiment/rankings",
            (
                (
                    *("rlhf", "sample", "--model", SFT, "--prompt_file", f"{FILES}/prompts_rankings.jsonl"),
                    *("--output_file", f"{HERE}/candidates.jsonl", "--samples_per_prompt", "4"),
                    *("--max_new_tokens", str(MAX_NEW_TOKENS), *LENGTHS),
                ),
                (
                    *(*PYTHON, "benchmarks.evidence.ranking", "--candidates", f"{HERE}/candidates.jsonl"),
                    *("--reward_model", REWARD, "--output_file", f"{HERE}/rankings.jsonl"),
                ),
            ),
            needs=("sentiment/data", "sentiment/sft", "sentiment/reward"),
            seconds=300,
        ),
    ]


def measured(model: str, seed: int) -> tuple[str, ...]:
    """The command that samples from a policy on the test prompts and judges what it says."""
    return (
        *(*PYTHON, "benchmarks.evidence.judge", "measure", "--model", model),
        *("--prompt_file", f"{FILES}/prompts_test.jsonl", "--judge", JUDGE, "--reward_model", REWARD),
        *("--seed", str(seed), "--output_dir", HERE),
    )
