"""How many judgments a reward model needs when they are asked for by usefulness, beside a random order.

python -m benchmarks.annotation.order --output_file runs/annotation-order.json [--docs docs]

Sets of pairs that people or GPT-4 have judged are played back: an order chooses 25 pairs at a time, their answers are
revealed, a committee of five reward models is fitted anew on bootstraps of all answers so far, and its mean is tested
on pairs of other prompts. The reward models are linear in a bag of words and the length: a step takes a fraction of a
second, so that ten seeds and whole curves are affordable; what a language model would gain is not measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annotation.usefulness import disagreement
from benchmarks.evidence.plots import curves
from benchmarks.evidence.reward_models import drawn
from benchmarks.evidence.runs import data_folder
from reward.baselines import text_pairs
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.data.folds import held_out_fold
from rlhf.recipe_report import markdown
from rlhf.training.run_folder import write_atomically

SETS = ("human_chat", "hh_harmless", "alpacaeval_gpt4")
MOST_PAIRS = 1600
FOLDS = 3
AT_A_TIME, MOST_JUDGMENTS = 25, 500
MEMBERS = 5
RANDOM_SHARE = 0.15  # the app's default
SEEDS = 10
RANDOM, USEFUL, USEFUL_ALONE = "random", f"disagreement, {RANDOM_SHARE:.0%} random", "disagreement alone"
ORDERS = {RANDOM: 1.0, USEFUL: RANDOM_SHARE, USEFUL_ALONE: 0.0}  # share drawn at random
INTRO = """\
`python -m benchmarks.annotation.order` plays back judged pairs: {at_a_time} at a time are asked about, at most {most},
by the disagreement of {members} reward models that are fitted on bootstraps of the answers so far and tested on pairs
of other prompts; {seeds} seeds, intervals over seeds. With {share} drawn at random it is the app's default. The reward
models are linear in a bag of words and the length: this says how the orders compare, not what a language model
gains."""
BEGIN, END = "<!-- annotation order: begin -->", "<!-- annotation order: end -->"
PLOT = "annotation-order.svg"


@dataclass(frozen=True)
class Pool:
    """Pairs as differences of features, chosen minus rejected: `[pairs, features]` to ask about and to test on."""

    asked: Any
    tested: Any


def pool(comparisons: Sequence[Comparison], fold: int) -> Pool:
    """Features of the pairs of some prompts, and of all other prompts for the test."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, test = held_out_fold(comparisons, FOLDS, fold)
    texts = [text_pairs(part) for part in (train, test)]
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    words.fit([text for pair in texts[0] for text in pair])  # texts are known before they are judged

    def features(pairs: Sequence[tuple[str, str]]) -> Any:
        first, second = zip(*pairs, strict=True)
        lengths = np.array([[np.log((len(a) + 1) / (len(b) + 1))] for a, b in pairs])
        return csr_matrix(hstack([words.transform(first) - words.transform(second), 0.3 * csr_matrix(lengths)]))

    return Pool(features(texts[0]), features(texts[1]))


def accuracies(pairs: Pool, share_at_random: float, seed: int) -> list[float]:
    """Accuracy on the tested pairs after every `AT_A_TIME` answers, up to `MOST_JUDGMENTS`."""
    draw = np.random.default_rng(seed)
    count = pairs.asked.shape[0]
    open_ones = list(draw.permutation(count))
    answered: list[int] = []
    found: list[float] = []
    members: list[np.ndarray] = []
    while len(answered) < min(MOST_JUDGMENTS, count):
        at_random = AT_A_TIME if not members else int(draw.binomial(AT_A_TIME, share_at_random))
        chosen = set(open_ones[:at_random])  # they are in random order
        if members:
            rest = [number for number in open_ones if number not in chosen]
            scores = [np.asarray(pairs.asked[rest] @ member).ravel() for member in members]
            spread = [disagreement([[float(score[place]), 0.0] for score in scores]) for place in range(len(rest))]
            order = np.argsort(-np.asarray(spread), kind="stable")
            chosen |= {rest[place] for place in order[: AT_A_TIME - at_random]}
        answered += sorted(chosen)
        open_ones = [number for number in open_ones if number not in chosen]
        members = [fitted(pairs.asked[draw.choice(answered, len(answered))]) for _ in range(MEMBERS)]
        margins = np.mean([np.asarray(pairs.tested @ member).ravel() for member in members], axis=0)
        found.append(float(np.mean(margins > 0) + np.mean(margins == 0) / 2))
    return found


