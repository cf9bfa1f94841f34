"""Checkpoints that an exact resume can trust: written aside, verified by hash, without pickles or backbone weights.

A checkpoint holds adapters, heads, optimiser state, schedule, random states and the trainer's state. It is
complete when its manifest is there; the manifest is written last and the folder gets its name after that.
DeepSpeed keeps its optimiser state in a form of its own inside the same folder.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rlhf.training.run_folder import hash_file

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint_manifest.json"
PREFIX = "checkpoint-"


def seal_checkpoint(folder: Path) -> None:
    """Bring a checkpoint's files to the disk and write its manifest: from then on it counts as complete."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _fsync(path)
        digests[path.relative_to(folder).as_posix()] = hash_file(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": digests}, indent=1))
    _fsync(manifest)
    for directory in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _fsync(directory)  # the names of new files are kept there


def finish_checkpoint(staged: Path, final: Path) -> None:
    """Seal a checkpoint written to `staged` and give it its name `final`."""
    seal_checkpoint(staged)
    if final.exists():
        shutil.rmtree(final)
    os.replace(staged, final)
    _fsync(final.parent)


def verify_checkpoint(folder: Path) -> None:
    """Raise ValueError naming what is missing or damaged."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(f"{folder} is no complete checkpoint: it has no {MANIFEST}; resume from another one")
    try:
        digests = json.loads(manifest.read_text())["files"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{manifest} is damaged: resume from another checkpoint") from error
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or hash_file(path) != digest:
            raise ValueError(f"{path} is missing or damaged: resume from another checkpoint")


def find_checkpoint(output_dir: Path, requested: str) -> Path:
    """The checkpoint that `--resume_from_checkpoint` names: a folder, or `latest` for the newest intact one.

    Raises:
        ValueError: there is none.
    """
    if requested != "latest":
        folder = Path(requested)
        verify_checkpoint(folder)
        if not folder.name.removeprefix(PREFIX).isdigit():
            raise ValueError(f"resume_from_checkpoint is {folder}: its name states no step, such as {PREFIX}100")
        return folder
    problems = []
    for folder in sorted(checkpoints_in(output_dir), key=step_of, reverse=True):
        try:
            verify_checkpoint(folder)
        except ValueError as error:
            logger.warning("%s; trying the one before", error)
            problems.append(str(error))
            continue
        if problems:
            print(f"resuming from {folder}: {'; '.join(problems)}", file=sys.stderr)
        return folder
    reason = "; ".join(problems) or f"no {PREFIX}* folder there"
    raise ValueError(f"{output_dir} holds no intact checkpoint to resume from: {reason}")


def checkpoints_in(output_dir: Path) -> list[Path]:
    """Folders named like checkpoints, in no order."""
    return [path for path in output_dir.glob(f"{PREFIX}*") if path.is_dir() and path.name[len(PREFIX) :].isdigit()]


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name states."""
    return int(folder.name[len(PREFIX) :])


def rotate(output_dir: Path, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints; None keeps all."""
    if keep is None:
        return
    for folder in sorted(checkpoints_in(output_dir), key=step_of)[: -max(keep, 1)]:
        shutil.rmtree(folder)


def set_aside_later(output_dir: Path, step: int) -> None:
    """Rename checkpoints after `step`, from which a run goes on: they belong to a course that was given up.

    Left as they are, they would count as the newest, and `rotate` would delete what the resumed run saves.
    """
    for folder in checkpoints_in(output_dir):
        if step_of(folder) > step:
            aside = folder.with_name(f"abandoned-{folder.name}")
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)


def save_optimizer(folder: Path, optimizer: torch.optim.Optimizer, names: dict[torch.Tensor, str]) -> None:
    """Write an optimiser's state: tensors by parameter name, settings of its groups as JSON."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            target = tensors if isinstance(value, torch.Tensor) else plain
            target[f"{names[parameter]}::{key}"] = value.contiguous() if isinstance(value, torch.Tensor) else value
    groups = [
        {**{k: v for k, v in group.items() if k != "params"}, "params": [names[p] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps({"groups": groups, "state": plain}, indent=1))


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, names: dict[torch.Tensor, str]) -> None:
    """Read what `save_optimizer` wrote into an optimiser over parameters of the same names.

    Raises:
        ValueError: the parameters are not the ones that were saved.
    """
    saved = json.loads((folder / "optimizer.json").read_text())
    here = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    if here != [group["params"] for group in saved["groups"]]:
        raise ValueError(f"{folder}: the optimiser state is of other parameters; resume with the settings of that run")
    by_name = {names[p]: p for group in optimizer.param_groups for p in group["params"]}
    for group, settings in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({key: _as_saved(group.get(key), value) for key, value in settings.items() if key != "params"})
    optimizer.state.clear()
    for key, value in {**saved["state"], **load_file(folder / "optimizer.safetensors")}.items():
        name, _, field = key.rpartition("::")
        if isinstance(value, torch.Tensor) and field != "step":
            value = value.to(by_name[name].device)
        optimizer.state[by_name[name]][field] = value


def _as_saved(current: Any, value: Any) -> Any:
    # JSON has no tuples, optimisers compare some settings (betas) by unpacking
    return tuple(value) if isinstance(current, tuple) else value


def save_random_states(folder: Path, process_index: int) -> None:
    """Write the states of Python's, NumPy's and torch's generators of this process."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    plain = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"random_{process_index}.safetensors")
    (folder / f"random_{process_index}.json").write_text(json.dumps(plain))


def load_random_states(folder: Path, process_index: int) -> None:
    """Restore what `save_random_states` wrote; a process that was not there then keeps its own."""
    path = folder / f"random_{process_index}.json"
    if not path.is_file():
        return
    plain = json.loads(path.read_text())
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    tensors = load_file(folder / f"random_{process_index}.safetensors")
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
