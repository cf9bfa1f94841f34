"""Training data by file or by its name on the hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.data.comparisons import ReadReport

Record = TypeVar("Record")
Reader = Callable[..., tuple[list[Record], ReadReport]]

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def is_hub_name(name: str) -> bool:
    """Whether a name is `organisation/name` or `organisation/name:split` and no local file or file name."""
    looks_like_a_file = Path(name).suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt")
    return bool(HUB_NAME.fullmatch(name)) and not looks_like_a_file and not Path(name).exists()


def read_files_or_hub(
    names: Sequence[str], read: Reader[Record], *, field: str, skip_bad_lines: bool = False
) -> list[Record]:
    """Read local files and hub data sets with one reader, and print what it left out.

    Args:
        names: files, or hub data sets as `organisation/name` or `organisation/name:split`.
        read: `read_comparisons` or `read_demonstrations`.
        field: the argument that named them, for messages.
        skip_bad_lines: leave bad lines out and report them.

    Raises:
        ValueError: nothing was named, a data set cannot be had, or the data is bad.
    """
    if not names:
        raise ValueError(f"{field} is missing: name one or more JSON Lines files with --{field}")
    with tempfile.TemporaryDirectory() as folder:
        files = [
            fetch(name, Path(folder) / str(number)) if is_hub_name(name) else name for number, name in enumerate(names)
        ]
        records, report = read(files, skip_bad_lines=skip_bad_lines)
    if report.num_bad:
        print(report)
    return records


def fetch(name: str, folder: Path) -> str:
    """Write a hub data set's rows to a file in a folder, so that a bad row is reported by line like any other.

    Raises:
        ValueError: the data set cannot be had.
    """
    from datasets import load_dataset

    dataset, _, split = name.partition(":")
    try:
        rows = load_dataset(dataset, split=split or "train")
    except Exception as error:  # the library raises many kinds, offline, missing and gated among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"data set {name!r} is no local file and could not be had from the hub ({reason})") from error
    folder.mkdir()
    path = folder / f"{dataset.replace('/', '--')}.jsonl"
    rows.to_json(path, force_ascii=False)
    return str(path)
