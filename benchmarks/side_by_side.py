"""Ours and a peer, taking turns: one process each, one repeat each at a time, on the same token ids.

What disturbs a shared machine then disturbs both alike, and the ratio of two neighbouring repeats is worth more than
the ratio of two runs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.case import GROWTH_FACTORS, Case, Request, read_flags
from benchmarks.machine import Rates, describe, measure_rates
from benchmarks.shapes import Shape, shape_of
from benchmarks.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
NOISY = 0.15  # a spread above this is said
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One claim to measure.

    Attributes:
        name: of the module, whose functions `ours` and `peer` run in the workers.
        peer: what ours is compared with.
        flags: fields of `Case` that not all benchmarks have.
        workload: makes the token ids.
        tokens: tokens of the counted turns: real ones and with padding, by side; from the case, the workload and what
            the sides said of each turn.
        limits: least seconds of each phase of one turn; from the case, shape, workload, what ours said of that turn,
            its number and the machine's rates.
        training: the phases whose share of the limit is the benchmark's.
        peer_path: a folder that has the peer's own version of its packages, or None.
    """

    name: str
    peer: str
    flags: tuple[str, ...]
    workload: Callable[[Case], Workload]
    tokens: Callable[[Case, Workload, str, Sequence[Numbers]], tuple[int, int]]
    limits: Callable[[Case, Shape, Workload, Numbers, int, Rates], Mapping[str, float]]
    training: tuple[str, ...]
    peer_path: Path | None = None


