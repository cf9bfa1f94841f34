"""What a reward model is worth on comparisons it has not seen: `rlhf evaluate-reward runs/reward pairs.jsonl`.

MODEL is a run of `rlhf reward`, single or an ensemble, or a model for sequence classification from a folder or the hub.
The longer response as the winner stands beside it, and a bag of words when there are pairs to train it on: a reward
model that does not beat them has learned length or vocabulary. `metrics.json` has the numbers, `pairs.jsonl` every
pair's margins, `report.html` a page to read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.baselines import BagOfWords, length_margins, text_pairs
from reward.breakdown import (
    accuracy_by_source,
    accuracy_by_strength,
    ensemble_figures,
    lead,
    length_figures,
    position_figures,
)
from reward.calibration import calibration
from reward.evaluated_model import cut, load_model, member_scores, order_change, parents_of
from reward.evaluation_report import write_evaluation_report
from reward.judged_pairs import MODEL, TOTAL, JudgedPairs, Scores, judge_pairs, ordered, pooled, scores_by_name
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.data.folds import held_out_fold
from rlhf.data.json_lines import write_json_lines
from rlhf.evaluation.metrics import Estimate, bootstrap_mean, pair_accuracy
from rlhf.training.arguments import path_field
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import RunFolder

PAIRS = "pairs.jsonl"
REPORT = "report.html"
LONGER, WORDS = "longer wins", "bag of words"


@dataclass
class EvaluateRewardArguments:
    """Measure a reward model on comparisons: rlhf evaluate-reward MODEL FILE [FILE ...] [--name value ...]"""

    reward_model: str | None = path_field(
        "Run folder of the reward model or ensemble, or a model for sequence classification: a folder or a hub name."
    )
    eval_file: list[str] = path_field("Held-out comparisons; each file gets numbers of its own.", several=True)
    baseline_train_file: list[str] = path_field("Comparisons to train the bag-of-words baseline on.", several=True)
    output_dir: str | None = path_field(
        "Folder for the numbers, every pair's margins and the page; unset: `evaluation` in the model's folder.",
        output=True,
    )
    batch_size: int = field(default=8, metadata={"help": "Prompts per forward pass."})
    folds: int = field(
        default=0,
        metadata={"help": "Measure on one fold of eval_file by prompt, as rlhf reward holds it out; 0: on all of it."},
    )
    fold: int = field(default=0, metadata={"help": "The fold, from 0; it is left out of baseline_train_file."})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: it must be at least 1")
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(self.folds, 1):
            raise ValueError(
                f"fold is {self.fold} of folds {self.folds}: give at least 2 folds, and one of them from 0"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Score, compare, write."""
    args = parse(EvaluateRewardArguments, with_flags(sys.argv[1:] if argv is None else argv))
    with exit_on_error():
        if not args.reward_model or not args.eval_file:
            raise ValueError("reward_model and eval_file are needed: rlhf evaluate-reward MODEL FILE")
        names = file_names(args.eval_file)
        held_out = {name: load_held_out(file, args) for name, file in zip(names, args.eval_file, strict=True)}
        words = BagOfWords(text_pairs(load_baseline(args))) if args.baseline_train_file else None
        model = load_model(args.reward_model, args.batch_size)
        run = RunFolder.open(
            output_folder(args),
            stage="evaluate-reward",
            config=vars(args),
            parents=parents_of(args.reward_model, model),
            data_files=[*args.eval_file, *args.baseline_train_file],
            resume=False,
        )
        scored = {name: member_scores(model, comparisons) for name, comparisons in held_out.items()}
        left_out = cut(model)
        change = order_change(model, next(iter(held_out.values())), next(iter(scored.values())))
    judged = [judge(name, held_out[name], scored[name], words) for name in names]
    comparisons = [comparison for name in names for comparison in held_out[name]]
    members = [[row for name in names for row in scored[name][member]] for member in range(len(scored[names[0]]))]
    metrics = by_file([*judged, *([pooled(judged)] if len(judged) > 1 else [])])
    metrics |= over_all(pooled(judged), comparisons, members) | {"order_change": change, "truncation": left_out}
    write_json_lines(run.path / PAIRS, (row for pairs in judged for row in pairs.rows()))
    write_evaluation_report(run.path / REPORT, model=args.reward_model, metrics=metrics, pairs=pooled(judged))
    run.finish(metrics)
    print(table(metrics))
    print(f"\nevaluate-reward: the numbers and {REPORT} are in {run.path}")


