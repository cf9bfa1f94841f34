"""Commands as forks of one process that has imported what all of them import: seconds for each are saved.

A fork is a process of its own with arguments, folder, environment, output and exit status of its own. It shares the
seed of hashes with other forks of a session and nothing else that a command could find: random numbers are seeded
anew.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.processes import assert_one_thread

PRELOADED = ("datasets", "pandas", "trl", "rlhf.train_sft", "rlhf.train_dpo", "rlhf.train_ppo", "reward.train_reward")
START_SECONDS = 200


class Nursery:
    """Started with the first command, and anew after one that did not end in time."""

    def __init__(self, root: Path, environment: Mapping[str, str]):
        self.root = root
        self.environment = dict(environment)
        self.process: subprocess.Popen[bytes] | None = None

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether an environment differs from the nursery's in nothing that a module may have read when imported."""
        both = self.environment.items() ^ environment.items()
        return all(name.startswith("RLHF_") for name, _ in both)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS`, that is `-m MODULE ...`, in a fork.

        Raises:
            subprocess.TimeoutExpired: it took longer, and was killed.
        """
        command = [sys.executable, *arguments]
        with tempfile.TemporaryDirectory(prefix="nursery-") as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            request = {"arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment)}
            request |= {"stdout": str(out), "stderr": str(err)}
            process = self._started()
            child = None
            try:
                os.write(process.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
                child = _number(process, START_SECONDS)
                status = _number(process, timeout)
            except BaseException as error:
                if child is not None:
                    os.killpg(child, signal.SIGKILL)
                    with suppress(TimeoutError, EOFError):
                        _number(process, 20)  # it has ended
                # what came too late would be taken for the answer to the next command
                self.close()
                if not isinstance(error, TimeoutError):
                    raise
                said = [path.read_text() if path.exists() else "" for path in (out, err)]
                raise subprocess.TimeoutExpired(command, timeout, *said) from None
            return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())

    def close(self) -> None:
        """End the process that commands are forked from; the next command starts another."""
        if self.process is not None:
            self.process.kill()
            with self.process:  # waits, and closes its pipes
                self.process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        return self.process


def _number(process: subprocess.Popen[bytes], timeout: float) -> int:
    """The next line, a number; read byte by byte, since what a buffer holds is nothing that one could wait for."""
    assert process.stdout is not None
    deadline, line = time.monotonic() + timeout, b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        if not (read := os.read(process.stdout.fileno(), 1)):
            raise EOFError(f"the process that commands are forked from has ended with status {process.wait()}")
        line += read
    return int(line)


def serve() -> None:
    """Fork a process for each line that asks; a fork returns from here as a process of its own would begin."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert_one_thread()
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            return
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def become(request: Mapping[str, Any]) -> None:
    """Run what a fork was made for; its end is the end of the process."""
    import numpy
    import torch

    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        opened = os.open(path, flags if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process lives
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for seed in (random.seed, numpy.random.seed, torch.seed):
        seed()
    option, module, *rest = request["arguments"]
    assert option == "-m"
    sys.argv = [module, *rest]
    sys.path[0] = request["cwd"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
