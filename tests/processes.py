"""What holds for a process that others are forked from."""

from __future__ import annotations

import os
from pathlib import Path


def assert_one_thread() -> None:
    """What a thread holds at a fork is never let go; the allocator of pyarrow lets go before."""
    names = [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1, names
