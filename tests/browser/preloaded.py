"""What a server imports before it serves: imported once, in the process that servers are forked from."""

from __future__ import annotations

import importlib

from annotation.judge_page import gradio
from tests.processes import assert_one_thread

gradio()
for name in ("annotation.app", "annotation.admin_page", "annotation.command", "rlhf.cli"):
    importlib.import_module(name)
assert_one_thread()
