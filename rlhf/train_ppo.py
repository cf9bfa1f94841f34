"""Train a policy by PPO: `accelerate launch rlhf/train_ppo.py --config configs/ppo.yaml`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.scorers import load_scorer
from rlhf.data.comparisons import Comparison, read_prompts
from rlhf.engine.adapters import add_adapter_from, load_head_weights
from rlhf.engine.backbone import Backbone, reward_roles
from rlhf.engine.rollout_engines import check_engine
from rlhf.engine.sources import quantization_of
from rlhf.training.arguments import DTYPES
from rlhf.training.memory_plan import longest_rollouts, plan_run
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.run_folder import hash_model
from rlhf.training.stage import find_backbone, finish_stage, load_chat, open_stage


def main(argv: Sequence[str] | None = None) -> None:
    """Train against the reward model or scorer, save policy and value model."""
    args = parse(PPOArguments, argv)
    with exit_on_error():
        check_engine(args.rollout_engine, args.vllm_server_url, cuda_graphs=args.rollout_cuda_graphs)
        prompts = load_prompts(args)
        scorer = load_scorer(args.scorer) if args.scorer else None
        source = find_backbone(args)
        parents = check_reward_models(args.reward_model, source.backbone, args.quantization)
        chat = load_chat(source, args)
        plan_run("ppo", args, source, longest_rollouts(args, chat, prompts))
        backbone = build_backbone(args, str(source.backbone))
        stage = open_stage("ppo", args, source, chat, data_files=args.prompt_file, parents=parents)
    trainer = PPOTrainer(
        backbone,
        args,
        chat=stage.chat,
        prompts=prompts,
        scorer=scorer,
        run=stage.run,
        backbone_path=stage.backbone_path,
    )
    trainer.train(resume_from_checkpoint=stage.checkpoint)
    trainer.save_model()
    finish_stage(stage, {"steps": trainer.state.global_step, **trainer.last_objectives()})


def load_prompts(args: PPOArguments) -> list[Comparison]:
    """Read the prompts.

    Raises:
        ValueError: no file was named, or its data is bad.
    """
    if not args.prompt_file:
        raise ValueError("prompt_file is missing: name one or more JSON Lines files with --prompt_file")
    prompts, report = read_prompts(args.prompt_file, skip_bad_lines=args.skip_bad_lines)
    if report.num_bad:
        print(report)
    return prompts


def check_reward_models(folders: Sequence[str], backbone: Path, quantization: str = "none") -> dict[str, Path]:
    """The reward models by their name in the manifest: `reward_model`, or those of an ensemble by their folders.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    checked = [check_reward_model(Path(folder), backbone, quantization) for folder in folders]
    if len(checked) == 1:
        return {"reward_model": checked[0]}
    named = {f"reward_model_{folder.absolute().name}": folder for folder in checked}
    if len(named) < len(checked):
        raise ValueError(f"reward_model names two folders with one name: {', '.join(folders)}; rename one")
    return named


def check_reward_model(folder: Path, backbone: Path, quantization: str = "none") -> Path:
    """Refuse what is no reward model, or one trained on other weights than the policy's.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file() or not (folder / "reward_head.safetensors").is_file():
        raise ValueError(
            f"reward_model is {folder}: no finished reward model is there; give the --output_dir of rlhf reward"
        )
    manifest: dict[str, Any] = json.loads(manifest_path.read_text())
    trained_on = manifest["parents"]["backbone"]
    if trained_on["sha256"] != hash_model(backbone):
        raise ValueError(
            f"reward_model {folder} was trained on another base, {trained_on['path']}: train it on the model that "
            "PPO starts from, or start PPO from that base with --model"
        )
    if quantization_of(folder) != quantization:
        raise ValueError(
            f"reward_model {folder} was trained with quantization {quantization_of(folder)}, which gives the base "
            f"other weights: take --quantization {quantization_of(folder)} in place of {quantization}"
        )
    return folder


def build_backbone(args: PPOArguments, path: str) -> Backbone:
    """The backbone with its roles; the value model starts from the (first) reward model where there is one."""
    backbone = Backbone.load(path, dtype=DTYPES[args.dtype], quantization=args.quantization)
    backbone.add_adapter("policy", args.lora_config())
    backbone.add_head("value")
    if not args.reward_model:
        if args.value_model == "adapter":
            backbone.add_adapter("value", args.lora_config())
        return backbone
    for role, folder in zip(reward_roles(len(args.reward_model)), args.reward_model, strict=True):
        add_adapter_from(backbone, role.name, Path(folder))
        backbone.add_head(role.name)
        load_head_weights(backbone, role.name, Path(folder), saved_as="reward")
    if args.value_model == "adapter":
        first = Path(args.reward_model[0])
        add_adapter_from(backbone, "value", first)
        load_head_weights(backbone, "value", first, saved_as="reward")
    return backbone


if __name__ == "__main__":
    main()
