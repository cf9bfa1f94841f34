"""Compare two policies on held-out prompts: `rlhf evaluate --model runs/ppo --opponent runs/sft --prompt_file FILE`.

The judge decides between the n-th response of one and the n-th of the other. What comes out is a win rate with its
interval, the KL from the backbone, and every judged pair.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.reward_model import RewardModel
from rlhf.data.comparisons import Comparison, Response, read_comparisons, read_prompts, write_comparisons
from rlhf.engine.generation import Sampling
from rlhf.engine.policy import Policy
from rlhf.engine.sources import resolve_model
from rlhf.evaluation.head_to_head import head_to_head
from rlhf.evaluation.judges import load_judge
from rlhf.evaluation.metrics import Estimate, bootstrap_mean, pair_accuracy
from rlhf.training.arguments import DTYPES, ModelArguments, path_field
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import RunFolder
from rlhf.training.stage import load_chat


@dataclass
class EvaluateArguments(ModelArguments):
    """Settings of a comparison between policies."""

    opponent: str | None = path_field("What to compare with: a model, or a file that `rlhf sample` wrote.")
    prompt_file: list[str] = path_field("Held-out prompts: JSON Lines with a `prompt`.", several=True)
    judge: str = field(
        default="annotation.simulated:SimulatedAnnotator",
        metadata={"help": "Who decides, `module:attribute`; the default is a rule, not a person."},
    )
    reward_model: list[str] = path_field("Reward models that decide as well: runs of rlhf reward.", several=True)
    output_dir: str | None = path_field("Folder for the numbers and the judged pairs.", output=True)
    samples_per_prompt: int = field(default=1, metadata={"help": "Responses per prompt and policy."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest response in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 takes the likeliest token."})
    rollout_batch_rows: int = field(default=64, metadata={"help": "Responses decoded side by side."})
    seed: int = field(default=1, metadata={"help": "Same seed, same samples."})


def main(argv: Sequence[str] | None = None) -> None:
    """Sample, judge, write."""
    args = parse(EvaluateArguments, argv)
    with exit_on_error():
        args.check_model_arguments()
        if not args.opponent or not args.prompt_file or not args.output_dir:
            raise ValueError("opponent, prompt_file and output_dir are needed: give all three")
        sampling = Sampling(args.samples_per_prompt, args.max_new_tokens, args.temperature, args.seed)
        judge = load_judge(args.judge)
        reward_models = named_reward_models(args.reward_model)
        prompts, _ = read_prompts(args.prompt_file)
        source = resolve_model(args.model)
        opponent_is_file = Path(args.opponent).is_file()
        theirs = read_responses(args.opponent, prompts, args.samples_per_prompt) if opponent_is_file else None
        opponent_source = None if opponent_is_file else resolve_model(args.opponent)
        parents = {"policy": str(source.adapter or source.backbone)}
        if opponent_source is not None:
            parents["opponent"] = str(opponent_source.adapter or opponent_source.backbone)
        parents |= {f"reward_model_{name}": folder for name, folder in reward_models.items()}
        files = [*args.prompt_file, *([args.opponent] if opponent_is_file else [])]
        run = RunFolder.open(
            args.output_dir,
            stage="evaluate",
            config=vars(args),
            parents=parents,
            data_files=files,
            resume=False,
        )
    if theirs is None:
        theirs = respond(opponent_source, args, prompts, sampling)[0]
    ours, kl = respond(source, args, prompts, sampling)
    result = head_to_head(prompts, ours, theirs, judge, args.judge)
    prompt_ids = [prompt.prompt_id for prompt, responses in zip(prompts, ours, strict=True) for _ in responses]
    metrics = {
        "win_rate": result.win_rate.to_dict(),
        "kl": bootstrap_mean(kl, groups=prompt_ids).to_dict(),
        "policy": describe(ours),
        "opponent": describe(theirs),
        "judge": args.judge,
    }
    if reward_models:
        verdicts = {name: by_reward_model(result.comparisons, folder) for name, folder in reward_models.items()}
        metrics["win_rate_by_reward_model"] = {name: wins.to_dict() for name, (wins, _) in verdicts.items()}
        metrics["score_lead_by_reward_model"] = {name: lead.to_dict() for name, (_, lead) in verdicts.items()}
    write_comparisons(
        run.path / "judged.jsonl", [c for c in result.comparisons if all(r.text.strip() for r in c.responses)]
    )
    run.finish(metrics)
    print(f"win rate of {args.model} over {args.opponent}: {result.win_rate}; the pairs are in {run.path}")


def respond(
    source: Any, args: EvaluateArguments, prompts: Sequence[Comparison], sampling: Sampling
) -> tuple[list[list[Response]], list[float]]:
    """Responses of a policy, and the KL of each from its backbone in nats."""
    policy = Policy(source, load_chat(source, args), dtype=DTYPES[args.dtype], max_rows=args.rollout_batch_rows)
    samples = policy.sample(prompts, sampling)
    kl = policy.sequence_kl(prompts, samples, temperature=sampling.temperature or 1.0)
    return [[policy.record(sample, sampling) for sample in group] for group in samples], kl


def named_reward_models(folders: Sequence[str]) -> dict[str, str]:
    """Folders of reward models by their last name.

    Raises:
        ValueError: one holds no reward model, or two have one name.
    """
    named = {Path(folder).absolute().name: folder for folder in folders}
    if len(named) < len(folders):
        raise ValueError(f"reward_model names two folders with one name: {', '.join(folders)}; rename one")
    for folder in folders:
        if not (Path(folder) / "reward_head.safetensors").is_file():
            raise ValueError(f"reward_model {folder}: no finished reward model is there")
    return named


def by_reward_model(comparisons: Sequence[Comparison], folder: str) -> tuple[Estimate, Estimate]:
    """Win rate and mean lead in score of the first response over the second, as a reward model sees them."""
    scores = RewardModel(folder).score(comparisons)
    # equal texts are a tie, whatever the last bits of their scores say
    leads = [
        0.0 if comparison.responses[0].text == comparison.responses[1].text else ours - theirs
        for comparison, (ours, theirs) in zip(comparisons, scores, strict=True)
    ]
    prompt_ids = [comparison.prompt_id for comparison in comparisons]
    return pair_accuracy(leads, prompt_ids), bootstrap_mean(leads, groups=prompt_ids)


def read_responses(file: str, prompts: Sequence[Comparison], num_samples: int) -> list[list[Response]]:
    """`num_samples` responses to each of these prompts out of a file of comparisons.

    Files hold no responses without text, so what a prompt lacks is taken to be one: left out, it would flatter.

    Raises:
        ValueError: the file lacks a prompt.
    """
    by_prompt = {comparison.prompt_id: list(comparison.responses) for comparison in read_comparisons([file])[0]}
    missing = [prompt for prompt in prompts if prompt.prompt_id not in by_prompt]
    if missing:
        raise ValueError(
            f"opponent {file} has no responses to {len(missing)} of {len(prompts)} prompts, the first is "
            f"{missing[0].prompt[-1].content!r}: sample it on the same prompt_file"
        )
    blank = [Response(text="", finish_reason="stop")] * num_samples
    return [(by_prompt[prompt.prompt_id] + blank)[:num_samples] for prompt in prompts]


def describe(responses: Sequence[Sequence[Response]]) -> dict[str, float]:
    """Share of responses that ended by themselves, and their mean length in words."""
    flat = [response for group in responses for response in group]
    return {
        "finished": sum(response.finish_reason == "stop" for response in flat) / len(flat),
        "words": sum(len(response.text.split()) for response in flat) / len(flat),
        "num_responses": len(flat),
    }


if __name__ == "__main__":
    main()
