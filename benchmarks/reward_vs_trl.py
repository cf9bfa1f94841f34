"""Our reward training beside TRL's RewardTrainer: same pairs in the same order, steps, LoRA, backbone and lengths.

    python -m benchmarks.reward_vs_trl --config configs/recipes/real_data/reward.yaml --model runs/real_data/sft \
        --eval_file A/validation.jsonl B/validation.jsonl --output_dir runs/reward_vs_trl

The configuration is that of `rlhf reward`. Ours is trained by that command, or taken from a finished run of it with
`--ours FOLDER`, say a recipe's. Each trains in a process of its own, one after the other, so that peak memory and
time are its own. TRL is tuned: bfloat16, no gradient checkpointing, a padding token that does not end turns.

What stays different: TRL encodes the prompt once for each response and pads; its head starts at random and is read
through bfloat16, ours starts at zero in float32; TRL averages micro-batches, ours weighs the pairs of a step equally.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from reward.breakdown import lead
from reward.evaluate_reward import file_names
from reward.judged_pairs import ordered
from reward.reward_model import RewardModel
from reward.trainer import RewardArguments
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.evaluation.metrics import bootstrap_mean, pair_accuracy
from rlhf.stages import Finished, refuse_failure, run_process, run_stage
from rlhf.training.arguments import DTYPES
from rlhf.training.examples import RankedGroup, ranked_groups
from rlhf.training.parser import StrictParser, switch_off_telemetry
from rlhf.training.run_folder import CONFIG, LOG
from rlhf.training.stage import load_tokenizer

SAME_SETTINGS = """learning_rate max_steps num_train_epochs per_device_train_batch_size gradient_accumulation_steps seed
    lr_scheduler_type weight_decay max_grad_norm adam_beta1 adam_beta2 adam_epsilon""".split()
Margins = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Train both, measure both on the same pairs, write `result.json` and print a table."""
    switch_off_telemetry()
    args = parse_arguments(argv)
    if args.trl_from:
        train_trl(Path(args.trl_from), Path(args.output_dir), args.eval_file)
        return
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    ours, ours_cost = (Path(args.ours), cost_in_recipe(Path(args.ours))) if args.ours else train_ours(args, output)
    command = ["--output_dir", str(output), "--eval_file", *args.eval_file, "--trl_from", str(ours)]
    finished = run_process([sys.executable, "-m", "benchmarks.reward_vs_trl", *command])
    refuse_failure("trl", finished)
    theirs = json.loads((output / "trl.json").read_text())
    result = compare(args.eval_file, our_margins(ours, args.eval_file), theirs["margins"])
    result["training_seconds"] = {"ours": training_seconds(ours), "trl": theirs["training_seconds"]}
    result["peak_gb"] = {"ours": ours_cost, "trl": round(finished.peak_gb, 3)}
    result["settings"] = theirs["settings"]
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward_vs_trl", allow_abbrev=False)
    parser.add_argument("--config", help="configuration of rlhf reward")
    parser.add_argument("--model", help="backbone of both, as for rlhf reward")
    parser.add_argument(
        "--ours", help="a finished run of rlhf reward to compare with, in place of --config and --model"
    )
    parser.add_argument("--eval_file", nargs="+", required=True, help="held-out pairs; each file gets its own numbers")
    parser.add_argument("--output_dir", required=True, help="folder for the runs and the numbers")
    parser.add_argument("--trl_from", help=argparse.SUPPRESS)  # the process that trains TRL
    args = parser.parse_args(argv)
    if not args.trl_from and bool(args.ours) == bool(args.config and args.model):
        parser.error("give --ours, or --config and --model")
    return args


def train_ours(args: argparse.Namespace, output: Path) -> tuple[Path, float]:
    """Run `rlhf reward`; its folder and its peak memory in gigabytes."""
    command = ["reward", "--config", args.config, "--model", args.model, "--output_dir", str(output / "ours")]
    print(f"rlhf {shlex.join(command)}", flush=True)
    finished: Finished = run_stage(command)
    refuse_failure("ours", finished)
    return output / "ours", round(finished.peak_gb, 3)


def cost_in_recipe(run: Path) -> float | None:
    """Peak memory that a recipe measured for a run of its own; None where there is no recipe."""
    state = run.absolute().parent / "recipe.json"
    return json.loads(state.read_text())["steps"][run.name]["peak_gb"] if state.is_file() else None


def training_seconds(run: Path) -> float:
    """Seconds in the training loop, without loading and scoring, as the Trainer logs them."""
    rows = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return next(row["train_runtime"] for row in reversed(rows) if "train_runtime" in row)


