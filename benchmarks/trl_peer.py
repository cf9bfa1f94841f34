"""TRL set up as a peer: settings, padding, adapters, and pairs as its trainers take them."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks.case import Case
from benchmarks.workload import Workload


def peer_settings(case: Case, scratch: str) -> dict[str, Any]:
    """Settings that all of TRL's trainers share; tuned ones keep every activation, as ours."""
    settings: dict[str, Any] = {
        "output_dir": scratch,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": case.device == "cpu",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": case.seed,
    }
    if case.peer_settings == "tuned":
        # the weights have the type already; autocast on top of it made TRL's DPO a tenth slower
        settings |= {"gradient_checkpointing": False, "bf16": False}
    return settings


def peer_dtype(case: Case) -> torch.dtype:
    """The weights' type: ours when tuned, else float32, as TRL loads a model that it is given by name."""
    return case.torch_dtype if case.peer_settings == "tuned" else torch.float32


def peer_lora(case: Case, task_type: str) -> LoraConfig:
    """The same adapters as ours; a classifier's head is trained with them."""
    return LoraConfig(
        r=case.lora_r,
        lora_alpha=2 * case.lora_r,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task_type,
        modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
    )


def peer_tokenizer(case: Case, work: Workload) -> PreTrainedTokenizerFast:
    """A tokenizer that knows how to pad and how a text ends: the trainers are given token ids."""
    pad_id = work.pad_id if case.peer_settings == "tuned" else work.own_pad_id
    ids = {pad_id: "<pad>"} | {token_id: f"<end{i}>" for i, token_id in enumerate(work.stop_ids)}
    tokenizer = Tokenizer(models.WordLevel({text: token_id for token_id, text in ids.items()}, unk_token=ids[pad_id]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=ids[pad_id],
        eos_token=ids[work.stop_ids[0]] if work.stop_ids else ids[pad_id],
        unk_token=ids[pad_id],
        padding_side="left",
    )


def pair_rows(work: Workload, *, with_prompt: bool) -> list[dict[str, list[int]]]:
    """All pairs of all turns in order, tokenised; `with_prompt` puts the prompt in front of each response."""
    rows = []
    for groups in work.steps:
        for group in groups:
            front = list(group.prompt_ids) if with_prompt else []
            for chosen, rejected in work.pairs:
                ids = {"chosen_ids": group.response_ids[chosen], "rejected_ids": group.response_ids[rejected]}
                row = {name: [*front, *response] for name, response in ids.items()}
                rows.append(row if with_prompt else row | {"prompt_ids": list(group.prompt_ids)})
    return rows
