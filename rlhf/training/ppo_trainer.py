"""PPO for language models in numbered phases (arXiv 1707.06347, 1909.08593; details of arXiv 2403.17031).

Policy, value model and reward model are adapters on one frozen backbone, the reference is the backbone alone.
One step is one rollout with all its epochs: `max_steps`, `logging_steps` and `save_steps` count rollouts.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from rlhf.algorithms.advantages import gae, masked_mean, whiten
from rlhf.algorithms.ensemble import ensemble_score
from rlhf.algorithms.kl import AdaptiveKL, FixedKL, kl_estimate
from rlhf.algorithms.ppo import policy_loss, token_rewards, value_loss
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison
from rlhf.engine.backbone import POLICY, POLICY_WITH_VALUE, REFERENCE, VALUE, Backbone, RoleOutput, reward_roles
from rlhf.engine.generation import Sampling
from rlhf.engine.packing import Group
from rlhf.engine.rollout_engines import build_engine
from rlhf.training.moments import RunningMoments
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import ResponseScorer, RolloutBatch, SampledGroup, pack_rollout
from rlhf.training.rollout_metrics import correlation, distinct_bigrams, sample_rows
from rlhf.training.trainer import RoleTrainer, SavedRole


class PPOTrainer(RoleTrainer):
    """Optimises the adapter `policy` against a scorer.

    Args:
        backbone: with the adapter `policy`, the head `value`, with `--value_model adapter` the adapter `value`,
            and, unless a scorer is given, adapter and head `reward`, for an ensemble `reward_2` and so on too.
        args: settings.
        chat: the chat format of the policy.
        prompts: what to sample responses to.
        scorer: gives scores; None takes the reward adapter on the same backbone.
    """

    args: PPOArguments

    def __init__(
        self,
        backbone: Backbone,
        args: PPOArguments,
        *,
        chat: Chat,
        prompts: Sequence[Comparison],
        scorer: ResponseScorer | None = None,
        **trainer_arguments: Any,
    ):
        self.chat, self.prompts, self.scorer = chat, list(prompts), scorer
        shared = args.value_model == "shared"
        self.training_roles = [POLICY_WITH_VALUE] if shared else [POLICY, VALUE]
        self.reward_roles = reward_roles(0 if scorer else max(1, len(args.reward_model)))
        measured = [replace(role, entropy=role.logprobs) for role in self.training_roles]
        self.scoring_roles = [REFERENCE, *measured, *self.reward_roles]
        self.kl_controller: FixedKL | AdaptiveKL = FixedKL(args.kl_coef)
        if args.kl_target is not None:
            self.kl_controller = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        self.score_moments = RunningMoments()
        self.prompt_position = 0
        backbone.train_only(adapters=["policy"] if shared else ["policy", "value"], heads=["value"])
        saved_roles = [
            SavedRole("policy"),
            SavedRole(None if shared else "value", "value", subfolder="value"),
        ]
        super().__init__(backbone, args, saved_roles=saved_roles, **trainer_arguments)
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
            # 1. sample responses from the policy, its adapter merged
            with self._timed("rollout"):
                self.rollout_engine.sync()
                rollout = self.sample_rollout(self.next_prompts())
            # 2. score them; one pass over reference, policy, value and reward
            with self._timed("scoring"):
                self.measure(rollout)
            # 3. rewards = KL penalty + score, then advantages and returns
            self.estimate_advantages(rollout)
            # 4. several epochs over the same rollout
            with self._timed("update"):
                self.update(model, rollout)
            # 5. move the KL weight, log, save
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
            batch.old_values = outputs[self.training_roles[-1].name].values
            batch.scores = self._score(batch, self.scorer) if self.scorer else self._ensemble_scores(outputs)
            self.check_finite("score", batch.scores)

    def _ensemble_scores(self, outputs: dict[str, RoleOutput]) -> torch.Tensor:
        """`[responses]` scores of the reward model, or of several together."""
        scores = [score for role in self.reward_roles if (score := outputs[role.name].scores) is not None]
        if len(scores) == 1:
            return scores[0]
        score, deviation = ensemble_score(torch.stack(scores), penalty=self.args.ensemble_penalty)
        self.record(objective__score_std=deviation)
        return score

    def _score(self, batch: RolloutBatch, scorer: ResponseScorer) -> torch.Tensor:
        scores = torch.tensor(
            scorer.score(batch.prompt_of_response, batch.texts),
            dtype=torch.float32,
            device=self.args.device,
        )
        if scores.shape != (batch.packed.num_responses,) or not scores.isfinite().all():
            raise ValueError(
                f"scorer {scorer.name} gave {scores.tolist()} for {batch.packed.num_responses} responses: "
                "it must give one finite number for each"
            )
        return scores

    def estimate_advantages(self, rollout: list[RolloutBatch]) -> None:
        """Phase 3: per-token rewards, GAE, and whitening over the rollouts of all processes."""
        args = self.args
        scores = self._shaped_scores(rollout)
        kl = [kl_estimate(batch.old_logprobs, batch.ref_logprobs, args.kl_estimator) for batch in rollout]
        rewards = [
            batch.packed.from_rows(
                token_rewards(
                    score,
                    batch.packed.to_rows(per_token),
                    batch.packed.response_mask,
                    kl_coef=self.kl_controller.kl_coef,
                )
            )
            for batch, score, per_token in zip(rollout, scores, kl, strict=True)
        ]
        self.record(objective__reward=torch.cat(rewards))
        if args.whiten_rewards:
            rewards = list(self._whiten(rewards, shift_mean=False))
        advantages = []
        for batch, reward in zip(rollout, rewards, strict=True):
            packed = batch.packed
            estimates = gae(
                packed.to_rows(reward),
                packed.to_rows(batch.old_values),
                packed.response_mask,
                gamma=args.gamma,
                gae_lambda=args.gae_lambda,
            )
            advantage, batch.returns = (packed.from_rows(rows) for rows in estimates)
            advantages.append(advantage)
        for batch, advantage in zip(rollout, self._whiten(advantages), strict=True):
            batch.advantages = advantage

    def update(self, model: torch.nn.Module, rollout: list[RolloutBatch]) -> None:
        """Phase 4: `num_ppo_epochs` passes of `num_mini_batches` optimiser steps each."""
        minibatches = self._minibatches(rollout)
        shuffle = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        for epoch in range(self.args.num_ppo_epochs):
            for position, index in enumerate(torch.randperm(len(minibatches), generator=shuffle).tolist()):
                self._optimizer_step(model, minibatches[index], is_first=epoch == position == 0)

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

    def _optimizer_step(self, model: torch.nn.Module, minibatch: list[RolloutBatch], *, is_first: bool) -> None:
        model.train()
        num_tokens = self._sum_over_processes(sum(len(batch.packed.target_ids) for batch in minibatch))
        for batch in self.in_passes(model, minibatch):
            total = self._loss_sum(model, batch, is_first=is_first)
            self.check_finite("loss", total)
            # processes average their gradients, so each multiplies its share of the sum by their number
            self.backward(total * self.accelerator.num_processes / num_tokens)
        grad_norm = self._clip_grad_norm(model) if self.args.max_grad_norm > 0 else None
        self.stop_unless_finite()
        self.optimizer.step()
        if grad_norm is not None:
            self.record(grad_norm=torch.as_tensor(grad_norm))
        self.lr_scheduler.step()
        model.zero_grad()

    def _loss_sum(self, model: torch.nn.Module, batch: RolloutBatch, *, is_first: bool) -> torch.Tensor:
        args = self.args
        outputs = model(batch.packed, self.training_roles, temperature=args.temperature)
        policy = policy_loss(
            outputs["policy"].logprobs, batch.old_logprobs, batch.advantages, clip_range=args.clip_range
        )
        values = outputs[self.training_roles[-1].name].values
        value = value_loss(values, batch.old_values, batch.returns, clip_range=args.value_clip_range)
        self.record(
            loss__policy=policy.loss,
            loss__value=value,
            loss=policy.loss + args.value_coef * value,
            policy__approx_kl=policy.approx_kl,
            policy__clip_fraction=policy.clipped.float(),
            policy__ratio=policy.ratio,
        )
        if is_first:
            self.record(policy__first_ratio_error=(policy.ratio - 1).abs(), policy__first_approx_kl=policy.approx_kl)
        return (policy.loss + args.value_coef * value).sum()

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
        epoch, offset = divmod(position, len(self.prompts))
        generator = torch.Generator().manual_seed(self.args.seed + epoch)
        return self.prompts[int(torch.randperm(len(self.prompts), generator=generator)[offset])]

    def _shaped_scores(self, rollout: list[RolloutBatch]) -> list[torch.Tensor]:
        """Scores as they enter the reward: normalised if asked for, less the penalty where no EOS came."""
        scores = [batch.scores for batch in rollout]
        if self.args.normalize_scores:
            everything = torch.cat(scores).double()
            count = self._sum_over_processes(len(everything))
            mean = self._sum_over_processes(everything.sum()) / count
            variance = self._sum_over_processes((everything - mean).square().sum()) / count
            self.score_moments.update(float(count), float(mean), float(variance))
            scores = [(score - self.score_moments.mean) / self.score_moments.deviation for score in scores]
        penalty = self.args.missing_eos_penalty
        return [score - penalty * ~batch.finished for score, batch in zip(scores, rollout, strict=True)]

    def _whiten(self, parts: list[torch.Tensor], *, shift_mean: bool = True) -> tuple[torch.Tensor, ...]:
        flat = torch.cat(parts)
        whitened = whiten(flat, torch.ones_like(flat, dtype=torch.bool), shift_mean=shift_mean, reduce=self._reduce)
        return whitened.split([len(part) for part in parts])

    def _reduce(self, total: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(total, reduction="sum")

    def _sum_over_processes(self, value: torch.Tensor | int) -> torch.Tensor:
        return self._reduce(torch.as_tensor(value, device=self.args.device))

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
        self._init_training_state(max_steps, max_steps, 1, resume_from_checkpoint, None)
        optimizer_steps = max_steps * args.num_ppo_epochs * args.num_mini_batches
        model, _ = self._prepare_for_training(optimizer_steps, None, resume_from_checkpoint)
        if resume_from_checkpoint is not None:
            self._load_rng_state(resume_from_checkpoint)
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
        self.state.epoch = self.prompt_position / len(self.prompts)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if self.control.should_log:
            self.log({"learning_rate": self._get_learning_rate()})
            self._write_samples(rollout)
        if self.control.should_save:
            self._save_checkpoint(model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _end_training(self) -> TrainOutput:
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        return TrainOutput(self.state.global_step, float("nan"), {})

    def _record_rollout(self, rollout: list[RolloutBatch]) -> float:
        """Record what the rollout was like; returns its mean sequence KL in nats over all processes."""
        cat = {
            name: torch.cat([getattr(batch, name) for batch in rollout])
            for name in (
                "old_logprobs",
                "sampler_logprobs",
                "entropy",
                "scores",
                "returns",
                "old_values",
                "finished",
            )
        }
        sequence_kl = torch.cat([b.packed.sum_by_response(b.old_logprobs - b.ref_logprobs) for b in rollout])
        lengths = torch.tensor([float(n) for batch in rollout for n in batch.packed.response_lengths])
        everywhere = torch.ones_like(cat["returns"], dtype=torch.bool)
        spread = masked_mean(
            (cat["returns"] - masked_mean(cat["returns"], everywhere, self._reduce)).square(),
            everywhere,
            self._reduce,
        )
        error = cat["returns"] - cat["old_values"]
        unexplained = masked_mean(
            (error - masked_mean(error, everywhere, self._reduce)).square(), everywhere, self._reduce
        )
        self.record(
            objective__score=cat["scores"],
            objective__kl=sequence_kl,
            objective__entropy=cat["entropy"],
            objective__eos_rate=cat["finished"].float(),
            objective__response_length=lengths,
            objective__distinct_2=torch.tensor([distinct_bigrams(text) for batch in rollout for text in batch.texts]),
            reward__length_correlation=torch.tensor(correlation(lengths, cat["scores"].cpu())),
            value__explained_variance=1 - unexplained / spread.clamp(min=1e-12),
            policy__sampler_gap=(cat["old_logprobs"].exp() - cat["sampler_logprobs"].exp()).abs(),
        )
        total, count = self._reduce(torch.stack([sequence_kl.sum(), sequence_kl.new_tensor(len(sequence_kl))]))
        return float(total / count)

    def last_objectives(self) -> dict[str, float]:
        """Mean of each `objective/*` over the last quarter of the logged steps."""
        rows = [row for row in self.state.log_history if "objective/score" in row]
        rows = rows[-max(1, len(rows) // 4) :]
        names = sorted(name for name in rows[-1] if name.startswith("objective/")) if rows else []
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

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
            "score_moments": asdict(self.score_moments),
        }

    def load_stage_state(self, state: dict[str, Any]) -> None:
        self.prompt_position = state["prompt_position"]
        self.kl_controller = type(self.kl_controller)(**state["kl_controller"])
        self.score_moments = RunningMoments(**state["score_moments"])
