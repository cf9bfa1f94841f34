"""PPO for language models in numbered phases (arXiv 1707.06347, 1909.08593; details of arXiv 2403.17031).

Policy, value model and reward model are adapters on one frozen backbone, the reference is the backbone alone or an
adapter that stands. The estimators without a value model share all phases but the third.
One step is one rollout with all its epochs: `max_steps`, `logging_steps` and `save_steps` count rollouts.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from rlhf.algorithms.kl import AdaptiveKL, FixedKL
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.engine.adapters import copy_adapter, load_adapter_weights, write_adapter
from rlhf.engine.backbone import POLICY, Backbone, reward_roles
from rlhf.engine.generation import Sampling
from rlhf.engine.packing import Group, PackedBatch, pack
from rlhf.engine.rollout_engines import build_engine
from rlhf.training.advantage_estimation import estimate_advantages
from rlhf.training.moments import RunningMoments
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_loss import RolloutLoss, loss_count, rollout_loss
from rlhf.training.ppo_roles import PPORoles
from rlhf.training.ptx import DemonstrationOrder
from rlhf.training.response_scores import REWARD_MODEL, ScoreSources
from rlhf.training.rollout import ResponseScorer, RolloutBatch, SampledGroup, pack_rollout
from rlhf.training.rollout_metrics import response_values, rollout_metrics, sample_rows, sequence_kl
from rlhf.training.run_watch import RunWatch, stop_of
from rlhf.training.score_shaping import ScoreShaper
from rlhf.training.shuffled_order import shuffled_index
from rlhf.training.step_start import StepStart
from rlhf.training.stopping import RunStopped
from rlhf.training.trainer import RoleTrainer

LAST = "last"  # folder of the last policy, where a better one is kept
EPOCHS_END_AT = 1.5  # times target_approx_kl


class PPOTrainer(RoleTrainer):
    """Optimises the adapter `policy` against a scorer.

    Args:
        backbone: with the adapter `policy`, the head `value` and with `--value_model adapter` the adapter `value`,
            adapter and head `reward` for a reward model, for an ensemble `reward_2` and so on too, and the adapter
            `reference` where the reference is not the backbone.
        args: settings.
        chat: the chat format of the policy.
        prompts: what to sample responses to.
        scorers: give scores beside the reward model or without one, in the order of `scorer_weights`.
        demonstrations: each a prompt with a response, which the policy keeps learning by `ptx_coef`.
        judge: scores outside the reward; None takes the adapter `judge` if `args.judge_model` names one.
    """

    args: PPOArguments

    def __init__(
        self,
        backbone: Backbone,
        args: PPOArguments,
        *,
        chat: Chat,
        prompts: Sequence[Comparison],
        scorers: Sequence[ResponseScorer] = (),
        demonstrations: Sequence[Group] = (),
        judge: ResponseScorer | None = None,
        **trainer_arguments: Any,
    ):
        self.chat, self.prompts = chat, list(prompts)
        self.demonstrations = DemonstrationOrder(demonstrations, args.seed)
        self.roles = PPORoles.of(args)
        self.score_sources = ScoreSources(args, reward_roles(len(args.reward_model)), scorers)
        self.watch = RunWatch(args, judge, is_main=args.process_index == 0)
        self.scoring_roles = [*self.roles.measuring, *self.score_sources.roles, *self.watch.roles]
        self.kl_controller: FixedKL | AdaptiveKL = FixedKL(args.kl_coef)
        if args.kl_target is not None:
            self.kl_controller = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        self.score_shaper = ScoreShaper(args)
        self.prompt_position = 0
        self._saved_step = -1
        backbone.train_only(adapters=self.roles.adapters, heads=self.roles.heads)
        if args.value_warmup_steps:
            for parameter in backbone.adapter_parameters("policy").values():
                parameter.register_hook(self._stand_while_warming_up)
        super().__init__(backbone, args, saved_roles=self.roles.saved, **trainer_arguments)
        backbone.to(self.args.device)
        self.rollout_engine = build_engine(
            args.rollout_engine,
            backbone,
            "policy",
            stop_ids=chat.stop_ids,
            pad_id=chat.end_of_turn_id if chat.pad_id is None else chat.pad_id,
            max_rows=args.rollout_batch_rows,
            merged=args.merged_rollouts is not False,
            vllm_server_url=args.vllm_server_url,
            vllm_gpu_memory=args.vllm_gpu_memory,
            cuda_graphs=args.rollout_cuda_graphs,
            exchange_folder=Path(args.output_dir) / "rollout_adapters",
        )

    # ---- the algorithm ----------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None) -> TrainOutput:
        """Run PPO until `max_steps` rollouts are done; checkpoints fall between rollouts."""
        model = self._start_training(resume_from_checkpoint)
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
            with self._undone_if_stopped(model):
                # 1. sample responses from the policy, its adapter merged
                with self._timed("rollout"):
                    self.rollout_engine.sync()
                    rollout = self.sample_rollout(self.next_prompts())
                # 2. score them; one pass over reference, policy, value and reward
                with self._timed("scoring"):
                    self.measure(rollout)
                self.watch.before_update(self.backbone)
                # 3. rewards = KL penalty + score, then advantages and, with a value model, returns
                self.estimate_advantages(rollout)
            # 4. several epochs over the same rollout
            with self._timed("update"):
                self.update(model, rollout)
            # 5. move the KL weight and the reference, log, save
            self._end_step(model, rollout)
        return self._end_training()

    def sample_rollout(self, prompts: Sequence[Comparison]) -> list[RolloutBatch]:
        """Phase 1: sample responses and pack them, at most `per_device_train_batch_size` prompts to a batch."""
        args = self.args
        # every step draws anew; a sample depends on seed, step, prompt and index, not on the number of processes
        sampling = Sampling(
            args.samples_per_prompt,
            args.max_new_tokens,
            args.temperature,
            args.seed * 1_000_003 + self.state.global_step,
        )
        encoded = [self.chat.encode_prompt(prompt.prompt) for prompt in prompts]
        started = time.perf_counter()
        sampled = self.rollout_engine.sample(encoded, sampling)
        num_tokens = sum(len(sample.token_ids) for samples in sampled for sample in samples)
        per_second = num_tokens / (time.perf_counter() - started)
        self.record(time__rollout_tokens_per_second=torch.tensor(per_second, dtype=torch.float64))
        groups = [
            SampledGroup(
                messages=prompt.prompt,
                group=Group(ids, [sample.token_ids for sample in samples]),
                texts=[self.chat.decode(sample.token_ids) for sample in samples],
                finished=[sample.finished for sample in samples],
                logprobs=[sample.logprobs for sample in samples],
            )
            for prompt, ids, samples in zip(prompts, encoded, sampled, strict=True)
        ]
        return [pack_rollout(batch, args.device) for batch in self._split(groups)]

    def _split(self, groups: Sequence[SampledGroup]) -> list[list[SampledGroup]]:
        """Batches of `per_device_train_batch_size` prompts, each in passes of at most `micro_batch_tokens`."""
        size = self.args.per_device_train_batch_size
        batches = [groups[start : start + size] for start in range(0, len(groups), size)]
        passes = self.agreed_passes([[sampled.group.num_tokens for sampled in batch] for batch in batches])
        return [
            [batch[index] for index in indices]
            for batch, split in zip(batches, passes, strict=True)
            for indices in split
        ]

    @torch.no_grad()
    def measure(self, rollout: list[RolloutBatch]) -> None:
        """Phase 2: log-probabilities, values and scores of the rollout.

        The old log-probabilities come from here and not from the sampler, whose rounding differs: so the ratio
        of the first minibatch is exactly 1.
        """
        for batch in rollout:
            outputs = self.backbone(batch.packed, self.scoring_roles, temperature=self.args.temperature)
            batch.old_logprobs, batch.entropy = outputs["policy"].logprobs, outputs["policy"].entropy
            batch.ref_logprobs = outputs["reference"].logprobs
            if self.roles.value:
                batch.old_values = outputs[self.roles.value].values
            deviation = self.score_sources.read(batch, outputs)
            if deviation is not None:
                self.record(objective__score_std=deviation)
            if REWARD_MODEL in batch.scores_by_name:
                self.check_finite("score", batch.scores_by_name[REWARD_MODEL])
            self.watch.read(batch, outputs)
        self.score_sources.ask(rollout, self._sum_over_processes)
        self.watch.ask(rollout)

    def estimate_advantages(self, rollout: list[RolloutBatch]) -> None:
        """Phase 3: per-token rewards and advantages, with moments over the rollouts of all processes."""
        scores = self.score_shaper.shape(rollout, self._sum_over_processes)
        rewards = estimate_advantages(
            rollout, scores, self.args, kl_coef=self.kl_controller.kl_coef, reduce=self._reduce
        )
        counted = torch.cat([batch.counted_tokens for batch in rollout])
        self.record(objective__reward=torch.cat(rewards)[counted])

    def update(self, model: torch.nn.Module, rollout: list[RolloutBatch]) -> None:
        """Phase 4: `num_ppo_epochs` passes of `num_mini_batches` optimiser steps, fewer once the policy is far off."""
        minibatches = self._minibatches(rollout)
        shuffle = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        epochs = [torch.randperm(len(minibatches), generator=shuffle) for _ in range(self.args.num_ppo_epochs)]
        order = torch.cat(epochs).tolist()
        num_taken = 0
        for index in order:
            moved = self._optimizer_step(model, minibatches[index], num_taken)
            num_taken += 1
            if self._is_far_off(moved):
                break
        for _ in order[num_taken:]:
            self.lr_scheduler.step()  # the schedule counts the steps there could have been, and so rollouts
        self.record(policy__optimizer_steps=torch.tensor(num_taken))

    def _minibatches(self, rollout: list[RolloutBatch]) -> list[list[RolloutBatch]]:
        """Consecutive passes that hold `prompts_per_minibatch` prompts together."""
        minibatches: list[list[RolloutBatch]] = []
        num_prompts = 0
        for batch in rollout:
            if num_prompts % self.args.prompts_per_minibatch == 0:
                minibatches.append([])
            minibatches[-1].append(batch)
            num_prompts += batch.packed.num_groups
        return minibatches

    def _optimizer_step(self, model: torch.nn.Module, minibatch: list[RolloutBatch], number: int) -> torch.Tensor:
        """Take the optimiser step of that number within its rollout; returns sum and count of approx_kl here."""
        model.train()
        self.watch.start_minibatch()
        count = self._sum_over_processes(sum(loss_count(batch, self.args) for batch in minibatch)).clamp(min=1)
        demonstrations = self._demonstrations(number)
        num_shown = self._sum_over_processes(sum(len(batch.target_ids) for batch in demonstrations))
        moved = torch.zeros(2, device=self.args.device)
        # demonstrations first: gradients of processes meet in the last pass, which has all parameters
        passes: list[PackedBatch | RolloutBatch] = [*demonstrations, *minibatch]
        for batch in self.in_passes(model, passes):
            if isinstance(batch, RolloutBatch):
                part = self._rollout_loss(model, batch, is_first=number == 0)
                moved += torch.stack([part.approx_kl.sum(), part.approx_kl.new_tensor(len(part.approx_kl))])
                loss = part.total / count
            else:
                loss = self._ptx_loss_sum(model, batch) / num_shown
            self.check_finite("loss", loss)
            # processes average their gradients, so each multiplies its share of the sum by their number
            self.backward(loss * self.accelerator.num_processes)
        grad_norm = self._clip_grad_norm(model) if self.args.max_grad_norm > 0 else None
        self.stop_unless_finite()
        self.optimizer.step()
        if grad_norm is not None:
            self.record(grad_norm=torch.as_tensor(grad_norm))
        self.lr_scheduler.step()
        model.zero_grad()
        return moved

    def _rollout_loss(self, model: torch.nn.Module, batch: RolloutBatch, *, is_first: bool) -> RolloutLoss:
        outputs = model(batch.packed, self.roles.training, temperature=self.args.temperature)
        values = outputs[self.roles.value].values if self.roles.value else None
        loss = rollout_loss(batch, outputs["policy"], values, self.args, kl_coef=self.kl_controller.kl_coef)
        self.record(**loss.metrics)
        self.watch.add_ratio(loss.ratio)
        if is_first:
            self.record(policy__first_ratio_error=(loss.ratio - 1).abs(), policy__first_approx_kl=loss.approx_kl)
        return loss

    def _ptx_loss_sum(self, model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
        """What `ptx_coef` demonstrations cost: minus their log-likelihood, at temperature 1."""
        loss = -model(batch, [POLICY])["policy"].logprobs
        self.record(loss__ptx=loss)
        return self.args.ptx_coef * loss.sum()

    # ---- parts of the phases ----------------------------------------------------------------------------

    def next_prompts(self) -> list[Comparison]:
        """This process's share of the next prompts: a new order of all prompts in every pass, by seed.

        Every minibatch is shared out among the processes, so that it holds the same prompts for any number of them.
        """
        share, num_processes = self.args.prompts_per_minibatch, self.accelerator.num_processes
        chosen = []
        for minibatch in range(self.args.num_mini_batches):
            start = self.prompt_position + (minibatch * num_processes + self.accelerator.process_index) * share
            chosen += [self._prompt_at(position) for position in range(start, start + share)]
        self.prompt_position += self.args.num_mini_batches * num_processes * share
        return chosen

    def _prompt_at(self, position: int) -> Comparison:
        return self.prompts[shuffled_index(position, len(self.prompts), self.args.seed)]

    def _demonstrations(self, number: int) -> list[PackedBatch]:
        """This process's demonstrations of an optimiser step, as many as the prompts of a minibatch, in passes."""
        args = self.args
        if not args.ptx_coef:
            return []
        step = self.state.global_step * args.num_ppo_epochs * args.num_mini_batches + number
        process, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        count = args.prompts_per_minibatch
        groups = self.demonstrations.share(step, count, process=process, num_processes=num_processes)
        (passes,) = self.agreed_passes([[group.num_tokens for group in groups]])
        return [pack([groups[index] for index in indices]).to(args.device) for indices in passes]

    def _is_far_off(self, moved: torch.Tensor) -> bool:
        """Whether approx_kl of a minibatch, over all processes, ends the epochs of its rollout."""
        if self.args.target_approx_kl is None:
            return False
        total, count = self._reduce(moved)
        return bool(total > EPOCHS_END_AT * self.args.target_approx_kl * count)

    def _stand_while_warming_up(self, gradient: torch.Tensor) -> torch.Tensor:
        """A hook on the policy's gradients. Adam, whose moments are 0 by then, does not move on a gradient of 0."""
        if self.state.global_step < self.args.value_warmup_steps:
            return torch.zeros_like(gradient)
        return gradient

    def _reduce(self, total: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(total, reduction="sum")

    def _sum_over_processes(self, value: torch.Tensor | int) -> torch.Tensor:
        return self._reduce(torch.as_tensor(value, device=self.args.device))

    @contextlib.contextmanager
    def _undone_if_stopped(self, model: torch.nn.Module) -> Iterator[None]:
        """Where a rollout stops the run, save the last complete step as if this one had not begun."""
        start = StepStart.now(self.stage_state())
        try:
            yield
        except RunStopped:
            self.load_stage_state(start.stage_state)
            start.restore_random_states()
            if self._saved_step != self.state.global_step:
                self._save(model)
            raise

    def _save(self, model: torch.nn.Module) -> None:
        self._save_checkpoint(model, None)
        self._saved_step = self.state.global_step
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.record(**{f"time__{phase}": torch.tensor(time.perf_counter() - started, dtype=torch.float64)})

    # ---- the frame of the loop --------------------------------------------------------------------------

    def _start_training(self, resume_from_checkpoint: str | None) -> torch.nn.Module:
        args = self.args
        self.is_in_train = True
        if args.activation_checkpointing:
            self.model.activation_checkpointing_enable(args.activation_checkpointing_kwargs)
        per_step = args.prompts_per_minibatch * args.num_mini_batches * self.accelerator.num_processes
        max_steps = args.max_steps
        if max_steps <= 0:
            max_steps = max(1, int(args.num_train_epochs * len(self.prompts)) // per_step)
        if resume_from_checkpoint is not None and not self.is_deepspeed_enabled:
            self._load_from_checkpoint(resume_from_checkpoint)
        elif resume_from_checkpoint is not None and args.holds_reference:
            # of what does not learn, DeepSpeed's own checkpoint holds nothing
            load_adapter_weights(self.backbone, "reference", Path(resume_from_checkpoint) / "reference")
        self._init_training_state(max_steps, max_steps, 1, resume_from_checkpoint, None)
        optimizer_steps = max_steps * args.num_ppo_epochs * args.num_mini_batches
        model, _ = self._prepare_for_training(optimizer_steps, None, resume_from_checkpoint)
        if resume_from_checkpoint is not None:
            self._load_rng_state(resume_from_checkpoint)
            self._saved_step = self.state.global_step
        model.zero_grad()
        self._globalstep_last_logged = self.state.global_step
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        return model

    def _end_step(self, model: torch.nn.Module, rollout: list[RolloutBatch]) -> None:
        kl = self._record_rollout(rollout)
        self.record(objective__kl_coef=torch.tensor(self.kl_controller.kl_coef, dtype=torch.float64))
        num_samples = int(self._sum_over_processes(sum(batch.packed.num_responses for batch in rollout)))
        self.kl_controller.update(kl, num_samples)
        self.state.global_step += 1
        if self.args.reference_update_steps and self.state.global_step % self.args.reference_update_steps == 0:
            copy_adapter(self.backbone, "policy", "reference")
        self.state.epoch = self.prompt_position / len(self.prompts)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        measured, alarms = self.watch.after_update(
            rollout, self.state.global_step, reduce=self._reduce, device=self.args.device
        )
        self.record(**{name.replace("/", "__"): torch.tensor(value) for name, value in measured.items()})
        self.watch.report(alarms, self.run)
        if self.control.should_log:
            self._write_histograms(rollout)
            self.log({"learning_rate": self._get_learning_rate()})
            self._write_samples(rollout)
        stop = stop_of(alarms)
        if self.control.should_save or stop is not None:
            self._save(model)
        if stop is not None:
            raise stop

    def _end_training(self) -> TrainOutput:
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        return TrainOutput(self.state.global_step, float("nan"), {})

    def _record_rollout(self, rollout: list[RolloutBatch]) -> float:
        """Record what the rollout was like; returns its mean sequence KL in nats over all processes."""
        self.record(**rollout_metrics(rollout, self._reduce))
        if self.args.failed_scores == "leave_out":
            failed = self._sum_over_processes(sum(int((~batch.counts).sum()) for batch in rollout))
            self.record(objective__failed_scores=failed)
        kl = sequence_kl(rollout)
        total, count = self._reduce(torch.stack([kl.sum(), kl.new_tensor(len(kl))]))
        return float(total / count)

    def last_objectives(self) -> dict[str, float]:
        """Mean of each `objective/*` over the last quarter of the logged steps."""
        rows = [row for row in self.state.log_history if "objective/score" in row]
        rows = rows[-max(1, len(rows) // 4) :]
        names = sorted(name for name in rows[-1] if name.startswith("objective/")) if rows else []
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

    def _write_histograms(self, rollout: list[RolloutBatch]) -> None:
        """Write score, KL and length of every response of all processes, which have equally many."""
        values = {name: self.accelerator.gather(value) for name, value in response_values(rollout).items()}
        if self.run is not None:
            self.run.log_histograms(self.state.global_step, {name: value.tolist() for name, value in values.items()})

    def _write_samples(self, rollout: list[RolloutBatch]) -> None:
        if self.run is None or not self.args.sample_rows:
            return
        rows = itertools.chain.from_iterable(sample_rows(batch, self.state.global_step) for batch in rollout)
        self.run.log_samples(itertools.islice(rows, self.args.sample_rows))

    # ---- resume -----------------------------------------------------------------------------------------

    def stage_state(self) -> dict[str, Any]:
        return {
            "prompt_position": self.prompt_position,
            "kl_controller": asdict(self.kl_controller),
            "score_moments": asdict(self.score_shaper.moments),
            "watch": self.watch.state(),
        }

    def load_stage_state(self, state: dict[str, Any]) -> None:
        self.prompt_position = state["prompt_position"]
        # what was adapted goes on; target and horizon, or a fixed weight, are this run's own settings
        if isinstance(self.kl_controller, AdaptiveKL) and "target" in state["kl_controller"]:
            self.kl_controller.kl_coef = state["kl_controller"]["kl_coef"]
        self.score_shaper.moments = RunningMoments(**state["score_moments"])
        if "watch" in state:
            self.watch.load_state(state["watch"])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.watch.save(Path(output_dir))

    def _restore(self, folder: Path) -> None:
        super()._restore(folder)
        self.watch.load(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write adapters and heads; at the end of a run that keeps its best policy the last goes to `last/`."""
        super().save_model(output_dir, _internal_call)
        if output_dir is not None:
            return
        kept, folder = self.watch.kept, Path(self.args.output_dir)
        if kept is not None and kept.best is not None:
            super().save_model(str(folder / LAST), _internal_call)
            if self.args.should_save:
                config = self.backbone.adapter_configs["policy"]
                write_adapter(folder, kept.adapter, config, backbone_path=self.backbone_path)
        elif self.args.should_save:
            shutil.rmtree(folder / LAST, ignore_errors=True)  # of the run that this one has resumed
