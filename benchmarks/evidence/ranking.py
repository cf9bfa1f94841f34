"""Ranks sampled responses by a reward model's score, best first, for DPO.

python -m benchmarks.evidence.ranking --candidates FILE --reward_model RUN --output_file FILE

So DPO learns from the same reward model that PPO is trained against, and neither sees the judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from reward.reward_model import RewardModel
from rlhf.data.comparisons import read_comparisons, write_comparisons


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.ranking", allow_abbrev=False)
    for name in ("candidates", "reward_model", "output_file"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args(argv)
    candidates = [item for item in read_comparisons([arguments.candidates])[0] if len(item.responses) > 1]
    scores = RewardModel(arguments.reward_model).score(candidates)
    ranked = [replace(item, ranks=ranks(group)) for item, group in zip(candidates, scores, strict=True)]
    write_comparisons(arguments.output_file, ranked)
    print(f"{len(ranked)} prompts ranked: {arguments.output_file}")


def ranks(scores: Sequence[float]) -> tuple[int, ...]:
    """1 for the highest score; equal scores share a rank."""
    order = sorted(set(scores), reverse=True)
    return tuple(order.index(score) + 1 for score in scores)


if __name__ == "__main__":
    main()
