"""What the machine is, and the rates it reaches today: matrix products of the model's sizes, and copies."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import Case
from benchmarks.shapes import Shape

HEAD_ROWS = 512
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
ATTEMPTS = 5


@dataclass(frozen=True)
class Rates:
    """Measured rates; operations count a multiplication and an addition as two.

    Attributes:
        body: operations a second in products of the sizes of the model's layers.
        head: the same for the output head.
        copy: bytes a second, read and written ones both counted.
    """

    body: float
    head: float
    copy: float

    def best(self, other: Rates) -> Rates:
        """The higher of each, nearer to what the hardware can do when nobody else is using it."""
        return Rates(max(self.body, other.body), max(self.head, other.head), max(self.copy, other.copy))


def measure_rates(case: Case, shape: Shape, rows: int) -> Rates:
    """The best of some attempts each: on a shared machine the best is nearest to what the hardware can do.

    Args:
        rows: tokens of a pass.
    """
    rows = min(rows, 4096)
    body = gemm_rate(shape.linears, rows, case.torch_dtype, case.device)
    head = gemm_rate({(shape.vocabulary, shape.hidden): 1}, min(rows, HEAD_ROWS), case.torch_dtype, case.device)
    return Rates(body, head, copy_rate(case.device))


@torch.no_grad()
def gemm_rate(linears: Mapping[tuple[int, int], int], rows: int, dtype: torch.dtype, device: str) -> float:
    """Operations a second over linear layers, `(outputs, inputs)` with how often each occurs."""
    seconds = operations = 0.0
    for (outputs, inputs), count in linears.items():
        hidden = torch.randn(rows, inputs, device=device, dtype=dtype)
        weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
        seconds += count * best_seconds(functools.partial(torch.nn.functional.linear, hidden, weight), device)
        operations += count * 2 * rows * outputs * inputs
    return operations / seconds


def copy_rate(device: str) -> float:
    """Bytes a second of copying a large tensor, read and written."""
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES[device] / best_seconds(lambda: target.copy_(source), device)


def best_seconds(run: Callable[[], Any], device: str) -> float:
    """The shortest of some timings; on a GPU of ten runs each."""
    runs = 10 if device == "cuda" else 1
    timings = []
    for _ in range(ATTEMPTS + 1):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(runs):
            run()
        synchronise(device)
        timings.append((time.perf_counter() - started) / runs)
    return min(timings[1:])


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe(case: Case, shape: Shape, rates: Rates, rows: int) -> dict[str, Any]:
    """The machine as it goes into the numbers."""
    other = torch.float32 if case.torch_dtype != torch.float32 else torch.bfloat16
    name = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[other]
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if case.device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "peft": version("peft"),
        "gemm_gflops": {
            case.dtype: round(rates.body / 1e9, 1),
            f"{case.dtype} head": round(rates.head / 1e9, 1),
            name: round(gemm_rate(shape.linears, min(rows, 1024), other, case.device) / 1e9, 1),
        },
        "copy_gb_per_s": round(rates.copy / 1e9, 2),
    }


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
