"""What a server imports before it serves: imported once, in the process that servers are forked from."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from annotation.judge_page import gradio

gradio()
for name in ("annotation.app", "annotation.admin_page", "annotation.command", "rlhf.cli"):
    importlib.import_module(name)
THREADS = {Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")}
# what a thread holds at a fork is never let go; the allocator of pyarrow lets go before
assert len(THREADS - {"jemalloc_bg_thd"}) == 1, THREADS
