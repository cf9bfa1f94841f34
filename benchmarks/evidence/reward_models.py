"""Reward models on preferences of people and GPT-4: cross-validated accuracy, single and ensemble, beside baselines.

python -m benchmarks.evidence.reward_models draw --files FILE ... --most 1300 --output_file FILE
python -m benchmarks.evidence.reward_models compare --run RUN --comparisons FILE --fold 0 --output_dir FOLDER

Every pair is judged by models that were trained without its conversation. A fold trains three reward models in one
pass on part of the other folds, as much as the time allows; the bag of words sees all of them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.plots import intervals
from benchmarks.evidence.runs import DATA, HERE, RUNS, Plan, Run, write_result
from benchmarks.evidence.tables import estimate
from reward.baselines import BagOfWords, length_margins, text_pairs
from reward.breakdown import lead
from reward.judged_pairs import MODEL
from rlhf.data.comparisons import Comparison, read_comparisons, write_comparisons
from rlhf.data.folds import held_out_fold
from rlhf.data.json_lines import write_json_lines
from rlhf.evaluation.metrics import pair_accuracy
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import read_rows

FOLDS = 2
MEMBERS = 3
LAST_LAYERS = 4  # of 30: a quarter of the time, so that more pairs are seen
PAIRS = "pairs.jsonl"
SINGLE, ENSEMBLE, LONGER, WORDS = "single", "ensemble", "longer wins", "bag of words"
LEADS = ((ENSEMBLE, LONGER), (ENSEMBLE, WORDS), (SINGLE, LONGER), (SINGLE, WORDS), (ENSEMBLE, SINGLE))
COLUMNS = {"member 1": SINGLE, MODEL: ENSEMBLE}

PLOT = "evidence-reward-models.svg"
SETTING = """\
{folds}-fold cross-validation, folds by the hash of a conversation's first question. A fold trains {members} reward
models in one pass on SmolLM2-135M-Instruct, adapters on its last {layers} layers, on as many pairs of the other folds
as the time allows: {trained}.
`single` is the first of the three. The bag of words learns from all pairs of the other folds. Leads are paired
differences. The sets are drawn from training and validation files together; `alpacaeval_gpt4` is judged by GPT-4, the
others by people."""


@dataclass(frozen=True)
class PreferenceSet:
    """A set of pairs with the sizes that let a fold end in time on 2 cores."""

    name: str
    most: int
    max_prompt_length: int
    max_response_length: int
    steps: int


SETS = (
    PreferenceSet("human_chat", 800, 128, 256, 50),
    PreferenceSet("hh_harmless", 800, 128, 128, 50),
    PreferenceSet("alpacaeval_gpt4", 800, 64, 256, 50),
    PreferenceSet("fgrlhf_qa", 500, 128, 192, 31),
)


def runs() -> list[Run]:
    """Data and folds, set by set, so that what has finished at any time is a whole picture of fewer sets."""
    return [
        run
        for preferences in SETS
        for run in (data_run(preferences), *(fold_run(preferences, fold) for fold in range(FOLDS)))
    ]


def data_run(preferences: PreferenceSet) -> Run:
    files = [f"{DATA}/preference/{preferences.name}/{split}.jsonl" for split in ("train", "validation")]
    draw = (
        *("python", "-m", "benchmarks.evidence.reward_models", "draw", "--files", *files),
        *("--most", str(preferences.most), "--output_file", f"{HERE}/comparisons.jsonl"),
    )
    return Run(f"reward_models/{preferences.name}", (draw,), kind="reward-models-data", seconds=10)


def fold_run(preferences: PreferenceSet, fold: int) -> Run:
    comparisons = f"{RUNS}/reward_models/{preferences.name}/comparisons.jsonl"
    train = (
        *("rlhf", "reward", "--model", "smollm2-135m", "--train_file", comparisons, "--output_dir", f"{HERE}/model"),
        *("--folds", str(FOLDS), "--fold", str(fold), "--num_members", str(MEMBERS), "--seed", str(fold)),
        *("--max_steps", str(preferences.steps), "--per_device_train_batch_size", "8", "--learning_rate", "2e-3"),
        *("--lr_scheduler_type", "cosine", "--normalise_examples", "32", "--save_strategy", "no"),
        *("--lora_last_layers", str(LAST_LAYERS)),
        *("--allow", "prompts_cut", "responses_cut"),  # eight minutes of two cores: that is meant
        *("--max_prompt_length", str(preferences.max_prompt_length)),
        *("--max_response_length", str(preferences.max_response_length)),
    )
    compare = (
        *("python", "-m", "benchmarks.evidence.reward_models", "compare", "--run", f"{HERE}/model"),
        *("--comparisons", comparisons, "--fold", str(fold), "--output_dir", HERE),
    )
    return Run(
        f"reward_models/{preferences.name}-fold{fold}",
        (train, compare),
        needs=(f"reward_models/{preferences.name}",),
        kind=f"reward-models-{preferences.name}",
        seconds=450,
        settings={"set": preferences.name, "fold": fold, "pairs_trained_on": 8 * preferences.steps},
        records=(PAIRS,),
    )


def section(plan: Plan, images: Path) -> str:
    """Table, plot and verdicts of the sets whose folds have finished; empty without one."""
    found = {preferences.name: rows for preferences in SETS if (rows := judged_rows(plan, preferences))}
    if not found:
        return ""
    measured = {name: accuracies(rows) for name, rows in found.items()}
    names = {name: f"{name}, {len(found[name])} pairs" for name in found}
    intervals(
        images / PLOT,
        {
            scorer: [
                (names[name], *(values["accuracy"][scorer][key] for key in ("value", "low", "high")))
                for name, values in measured.items()
            ]
            for scorer in (ENSEMBLE, SINGLE, LONGER, WORDS)
        },
        x_label="accuracy on pairs no model was trained on, 95 % interval by prompt",
    )
    header = ["set", "pairs", "ensemble", "single", "longer wins", "bag of words", "ensemble over single"]
    cells = [
        [
            *(name, str(len(found[name]))),
            *(estimate(values["accuracy"][scorer]) for scorer in (ENSEMBLE, SINGLE, LONGER, WORDS)),
            estimate(values["lead"][f"{ENSEMBLE} over {SINGLE}"]),
        ]
        for name, values in measured.items()
    ]
    trained = ", ".join(f"{8 * preferences.steps} of `{preferences.name}`" for preferences in SETS)
    return "\n\n".join(
        [
            "### Reward models",
            SETTING.format(folds=FOLDS, members=MEMBERS, layers=LAST_LAYERS, trained=trained),
            f"![Accuracy by set](images/{PLOT})",
            markdown(header, cells),
            "\n".join(verdict(name, values) for name, values in measured.items()),
        ]
    )


def judged_rows(plan: Plan, preferences: PreferenceSet) -> list[dict[str, Any]]:
    """The held-out pairs of all folds of a set, once all have finished."""
    folds = [plan.by_name[f"reward_models/{preferences.name}-fold{fold}"] for fold in range(FOLDS)]
    if not all(plan.place.result(run) for run in folds):
        return []
    return [row for run in folds for row in read_rows(plan.place.found(run) / PAIRS)]


def verdict(name: str, values: Mapping[str, Any]) -> str:
    """Which baselines the ensemble beats or loses to, where the interval of the paired difference says so."""
    said = []
    for baseline in (LONGER, WORDS):
        lead = values["lead"][f"{ENSEMBLE} over {baseline}"]
        if lead["low"] > 0:
            text = f"beats {baseline}"
        elif lead["high"] < 0:
            text = f"is beaten by {baseline}"
        else:
            text = f"no verdict against {baseline}"
        said.append(f"{text}, {estimate(lead)}")
    return f"- `{name}`: {'; '.join(said)}."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.reward_models", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", allow_abbrev=False)
    drawing.add_argument("--files", nargs="+", required=True)
    drawing.add_argument("--most", type=int, required=True)
    drawing.add_argument("--output_file", required=True)
    comparing = commands.add_parser("compare", allow_abbrev=False)
    comparing.add_argument("--run", type=Path, required=True)
    comparing.add_argument("--comparisons", required=True)
    comparing.add_argument("--fold", type=int, required=True)
    comparing.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.command == "draw":
        write_comparisons(arguments.output_file, drawn(read_comparisons(arguments.files)[0], arguments.most))
    else:
        compare(arguments)


def drawn(comparisons: Sequence[Comparison], most: int) -> list[Comparison]:
    """At most so many comparisons, those with the lowest hashes, in their order: a draw that no order changes."""
    hashes = [hashlib.sha256(comparison.id.encode()).digest() for comparison in comparisons]
    chosen = set(sorted(range(len(comparisons)), key=hashes.__getitem__)[:most])
    return [comparison for index, comparison in enumerate(comparisons) if index in chosen]


def compare(arguments: argparse.Namespace) -> None:
    """Put the baselines beside a fold's reward models, pair by pair."""
    train, held_out = held_out_fold(read_comparisons([arguments.comparisons])[0], FOLDS, arguments.fold)
    held_out = [comparison for comparison in held_out if comparison.weight and comparison.pairs()]
    texts = text_pairs(held_out)
    baselines = {LONGER: length_margins(texts), WORDS: BagOfWords(text_pairs(train)).margins(texts)}
    judged = list(read_rows(arguments.run / PAIRS))
    owners = [comparison.id for comparison in held_out for _ in comparison.pairs()]
    if [row["id"] for row in judged] != owners:
        raise ValueError(f"{arguments.run / PAIRS} holds other pairs than fold {arguments.fold} of the comparisons")
    rows = [
        {
            "prompt_id": row["prompt_id"],
            "margins": {name: row["margins"][column] for column, name in COLUMNS.items()}
            | {name: margins[index] for name, margins in baselines.items()},
        }
        for index, row in enumerate(judged)
    ]
    write_json_lines(arguments.output_dir / PAIRS, rows)
    write_result(arguments.output_dir, accuracies(rows) | {"num_train": len(train), "num_held_out": len(rows)})


def accuracies(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of each scorer, and leads of `LEADS` on the same pairs, all with intervals by prompt."""
    groups = [row["prompt_id"] for row in rows]
    margins = {name: [row["margins"][name] for row in rows] for name in rows[0]["margins"]}
    return {
        "accuracy": {name: pair_accuracy(found, groups).to_dict() for name, found in margins.items()},
        "lead": {
            f"{ours} over {theirs}": lead(margins[ours], margins[theirs], groups).to_dict() for ours, theirs in LEADS
        },
    }


if __name__ == "__main__":
    main()
