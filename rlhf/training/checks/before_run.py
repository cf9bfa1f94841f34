"""The checks that every run makes of its own inputs before its folder exists; `rlhf doctor` makes them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.integrations import is_deepspeed_zero3_enabled

from rlhf.data.chat import Chat
from rlhf.engine.backbone import Backbone, Role
from rlhf.engine.sources import ModelSource, resolve_model
from rlhf.training.arguments import DTYPES, StageArguments
from rlhf.training.checks.agreement import check_agreement
from rlhf.training.checks.chat_format import check_chat_format
from rlhf.training.checks.findings import WARNING, Report, check_allowed
from rlhf.training.checks.machine import (
    adapter_weights,
    check_disk,
    check_dtype,
    check_memory,
    checkpoint_bytes,
    loaded_bytes,
)
from rlhf.training.checks.model_files import ModelSettings, check_folder
from rlhf.training.checks.model_passes import check_policy, check_scores
from rlhf.training.checks.probes import probe_groups, probe_prompts
from rlhf.training.checks.run_data import RunData, check_run_data
from rlhf.training.stage import load_tokenizer

SHOWN = 5  # warnings, one line each


def check_inputs(
    args: StageArguments,
    source: ModelSource,
    chat: Chat,
    data: RunData,
    *,
    reward_models: Sequence[str] = (),
    max_new_tokens: int = 0,
    num_adapters: int = 1,
    num_standing: int = 0,
    writes_model: bool = False,
) -> None:
    """Look at tokenizer, template, files, data, memory and disk before the model is loaded.

    A run that is resumed goes on with the data that it began with, which were looked at then.

    Args:
        args: of the stage; `allow` names what may be fatal.
        source: where the backbone is.
        chat: its chat format.
        data: what was read of the files.
        reward_models: folders of reward adapters on this backbone.
        max_new_tokens: the longest response that will be sampled.
        num_adapters: adapters that the run trains.
        num_standing: adapters that it writes beside these without training them.
        writes_model: whether it ends with a whole model.

    Raises:
        ValueError: a fatal finding that is not allowed, with all of them.
    """
    check_allowed(args.allow)
    report = Report()
    settings = ModelSettings.read(source.backbone)
    report.add("model", check_folder(source.backbone, settings))
    report.add("model", check_chat_format(chat.tokenizer, settings, field="model", with_system=data.with_system))
    for folder in reward_models:
        other = resolve_model(folder).backbone
        if other != source.backbone:
            tokenizer = load_tokenizer(other)
            field = f"reward_model {folder}"
            report.add("reward_model", check_agreement(chat.tokenizer, tokenizer, shares_backbone=True, field=field))
    if not args.resume_from_checkpoint:
        check_run_data(report, data, chat, settings, max_new_tokens=max_new_tokens)
    weights = loaded_bytes(source.backbone, settings, DTYPES[args.dtype])
    if args.quantization == "none" and not is_deepspeed_zero3_enabled():
        report.add("memory", check_memory(weights, torch.device("cpu")))
    report.add("dtype", check_dtype(DTYPES[args.dtype], args.device))
    adapter = adapter_weights(settings, args.lora_r, args.lora_last_layers)
    kept = 0 if args.resume_from_checkpoint else args.save_total_limit or 1  # those of a resumed run are there
    written = checkpoint_bytes(num_adapters * adapter, kept, num_standing * adapter) + (weights if writes_model else 0)
    report.add("disk", check_disk(written, Path(str(args.output_dir))))
    refuse(report, args.allow)


def check_backbone(
    args: StageArguments,
    chat: Chat,
    backbone: Backbone,
    data: RunData,
    *,
    reward_roles: Sequence[Role] = (),
    is_fresh: bool,
) -> None:
    """Look at a few short passes of the model that was loaded for the run.

    Under DeepSpeed no pass is made: the weights are not whole, or not where they will be.

    Args:
        args, chat, data: as above.
        backbone: as the run will use it, with its adapters.
        reward_roles: roles whose scores the run will use.
        is_fresh: whether the adapter `policy` is untrained.

    Raises:
        ValueError: as above.
    """
    if args.deepspeed_plugin is not None:
        return
    backbone.to(args.device)
    report = Report()
    rows = [] if data.prompts is None else data.prompts.rows
    report.add("passes", check_policy(backbone, chat, probe_prompts(chat, rows), is_fresh=is_fresh))
    for role in reward_roles:
        report.add("scores", check_scores(backbone, role, probe_groups(chat, rows), field=f"the model {role.name!r}"))
    refuse(report, args.allow)


def refuse(report: Report, allowed: Sequence[str]) -> None:
    """Print the warnings on the main process, a few at most.

    Raises:
        ValueError: a fatal finding is not allowed, with all of them.
    """
    fatal = report.refused(allowed)
    if fatal:
        names = ", ".join(dict.fromkeys(finding.name for finding in fatal))
        lines = [f"  {finding.name}: {finding.found}\n    fix: {finding.fix}" for finding in fatal]
        raise ValueError("\n".join([f"refused before the run; --allow NAME lets it pass: {names}", *lines]))
    warnings = report.of(WARNING)
    if warnings and PartialState().is_main_process:
        for finding in warnings[:SHOWN]:
            print(f"warning {finding.name}: {finding.found}")
        if len(warnings) > SHOWN:
            print(f"and {len(warnings) - SHOWN} more warnings: rlhf doctor shows all, and what to do")
