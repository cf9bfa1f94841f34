"""The app as its own process, and annotators who work through its REST interface."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 90
PATIENCE_SECONDS = 120


def run_command(action: str, store_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`rlhf annotate ACTION`, in a process of its own."""
    command = [sys.executable, "-m", "rlhf.cli", "annotate", action, "--store", store_url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


class Server:
    """`rlhf annotate` on a store, always on the same port."""

    def __init__(
        self, store_url: str, log: Path, *, flags: Sequence[str] = (), environment: dict[str, str] | None = None
    ):
        self.store_url = store_url
        self.log = log
        self.flags = list(flags)
        self.environment = environment
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and return when it answers."""
        self.process = self.run(["annotate", "--store", self.store_url, "--port", str(self.port), *self.flags])
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise OSError(f"the server does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def run(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """`rlhf ARGUMENTS` as a process that adds to the log what it says."""
        command = [sys.executable, "-m", "rlhf.cli", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment)

    def answers(self) -> bool:
        try:
            # who signed its certificate is not asked: reading all authorities would take longer than the answer
            return httpx.get(f"{self.url}/api/v1/health", timeout=5, verify=False, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """As a power cut would end the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C or a service manager would end it; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=START_SECONDS)


@dataclass
class Annotator:
    """Somebody at the app: keeps asking as the page does, with the same id, until a judgment is acknowledged.

    Attributes:
        acknowledged: ids of judgments that the server said it has.
        seconds: of each submit and of each next, until it was answered for good, however often it was sent.
    """

    url: str
    name: str
    acknowledged: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.client = f"tab-{uuid.uuid4()}"
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.sign_in()

    def __enter__(self) -> Annotator:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def sign_in(self) -> None:
        self._patiently(lambda: self.http.post("/login", data={"name": self.name}))

    def next_card(self) -> dict[str, Any] | None:
        """The next item, None when there is none left."""
        return self.post("next", {"exclude": []}).json()["card"]

    def judge(self, card: dict[str, Any], *, judgment_id: str = "") -> int:
        """Say something of an item; the status of the answer."""
        said = {"id": judgment_id or str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking"}
        count = len(card["responses"])
        answer = self.post("judgments", said | {"ranks": list(range(1, count + 1)), "active_ms": 1500})
        if answer.status_code == 201:
            self.acknowledged.append(said["id"])
        else:
            self.refused += 1
        return answer.status_code

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._patiently(
            lambda: self.http.post(f"/api/v1/{path}", json={"client": self.client, **body}), timed=True
        )

    def _patiently(self, ask: Any, *, timed: bool = False) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_SECONDS
        begun = time.perf_counter()
        while True:
            try:
                answer: httpx.Response = ask()
            except httpx.TransportError:
                answer = httpx.Response(503)
            if answer.status_code != 503:
                if timed:
                    self.seconds.append(time.perf_counter() - begun)
                return answer
            if time.monotonic() > deadline:
                raise OSError(f"{self.name} had no answer for {PATIENCE_SECONDS} s")
            time.sleep(0.1)
