"""The whole loop on the embedded model: `rlhf demo`.

Demonstrations -> SFT -> sampled responses -> rankings -> reward model -> DPO and PPO -> a report, and the aligned
policy's responses in a store for people to rank. The annotator is simulated and says so; with people in its place
the other steps stay as they are. Every stage is the command a user would type, with the settings in `configs/demo/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotation.simulated import SimulatedAnnotator
from rlhf.demo_report import write_demo_report
from rlhf.rank import rank_file
from rlhf.stages import Stages, set_aside
from rlhf.training.parser import exit_on_error, parse

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "demo"
SAMPLES_PER_PROMPT = 4
MAX_NEW_TOKENS = 64


@dataclass
class DemoArguments:
    """Settings of the demo."""

    runs: str = field(default="", metadata={"help": "Folder of its runs; by default runs/demo beside configs/."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the loop and write `report.html` and `summary.json`."""
    args = parse(DemoArguments, argv)
    with exit_on_error():
        if not CONFIGS.is_dir():
            raise FileNotFoundError(f"{CONFIGS} is not there: the demo runs from a clone of the repository")
        folder = Path(args.runs).absolute() if args.runs else CONFIGS.parent.parent / "runs" / "demo"
        keep_earlier(folder)
    stages = Stages()
    sampling = ["--samples_per_prompt", str(SAMPLES_PER_PROMPT), "--max_new_tokens", str(MAX_NEW_TOKENS)]
    sft, reward = str(folder / "sft"), str(folder / "reward")
    held_out_prompts = str(CONFIGS / "prompts_heldout.jsonl")
    # 1. demonstrations -> SFT model
    stages.run("sft", "sft", "--config", str(CONFIGS / "sft.yaml"), "--output_dir", sft)
    # 2. SFT model -> candidate responses
    for split in ("train", "heldout"):
        prompts, output = str(CONFIGS / f"prompts_{split}.jsonl"), str(folder / f"candidates_{split}.jsonl")
        command = ["--model", sft, "--prompt_file", prompts, "--output_file", output, *sampling]
        stages.run(f"sample_{split}", "sample", *command)
    # 3. candidate responses -> comparisons
    for split in ("train", "heldout"):
        rank_file([str(folder / f"candidates_{split}.jsonl")], folder / f"comparisons_{split}.jsonl")
    train, held_out = str(folder / "comparisons_train.jsonl"), str(folder / "comparisons_heldout.jsonl")
    # 4. comparisons -> reward model
    data = ["--model", sft, "--train_file", train]
    config = ["--config", str(CONFIGS / "reward.yaml")]
    stages.run("reward", "reward", *config, *data, "--eval_file", held_out, "--output_dir", reward)
    # 5. comparisons -> DPO policy; reward model -> PPO policy
    dpo, ppo = str(folder / "dpo"), str(folder / "ppo")
    stages.run("dpo", "dpo", "--config", str(CONFIGS / "dpo.yaml"), *data, "--output_dir", dpo)
    config = ["--config", str(CONFIGS / "ppo.yaml")]
    stages.run("ppo", "ppo", *config, "--model", sft, "--reward_model", reward, "--output_dir", ppo)
    # 6. both against SFT on prompts that no stage has seen
    for policy in ("dpo", "ppo"):
        opponent = ["--opponent", str(folder / "candidates_heldout.jsonl"), "--prompt_file", held_out_prompts]
        output = str(folder / f"{policy}_vs_sft")
        command = ["--model", str(folder / policy), *opponent, "--output_dir", output, *sampling]
        stages.run(f"evaluate_{policy}", "evaluate", *command)
    # 7. what the aligned policy says, for people to rank: the next round
    store = f"sqlite:///{folder / 'annotations.db'}"
    pairs = ["--samples_per_prompt", "2", "--max_new_tokens", str(MAX_NEW_TOKENS), "--seed", "2"]
    stages.run("sample_next", "sample", "--model", ppo, "--prompt_file", held_out_prompts, "--store", store, *pairs)
    finish(folder, stages)
    print(f"rank what the aligned policy says: {Path(sys.executable).parent / 'rlhf'} annotate --store {store}")


def keep_earlier(folder: Path) -> None:
    """Move an earlier demo aside, so that nothing is overwritten."""
    aside = set_aside(folder)
    if aside is not None:
        print(f"the earlier demo is now in {aside}")
    folder.mkdir(parents=True)


def finish(folder: Path, stages: Stages) -> None:
    """Collect the results into `summary.json` and `report.html`."""
    reward = read_json(folder / "reward" / "metrics.json")
    against_sft = {name: read_json(folder / f"{name}_vs_sft" / "metrics.json") for name in ("dpo", "ppo")}
    summary = {
        "reward_accuracy": reward["eval_accuracy"],
        "dpo_win_rate": against_sft["dpo"]["win_rate"],
        "ppo_win_rate": against_sft["ppo"]["win_rate"],
        "dpo_kl": against_sft["dpo"]["kl"]["value"],
        "ppo_kl": against_sft["ppo"]["kl"]["value"],
        "peak_gb": round(stages.peak_gb, 3),
        "seconds_by_stage": {name: round(seconds, 1) for name, seconds in stages.seconds.items()},
        "annotator": f"{SimulatedAnnotator.NAME}: a rule, not a person",
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report = write_demo_report(folder, summary)
    print(f"\n{json.dumps(summary, indent=2)}\n\nreport: {report}")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
