"""`rlhf doctor`: what is wrong with a policy, a reward model and their data, before a run is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from peft import LoraConfig

from rlhf.data.chat import Chat, ChatFault
from rlhf.data.comparisons import read_prompts
from rlhf.engine.adapters import add_adapter_from, load_head_weights
from rlhf.engine.backbone import Backbone, Role
from rlhf.engine.sources import ModelSource, resolve_model, reward_members
from rlhf.training.arguments import DTYPES, dtype_field, path_field, settled_dtype
from rlhf.training.checks.agreement import check_agreement, check_shared_backbone
from rlhf.training.checks.chat_format import check_chat_format, check_scoring_format
from rlhf.training.checks.classifier import (
    Classifier,
    check_classifier_scores,
    check_classifier_settings,
    is_classifier,
)
from rlhf.training.checks.data_rows import DataRows, read_rows
from rlhf.training.checks.findings import FATAL, Finding, Report, check_allowed
from rlhf.training.checks.machine import (
    adapter_weights,
    check_disk,
    check_dtype,
    check_memory,
    checkpoint_bytes,
    loaded_bytes,
)
from rlhf.training.checks.model_files import ModelSettings, check_base, check_folder
from rlhf.training.checks.model_passes import check_policy, check_scores
from rlhf.training.checks.probes import probe_conversations, probe_groups, probe_prompts
from rlhf.training.checks.run_data import RunData, check_run_data
from rlhf.training.hub_data import read_files_or_hub
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import write_atomically
from rlhf.training.stage import load_tokenizer

ADAPTERS = 2  # of a PPO run: the policy's and the value model's
CHECKPOINTS = 2  # kept by default
LORA_R = 16
REWARD_HEAD = "reward_head.safetensors"
# What stands in the way of loading a model and trying it.
BLOCKING = ("no_safetensors", "remote_code", "memory_low", "vocabulary_too_large", "template_refuses_roles")
Loaded = dict[tuple[Path, str], Backbone]  # by folder and quantization


@dataclass
class DoctorArguments:
    """Check a policy, a reward model and data before a run; what is not named is not checked."""

    policy: str | None = path_field("Model to train or to sample from: a folder, a run, smollm2-135m or a hub name.")
    reward_model: list[str] = path_field(
        "Run of rlhf reward, or a sequence classifier of the hub; several where an ensemble is meant.", several=True
    )
    train_file: list[str] = path_field("Training data: demonstrations or comparisons.", several=True)
    eval_file: list[str] = path_field("Held-out data in the same form.", several=True)
    prompt_file: list[str] = path_field("Prompts to sample from.", several=True)
    output_dir: str | None = path_field("Where a run would write: its disk is looked at.", output=True)
    json: str | None = path_field("File for the findings as JSON.", output=True)
    allow: list[str] = field(
        default_factory=list, metadata={"help": "Names of fatal findings that are let pass.", "nargs": "+"}
    )
    max_prompt_length: int = field(default=512, metadata={"help": "Tokens of a prompt, as the run would cut it."})
    max_response_length: int = field(default=512, metadata={"help": "Tokens of a response in the data."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest response that the run would sample."})
    dtype: str = dtype_field()

    def __post_init__(self) -> None:
        check_allowed(self.allow)
        self.dtype = settled_dtype(self.dtype)
        for name in ("max_prompt_length", "max_response_length", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; 2 if a fatal one is not allowed, else 0."""
    args = parse(DoctorArguments, argv)
    with exit_on_error():
        report = examine(args)
        if args.json:
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(args.json), json.dumps(report.to_dict(args.allow), indent=2, ensure_ascii=False))
    print(report.text(args.allow))
    return 2 if report.refused(args.allow) else 0


@dataclass(frozen=True)
class PolicyFiles:
    """A policy's folder as it was looked at; `chat` is None where its tokenizer or template gives none."""

    source: ModelSource
    settings: ModelSettings
    tokenizer: Any
    chat: Chat | None
    is_loadable: bool


