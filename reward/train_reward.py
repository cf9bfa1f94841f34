"""Train a reward model or an ensemble: `accelerate launch reward/train_reward.py --config configs/reward.yaml`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.judged_pairs import MODEL, JudgedPairs, judge_pairs, ordered, scores_by_name
from reward.trainer import RewardArguments, RewardTrainer, add_members
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.data.folds import held_out_fold
from rlhf.data.json_lines import write_json_lines
from rlhf.engine.adapters import ADAPTER_FILE
from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.engine.sources import MEMBER
from rlhf.evaluation.metrics import pair_accuracy
from rlhf.training.arguments import DTYPES
from rlhf.training.checks.before_run import check_inputs
from rlhf.training.checks.run_data import RunData
from rlhf.training.examples import encode_comparison
from rlhf.training.memory_plan import plan_run
from rlhf.training.pair_trainer import SAMPLED_EXAMPLES
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import CONFIG, MANIFEST
from rlhf.training.stage import find_backbone, finish_stage, load_chat, load_comparisons, open_stage

PAIRS = "pairs.jsonl"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, normalise, save, measure on what is held out."""
    args = parse(RewardArguments, argv)
    with exit_on_error():
        train, held_out = load_split(args)
        source = find_backbone(args)
        chat = load_chat(source, args)
        train_examples = args.ranked_groups(chat, train)
        held_out_groups = [encode_comparison(chat, comparison) for comparison in held_out]
        reference = reference_groups(args, chat) or [example.group for example in train_examples]
        data = RunData.of(train_file=train, eval_file=held_out)
        check_inputs(args, source, chat, data, num_adapters=args.num_members)
        plan_run("reward", args, source, [example.group for example in train_examples])
        backbone = Backbone.load(str(source.backbone), dtype=DTYPES[args.dtype], quantization=args.quantization)
        add_members(backbone, args)
        data_files = [*args.train_file, *args.eval_file, *args.reference_file]
        stage = open_stage("reward", args, source, chat, data_files=data_files)
    trainer = RewardTrainer(
        backbone, args, train_dataset=train_examples, run=stage.run, backbone_path=stage.backbone_path
    )
    trainer.train(resume_from_checkpoint=stage.checkpoint)
    moments = trainer.normalise(reference[: args.normalise_examples])
    trainer.save_model()
    metrics = {"num_train": len(train_examples), "steps": trainer.state.global_step, "normalised_from": moments}
    if held_out:
        scores = trainer.score_groups(held_out_groups, "evaluate")
        judged = judge_held_out(held_out, scores)
        metrics["eval_accuracy"] = pair_accuracy(judged.margins[MODEL], judged.prompt_ids).to_dict()
        if stage.run is not None:
            write_json_lines(stage.run.path / PAIRS, judged.rows())
            stage.run.log_samples(sample_rows(held_out, held_out_groups, scores, chat, trainer.state.global_step))
    finish_stage(stage, metrics)
    if stage.run is not None and args.num_members > 1:
        complete_members(stage.run.path, args.num_members)


def load_split(args: RewardArguments) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons to train on and those held out: a fold of `train_file`, or `eval_file`, or none.

    Raises:
        ValueError: a file cannot be used, or holds out nothing that orders two responses.
    """
    train = load_comparisons(args.train_file, args, "train_file")
    if args.folds:
        train, held_out = held_out_fold(train, args.folds, args.fold)
        return train, ordered(held_out, f"fold {args.fold} of train_file")
    if args.eval_file:
        return train, ordered(load_comparisons(args.eval_file, args, "eval_file"), "eval_file")
    return train, []


def reference_groups(args: RewardArguments, chat: Chat) -> list[Group]:
    """What `reference_file` holds of responses, none where it is unset.

    Raises:
        ValueError: the file holds prompts only.
    """
    if not args.reference_file:
        return []
    comparisons = load_comparisons(args.reference_file, args, "reference_file")[: args.normalise_examples]
    answered = [comparison for comparison in comparisons if comparison.responses]
    if not answered:
        raise ValueError(
            f"reference_file {', '.join(args.reference_file)} holds no responses: sample them, as rlhf sample does"
        )
    return [encode_comparison(chat, comparison) for comparison in answered]


def judge_held_out(comparisons: Sequence[Comparison], scores: Sequence[torch.Tensor]) -> JudgedPairs:
    """The held-out pairs with the margins of the model, of an ensemble those of its members too."""
    members = [[rows[member].tolist() for rows in scores] for member in range(len(scores[0]))]
    return judge_pairs("held out", comparisons, scores_by_name(members))


def sample_rows(
    comparisons: Sequence[Comparison], groups: Sequence[Group], scores: Sequence[torch.Tensor], chat: Chat, step: int
) -> list[dict[str, Any]]:
    """One row per response of the first comparisons: prompt, response, score."""
    rows = []
    shown = list(zip(comparisons, groups, scores, strict=True))[:SAMPLED_EXAMPLES]
    for comparison, group, found in shown:
        prompt = [message.to_dict() for message in comparison.prompt]
        for ids, score in zip(group.response_ids, found.mean(dim=0).tolist(), strict=True):
            rows.append({"step": step, "prompt": prompt, "response": chat.decode(ids), "score": score})
    return rows


def complete_members(run: Path, num_members: int) -> None:
    """Make each member's folder a reward model of its own, which can be named by itself.

    The run's folder holds the first member as any reward run holds its model.
    """
    manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    for number in range(2, num_members + 1):
        write_records(run, run / f"{MEMBER}{number}", manifest | {"member": number})
    first = run / f"{MEMBER}1"
    first.mkdir(exist_ok=True)
    for name in ("adapter_config.json", ADAPTER_FILE, "reward_head.safetensors"):
        shutil.copyfile(run / name, first / name)
    write_records(run, first, manifest | {"member": 1})


def write_records(run: Path, member: Path, manifest: dict[str, Any]) -> None:
    """Write a member's manifest and configuration."""
    shutil.copyfile(run / CONFIG, member / CONFIG)
    (member / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
