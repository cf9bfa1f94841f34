"""Sample responses to be ranked, into a file or into the annotation app's store.

rlhf sample --model runs/sft --prompt_file FILE --output_file FILE
rlhf sample --model runs/sft --prompt_file FILE --store sqlite:///annotations.db
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rlhf.data.comparisons import Comparison, read_prompts, write_comparisons
from rlhf.engine.generation import Sampling
from rlhf.engine.policy import Policy
from rlhf.engine.sources import ModelSource, resolve_model
from rlhf.training.arguments import DTYPES, ModelArguments, path_field
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import MANIFEST, hash_model
from rlhf.training.stage import load_chat

if TYPE_CHECKING:
    from annotation.importing import PolicyOrigin
    from annotation.store import Store


@dataclass
class SampleArguments(ModelArguments):
    """Settings of sampling."""

    prompt_file: list[str] = path_field("Prompts: JSON Lines with a `prompt`.", several=True)
    output_file: str | None = path_field("Where the comparisons, not yet ranked, are written.", output=True)
    store: str | None = field(
        default=None, metadata={"help": "Annotation store to fill: sqlite:///annotations.db or postgresql://..."}
    )
    campaign: str = field(default="main", metadata={"help": "Name under which the store keeps them together."})
    overlap: int | None = field(
        default=None, metadata={"help": "Annotators for each item of the store: the campaign's, 1 for a new one."}
    )
    samples_per_prompt: int = field(
        default=4, metadata={"help": "Responses per prompt, 2 to 9 where people rank them."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest response in tokens."})
    min_new_tokens: int = field(default=0, metadata={"help": "A response cannot stop before it has this many tokens."})
    stop_strings: list[str] = field(
        default_factory=list, metadata={"help": "A response ends where its text contains one of them; it is kept."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 takes the likeliest token."})
    rollout_batch_rows: int = field(default=64, metadata={"help": "Responses decoded side by side."})
    seed: int = field(default=0, metadata={"help": "Same seed, same samples."})
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "Leave bad lines out and report them instead of stopping."}
    )

    def sampling(self) -> Sampling:
        return Sampling(
            self.samples_per_prompt,
            self.max_new_tokens,
            self.temperature,
            self.seed,
            min_new_tokens=self.min_new_tokens,
            stop_strings=tuple(self.stop_strings),
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Sample and write."""
    args = parse(SampleArguments, argv)
    with exit_on_error():
        args.check_model_arguments()
        sampling = args.sampling()
        if not args.prompt_file:
            raise ValueError("prompt_file is missing: name one or more JSON Lines files with --prompt_file")
        if not args.output_file and not args.store:
            raise ValueError("output_file and store are missing: give one of them, or both")
        if args.output_file and Path(args.output_file).exists():
            raise FileExistsError(f"output_file {args.output_file} exists: choose another name")
        store = open_store(args) if args.store else None
        prompts, report = read_prompts(args.prompt_file, skip_bad_lines=args.skip_bad_lines)
        if report.num_bad:
            print(report)
        source = resolve_model(args.model)
        policy = Policy(source, load_chat(source, args), dtype=DTYPES[args.dtype], max_rows=args.rollout_batch_rows)
        origin = origin_of(source) if store is not None else None
    sampled = policy.respond(prompts, sampling)
    comparisons, num_empty = without_empty(prompts, sampled)
    if num_empty:
        print(f"{num_empty} responses without text were left out")
    with exit_on_error():
        if args.output_file:
            Path(args.output_file).parent.mkdir(parents=True, exist_ok=True)
            write_comparisons(args.output_file, comparisons)
            print(f"{len(comparisons)} prompts with up to {args.samples_per_prompt} responses: {args.output_file}")
        if store is not None and origin is not None:
            fill_store(store, comparisons, args, {source.name: origin})


def open_store(args: SampleArguments) -> Store:
    """Open the annotation store, before anything is sampled.

    Raises:
        ValueError: it cannot be opened, or the settings do not fit it.
    """
    try:
        from annotation.importing import check_campaign, check_campaign_settings
        from annotation.store import Store
    except ModuleNotFoundError as error:
        raise ValueError(f"an annotation store needs {error.name}: pip install 'rlhf-loop[annotation]'") from None
    if not 2 <= args.samples_per_prompt <= 9:
        raise ValueError(f"samples_per_prompt is {args.samples_per_prompt}; an annotator ranks 2 to 9 responses")
    check_campaign_settings(args.campaign, args.overlap)
    store = Store.open(str(args.store))
    check_campaign(store, args.campaign, args.overlap)
    return store


def origin_of(source: ModelSource) -> PolicyOrigin:
    """What the store keeps of a policy: the hash of its weights and the manifest of the run that made it."""
    from annotation.importing import PolicyOrigin

    folder = source.adapter or source.backbone
    manifest = folder / MANIFEST
    return PolicyOrigin(hash_model(folder), json.loads(manifest.read_text()) if manifest.is_file() else None)


def fill_store(
    store: Store, comparisons: Sequence[Comparison], args: SampleArguments, origins: Mapping[str, PolicyOrigin]
) -> None:
    """Add what can be compared to the store.

    Raises:
        ValueError: the store could not be written; the samples are then in a file beside.
    """
    from annotation.importing import import_comparisons

    comparable = [comparison for comparison in comparisons if len(comparison.responses) > 1]
    try:
        done = import_comparisons(store, comparable, name=args.campaign, overlap=args.overlap, origins=origins)
    except Exception as error:
        # whatever it was: what took an hour to sample is not lost
        rescued = Path(f"sampled-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
        write_comparisons(rescued, comparable)
        fix = f"the samples are in {rescued}: rlhf annotate import --store {store.address} --file {rescued}"
        raise ValueError(f"store {store.address} could not be filled ({error}); {fix}") from error
    alone = len(comparisons) - len(comparable)
    left_out = f", {alone} prompts had a single response with text" if alone else ""
    print(f"{done}{left_out}; rank them: rlhf annotate --store {store.address}")


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