def examine(args: DoctorArguments) -> Report:
    """All checks of what was named: files before weights, and shared weights once."""
    report = Report()
    data = RunData(*(read_data(args, report, field) for field in ("train_file", "eval_file", "prompt_file")))
    policy = look_at_policy(report, args, with_system=data.with_system) if args.policy else None
    chat, settings = (None, None) if policy is None else (policy.chat, policy.settings)
    check_run_data(report, data, chat, settings, max_new_tokens=args.max_new_tokens)
    loaded: Loaded = {}
    if policy is not None:
        pass_through_policy(report, args, policy, data, loaded)
    members = [member for name in args.reward_model for member in reward_members(Path(name).expanduser())]
    for number, member in enumerate(members, start=1):
        look_at_reward_model(report, args, member, f"reward_{number}", policy, loaded)
    named = {"policy": args.policy, "reward_model": args.reward_model, "output_dir": args.output_dir}
    report.not_checked += [f"{name} (--{name})" for name, value in named.items() if not value]
    return report


def read_data(args: DoctorArguments, report: Report, field: str) -> DataRows | None:
    """The rows of one argument, None where it was left out."""
    files = getattr(args, field)
    if not files:
        report.not_checked.append(f"{field} (--{field})")
        return None
    if field == "prompt_file":
        prompts = read_files_or_hub(files, read_prompts, field=field)
        return DataRows.of(field, prompts)
    return DataRows.of(field, read_files_or_hub(files, read_rows, field=field))


def look_at_policy(report: Report, args: DoctorArguments, *, with_system: bool) -> PolicyFiles:
    """Everything about a policy that its files show.

    Raises:
        ValueError: there is no such model, or it is a reward model.
    """
    source = resolve_model(str(args.policy))
    if source.adapter is not None and (source.adapter / REWARD_HEAD).exists():
        raise ValueError(f"policy is {args.policy}, a reward model: name it with --reward_model")
    settings, tokenizer = ModelSettings.read(source.backbone), load_tokenizer(source.backbone)
    found = report.add("policy", check_folder(source.backbone, settings))
    found += report.add("policy", check_base(source, "policy"))
    found += report.add("policy", check_chat_format(tokenizer, settings, field="policy", with_system=with_system))
    found += report.add("memory", check_memory(loaded_bytes(source.backbone, settings, DTYPES[args.dtype]), _device()))
    report.add("dtype", check_dtype(DTYPES[args.dtype], _device()))
    if args.output_dir is not None:
        written = checkpoint_bytes(ADAPTERS * adapter_weights(settings, LORA_R), CHECKPOINTS)
        report.add("disk", check_disk(written, Path(args.output_dir)))
    return PolicyFiles(source, settings, tokenizer, _chat_of(tokenizer, args), _is_loadable(report, found, "policy"))


def pass_through_policy(
    report: Report, args: DoctorArguments, policy: PolicyFiles, data: RunData, loaded: Loaded
) -> None:
    """A few passes of the policy, where it can be loaded."""
    if policy.chat is None or not policy.is_loadable:
        return
    backbone = _load(policy.source, args, loaded)
    adapter = policy.source.adapter
    if adapter is not None:
        add_adapter_from(backbone, "policy", adapter)
    else:
        backbone.add_adapter("policy", LoraConfig(r=LORA_R, target_modules="all-linear", task_type="CAUSAL_LM"))
    prompts = probe_prompts(policy.chat, data.prompts.rows if data.prompts else ())
    report.add("passes", check_policy(backbone, policy.chat, prompts, is_fresh=adapter is None))


