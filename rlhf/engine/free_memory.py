"""How many bytes a process may still take on its device."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

# Where a control group of version 2 and 1 keeps its limit, what it uses, and what of that is cache it can drop.
VERSION_2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
VERSION_1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(device: torch.device) -> float | None:
    """Bytes that this process may take of a GPU, or of the host shared with the other processes on it.

    None where the machine does not say.
    """
    try:
        if device.type == "cuda":
            return float(torch.cuda.mem_get_info(device)[0])
        if device.type == "cpu":
            return available_bytes(Path("/")) / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except (OSError, RuntimeError, ValueError):
        return None
    return None


def available_bytes(root: Path) -> float:
    """Linux's own estimate of what can be had without swapping, or what the control groups leave if that is less.

    Raises:
        OSError, ValueError: `root` is not that of a Linux, or its files say something else.
    """
    found = re.search(r"^MemAvailable: *(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{root / 'proc/meminfo'} has no MemAvailable")
    return min(int(found[1]) * 1024.0, *_left_by_groups(root), math.inf)


def _left_by_groups(root: Path) -> Iterator[float]:
    """What each control group above this process leaves of its limit."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, *files = VERSION_1 if controllers else VERSION_2
        # a container sees its own group at the mount, under whatever path the host calls it
        folder = root / mount / path.lstrip("/")
        while folder.is_relative_to(root / mount):
            yield _left_by_group(folder, *files)
            folder = folder.parent


def _left_by_group(folder: Path, limit: str, used: str, cache: str) -> float:
    if not ((folder / limit).exists() and (folder / used).exists()):
        return math.inf
    text = (folder / limit).read_text().strip()
    if not text.isdigit():  # "max"
        return math.inf
    statistics = (folder / "memory.stat").read_text() if (folder / "memory.stat").exists() else ""
    droppable = re.search(rf"^{cache} (\d+)$", statistics, re.MULTILINE)
    return max(0.0, int(text) - int((folder / used).read_text()) + (int(droppable[1]) if droppable else 0))
