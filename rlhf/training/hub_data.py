"""Preference data by its name on the hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rlhf.data.comparisons import Comparison, read_comparisons

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def is_hub_name(name: str) -> bool:
    """Whether a name is `organisation/name` or `organisation/name:split` and no local file or file name."""
    looks_like_a_file = Path(name).suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt")
    return bool(HUB_NAME.fullmatch(name)) and not looks_like_a_file and not Path(name).exists()


def read_hub_comparisons(name: str) -> list[Comparison]:
    """Read the preference rows of a hub data set; its split is `train` unless the name ends with `:split`.

    Raises:
        ValueError: it cannot be had, or its rows are no comparisons.
    """
    from datasets import load_dataset

    dataset, _, split = name.partition(":")
    try:
        rows = load_dataset(dataset, split=split or "train")
    except Exception as error:  # the library raises many kinds, offline, missing and gated among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"data set {name!r} is no local file and could not be had from the hub ({reason})") from error
    with tempfile.TemporaryDirectory() as folder:
        # through a file, so that a bad row is reported by number like any other
        path = Path(folder) / f"{dataset.replace('/', '--')}.jsonl"
        rows.to_json(path, force_ascii=False)
        return read_comparisons([str(path)])[0]
