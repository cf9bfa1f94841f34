"""Fine-tune on demonstrations: `accelerate launch rlhf/train_sft.py --config configs/sft.yaml`.

The training is TRL's `SFTTrainer`; only answers are learned from, their end of turn included. The adapter is
merged at the end, so that the run folder is a model folder: the backbone of all later stages.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import SFTConfig, SFTTrainer

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Demonstration, read_demonstrations
from rlhf.engine.adapters import add_adapter_from
from rlhf.engine.backbone import Backbone, load_causal_lm
from rlhf.engine.generation import MergedCopy
from rlhf.training import checkpoints
from rlhf.training.arguments import DTYPES, StageArguments
from rlhf.training.checks.before_run import check_inputs
from rlhf.training.checks.run_data import RunData
from rlhf.training.hub_data import read_files_or_hub
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import RunFolder
from rlhf.training.stage import find_backbone, finish_stage, load_chat, open_stage


@dataclass
class SFTArguments(StageArguments, SFTConfig):
    """Settings of supervised fine-tuning, on top of `trl.SFTConfig`."""

    evaluates_between_steps = True

    remove_unused_columns: bool = field(default=True, metadata={"help": "Leave it: TRL prepares its own batches."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_strategy != "no" and not self.eval_file:
            raise ValueError(f"eval_strategy is {self.eval_strategy.value!r} without an eval_file: name one")
        if self.quantization != "none":
            raise ValueError(f"quantization is {self.quantization}: SFT merges its adapter into full weights; use none")
        self.completion_only_loss = True
        self.max_length = self.max_prompt_length + self.max_response_length


class RunRecorder(TrainerCallback):
    """Writes every logged row to the run folder, and makes TRL's checkpoints ones that can be verified."""

    def __init__(self, run: RunFolder | None):
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.run is not None and logs is not None:
            self.run.log({**logs, "step": state.global_step})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # every process has written its part
        if self.run is not None:
            checkpoint = self.run.path / f"{checkpoints.PREFIX}{state.global_step}"
            drop_pickled_arguments(checkpoint)
            checkpoints.seal_checkpoint(checkpoint)


def drop_pickled_arguments(folder: Path) -> None:
    """Remove the Trainer's pickled settings; `config.yaml` says the same."""
    (folder / "training_args.bin").unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, merge, save."""
    args = parse(SFTArguments, argv)
    with exit_on_error():
        skip = args.skip_bad_lines
        train = read_files_or_hub(args.train_file, read_demonstrations, field="train_file", skip_bad_lines=skip)
        held_out: list[Demonstration] = []
        if args.eval_file:
            held_out = read_files_or_hub(args.eval_file, read_demonstrations, field="eval_file", skip_bad_lines=skip)
        source = find_backbone(args)
        chat = load_chat(source, args)
        train_dataset = tokenise(chat, train)
        eval_dataset = tokenise(chat, held_out) if held_out else None
        check_inputs(args, source, chat, RunData.of(train_file=train, eval_file=held_out), writes_model=True)
        model = load_causal_lm(str(source.backbone), dtype=DTYPES[args.dtype])
        adapter = args.lora_config(model)
        stage = open_stage("sft", args, source, chat, data_files=[*args.train_file, *args.eval_file])
        if stage.checkpoint and stage.run is not None:
            stage.run.rewind(checkpoints.step_of(Path(stage.checkpoint)))
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=stage.chat.tokenizer,
        peft_config=adapter,
        callbacks=[RunRecorder(stage.run)],
    )
    result = trainer.train(resume_from_checkpoint=stage.checkpoint)
    metrics = {
        "num_train": len(train),
        "steps": trainer.state.global_step,
        "train_loss": result.training_loss,
    }
    if eval_dataset is not None:
        loss = trainer.evaluate()["eval_loss"]
        metrics |= {"eval_loss": loss, "eval_perplexity": math.exp(loss)}
    adapter = Path(args.output_dir) / "adapter"
    trainer.save_model(str(adapter))
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        drop_pickled_arguments(adapter)
        merge(source.backbone, adapter, stage.chat, Path(args.output_dir), args.dtype)
    finish_stage(stage, metrics)


def tokenise(chat: Chat, demonstrations: Sequence[Demonstration]) -> Dataset:
    """Token ids with a mask of the answer, in the form that `SFTTrainer` takes as it is."""
    rows = []
    for demonstration in demonstrations:
        prompt, response = (
            chat.encode_prompt(demonstration.prompt),
            chat.encode_response(demonstration.response),
        )
        rows.append({"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)})
    return Dataset.from_list(rows)


def merge(backbone_path: Path, adapter: Path, chat: Chat, folder: Path, dtype: str) -> None:
    """Write the backbone with the adapter merged into it, and its tokenizer, as a model folder."""
    unset_hf_deepspeed_config()  # the merged model is whole, and only this process builds it
    backbone = Backbone.load(str(backbone_path), dtype=DTYPES[dtype])
    add_adapter_from(backbone, "policy", adapter)
    MergedCopy(backbone, "policy").model.save_pretrained(str(folder))
    chat.tokenizer.save_pretrained(str(folder))


if __name__ == "__main__":
    main()
