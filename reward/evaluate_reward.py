"""Accuracy of a reward model by data set: `rlhf evaluate-reward --reward_model runs/reward --eval_file A B`.

The longer response as the winner stands beside it, and a bag of words when there are pairs to train it on: a
reward model that does not beat them has learned length or vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.baselines import BagOfWords, length_margins, text_pairs
from reward.reward_model import RewardModel
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.data.json_lines import write_json_lines
from rlhf.evaluation.metrics import Estimate, bootstrap_mean, pair_accuracy
from rlhf.training.arguments import path_field
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import RunFolder

PAIRS = "pairs.jsonl"
TOTAL = "all"
MODEL = "reward model"


@dataclass
class EvaluateRewardArguments:
    """Settings of a reward model's evaluation."""

    reward_model: str | None = path_field("Run folder of the reward model.")
    eval_file: list[str] = path_field("Held-out comparisons; each file gets numbers of its own.", several=True)
    baseline_train_file: list[str] = path_field("Comparisons to train the bag-of-words baseline on.", several=True)
    output_dir: str | None = path_field("Folder for the numbers and every pair's margins.", output=True)
    batch_size: int = field(default=8, metadata={"help": "Prompts per forward pass."})


@dataclass(frozen=True)
class JudgedPairs:
    """The strictly ordered pairs of one file, with each scorer's margins, chosen minus rejected.

    Attributes:
        name: of the file.
        ids: `[pairs]`, of the comparisons.
        prompt_ids: `[pairs]`.
        margins: scorer -> `[pairs]`.
    """

    name: str
    ids: list[str]
    prompt_ids: list[str]
    margins: dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Score, compare, write."""
    args = parse(EvaluateRewardArguments, argv)
    with exit_on_error():
        if not args.reward_model or not args.eval_file or not args.output_dir:
            raise ValueError("reward_model, eval_file and output_dir are needed: give all three")
        names = file_names(args.eval_file)
        held_out = {name: ranked(file) for name, file in zip(names, args.eval_file, strict=True)}
        words = None
        if args.baseline_train_file:
            words = BagOfWords(text_pairs(read_comparisons(args.baseline_train_file)[0]))
        model = RewardModel(args.reward_model, batch_size=args.batch_size)
        run = RunFolder.open(
            args.output_dir,
            stage="evaluate-reward",
            config=vars(args),
            parents={"reward_model": args.reward_model, "backbone": str(model.source.backbone)},
            data_files=[*args.eval_file, *args.baseline_train_file],
            resume=False,
        )
    judged = [judge(name, comparisons, model, words) for name, comparisons in held_out.items()]
    metrics = estimates([*judged, *([pooled(judged)] if len(judged) > 1 else [])])
    write_json_lines(run.path / PAIRS, (row for pairs in judged for row in pair_rows(pairs)))
    run.finish({**metrics, "truncation": vars(model.chat.truncation)})
    print(table(metrics))
    print(f"\nevaluate-reward: {model.chat.truncation}; the numbers are in {run.path}")


def ranked(file: str) -> list[Comparison]:
    """The comparisons of a file that order two responses.

    Raises:
        ValueError: none does, or the file cannot be read.
    """
    comparisons = [comparison for comparison in read_comparisons([file])[0] if comparison.pairs()]
    if not comparisons:
        raise ValueError(f"eval_file {file}: no comparison orders two responses; rank them first")
    return comparisons


def file_names(files: Sequence[str]) -> list[str]:
    """Short names that tell the files apart: their last parts, as many as that takes.

    Raises:
        ValueError: a file is named twice.
    """
    paths = [Path(file).absolute() for file in files]
    if len(set(paths)) < len(paths):
        raise ValueError(f"eval_file names a file twice: {', '.join(files)}")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.with_suffix("").parts[-length:]) for path in paths]
        if len(set(names)) == len(names) and TOTAL not in names:
            return names
    return [str(path) for path in paths]


def judge(name: str, comparisons: Sequence[Comparison], model: RewardModel, words: BagOfWords | None) -> JudgedPairs:
    """The margins of model and baselines on one file's pairs."""
    scores = model.score(comparisons)
    texts = text_pairs(comparisons)
    margins = {
        MODEL: [
            group[chosen] - group[rejected]
            for comparison, group in zip(comparisons, scores, strict=True)
            for chosen, rejected in comparison.pairs()
        ],
        "longer wins": length_margins(texts),
        **({"bag of words": words.margins(texts)} if words else {}),
    }
    owners = [comparison for comparison in comparisons for _ in comparison.pairs()]
    return JudgedPairs(name, [owner.id for owner in owners], [owner.prompt_id for owner in owners], margins)


def pooled(judged: Sequence[JudgedPairs]) -> JudgedPairs:
    """The pairs of all files as one."""
    return JudgedPairs(
        TOTAL,
        [item for pairs in judged for item in pairs.ids],
        [item for pairs in judged for item in pairs.prompt_ids],
        {name: [margin for pairs in judged for margin in pairs.margins[name]] for name in judged[0].margins},
    )


def estimates(judged: Sequence[JudgedPairs]) -> dict[str, dict[str, Any]]:
    """Accuracy, mean margin and lead over the baselines by file, all with intervals by prompt."""
    result: dict[str, dict[str, Any]] = {"accuracy": {}, "mean_margin": {}, "lead": {}}
    for pairs in judged:
        ours = pairs.margins[MODEL]
        result["accuracy"][pairs.name] = {
            name: pair_accuracy(margins, pairs.prompt_ids).to_dict() for name, margins in pairs.margins.items()
        }
        result["mean_margin"][pairs.name] = bootstrap_mean(ours, groups=pairs.prompt_ids).to_dict()
        result["lead"][pairs.name] = {
            f"over {name}": lead(ours, margins, pairs.prompt_ids).to_dict()
            for name, margins in pairs.margins.items()
            if name != MODEL
        }
    return result


def lead(margins: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Difference of two accuracies on the same pairs, with the interval of the paired difference."""
    differences = [correct(ours) - correct(theirs) for ours, theirs in zip(margins, others, strict=True)]
    return bootstrap_mean(differences, groups=groups)


def correct(margin: float) -> float:
    """1 for a pair ordered as the annotator did, one half for a tie, 0 else."""
    return 0.5 if margin == 0 else float(margin > 0)


def pair_rows(pairs: JudgedPairs) -> list[dict[str, Any]]:
    """One row for each pair, with every scorer's margin."""
    return [
        {
            "file": pairs.name,
            "id": identifier,
            "prompt_id": prompt_id,
            "margins": {name: margins[index] for name, margins in pairs.margins.items()},
        }
        for index, (identifier, prompt_id) in enumerate(zip(pairs.ids, pairs.prompt_ids, strict=True))
    ]


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracies and mean margins as text, one line for each file and scorer."""
    lines = [f"{'file':<36}{'':<16}{'accuracy':>9}  {'95 % interval':<18}{'pairs':>6}"]
    for file, scorers in metrics["accuracy"].items():
        rows = {**scorers, "(mean margin)": metrics["mean_margin"][file]}
        for name, value in rows.items():
            interval = "" if value["low"] is None else f"[{value['low']:.3f}, {value['high']:.3f}]"
            lines.append(f"{file:<36}{name:<16}{value['value']:>9.3f}  {interval:<18}{value['n']:>6}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
