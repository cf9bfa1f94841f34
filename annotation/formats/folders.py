"""The data files of a folder: one saved by `datasets`, or one of Parquet, JSON Lines, JSON and CSV files.

Nothing in a folder is run, and nothing is fetched: scripts, pickles and everything else are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from rlhf.data.json_lines import DataError

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
# How `datasets` and the hub name the parts of a split: train-00000-of-00002.parquet, some with a hash behind.
PART = re.compile(r"(?P<split>.+?)-[0-9]{5}-of-[0-9]{5}(-[0-9a-f]+)?", re.ASCII)
SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "settings.json")


def folder_files(folder: str, split: str | None) -> list[str]:
    """The data files of a folder, in order; of one split, which must be named where there are several.

    Raises:
        DataError: the folder holds no data, other splits, or several and none was named.
    """
    root = Path(folder)
    if (root / "dataset_dict.json").is_file():
        names = _described(root / "dataset_dict.json").get("splits")
        known = [name for name in names if _is_name(name)] if isinstance(names, list) else []
        return _saved_files(root / _chosen(folder, known, split))
    if (root / "state.json").is_file():
        own = _described(root / "state.json").get("_split")
        if split not in (None, own) and own is not None:
            raise DataError(f"{folder}: no split {split!r}; it holds {own!r}")
        return _saved_files(root)
    return _plain_files(root, split)


def _saved_files(root: Path) -> list[str]:
    """The Arrow files that `save_to_disk` lists beside them."""
    state = _described(root / "state.json")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{root}: rows chosen by an index, which old versions of datasets wrote; save it with a new one"
        )
    entries = state.get("_data_files")
    listed = (
        [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )
    names = [name for name in listed if _is_name(name)]
    if not names or len(names) != len(listed):
        raise DataError(f"{root / 'state.json'}: names no files beside it; save the data set again")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(f"{root}: {', '.join(missing)} is missing; copy the folder again")
    return [str(root / name) for name in names]


def _plain_files(root: Path, split: str | None) -> list[str]:
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.name not in DESCRIPTIONS
        and not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not files:
        raise DataError(f"{root}: no data in this folder; name one with files that end with {', '.join(ENDINGS)}")
    splits: dict[str, list[str]] = {}
    for path in files:
        splits.setdefault(_split_of(path), []).append(str(path))
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if "" in splits and split is None:
        found = f"{splits['']} beside the splits {', '.join(name for name in splits if name)}"
        raise DataError(f"{root}: {found}; name a split, or the files one by one")
    return splits[_chosen(str(root), [name for name in splits if name], split)]


def _split_of(path: Path) -> str:
    """The split that a file's name tells, or nothing."""
    part = PART.fullmatch(path.stem)
    if part is not None:
        return part["split"]
    return path.stem if path.stem in SPLITS else ""


def _chosen(folder: str, names: Sequence[str], split: str | None) -> str:
    if not names:
        raise DataError(f"{folder}: no splits in this folder; leave the split out, or save the data set again")
    if split is None and len(names) == 1:
        return names[0]
    if split is None or split not in names:
        found = "splits" if split is None else f"no split {split!r} but"
        raise DataError(f"{folder}: {found} {', '.join(names)}; name one of them as the split")
    return split


def _described(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save the data set again") from None
    return value if isinstance(value, dict) else {}


def _is_name(name: Any) -> TypeGuard[str]:
    """Whether it names something in the folder itself, and nothing outside."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
