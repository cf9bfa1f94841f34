"""One side of a benchmark in a process of its own: it holds its model, and runs a repeat each time it is told to.

    python -m benchmarks.worker dpo ours FOLDER

Each line `go` on its input starts a repeat, whose seconds it answers as JSON on its output. Whatever libraries print
goes to the error output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.case import Case
from benchmarks.machine import synchronise
from benchmarks.workload import Workload

MATRIX_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_linear", "aten::linear"}


class Turns:
    """The worker's end of the conversation: wait for the word, run, say how long it took."""

    def __init__(self, case: Case):
        self.case = case
        self.taken = 0
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._profile: Any = None
        self._started = 0.0

    def start(self) -> None:
        """Wait until told to go.

        Raises:
            SystemExit: nobody is there any more.
        """
        if not sys.stdin.readline():
            raise SystemExit("the benchmark that started this worker has ended")
        self.taken += 1
        if self.case.profile and self.taken == self.case.turns:
            self._profile = torch.profiler.profile()
            self._profile.__enter__()
        synchronise(self.case.device)
        self._started = time.perf_counter()

    def finish(self, **details: Any) -> None:
        """Say how long the turn took; `details` go along."""
        seconds = self.elapsed()
        if self._profile is not None:
            self._profile.__exit__(None, None, None)
            details["linear_s"] = matrix_product_seconds(self._profile, self.case.device)
        self.say(seconds=seconds, **details)

    def elapsed(self) -> float:
        """Seconds since the turn began."""
        synchronise(self.case.device)
        return time.perf_counter() - self._started

    @property
    def all_taken(self) -> bool:
        return self.taken == self.case.turns

    def say(self, **message: Any) -> None:
        """Answer with one line of JSON."""
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()


class TurnCallback(TrainerCallback):
    """Makes each step of a Trainer one turn, from the end of the step before to its own end.

    So a turn holds the making of the batch and the logging too, and none of what a run does once.
    """

    def __init__(self, turns: Turns, measure: Callable[[], dict[str, Any]] = dict):
        self.turns = turns
        self.measure = measure

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.finish(**self.measure())
        if not self.turns.all_taken:
            self.turns.start()


class StepPhases:
    """Seconds of a training step: the backbone's forward passes by the roles they play, and the rest."""

    def __init__(self, backbone: torch.nn.Module, turns: Turns):
        self.turns = turns
        self.seconds: dict[str, float] = {}
        backbone.register_forward_pre_hook(self._begin, with_kwargs=True)
        backbone.register_forward_hook(self._end)

    def _begin(self, module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        roles = named["roles"] if "roles" in named else positional[1]
        synchronise(self.turns.case.device)
        self._name, self._started = "+".join(role.name for role in roles), time.perf_counter()

    def _end(self, module: Any, positional: Any, output: Any) -> None:
        synchronise(self.turns.case.device)
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.perf_counter() - self._started

    def take(self) -> dict[str, Any]:
        """The phases of the turn that ends now."""
        forward, self.seconds = self.seconds, {}
        whole = self.turns.elapsed()
        rest = whole - sum(forward.values())
        return {"phases": {**forward, "backward and optimiser": rest, "step": whole}}


class PhaseTimer:
    """Seconds of each call of a function."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: list[float] = []

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*positional: Any, **named: Any) -> Any:
            synchronise(self.device)
            started = time.perf_counter()
            result = function(*positional, **named)
            synchronise(self.device)
            self.seconds.append(time.perf_counter() - started)
            return result

        return timed


def matrix_product_seconds(profile: Any, device: str) -> float:
    """Time in matrix products themselves, from a profile."""
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return sum(getattr(event, field) for event in profile.key_averages() if event.key in MATRIX_PRODUCTS) / 1e6


def peak_gb(device: str) -> float:
    """Largest memory of this process in gigabytes (10^9 bytes): allocated on the GPU, else resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    lines = Path("/proc/self/status").read_text().splitlines()
    # not ru_maxrss, which starts with what the parent held
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def main() -> None:
    """Load the case, hand over to the benchmark's side, report memory and versions at the end."""
    module_name, side, folder = sys.argv[1:]
    case = Case(**json.loads((Path(folder) / "case.json").read_text()))
    turns = Turns(case)
    work = Workload.load(Path(folder) / "workload.json")
    module = importlib.import_module(f"benchmarks.{module_name}")
    with tempfile.TemporaryDirectory() as scratch:
        summary = getattr(module, side)(case, work, turns, scratch) or {}
    turns.say(
        peak_gb=round(peak_gb(case.device), 3),
        trl=getattr(sys.modules.get("trl"), "__version__", version("trl")),
        **summary,
    )


def our_settings(case: Case, scratch: str) -> dict[str, Any]:
    """Settings of our trainers that all benchmarks share."""
    return {
        "output_dir": scratch,
        "model": case.model,
        "dtype": case.dtype,
        "lora_r": case.lora_r,
        "lora_alpha": 2 * case.lora_r,
        "per_device_train_batch_size": case.batch,
        "max_steps": case.turns,
        "learning_rate": 1e-4,
        "logging_steps": 10,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "use_cpu": case.device == "cpu",
        "disable_tqdm": True,
        "seed": case.seed,
    }


if __name__ == "__main__":
    main()
