"""Train a policy by PPO: `accelerate launch rlhf/train_ppo.py --config configs/ppo.yaml`."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.scorers import build_scorers
from rlhf.data.comparisons import Comparison, Demonstration, read_demonstrations, read_prompts
from rlhf.engine.adapters import add_adapter_from, copy_adapter, last_layers, load_head_weights
from rlhf.engine.backbone import Backbone, reward_roles
from rlhf.engine.rollout_engines import check_engine
from rlhf.engine.sources import quantization_of, resolve_model
from rlhf.training.arguments import DTYPES
from rlhf.training.checks.before_run import check_backbone, check_inputs
from rlhf.training.checks.run_data import RunData
from rlhf.training.hub_data import read_files_or_hub
from rlhf.training.memory_plan import longest_rollouts, plan_run
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.ptx import encode_demonstrations
from rlhf.training.rollout import ResponseScorer
from rlhf.training.run_folder import hash_model
from rlhf.training.run_watch import JUDGE
from rlhf.training.stage import Stage, find_backbone, finish_stage, load_chat, open_stage
from rlhf.training.stopping import MonitorStop, exit_when_stopped


def main(argv: Sequence[str] | None = None) -> None:
    """Train against reward model and scorers, save policy and value model."""
    args = parse(PPOArguments, argv)
    with exit_on_error():
        check_engine(args.rollout_engine, args.vllm_server_url, cuda_graphs=args.rollout_cuda_graphs)
        prompts = load_prompts(args)
        scorers = build_scorers(
            args.scorer, timeout=args.scorer_timeout, retries=args.scorer_retries, batch_size=args.scorer_batch_size
        )
        judge = build_judge(args)
        source = find_backbone(args)
        parents = check_reward_models(args.reward_model, source.backbone, args.quantization)
        if args.judge_model is not None:
            parents["judge_model"] = check_reward_model(
                Path(args.judge_model), source.backbone, args.quantization, field="judge_model"
            )
        if args.policy_adapter is not None:
            parents["policy_adapter"] = check_policy_adapter(args, source.backbone)
        chat = load_chat(source, args)
        ptx_rows = load_demonstrations(args)
        demonstrations = encode_demonstrations(chat, ptx_rows)
        data = RunData.of(ptx_file=ptx_rows, prompt_file=prompts)
        check_inputs(
            args,
            source,
            chat,
            data,
            reward_models=[*args.reward_model, *([args.judge_model] if args.judge_model else [])],
            max_new_tokens=args.max_new_tokens,
            num_adapters=2 if args.value_model == "adapter" else 1,
            # the reference; with a judge the best policy by now and the last one
            num_standing=args.holds_reference + 2 * (args.keep != "last" and bool(args.judge_model or args.judge)),
        )
        plan_run("ppo", args, source, longest_rollouts(args, chat, prompts))
        backbone = build_backbone(args, str(source.backbone))
        roles = reward_roles(len(args.reward_model))
        check_backbone(args, chat, backbone, data, reward_roles=roles, is_fresh=args.policy_adapter is None)
        stage = open_stage("ppo", args, source, chat, data_files=[*args.prompt_file, *args.ptx_file], parents=parents)
    trainer = PPOTrainer(
        backbone,
        args,
        chat=stage.chat,
        prompts=prompts,
        scorers=scorers,
        demonstrations=demonstrations,
        judge=judge,
        run=stage.run,
        backbone_path=stage.backbone_path,
    )
    with exit_when_stopped():
        try:
            trainer.train(resume_from_checkpoint=stage.checkpoint)
        except MonitorStop as stop:
            finish(trainer, stage, {"stopped_by": list(stop.monitors)})
            raise
    finish(trainer, stage, {})


def finish(trainer: PPOTrainer, stage: Stage, metrics: dict[str, Any]) -> None:
    """Write policy, value model and final numbers, and say which policy is kept."""
    trainer.save_model()
    kept = trainer.watch.kept
    if kept is not None and stage.run is not None:
        print(f"ppo: {kept}")
    metrics |= {"steps": trainer.state.global_step, **trainer.last_objectives()}
    finish_stage(stage, metrics | (kept.metrics() if kept is not None else {}))


def build_judge(args: PPOArguments) -> ResponseScorer | None:
    """The scorer that `--judge` names.

    Raises:
        ValueError: it cannot be had or used.
    """
    if args.judge is None:
        return None
    (judge,) = build_scorers(
        [args.judge], timeout=args.scorer_timeout, retries=args.scorer_retries, batch_size=args.scorer_batch_size
    )
    return judge


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


def load_demonstrations(args: PPOArguments) -> list[Demonstration]:
    """Read what the policy keeps learning; nothing where no file is named.

    Raises:
        ValueError: the data is bad.
    """
    if not args.ptx_file:
        return []
    return read_files_or_hub(args.ptx_file, read_demonstrations, field="ptx_file", skip_bad_lines=args.skip_bad_lines)


def check_reward_models(folders: Sequence[str], backbone: Path, quantization: str = "none") -> dict[str, Path]:
    """The reward models by their name in the manifest: `reward_model`, or of several the ends of their paths.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    checked = [check_reward_model(Path(folder), backbone, quantization) for folder in folders]
    if len(checked) == 1:
        return {"reward_model": checked[0]}
    paths = [folder.absolute() for folder in checked]
    if len(set(paths)) < len(paths):
        raise ValueError(f"reward_model names a folder twice: {', '.join(folders)}; name each once")
    # members of two ensembles are told apart by the runs that hold them
    lengths = range(1, 1 + max((len(path.parts) for path in paths), default=0))
    ends = ([path.parts[-length:] for path in paths] for length in lengths)
    names = next((parts for parts in ends if len(set(parts)) == len(paths)), [])
    return {f"reward_model_{'/'.join(parts)}": folder for parts, folder in zip(names, checked, strict=True)}


