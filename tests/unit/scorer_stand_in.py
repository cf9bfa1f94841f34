"""A scorer's server that answers as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server says: a status, a body (text as it is, anything else as JSON), headers, seconds to wait."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    drip: float = 0.0


class StandIn:
    """A scorer's server; answers by a function of the request's body and its number."""

    def __init__(self, answer: Callable[[dict, int], Answer]):
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.released = threading.Event()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.requests.append(body)
                stand_in.keys.append(self.headers["Authorization"])
                said = answer(body, len(stand_in.requests))
                stand_in.released.wait(said.wait)
                text = said.body if isinstance(said.body, str) else json.dumps(said.body)
                try:
                    self.send_response(said.status)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    for letter in [text] if not said.drip else text:
                        self.wfile.write(letter.encode())
                        stand_in.released.wait(said.drip)
                except OSError:
                    pass  # the client had enough

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def lengths(body: dict, number: int = 0) -> Answer:
    return Answer({"scores": [len(response) for response in body["responses"]]})


def brevity(prompts: list[list[dict[str, str]]], responses: list[str]) -> list[int]:
    """A scorer in Python: the shorter, the better."""
    return [-len(response) for response in responses]
