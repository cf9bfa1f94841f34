"""Rank sampled responses by a rule where no person is at hand: `rlhf rank --train_file FILE --output_file FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from annotation.simulated import SimulatedAnnotator
from rlhf.data.comparisons import read_comparisons, write_comparisons
from rlhf.training.arguments import path_field
from rlhf.training.parser import exit_on_error, parse


@dataclass
class RankArguments:
    """Settings of ranking."""

    train_file: list[str] = path_field("Comparisons with responses, as `rlhf sample` writes them.", several=True)
    output_file: str | None = path_field("Where the ranked comparisons are written.", output=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Rank and write."""
    args = parse(RankArguments, argv)
    with exit_on_error():
        if not args.train_file or not args.output_file:
            raise ValueError("train_file and output_file are needed: give both")
        rank_file(args.train_file, Path(args.output_file))


def rank_file(candidates: Sequence[str], output: Path) -> None:
    """Rank every comparison of at least two responses by the simulated annotator's rule.

    Raises:
        DataError: the candidates cannot be read.
        FileExistsError: the output is there already.
    """
    if output.exists():
        raise FileExistsError(f"output_file {output} exists: choose another name")
    annotator = SimulatedAnnotator()
    unranked, _ = read_comparisons(list(candidates))
    label = f"{annotator.NAME} (a rule, not a person) ranks"
    ranked = [annotator.rank(c) for c in tqdm(unranked, desc=label, unit="prompt") if len(c.responses) > 1]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_comparisons(output, ranked)
    num_pairs = sum(len(comparison.pairs()) for comparison in ranked)
    print(f"{len(ranked)} prompts ranked, {num_pairs} ordered pairs: {output}", flush=True)


if __name__ == "__main__":
    main()