def with_flags(argv: Sequence[str]) -> list[str]:
    """MODEL FILE [FILE ...] at the beginning as the flags they stand for."""
    num_places = next((index for index, argument in enumerate(argv) if argument.startswith("-")), len(argv))
    places, rest = list(argv[:num_places]), list(argv[num_places:])
    model = ["--reward_model", places[0]] if places else []
    files = ["--eval_file", *places[1:]] if len(places) > 1 else []
    return [*model, *files, *rest]


# ---- what is read ---------------------------------------------------------------------------------------


def load_held_out(file: str, args: EvaluateRewardArguments) -> list[Comparison]:
    """The comparisons of a file that order two responses, of one fold where there are folds.

    Raises:
        ValueError: none does, or the file cannot be read.
    """
    comparisons = read_comparisons([file])[0]
    if args.folds:
        comparisons = held_out_fold(comparisons, args.folds, args.fold)[1]
    return ordered(comparisons, f"eval_file {file}")


def load_baseline(args: EvaluateRewardArguments) -> list[Comparison]:
    """What the bag of words learns from."""
    comparisons = read_comparisons(args.baseline_train_file)[0]
    return held_out_fold(comparisons, args.folds, args.fold)[0] if args.folds else comparisons


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


def output_folder(args: EvaluateRewardArguments) -> str:
    """Where the run goes.

    Raises:
        ValueError: it is not said, and the model has no folder here.
    """
    if args.output_dir:
        return args.output_dir
    if not Path(str(args.reward_model)).is_dir():
        raise ValueError(f"output_dir is needed for {args.reward_model}, which is no folder here")
    return str(Path(str(args.reward_model)) / "evaluation")


# ---- what is measured -----------------------------------------------------------------------------------


def judge(
    name: str, comparisons: Sequence[Comparison], members: Sequence[Scores], words: BagOfWords | None
) -> JudgedPairs:
    """The margins of model and baselines on one file's pairs."""
    pairs = judge_pairs(name, comparisons, scores_by_name(members))
    texts = text_pairs(comparisons)
    pairs.margins[LONGER] = length_margins(texts)
    if words:
        pairs.margins[WORDS] = words.margins(texts)
    return pairs


def by_file(judged: Sequence[JudgedPairs]) -> dict[str, Any]:
    """Accuracy, mean margin and lead over the baselines by file, all with intervals by prompt."""
    result: dict[str, Any] = {"accuracy": {}, "mean_margin": {}, "lead": {}}
    for pairs in judged:
        ours = pairs.margins[MODEL]
        baselines = {name: margins for name, margins in pairs.margins.items() if name in (LONGER, WORDS)}
        result["accuracy"][pairs.name] = {
            name: pair_accuracy(margins, pairs.prompt_ids).to_dict()
            for name, margins in {MODEL: ours, **baselines}.items()
        }
        result["mean_margin"][pairs.name] = bootstrap_mean(ours, groups=pairs.prompt_ids).to_dict()
        result["lead"][pairs.name] = {
            f"over {name}": lead(ours, margins, pairs.prompt_ids).to_dict() for name, margins in baselines.items()
        }
    return result


def over_all(pairs: JudgedPairs, comparisons: Sequence[Comparison], members: Sequence[Scores]) -> dict[str, Any]:
    """What is measured on the pairs of all files together."""
    scores = scores_by_name(members)[MODEL]
    found: dict[str, Any] = {
        "accuracy_by_source": _plain(accuracy_by_source(pairs)),
        "accuracy_by_strength": _plain(accuracy_by_strength(pairs)),
        "calibration": calibration(pairs.margins[MODEL], pairs.prompt_ids),
        "length": length_figures(pairs, comparisons, scores),
        "position": position_figures(pairs),
    }
    return found | ({"ensemble": ensemble_figures(pairs, members)} if len(members) > 1 else {})


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def table(metrics: Mapping[str, Any]) -> str:
    """Accuracies and mean margins as text, one line for each file and scorer; calibration and length below."""
    lines = [f"{'file':<36}{'':<16}{'accuracy':>9}  {'95 % interval':<18}{'pairs':>6}"]
    for file, scorers in metrics["accuracy"].items():
        rows = {**scorers, "(mean margin)": metrics["mean_margin"][file]}
        for name, value in rows.items():
            interval = "" if value["low"] is None else f"[{value['low']:.3f}, {value['high']:.3f}]"
            lines.append(f"{file:<36}{name:<16}{value['value']:>9.3f}  {interval:<18}{value['n']:>6}")
    found, length = metrics["calibration"], metrics["length"]["spearman"]
    lines.append(
        f"ECE {found['before']['ece']:.3f}, with temperature {found['temperature']:.3g} {found['after']['ece']:.3f}; "
        f"rank correlation of score and length {'none' if length is None else f'{length:.2f}'}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