def fitted(differences: Any) -> np.ndarray:
    """`[features]` weights of a linear Bradley-Terry model of pairs whose first text was chosen."""
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    labels = np.repeat([1, 0], differences.shape[0])
    regression = LogisticRegression(fit_intercept=False, max_iter=200)
    return regression.fit(vstack([differences, -differences]), labels).coef_.ravel()


def judgments_to_reach(curve: Sequence[float], accuracy: float) -> int | None:
    """The first number of judgments from which on the accuracy is reached; None if it never is."""
    for place, value in enumerate(curve):
        if value >= accuracy:
            return AT_A_TIME * (place + 1)
    return None


def simulate(data: Path) -> dict[str, Any]:
    """Curves by set and order, `[runs][steps]`; a run is a seed, and folds take turns."""
    curves_of: dict[str, Any] = {}
    for name in SETS:
        files = [str(data / "preference" / name / f"{split}.jsonl") for split in ("train", "validation")]
        comparisons = drawn(read_comparisons(files)[0], MOST_PAIRS)
        pools = [pool(comparisons, fold) for fold in range(FOLDS)]
        curves_of[name] = {"pairs": len(text_pairs(comparisons)), "runs": {}}
        for order, share in ORDERS.items():
            print(f"{name}: {order}", file=sys.stderr, flush=True)
            curves_of[name]["runs"][order] = [accuracies(pools[seed % FOLDS], share, seed) for seed in range(SEEDS)]
    return curves_of


def section(found: Mapping[str, Any], images: Path) -> str:
    """Table, plot and verdicts."""
    panels, rows, verdicts = {}, [], []
    for name, measured in found.items():
        mean = {order: np.mean(runs, axis=0) for order, runs in measured["runs"].items()}
        steps = [AT_A_TIME * (place + 1) for place in range(len(mean[RANDOM]))]
        panels[name] = {order: [(steps, list(curve))] for order, curve in mean.items()}
        target = float(mean[RANDOM][-1])
        needed = {order: judgments_to_reach(list(curve), target) for order, curve in mean.items()}
        half = len(steps) // 2 - 1
        rows.append(
            [
                *(name, str(measured["pairs"]), f"{target:.3f}"),
                *(str(needed[order] or f"more than {steps[-1]}") for order in ORDERS),
                *(f"{curve[half]:.3f}" for curve in mean.values()),
            ]
        )
        for order in (USEFUL, USEFUL_ALONE):
            leads = np.mean(measured["runs"][order], axis=1) - np.mean(measured["runs"][RANDOM], axis=1)
            low, high = _interval(leads)
            said = "ahead" if low > 0 else "behind" if high < 0 else "no verdict"
            verdicts.append(
                f"- `{name}`, {order}: mean accuracy over the curve {np.mean(leads):+.3f} "
                f"[{low:+.3f}, {high:+.3f}] against random, {said}."
            )
    curves(images / PLOT, panels, x_label="judgments")
    header = ["set", "pairs", "accuracy of random at the end"]
    header += [f"judgments until then: {order}" for order in ORDERS]
    header += [f"accuracy at {AT_A_TIME * half + AT_A_TIME}: {order}" for order in ORDERS]
    intro = INTRO.format(
        at_a_time=AT_A_TIME, most=MOST_JUDGMENTS, members=MEMBERS, seeds=SEEDS, share=f"{RANDOM_SHARE:.0%}"
    )
    return "\n\n".join(
        [intro, f"![Accuracy over judgments](images/{PLOT})", markdown(header, rows), "\n".join(verdicts)]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotation.order", allow_abbrev=False)
    parser.add_argument("--output_file", type=Path, default=Path("runs/annotation-order.json"), help="JSON to write")
    parser.add_argument("--docs", type=Path, help="folder of results.md, whose section is replaced; default none")
    parser.add_argument("--report", action="store_true", help="simulate nothing: read what --output_file holds")
    arguments = parser.parse_args(argv)
    if arguments.report:
        found = json.loads(arguments.output_file.read_text(encoding="utf-8"))
    else:
        data = data_folder()
        if not data.is_dir():
            parser.error(f"{data} is not there: set RLHF_REAL_DATA to the folder of the real data")
        found = simulate(data)
        arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.output_file, json.dumps(found) + "\n")
    if arguments.docs is None:
        return
    page = arguments.docs / "results.md"
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        parser.error(f"{page} lacks the marks {BEGIN} and {END}: add them where the section belongs")
    write_atomically(page, f"{head}{BEGIN}\n\n{section(found, arguments.docs / 'images')}\n\n{END}{tail}")


def _interval(values: Any) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    draw = np.random.default_rng(0)
    means = np.mean(draw.choice(values, (10_000, len(values))), axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


if __name__ == "__main__":
    main()
