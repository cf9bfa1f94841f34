"""Sample responses to be ranked: `rlhf sample --model runs/sft --prompt_file FILE --output_file FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rlhf.data.comparisons import Comparison, read_prompts, write_comparisons
from rlhf.engine.generation import Sampling
from rlhf.engine.policy import Policy
from rlhf.engine.sources import resolve_model
from rlhf.training.arguments import DTYPES, ModelArguments, path_field
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.stage import load_chat


@dataclass
class SampleArguments(ModelArguments):
    """Settings of sampling."""

    prompt_file: list[str] = path_field("Prompts: JSON Lines with a `prompt`.", several=True)
    output_file: str | None = path_field("Where the comparisons, not yet ranked, are written.", output=True)
    samples_per_prompt: int = field(default=4, metadata={"help": "Responses per prompt, 2 to 8."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest response in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 takes the likeliest token."})
    rollout_batch_rows: int = field(default=64, metadata={"help": "Responses decoded side by side."})
    seed: int = field(default=0, metadata={"help": "Same seed, same samples."})
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "Leave bad lines out and report them instead of stopping."}
    )

    def sampling(self) -> Sampling:
        return Sampling(self.samples_per_prompt, self.max_new_tokens, self.temperature, self.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Sample and write."""
    args = parse(SampleArguments, argv)
    with exit_on_error():
        args.check_model_arguments()
        sampling = args.sampling()
        if not args.prompt_file or not args.output_file:
            raise ValueError("prompt_file and output_file are needed: give both")
        if Path(args.output_file).exists():
            raise FileExistsError(f"output_file {args.output_file} exists: choose another name")
        prompts, report = read_prompts(args.prompt_file, skip_bad_lines=args.skip_bad_lines)
        if report.num_bad:
            print(report)
        source = resolve_model(args.model)
        policy = Policy(source, load_chat(source, args), dtype=DTYPES[args.dtype], max_rows=args.rollout_batch_rows)
    sampled = policy.respond(prompts, sampling)
    comparisons, num_empty = without_empty(prompts, sampled)
    Path(args.output_file).parent.mkdir(parents=True, exist_ok=True)
    write_comparisons(args.output_file, comparisons)
    left_out = f"; {num_empty} responses without text were left out" if num_empty else ""
    print(f"{len(comparisons)} prompts with up to {args.samples_per_prompt} responses: {args.output_file}{left_out}")


def without_empty(prompts: Sequence[Comparison], sampled: Sequence[Sequence]) -> tuple[list[Comparison], int]:
    """Comparisons of the responses that have text, and how many had none: there is nothing to rank in those."""
    comparisons, num_empty = [], 0
    for prompt, responses in zip(prompts, sampled, strict=True):
        kept = tuple(response for response in responses if response.text.strip())
        num_empty += len(responses) - len(kept)
        if kept:
            comparisons.append(replace(prompt, responses=kept, source="sampled"))
    return comparisons, num_empty


if __name__ == "__main__":
    main()