def check_reward_model(
    folder: Path, backbone: Path, quantization: str = "none", *, field: str = "reward_model"
) -> Path:
    """Refuse what is no reward model, or one trained on other weights than the policy's.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file() or not (folder / "reward_head.safetensors").is_file():
        raise ValueError(
            f"{field} is {folder}: no finished reward model is there; give the --output_dir of rlhf reward"
        )
    manifest: dict[str, Any] = json.loads(manifest_path.read_text())
    apart = "--judge" if field == "judge_model" else "--scorer"
    trained_on = manifest["parents"]["backbone"]
    if trained_on["sha256"] != hash_model(backbone):
        raise ValueError(
            f"{field} {folder} was trained on another base, {trained_on['path']}: train it on the model that "
            f"PPO starts from, start PPO from that base with --model, or load it apart with {apart} {folder}"
        )
    _check_quantization(field, folder, quantization)
    return folder


def check_policy_adapter(args: PPOArguments, backbone: Path) -> Path:
    """Refuse what is no policy on this backbone, and take the LoRA settings of one that is.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    folder = Path(str(args.policy_adapter))
    if not (folder / "adapter_config.json").is_file() or (folder / "reward_head.safetensors").is_file():
        raise ValueError(
            f"policy_adapter is {folder}: no policy is there; give the --output_dir of rlhf ppo or rlhf dpo, or a "
            "checkpoint in it"
        )
    trained_on = resolve_model(folder).backbone
    if hash_model(trained_on) != hash_model(backbone):
        raise ValueError(
            f"policy_adapter {folder} was trained on another base, {trained_on}: start PPO from that base with "
            f"--model {trained_on}"
        )
    # a checkpoint has its config.yaml one folder above
    run = folder if (folder / "config.yaml").is_file() else folder.parent
    _check_quantization("policy_adapter", run, args.quantization)
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    args.lora_r, args.lora_alpha = settings["r"], settings["lora_alpha"]
    targets = settings["target_modules"]
    args.lora_target_modules = targets if isinstance(targets, str) else ",".join(targets)
    args.lora_last_layers = last_layers(folder)
    return folder


def _check_quantization(field: str, run: Path, quantization: str) -> None:
    found = quantization_of(run)
    if found != quantization:
        raise ValueError(
            f"{field} {run} was trained with quantization {found}, which gives the base other weights: take "
            f"--quantization {found} in place of {quantization}"
        )


def build_backbone(args: PPOArguments, path: str) -> Backbone:
    """The backbone with its roles; the value model starts from the (first) reward model where there is one.

    The policy starts from `policy_adapter`, else from an adapter that adds nothing, and so does a reference of its own
    with `reference start`; with `reference backbone` it is the backbone until its first update.
    """
    backbone = Backbone.load(path, dtype=DTYPES[args.dtype], quantization=args.quantization)
    if args.policy_adapter is None:
        backbone.add_adapter("policy", args.lora_config(backbone.model))
    else:
        add_adapter_from(backbone, "policy", Path(args.policy_adapter))
    if args.holds_reference:
        backbone.add_adapter("reference", copy.deepcopy(backbone.adapter_configs["policy"]))
        if args.reference == "start":
            copy_adapter(backbone, "policy", "reference")
    if args.value_model != "none":
        backbone.add_head("value")
    if args.judge_model is not None:
        add_reward_role(backbone, JUDGE.name, Path(args.judge_model))
    if not args.reward_model:
        if args.value_model == "adapter":
            backbone.add_adapter("value", args.lora_config(backbone.model))
        return backbone
    for role, folder in zip(reward_roles(len(args.reward_model)), args.reward_model, strict=True):
        add_reward_role(backbone, role.name, Path(folder))
    if args.value_model == "adapter":
        first = Path(args.reward_model[0])
        add_adapter_from(backbone, "value", first)
        load_head_weights(backbone, "value", first, saved_as="reward")
    return backbone


def add_reward_role(backbone: Backbone, name: str, folder: Path) -> None:
    """Add adapter and head of a reward run under a name."""
    add_adapter_from(backbone, name, folder)
    backbone.add_head(name)
    load_head_weights(backbone, name, folder, saved_as="reward")


if __name__ == "__main__":
    main()