class Worker:
    """The parent's end of a side's process."""

    def __init__(self, benchmark: Benchmark, side: str, folder: Path):
        self.side = side
        self.errors = folder / f"{side}.log"
        environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        path = [str(benchmark.peer_path)] if side == "peer" and benchmark.peer_path else []
        earlier = filter(None, [os.environ.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join([*path, str(ROOT), *earlier])
        command = [sys.executable, "-m", "benchmarks.worker", benchmark.name, side, str(folder)]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def turn(self) -> Numbers:
        """Run one repeat: its seconds and what the worker says of it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self.answer()

    def answer(self) -> Numbers:
        """The worker's next line.

        Raises:
            SystemExit: it has ended; with the end of what it said.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._fail()
        numbers: Numbers = json.loads(line)
        return numbers

    def _fail(self) -> None:
        status = self.process.wait()
        raise SystemExit(f"{self.errors.read_text()[-3000:]}\nerror: {self.side} ended with status {status}; see above")


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> None:
    """The command: measure, print a table, write the numbers."""
    request = read_flags(benchmark.name, benchmark.flags, sys.argv[1:] if argv is None else argv)
    if request.with_peer and benchmark.peer_path and not (benchmark.peer_path / "trl").is_dir():
        raise SystemExit(f"error: {benchmark.peer} is not in {benchmark.peer_path}: run `make benchmark-peers`")
    try:
        result = growth(benchmark, request) if request.growth else compare(benchmark, request)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if request.json_file is not None:
        request.json_file.parent.mkdir(parents=True, exist_ok=True)
        request.json_file.write_text(json.dumps(result, indent=1) + "\n")
    print(growth_table(result) if request.growth else table(result))


def compare(benchmark: Benchmark, request: Request) -> Numbers:
    """Measure ours and, if asked for, the peer; all numbers of the protocol."""
    case = request.case
    shape, work = shape_of(case), benchmark.workload(case)
    sides = ["ours", "peer"] if request.with_peer else ["ours"]
    said, ends, rates = take_turns(benchmark, case, work, shape, sides)
    rows = benchmark.tokens(case, work, "ours", said["ours"])[0] // case.repeats
    result: Numbers = {
        "name": benchmark.name,
        "case": dataclasses.asdict(case),
        "ours": side_numbers(benchmark, case, work, "ours", said["ours"], ends["ours"]),
    }
    if request.with_peer:
        result["peer"] = {
            "name": f"{benchmark.peer}, {case.peer_settings} settings",
            **side_numbers(benchmark, case, work, "peer", said["peer"], ends["peer"]),
        }
        result |= ratios(result["ours"], result["peer"])
    result["phases"] = phases(benchmark, case, shape, work, said["ours"], ends["ours"], rates)
    result["limit_share"] = limit_share(result["phases"], benchmark.training)
    result["machine"] = describe(case, shape, rates, rows) | {"trl": {side: ends[side]["trl"] for side in sides}}
    result["command"] = request.command
    return result


def take_turns(
    benchmark: Benchmark, case: Case, work: Workload, shape: Shape, sides: Sequence[str]
) -> tuple[dict[str, list[Numbers]], dict[str, Numbers], Rates]:
    """Run the sides in turn, the first of a pair of repeats changing: what each said of its counted repeats, and last.

    The rates are measured before and after the counted repeats, while the workers wait.
    """
    said: dict[str, list[Numbers]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "case.json").write_text(json.dumps(dataclasses.asdict(case)))
        work.save(folder / "workload.json")
        workers = [Worker(benchmark, side, folder) for side in sides]
        try:
            for worker in workers:
                progress(f"{worker.side}: loads and warms up")
                worker.turn()
            progress("the machine's rates")
            tokens = sum(group.num_tokens for group in work.steps[0])
            before = measure_rates(case, shape, tokens)
            for repeat in range(1, case.turns):
                for worker in workers if repeat % 2 else reversed(workers):
                    said[worker.side].append(worker.turn())
                seconds = ", ".join(f"{side} {said[side][-1]['seconds']:.2f} s" for side in sides)
                progress(f"repeat {repeat} of {case.turns - 1}: {seconds}")
            ends = {worker.side: worker.answer() for worker in workers}
            progress("the machine's rates again")
            rates = before.best(measure_rates(case, shape, tokens))
        finally:
            for worker in workers:
                worker.__exit__()
    return said, ends, rates


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def side_numbers(
    benchmark: Benchmark, case: Case, work: Workload, side: str, said: Sequence[Numbers], end: Numbers
) -> Numbers:
    """What one side measured; tokens are the mean of a repeat."""
    seconds = [turn["seconds"] for turn in said]
    tokens, padded = (count / len(said) for count in benchmark.tokens(case, work, side, said))
    median = statistics.median(seconds)
    return {
        "median_s": median,
        "peak_gb": end["peak_gb"],
        "tokens": tokens,
        "padded_tokens": padded,
        "tokens_per_s": tokens / median,
        "seconds": seconds,
        **{name: end[name] for name in ("settings", "response_lengths") if name in end},
        **({"phases": end["phases"]} if side == "peer" and "phases" in end else {}),
    }


def ratios(ours: Numbers, peer: Numbers) -> Numbers:
    """Peer over ours in time, repeat by repeat, and ours over the peer in memory."""
    each = [theirs / own for own, theirs in zip(ours["seconds"], peer["seconds"], strict=True)]
    low, high = quartiles(each)
    median = statistics.median(each)
    return {
        "ratio_time": median,
        "ratio_time_quartiles": [low, high],
        "ratio_time_spread": (high - low) / median,
        "ratio_memory": ours["peak_gb"] / peer["peak_gb"],
    }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, both ends counted in."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def phases(
    benchmark: Benchmark,
    case: Case,
    shape: Shape,
    work: Workload,
    said: Sequence[Numbers],
    end: Numbers,
    rates: Rates,
) -> dict[str, Numbers]:
    """Of each phase the median seconds, the median of the least seconds that the rates allow, and their ratio."""
    # a trainer that logs its phases gives them at the end, the warm-up's first
    measured = end["phases"][1:] if "phases" in end else [turn["phases"] for turn in said]
    least = [benchmark.limits(case, shape, work, turn, step, rates) for step, turn in enumerate(said, start=1)]
    result = {}
    for name in measured[0]:
        seconds = statistics.median(turn[name] for turn in measured)
        numbers: Numbers = {"seconds": seconds}
        if name in least[0]:
            limit = statistics.median(turn[name] for turn in least)
            numbers |= {"limit_s": limit, "limit_share": limit / seconds}
        result[name] = numbers
    return result


def limit_share(phases: Mapping[str, Numbers], training: Sequence[str]) -> float:
    """Share of the limit of the training phases together."""
    chosen = [phases[name] for name in training]
    return sum(phase["limit_s"] for phase in chosen) / sum(phase["seconds"] for phase in chosen)


# ---- growth -------------------------------------------------------------------------------------------------


def growth(benchmark: Benchmark, request: Request) -> Numbers:
    """Ours alone over a 16-fold range of tokens, and the exponents of time in it."""
    assert request.growth is not None
    shape = shape_of(request.case)
    points = []
    for factor in GROWTH_FACTORS:
        case = scaled(request.case, factor, request.growth)
        work = benchmark.workload(case)
        said, ends, _ = take_turns(benchmark, case, work, shape, ["ours"])
        counted, profiled = said["ours"][:-1], said["ours"][-1]
        points.append(
            {
                "tokens": side_numbers(benchmark, case, work, "ours", counted, ends["ours"])["tokens"],
                "seconds": statistics.median(turn["seconds"] for turn in counted),
                "linear_s": profiled["linear_s"],
                "peak_gb": ends["ours"]["peak_gb"],
            }
        )
    return {
        "name": benchmark.name,
        "case": dataclasses.asdict(request.case),
        "growth": request.growth,
        "points": points,
        "exponent": exponent(points, "seconds"),
        "linear_exponent": exponent(points, "linear_s"),
        "command": request.command,
    }


def scaled(case: Case, factor: float, growth: str) -> Case:
    """The case with `factor` times the tokens, by longer sequences or by more prompts."""
    names = ("prompt_length", "response_length") if growth == "length" else ("batch",)
    sizes = {name: getattr(case, name) * factor for name in names}
    if any(size < 1 or size != int(size) for size in sizes.values()):
        raise ValueError(f"growth needs {' and '.join(names)} in multiples of 4: found {sizes}")
    whole: dict[str, Any] = {name: int(size) for name, size in sizes.items()}
    return dataclasses.replace(case, profile=True, **whole)


def exponent(points: Sequence[Mapping[str, float]], name: str) -> float:
    """Slope of the least-squares line of log time over log tokens."""
    x = [math.log(point["tokens"]) for point in points]
    y = [math.log(point[name]) for point in points]
    return statistics.linear_regression(x, y).slope


# ---- tables -------------------------------------------------------------------------------------------------


def table(result: Numbers) -> str:
    """The numbers in Markdown."""
    sides = [name for name in ("ours", "peer") if name in result]
    headings = ["ours", result["peer"]["name"]] if "peer" in result else ["ours"]
    lines = [f"| {result['name']} | {' | '.join(headings)} |", "|---|" + "---|" * len(sides)]
    for label, name, digits in (
        ("seconds, median", "median_s", 3),
        ("peak memory, GB", "peak_gb", 2),
        ("tokens", "tokens", 0),
        ("with padding", "padded_tokens", 0),
        ("tokens a second", "tokens_per_s", 0),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{result[side][name]:.{digits}f}" for side in sides) + " |")
    if "peer" in result:
        low, high = result["ratio_time_quartiles"]
        lines += ["", f"time, peer over ours: {result['ratio_time']:.2f} (quartiles {low:.2f} to {high:.2f})"]
        lines.append(f"memory, ours over peer: {result['ratio_memory']:.2f}")
        if result["ratio_time_spread"] > NOISY:
            lines.append(f"noisy: the ratio's quartiles lie {result['ratio_time_spread']:.0%} of it apart")
    lines += ["", "| phase | seconds | least seconds | share of the limit |", "|---|---|---|---|"]
    for name, phase in result["phases"].items():
        known = f"{phase['limit_s']:.3f} | {phase['limit_share']:.2f}" if "limit_s" in phase else "|"
        lines.append(f"| {name} | {phase['seconds']:.3f} | {known} |")
    return "\n".join([*lines, "", f"share of the limit in training: {result['limit_share']:.2f}"])


def growth_table(result: Numbers) -> str:
    """The growth in Markdown."""
    lines = ["| tokens | seconds | of them in matrix products | peak memory, GB |", "|---|---|---|---|"]
    for point in result["points"]:
        lines.append(
            f"| {point['tokens']:.0f} | {point['seconds']:.3f} | {point['linear_s']:.3f} | {point['peak_gb']:.2f} |"
        )
    whole, linear = result["exponent"], result["linear_exponent"]
    return "\n".join([*lines, "", f"exponent of time in tokens: {whole:.2f}; of the matrix products: {linear:.2f}"])
