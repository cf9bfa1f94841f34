"""What watches a PPO run: the judge outside the score, the monitors, and the policy that is kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rlhf.engine.adapters import adapter_tensors
from rlhf.engine.backbone import Backbone, Role, RoleOutput
from rlhf.training.kept_policy import Judged, KeptPolicy, Tensors
from rlhf.training.monitor_settings import build_monitors
from rlhf.training.monitors import Alarm
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.rollout import ResponseScorer, RolloutBatch
from rlhf.training.rollout_summary import Reduce, alarm_rows, highest_ratio, summarise
from rlhf.training.run_folder import RunFolder
from rlhf.training.scoring import score_responses
from rlhf.training.stopping import MonitorStop

JUDGE = Role("judge", adapter="judge", score_head="judge")


class RunWatch:
    """Looks at every rollout of a run before and after its update.

    Args:
        args: which monitors, judge and kept policy.
        judge: a scorer as the judge; None takes the adapter `judge` on the backbone if `args.judge_model` names one.
        is_main: whether this process reports alarms and holds the kept adapter.
    """

    def __init__(self, args: PPOArguments, judge: ResponseScorer | None, *, is_main: bool):
        self.judge = judge
        self.roles = [JUDGE] if args.judge_model else []
        self.is_main = is_main
        has_judge = judge is not None or bool(self.roles)
        self.kept = KeptPolicy() if has_judge and args.keep != "last" else None
        self.monitors = build_monitors(
            args.monitors,
            reactions=args.monitor_reactions,
            limits=args.monitor_limits,
            kl_target=args.kl_target,
            kl_budget=args.kl_budget,
            dtype=args.dtype,
        )
        self._sampled: Tensors = {}
        self._ratios: list[torch.Tensor] = []

    def read(self, batch: RolloutBatch, outputs: Mapping[str, RoleOutput]) -> None:
        """Take the scores of `--judge_model` out of a scoring pass."""
        if self.roles:
            batch.judge_scores = outputs[JUDGE.name].scores

    def ask(self, rollout: Sequence[RolloutBatch]) -> None:
        """Let the judge score a rollout, all at once; what it cannot score is NaN and does not count."""
        if self.judge is None:
            return
        prompts = [prompt for batch in rollout for prompt in batch.prompt_of_response]
        texts = [text for batch in rollout for text in batch.texts]
        scores = torch.tensor(score_responses(self.judge, prompts, texts, failed="leave_out"), dtype=torch.float32)
        for batch, part in zip(rollout, scores.split([len(batch.texts) for batch in rollout]), strict=True):
            batch.judge_scores = part.to(batch.packed.target_ids.device)

    def before_update(self, backbone: Backbone) -> None:
        """Copy the policy that the rollout was sampled from; under ZeRO-3 every process must call it."""
        if self.kept is not None:
            tensors = adapter_tensors(backbone, "policy")
            self._sampled = tensors if self.is_main else {}

    def start_minibatch(self) -> None:
        """From here on ratios are of the next optimiser step."""
        self._ratios.append(torch.zeros(2, dtype=torch.float64))

    def add_ratio(self, ratio: torch.Tensor) -> None:
        """Take in the policy ratios of one pass, `[response_tokens]`."""
        total = torch.stack([ratio.detach().double().sum(), ratio.new_tensor(ratio.numel(), dtype=torch.float64)])
        self._ratios[-1] = self._ratios[-1].to(total.device) + total

    def after_update(
        self, rollout: Sequence[RolloutBatch], step: int, *, reduce: Reduce, device: torch.device
    ) -> tuple[dict[str, float], list[Alarm]]:
        """Feed the monitors and the kept policy with the rollout of `step`; every process must call it.

        Returns:
            What was measured for this, by metric name, and the alarms.
        """
        summary = summarise(rollout, step, reduce=reduce, device=device)
        own = {"policy/max_ratio": highest_ratio(self._ratios, reduce=reduce, device=device)}
        self._ratios = []
        summary = replace(summary, means={**summary.means, **own})
        judge_score = summary.means.get("objective/judge_score", math.nan)
        if not math.isnan(judge_score):
            own["objective/judge_score"] = judge_score
        if self.kept is not None:
            self.kept.observe(Judged(step - 1, judge_score, summary.means["objective/score"]), self._sampled)
            self._sampled = {}
        rows = (lambda: alarm_rows(rollout, step)) if self.is_main else list
        return own, self.monitors.observe(summary, rows)

    def report(self, alarms: Sequence[Alarm], run: RunFolder | None) -> None:
        """Say alarms on standard error and log them; the main process does."""
        for alarm in alarms:
            if self.is_main:
                print(f"{alarm.severity} at step {alarm.step}, {alarm.monitor}: {alarm.message}", file=sys.stderr)
            if run is not None:
                run.log_alarm(asdict(alarm))

    def state(self) -> dict[str, Any]:
        """What decides later alarms, as JSON."""
        return {"monitors": self.monitors.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.monitors.load_state(state["monitors"])

    def save(self, folder: Path) -> None:
        """Add to a checkpoint what decides later which policy is kept."""
        if self.kept is not None and self.is_main:
            self.kept.save(folder)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        if self.kept is not None:
            self.kept.load(folder)


def stop_of(alarms: Sequence[Alarm]) -> MonitorStop | None:
    """What ends the run where an alarm is to stop it."""
    stops = [alarm for alarm in alarms if alarm.severity == "stop"]
    if not stops:
        return None
    names = [alarm.monitor for alarm in stops]
    seen = "; ".join(f"{alarm.monitor}: {alarm.message}" for alarm in stops)
    goes_on = f"--monitor_reactions {' '.join(f'{name}=warn' for name in names)}"
    return MonitorStop(
        f"at step {stops[0].step}, {seen}. To go on all the same: --resume_from_checkpoint latest {goes_on}", names
    )