def train_trl(ours: Path, output: Path, eval_files: Sequence[str]) -> None:
    """Train TRL's RewardTrainer with the settings of our run and write its margins to `trl.json`."""
    settings = our_settings(ours)
    backbone = json.loads((ours / "manifest.json").read_text())["parents"]["backbone"]["path"]
    tokenizer = load_tokenizer(Path(backbone))
    chat = Chat(tokenizer, settings.max_prompt_length, settings.max_response_length)
    train = token_pairs(ranked_groups(chat, read_comparisons(settings.train_file)[0]))
    held_out = read_held_out(eval_files)
    tokenizer.pad_token = distinct_pad(tokenizer, chat)
    shared = {name: getattr(settings, name) for name in SAME_SETTINGS}
    shared["lr_scheduler_type"] = getattr(settings.lr_scheduler_type, "value", settings.lr_scheduler_type)
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            backbone, num_labels=1, dtype=DTYPES[settings.dtype], trust_remote_code=False
        ),
        args=RewardConfig(
            output_dir=str(output / "trl"),
            max_length=None,  # the pairs are cut already, as ours
            center_rewards_coefficient=settings.center_coef,
            bf16=settings.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),  # without it the Trainer refuses bfloat16 there
            disable_tqdm=settings.disable_tqdm,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            **shared,
        ),
        train_dataset=Dataset.from_list(train),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=settings.lora_targets,
            task_type="SEQ_CLS",
            modules_to_save=["score"],
        ),
    )
    seconds = trainer.train().metrics["train_runtime"]
    margins = {name: trl_margins(trainer, token_pairs(ranked_groups(chat, rows))) for name, rows in held_out.items()}
    result = {"training_seconds": seconds, "margins": margins, "settings": shared, "log": trainer.state.log_history}
    (output / "trl.json").write_text(json.dumps(result, indent=1) + "\n")


def our_settings(ours: Path) -> RewardArguments:
    """The settings of our run, from the configuration it wrote."""
    settings: RewardArguments = StrictParser(RewardArguments).parse(["--config", str(ours / CONFIG)])
    return settings


def distinct_pad(tokenizer: Any, chat: Chat) -> str:
    """A special token that ends no turn: TRL's model reads the last token that is not padding."""
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special and token_id not in (*chat.stop_ids, tokenizer.bos_token_id):
            return str(token)
    raise ValueError("the tokenizer has no special token to pad with that ends no turn")


def token_pairs(groups: Sequence[RankedGroup]) -> list[dict[str, Any]]:
    """The pairs as TRL's trainer takes them when they are tokenised already: each with its prompt in front."""
    return [
        {
            "chosen_ids": [*group.group.prompt_ids, *group.group.response_ids[chosen]],
            "rejected_ids": [*group.group.prompt_ids, *group.group.response_ids[rejected]],
            "margin": group.margin,
        }
        for group in groups
        for chosen, rejected in group.pairs
    ]


def read_held_out(files: Sequence[str]) -> dict[str, list[Comparison]]:
    return {
        name: ordered(read_comparisons([file])[0], f"eval_file {file}")
        for name, file in zip(file_names(files), files, strict=True)
    }


@torch.no_grad()
def trl_margins(trainer: Any, pairs: Sequence[dict[str, Any]]) -> list[float]:
    """Score of the chosen minus score of the rejected response, 8 pairs at a time."""
    trainer.model.eval()
    margins: list[float] = []
    for start in range(0, len(pairs), 8):
        batch = trainer.data_collator(list(pairs[start : start + 8]))
        batch.pop("margin")
        with trainer.autocast_smart_context_manager():
            scores = trainer.model(**batch, use_cache=False).logits.float().squeeze(-1)
        chosen, rejected = scores.chunk(2)
        margins += (chosen - rejected).tolist()
    return margins


def our_margins(ours: Path, eval_files: Sequence[str]) -> Margins:
    """The same of our reward model."""
    model = RewardModel(ours)
    return {
        name: [
            scores[chosen] - scores[rejected]
            for comparison, scores in zip(comparisons, model.score(comparisons), strict=True)
            for chosen, rejected in comparison.pairs()
        ]
        for name, comparisons in read_held_out(eval_files).items()
    }


def compare(eval_files: Sequence[str], ours: Margins, trl: Margins) -> dict[str, Any]:
    """Accuracies by file and over all, and the paired difference, with intervals by prompt."""
    prompts = {
        name: [comparison.prompt_id for comparison in comparisons for _ in comparison.pairs()]
        for name, comparisons in read_held_out(eval_files).items()
    }
    if len(prompts) > 1:
        prompts["all"] = [prompt_id for prompt_ids in prompts.values() for prompt_id in prompt_ids]
        ours, trl = (by_file | {"all": [m for margins in by_file.values() for m in margins]} for by_file in (ours, trl))
    return {
        "accuracy": {
            name: {
                "ours": pair_accuracy(ours[name], groups).to_dict(),
                "trl": pair_accuracy(trl[name], groups).to_dict(),
                "difference": lead(ours[name], trl[name], groups).to_dict(),
                "same verdict": bootstrap_mean(
                    [float((a > 0) == (b > 0)) for a, b in zip(ours[name], trl[name], strict=True)], groups=groups
                ).to_dict(),
            }
            for name, groups in prompts.items()
        }
    }


def table(result: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    lines = ["| file | measure | value | 95 % interval | pairs |", "|---|---|---|---|---|"]
    for file, rows in result["accuracy"].items():
        for name, row in rows.items():
            interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
            lines.append(f"| {file} | {name} | {row['value']:.3f} | {interval} | {row['n']} |")
    lines += ["", "| | ours | TRL |", "|---|---|---|"]
    seconds, memory = result["training_seconds"], result["peak_gb"]
    lines.append(f"| training, seconds | {seconds['ours']:.0f} | {seconds['trl']:.0f} |")
    lines.append(f"| peak memory, GB | {memory['ours'] or 'not measured'} | {memory['trl']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
