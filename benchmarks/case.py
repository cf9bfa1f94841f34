"""What one benchmark run measures, and the flags that say so."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# fields that not all benchmarks have a flag for
SOME_ONLY = {"num_responses", "samples_per_prompt", "epochs", "value_model", "rollout_engine", "peer_merged"}
GROWTH_FACTORS = (0.25, 0.5, 1, 2, 4)  # a 16-fold range


def flag(default: Any, help: str, **settings: Any) -> Any:
    return field(default=default, metadata={"help": help, **settings})


@dataclass(frozen=True)
class Case:
    """The settings of one run; everything is in tokens, prompts or responses."""

    benchmark: str
    model: str = flag("smollm2-135m", "smollm2-135m, a folder, a hub name, or random weights of a shape: random:NAME")
    data: str | None = flag(
        None, "JSON Lines with comparisons or prompts, or the name of a set in $RLHF_REAL_DATA/preference"
    )
    prompt_length: int = flag(128, "random token ids in a prompt, without --data")
    response_length: int = flag(64, "random token ids in a response; the longest response where they are sampled")
    num_responses: int = flag(2, "responses to a prompt, all of their pairs compared, without --data")
    batch: int = flag(4, "prompts of a step")
    samples_per_prompt: int = flag(1, "responses sampled to each prompt")
    epochs: int = flag(4, "PPO epochs over a rollout")
    value_model: str = flag("adapter", "value model of our PPO", choices=("adapter", "shared"))
    dtype: str = flag("bfloat16", "type of the frozen weights", choices=tuple(DTYPES))
    lora_r: int = flag(16, "rank of the adapters")
    peer_settings: str = flag("tuned", "how the peer is set up", choices=("tuned", "default"))
    rollout_engine: str = flag("native", "what ours samples with", choices=("native", "transformers", "vllm"))
    peer_merged: bool = flag(False, "merge the adapters of the peer that samples", action="store_true")
    repeats: int = flag(5, "counted repeats, after one to warm up")
    device: str = flag("cuda" if torch.cuda.is_available() else "cpu", "where to run", choices=("cpu", "cuda"))
    seed: int = flag(0, "of the random token ids, the rows drawn from --data, and the adapters")
    profile: bool = False  # one more repeat, under torch.profiler

    @property
    def turns(self) -> int:
        """Repeats with the first, which warms up and is not counted, and the profiled one."""
        return 1 + self.repeats + self.profile

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class Request:
    """A case and what to do with it."""

    case: Case
    with_peer: bool
    growth: str | None
    json_file: Path | None
    command: str


def read_flags(benchmark: str, own_flags: Sequence[str], argv: Sequence[str]) -> Request:
    """Parse the command line of a benchmark.

    Args:
        benchmark: its name.
        own_flags: the fields of `Case` that only some benchmarks have and this one has.

    Raises:
        SystemExit: a flag is not known or its value is not usable.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark}",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--peer", action="store_true", help="measure the peer too, taking turns with ours")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument(
        "--growth", nargs="?", const="length", choices=("length", "batch"), help="fit time against tokens, ours alone"
    )
    others = SOME_ONLY - set(own_flags)
    for entry in fields(Case):
        if entry.name in {"benchmark", "profile"} | others:
            continue
        settings = dict(entry.metadata)
        if "action" not in settings:
            settings["type"] = str if entry.default is None else type(entry.default)
        parser.add_argument(f"--{entry.name}", default=entry.default, **settings)
    values = vars(parser.parse_args(argv))
    request = {name: values.pop(name) for name in ("peer", "json", "growth")}
    if values["data"]:
        values["data"] = str(find_data(parser, values["data"]))
    check(parser, values, request["growth"])
    command = " ".join(["python", "-m", f"benchmarks.{benchmark}", *argv])
    return Request(Case(benchmark, **values), request["peer"], request["growth"], request["json"], command)


def find_data(parser: argparse.ArgumentParser, name: str) -> Path:
    """The file that `--data` names."""
    path = Path(name)
    if not path.is_file() and "RLHF_REAL_DATA" in os.environ:
        path = Path(os.environ["RLHF_REAL_DATA"]) / "preference" / name / "train.jsonl"
    if not path.is_file():
        parser.error(f"--data: {name} is no file; name one, or set RLHF_REAL_DATA to the folder that holds the sets")
    return path


def check(parser: argparse.ArgumentParser, values: dict[str, Any], growth: str | None) -> None:
    for name, value in values.items():
        least = {"seed": 0, "num_responses": 2}.get(name, 1)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            parser.error(f"--{name} is {value}: it must be at least {least}")
    if growth and values["data"]:
        parser.error("--growth needs random token ids of fixed lengths: leave --data out")
    if values["device"] == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and torch sees none")
