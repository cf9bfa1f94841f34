"""Settings that the stages share. Each stage adds its own beside its entry point's trainer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from accelerate.utils import DistributedType
from peft import LoraConfig
from transformers import PreTrainedModel, TrainingArguments

from rlhf.engine.backbone import layer_list
from rlhf.engine.memory import check_last_layers
from rlhf.engine.precision import multiplies_bfloat16
from rlhf.engine.quantization import check_quantization
from rlhf.training.run_folder import CONFIG
from rlhf.training.tracking import check_trackers

AUTO = "auto"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

# On a CPU a pass of more tokens is no faster, and keeps more activations; measured at 135M with two threads.
CPU_PASS_TOKENS = 1024


def path_field(help: str, *, default: Any = None, several: bool = False, output: bool = False) -> Any:
    """A field that names files or folders; in a config file they are relative to that file."""
    metadata = {"help": help, "path": True, "output": output}
    if several:
        metadata["nargs"] = "+"
        return field(default_factory=lambda: list(default or []), metadata=metadata)
    return field(default=default, metadata=metadata)


def dtype_field() -> Any:
    """A field for the type of weights, for `settled_dtype`."""
    words = "Type of the frozen weights: bfloat16, float32, or auto: bfloat16 where the hardware multiplies it."
    return field(default=AUTO, metadata={"help": words})


def settled_dtype(name: str, *, use_cpu: bool = False) -> str:
    """A name of `DTYPES`, chosen by the device where it is left open.

    Raises:
        ValueError: there is no such type.
    """
    if name == AUTO:
        accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
        return "bfloat16" if multiplies_bfloat16(accelerator.type if accelerator else "cpu") else "float32"
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}: choose one of {', '.join([AUTO, *DTYPES])}")
    return name


@dataclass
class ModelArguments:
    """Which model, in which precision, how long, and with which adapter."""

    model: str = path_field(
        "Model: smollm2-135m, a folder, a run of this framework, or a hub name.", default="smollm2-135m"
    )
    dtype: str = dtype_field()
    max_prompt_length: int = field(
        default=512, metadata={"help": "Tokens of a prompt; longer ones are cut on the left, and counted."}
    )
    max_response_length: int = field(
        default=512,
        metadata={"help": "Tokens of a response in the data; longer ones are cut on the right, and counted."},
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA adapter, usually 8 to 64."})
    lora_alpha: int = field(default=32, metadata={"help": "Its scaling is lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter; 0 to .1, always 0 in PPO."})
    lora_target_modules: str = field(
        default="all-linear",
        metadata={"help": "Layers with an adapter: all-linear, or names joined by commas such as q_proj,v_proj."},
    )
    lora_last_layers: int = field(
        default=0,
        metadata={
            "help": "Adapters on the last so many decoder layers alone; 0: on all. The layers before them are computed "
            "once for all models of a pass, and keep nothing for the backward pass: faster and smaller, but what "
            "lower layers would learn is lost."
        },
    )

    @property
    def lora_targets(self) -> str | list[str]:
        """`lora_target_modules` as PEFT takes it."""
        if self.lora_target_modules == "all-linear":
            return self.lora_target_modules
        return [name.strip() for name in self.lora_target_modules.split(",")]

    def lora_config(self, model: PreTrainedModel) -> LoraConfig:
        """The adapter's settings on this model.

        Raises:
            ValueError: it has fewer layers than lora_last_layers, or none that can be told from its other parts.
        """
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_targets,
            exclude_modules=self._outside_last_layers(model) if self.lora_last_layers else None,
            task_type="CAUSAL_LM",
        )

    def _outside_last_layers(self, model: PreTrainedModel) -> str:
        """What the names of all modules outside the last layers look like."""
        num_layers = model.config.get_text_config().num_hidden_layers
        check_last_layers(self.lora_last_layers, num_layers)
        name = layer_list(model)
        if name is None:
            raise ValueError(
                f"lora_last_layers is {self.lora_last_layers}: {type(model).__name__} has no list of {num_layers} "
                "layers, so the last ones cannot be told; leave it out"
            )
        last = "|".join(map(str, range(num_layers - self.lora_last_layers, num_layers)))
        return rf"(?!{re.escape(name)}\.({last})\.).*"

    def check_model_arguments(self) -> None:
        """Settle the type of the weights, and refuse values that no run can use."""
        self.dtype = settled_dtype(self.dtype, use_cpu=getattr(self, "use_cpu", False))
        for name in ("max_prompt_length", "max_response_length", "lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        check_last_layers(self.lora_last_layers)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: it must be at least 0 and below 1")


@dataclass
class StageArguments(ModelArguments, TrainingArguments):
    """What every stage understands, on top of `transformers.TrainingArguments` with defaults for LoRA runs."""

    evaluates_between_steps: ClassVar[bool] = False

    train_file: list[str] = path_field("Training data: JSON Lines files, or a hub data set name.", several=True)
    eval_file: list[str] = path_field("Held-out data in the same form; measured at the end.", several=True)
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "Leave bad lines out and report them instead of stopping."}
    )
    output_dir: str = path_field("Folder of the run; must not hold one already.", output=True)
    learning_rate: float = field(default=1e-4, metadata={"help": "Usually 1e-5 to 3e-4 with LoRA."})
    # a constant rate lets a run be extended by a larger --max_steps without changing what came before
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Prompts per batch and process."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Prompts per batch in evaluation."})
    micro_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens, prompts and responses together, of one forward and backward pass of a process; a larger "
            "batch is split, with the same result. 0: the whole batch in one. Unset: by free memory, on a CPU at most "
            f"{CPU_PASS_TOKENS}."
        },
    )
    memory_limit_gb: float | None = field(
        default=None,
        metadata={
            "help": "GB (1e9 bytes) a process plans with, where micro_batch_tokens, activation_checkpointing or "
            "merged_rollouts is unset. Unset: what is free."
        },
    )
    quantization: str = field(
        default="none",
        metadata={"help": "Bits of the frozen weights: none, int8 or nf4 (needs the extra `quantization`)."},
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training data."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between logged rows."})
    save_steps: float = field(default=50, metadata={"help": "Steps between checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; older ones are deleted."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers: none, wandb, tensorboard, or the last two."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinity in logged losses."})
    bf16: bool = field(default=False, metadata={"help": "Autocast; the backbone's own type is --dtype."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pin batches in host memory."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are built from whole examples."})
    resume_from_checkpoint: str | None = path_field("Checkpoint to go on from: a folder, or `latest`.")
    allow: list[str] = field(
        default_factory=list,
        metadata={"help": "Findings before the run that are let pass, by the names in docs/doctor.md.", "nargs": "+"},
    )

    @property
    def pass_tokens(self) -> int:
        """Tokens of one pass, 0 for the whole batch: `micro_batch_tokens`, and where nothing settled it by device."""
        if self.micro_batch_tokens is not None:
            return self.micro_batch_tokens
        return CPU_PASS_TOKENS if self.device.type == "cpu" else 0

    def earlier_config(self) -> dict[str, Any]:
        """`config.yaml` of the run that is resumed; empty where none is."""
        path = Path(str(self.output_dir)) / CONFIG
        if not self.resume_from_checkpoint or not path.is_file():
            return {}
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        return config if isinstance(config, dict) else {}

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: name the folder of the run with --output_dir")
        if self.hub_token is not None:
            raise ValueError("hub_token is not taken here, where others can read it: set HF_TOKEN in the environment")
        if self.dtype == AUTO:  # a resumed run keeps its own, also on another machine
            self.dtype = str(self.earlier_config().get("dtype", AUTO))
        self.check_model_arguments()
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 0:
            raise ValueError(f"micro_batch_tokens is {self.micro_batch_tokens}: it must be at least 0")
        if self.memory_limit_gb is not None and not self.memory_limit_gb > 0:
            raise ValueError(f"memory_limit_gb is {self.memory_limit_gb}: it must be above 0")
        check_quantization(self.quantization)
        # the Trainer's own trackers stay off; ours follow the run folder
        self.trackers, self.report_to = check_trackers(self.report_to), ["none"]
        if self.bf16 or self.fp16:
            raise ValueError("bf16 and fp16 autocast recast the frozen weights at every forward: use --dtype bfloat16")
        # launched with several processes on CPUs: gloo is the backend they have; on GPUs the default is right
        if getattr(self, "ddp_backend", None) is None and "RANK" in os.environ and not torch.cuda.is_available():
            self.ddp_backend = "gloo"
        if not torch.accelerator.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed finds that too, but warns
        # by now None means unset; from here on the Trainer makes it False
        self.checkpointing_is_open = self.activation_checkpointing is None and self.gradient_checkpointing is None
        super().__post_init__()
        state = self.distributed_state
        if state is not None and state.num_processes > 1 and state.distributed_type == DistributedType.NO:
            raise ValueError(
                f"accelerate takes these {state.num_processes} processes for single ones, which would never average "
                "their gradients: launch them with `accelerate launch --cpu`, with a file of configs/accelerate, or "
                "with ACCELERATE_USE_CPU=true in the environment"
            )
        if self.eval_strategy != "no" and not self.evaluates_between_steps:
            raise ValueError(
                f"eval_strategy is {self.eval_strategy.value!r}: this stage measures eval_file at the end; leave it out"
            )
        if self.n_gpu > 1:
            # without a launcher the Trainer would copy the model to every GPU and give each the same batch
            self._n_gpu = 1