def look_at_reward_model(
    report: Report,
    args: DoctorArguments,
    folder: Path,
    name: str,
    policy: PolicyFiles | None,
    loaded: Loaded,
) -> None:
    """A reward model's files, its agreement with the policy, and its scores.

    Raises:
        ValueError: the folder holds neither a run of `rlhf reward` nor a sequence classifier.
    """
    field = f"reward_model {folder}"
    if (folder / REWARD_HEAD).is_file():
        look_at_reward_run(report, args, folder, name, policy, loaded)
        return
    source = resolve_model(str(folder))
    if source.adapter is not None or not is_classifier(source.backbone):
        raise ValueError(
            f"{field} is neither a run of rlhf reward nor a sequence classifier: name a folder with "
            f"{REWARD_HEAD}, or one whose config.json has an architecture ...ForSequenceClassification"
        )
    settings, tokenizer = ModelSettings.read(source.backbone), load_tokenizer(source.backbone)
    found = report.add("reward_model", check_folder(source.backbone, settings))
    found += report.add("reward_model", check_scoring_format(tokenizer, settings, field=field))
    found += report.add("reward_model", check_classifier_settings(source.backbone, tokenizer, field=field))
    if policy is not None:
        agreement = check_agreement(policy.tokenizer, tokenizer, shares_backbone=False, field=field)
        report.add("reward_model", agreement)
    if _is_loadable(report, found, "reward_model", also=("no_chat_template", "reward_pad_missing")):
        classifier = Classifier.load(source.backbone, dtype=DTYPES[args.dtype])
        report.add("scores", check_classifier_scores(classifier, probe_conversations(), field=field))


def look_at_reward_run(
    report: Report,
    args: DoctorArguments,
    folder: Path,
    name: str,
    policy: PolicyFiles | None,
    loaded: Loaded,
) -> None:
    """A run of `rlhf reward`: on the policy's backbone where that is its own, else on one loaded for it."""
    field = f"reward_model {folder}"
    source = resolve_model(folder)
    is_policys = policy is not None and policy.source.backbone == source.backbone
    tokenizer = policy.tokenizer if policy is not None and is_policys else load_tokenizer(source.backbone)
    found = report.add("reward_model", check_base(source, "reward_model"))
    shares = []
    if not is_policys:
        settings = ModelSettings.read(source.backbone)
        found += report.add("reward_model", check_folder(source.backbone, settings))
        found += report.add("reward_model", check_chat_format(tokenizer, settings, field=field))
    if policy is not None:
        shares = report.add("reward_model", check_shared_backbone(policy.source, source, field=field))
        agreement = check_agreement(policy.tokenizer, tokenizer, shares_backbone=True, field=field)
        report.add("reward_model", agreement)
    chat = _chat_of(tokenizer, args)
    if chat is None or not _is_loadable(report, found, "reward_model"):
        return
    if policy is not None and is_policys and not policy.is_loadable:
        report.not_checked.append("passes of the reward_model (its backbone is the policy's)")
        return
    if policy is not None and policy.is_loadable and not shares:  # the same weights, if not the same folder
        source = replace(source, backbone=policy.source.backbone)
    backbone = _load(source, args, loaded)
    add_adapter_from(backbone, name, folder)
    backbone.add_head(name)
    load_head_weights(backbone, name, folder, saved_as="reward")
    role = Role(name, adapter=name, score_head=name)
    report.add("scores", check_scores(backbone, role, probe_groups(chat), field=field))


def _is_loadable(report: Report, found: Sequence[Finding], what: str, *, also: Sequence[str] = ()) -> bool:
    """Whether nothing that was found stands in the way of passes; otherwise says so in the report."""
    names = list(dict.fromkeys(f.name for f in found if f.severity == FATAL and f.name in (*BLOCKING, *also)))
    if names:
        report.not_checked.append(f"passes of the {what} (because of {', '.join(names)})")
    return not names


def _chat_of(tokenizer: Any, args: DoctorArguments) -> Chat | None:
    try:
        return Chat(tokenizer, args.max_prompt_length, args.max_response_length)
    except ChatFault:
        return None  # it is among the findings


def _load(source: ModelSource, args: DoctorArguments, loaded: Loaded) -> Backbone:
    """The backbone of a model; what is loaded already is not loaded again."""
    key = (source.backbone, source.quantization)
    if key not in loaded:
        backbone = Backbone.load(str(source.backbone), dtype=DTYPES[args.dtype], quantization=source.quantization)
        loaded[key] = backbone.to(_device())
    return loaded[key]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    sys.exit(main())
