"""One subclass of `transformers.Trainer`: what reward, DPO and PPO training share.

The model is a `Backbone`. Its adapters and heads are all that is trained, saved and resumed; accelerate,
DeepSpeed, accumulation, clipping, schedules, trackers and flags are the Trainer's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Trainer, TrainerCallback, TrainerControl

from rlhf.engine.adapters import (
    adapter_tensors,
    head_tensors,
    load_adapter_weights,
    load_head_weights,
    write_adapter,
    write_head,
)
from rlhf.engine.backbone import Backbone
from rlhf.training import checkpoints
from rlhf.training.arguments import StageArguments
from rlhf.training.passes import split_further, token_passes
from rlhf.training.run_folder import RunFolder

SCHEDULE_FILE = "schedule.json"
STAGE_STATE_FILE = "stage_state.json"

Pass = TypeVar("Pass")


@dataclass(frozen=True)
class SavedRole:
    """What of a role goes to disk: an adapter and a head (either may be absent), and in which subfolder.

    The head's file bears the name `head_saved_as`, where it has one, in place of the head's own.
    """

    adapter: str | None
    head: str | None = None
    subfolder: str = ""
    head_saved_as: str | None = None


class RoleTrainer(Trainer):
    """Trains adapters and heads of a backbone.

    Args:
        backbone: the model; its trainable parameters are already chosen.
        args: settings of the stage.
        saved_roles: what is saved, in a fixed order.
        run: the run folder, on the main process; None elsewhere.
        backbone_path: written into the adapters as their base model.
        train_dataset: examples for `data_collator`; PPO brings none.
    """

    args: StageArguments
    control: TrainerControl

    def __init__(
        self,
        backbone: Backbone,
        args: StageArguments,
        *,
        saved_roles: Sequence[SavedRole],
        backbone_path: str,
        run: RunFolder | None = None,
        **trainer_arguments: Any,
    ):
        self.saved_roles = tuple(saved_roles)
        self.backbone_path = str(backbone_path)
        self.run = run
        self._staging: Path | None = None
        self._recorded: dict[str, list[torch.Tensor]] = {}
        self._records = True
        self._unchecked: list[tuple[str, torch.Tensor]] = []
        super().__init__(model=backbone, args=args, **trainer_arguments)
        self.add_callback(_CheckBeforeStep(self))

    @property
    def backbone(self) -> Backbone:
        """The model without what accelerate or DeepSpeed wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    # ---- passes -----------------------------------------------------------------------------------------

    def agreed_passes(self, batches: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """Split batches into passes of at most `micro_batch_tokens`, as many of each batch in every process.

        ZeRO-3 gathers weights in every pass and DDP averages gradients in the last, so the process whose batch needs
        most passes decides for all.

        Args:
            batches: for each batch the tokens of its groups; as many batches in every process.

        Returns:
            For each batch its passes, each with the indices of its groups: none of them in the passes that a batch
            of few groups runs only because other processes do.
        """
        limit = self.args.pass_tokens
        passes = [token_passes(lengths, limit) for lengths in batches]
        counts = torch.tensor([len(split) for split in passes], device=self.args.device)
        if limit and self.accelerator.num_processes > 1:
            counts = self.accelerator.gather(counts).view(-1, len(batches)).amax(dim=0)
        agreed = []
        for split, lengths, count in zip(passes, batches, counts.tolist(), strict=True):
            split = split_further(split, lengths, count)
            agreed.append([*split, *([] for _ in range(count - len(split)))])
        return agreed

    def in_passes(self, model: torch.nn.Module, passes: Sequence[Pass]) -> Iterator[Pass]:
        """Yield the passes of a batch; run forward and backward of each before the next is taken.

        Gradients add up in each process. They meet those of other processes in the last pass, if the batch is the
        last of its optimiser step: `gradient_state.sync_gradients` says so when the first is taken.
        """
        gradient_state = self.accelerator.gradient_state
        ends_step = gradient_state.sync_gradients
        for position, one in enumerate(passes):
            is_last = position == len(passes) - 1
            gradient_state._set_sync_gradients(ends_step and is_last)
            waits = not is_last and not self.is_deepspeed_enabled
            with self.accelerator.no_sync(model) if waits else contextlib.nullcontext():
                yield one

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss that is already divided by what the whole step counts."""
        # DeepSpeed would divide by gradient_accumulation_steps once more
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))

    # ---- logging ----------------------------------------------------------------------------------------

    def record(self, **values: torch.Tensor) -> None:
        """Add values to the next logged row, where each name shows its mean; they stay on the device until then."""
        if not self._records:
            return
        for name, value in values.items():
            value = value.detach().to(self.args.device, torch.float64)
            total = torch.stack([value.sum(), value.new_tensor(value.numel())])
            self._recorded.setdefault(name.replace("__", "/"), []).append(total)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs = {**logs, **self._take_recorded()}
        super().log(logs, start_time)
        if self.run is not None:
            self.run.log({**logs, "step": self.state.global_step})

    def _take_recorded(self) -> dict[str, float]:
        names = sorted(self._recorded)
        if not names:
            return {}
        totals = torch.stack([torch.stack(self._recorded[name]).sum(dim=0) for name in names])
        self._recorded.clear()
        totals = self.accelerator.reduce(totals, reduction="sum")
        means = zip(names, totals.tolist(), strict=True)
        return {name: total / count for name, (total, count) in means if count}  # a step of ties alone has no accuracy

    def check_finite(self, name: str, value: torch.Tensor) -> None:
        """Let no optimiser step follow on a NaN or infinite value; it is read with all others, right before the step.

        A read waits for the device, which would stand idle between passes if each were read when it is known.
        """
        self._unchecked.append((name, value.detach()))
        if self.is_deepspeed_enabled and self.accelerator.sync_gradients:
            self.stop_unless_finite()  # the backward pass that follows takes the step

    def stop_unless_finite(self) -> None:
        """Read what `check_finite` was given since the last step.

        Raises:
            FloatingPointError: a value is NaN or infinite; names the first.
        """
        if not self._unchecked:
            return
        unchecked, self._unchecked = self._unchecked, []
        is_finite = torch.stack([value.isfinite().all() for _, value in unchecked])
        if is_finite.all():
            return
        name, value = unchecked[is_finite.tolist().index(False)]
        raise FloatingPointError(
            f"{name} is {value.float().mean().item()} at step {self.state.global_step + 1}: stopped "
            "before the weights change; lower --learning_rate, or go on from the last checkpoint"
        )

    # ---- saving -----------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write adapters and heads; never the backbone."""
        folder = Path(output_dir or self.args.output_dir)
        for role in self.saved_roles:
            adapter = None if role.adapter is None else adapter_tensors(self.backbone, role.adapter)
            head = None if role.head is None else head_tensors(self.backbone, role.head)
            if not self.args.should_save:
                continue
            if role.adapter is not None and adapter is not None:
                config = self.backbone.adapter_configs[role.adapter]
                write_adapter(folder / role.subfolder, adapter, config, backbone_path=self.backbone_path)
            if role.head is not None and head is not None:
                write_head(folder / role.subfolder, head, role.head_saved_as or role.head)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        output_dir, name = Path(self.args.output_dir), f"{checkpoints.PREFIX}{self.state.global_step}"
        self._staging = output_dir / f".saving-{self.state.global_step}"
        if self.args.should_save and self._staging.exists():
            shutil.rmtree(self._staging)  # left by a run that was killed while saving
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.finish_checkpoint(self._staging / name, output_dir / name)
            shutil.rmtree(self._staging)
            checkpoints.rotate(output_dir, self.args.save_total_limit)
        self._staging = None
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        folder = Path(output_dir)
        if self.is_deepspeed_enabled:
            hook = self.backbone.register_state_dict_post_hook(_drop_frozen)
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
            hook.remove()
        elif self.args.should_save:
            checkpoints.save_optimizer(folder, self.optimizer, self._parameter_names())
        if self.args.should_save:
            (folder / SCHEDULE_FILE).write_text(json.dumps(_plain_state(self.lr_scheduler)))
            (folder / STAGE_STATE_FILE).write_text(json.dumps(self.stage_state(), indent=1))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        checkpoints.save_random_states(Path(output_dir), self.args.process_index)

    # ---- resuming ---------------------------------------------------------------------------------------

    def stage_state(self) -> dict[str, Any]:
        """What of the stage's own state decides the future; goes into every checkpoint as JSON."""
        return {}

    def load_stage_state(self, state: dict[str, Any]) -> None:
        """Take up what `stage_state` gave."""

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> tuple[torch.nn.Module, Any]:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        for role in self.saved_roles:
            folder = Path(resume_from_checkpoint) / role.subfolder
            if role.adapter is not None:
                load_adapter_weights(self.backbone, role.adapter, folder)
            if role.head is not None:
                load_head_weights(self.backbone, role.head, folder, saved_as=role.head_saved_as)

    def _restore(self, folder: Path) -> None:
        if self.is_deepspeed_enabled:
            loaded, _ = self.model_wrapped.load_checkpoint(str(folder), load_module_strict=False)
            if loaded is None:
                raise ValueError(f"{folder} holds no DeepSpeed state: it was saved without DeepSpeed; resume it so")
        else:
            if not (folder / "optimizer.json").is_file():
                raise ValueError(f"{folder} holds no optimiser state: it was saved under DeepSpeed; resume it so")
            checkpoints.load_optimizer(folder, self.optimizer, self._parameter_names())
        self.lr_scheduler.load_state_dict(json.loads((folder / SCHEDULE_FILE).read_text()))
        self.load_stage_state(json.loads((folder / STAGE_STATE_FILE).read_text()))
        if self.run is not None:
            self.run.rewind(checkpoints.step_of(folder))
            checkpoints.set_aside_later(Path(self.args.output_dir), checkpoints.step_of(folder))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random_states(Path(checkpoint), self.args.process_index)

    def _parameter_names(self) -> dict[torch.Tensor, str]:
        return {parameter: name for name, parameter in self.backbone.named_parameters()}


class _CheckBeforeStep(TrainerCallback):
    """Has the trainer read, once per optimiser step, what must be finite."""

    def __init__(self, trainer: RoleTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.stop_unless_finite()


def _drop_frozen(module: torch.nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    # DeepSpeed leaves frozen weights out by their first name, and would save tied embeddings by their second
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def _plain_state(scheduler: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "also save the optimizer": that is done
        state = scheduler.state_dict()
    return {key: value for key, value in state.items() if _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
