"""The annotation app as a process: a socket, a server, an orderly end."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from annotation.api import create_app
from annotation.judge_page import check_environment
from annotation.service import AnnotationService
from annotation.store import Store

SECONDS_TO_FINISH = 3  # for requests that are under way when the server is stopped


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and returns when it is stopped by a signal."""

    def __init__(self, config: uvicorn.Config, greeting: str):
        super().__init__(config)
        self.greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.greeting, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again at the end, and so ends the program; here stopping is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(store: Store, *, host: str, port: int) -> None:
    """Serve the annotation app until SIGINT or SIGTERM; what was acknowledged is in the store at any moment.

    Prints one line with the address as soon as it listens. `port=0` takes any free one.

    Raises:
        ValueError: the port is taken or not allowed, or the environment would open the app to its visitors.
    """
    check_environment()
    listener = _listen(host, port)
    service = AnnotationService(store)
    config = uvicorn.Config(
        create_app(service),
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listener.getsockname()[1]}"
    num_items = service.progress("").total
    items = (
        "1 item" if num_items == 1 else f"{num_items} items" if num_items else "empty: rlhf annotate import fills it"
    )
    try:
        Server(config, f"annotate: {url}  ({store.address}; {items}; Ctrl-C stops)").run(sockets=[listener])
    finally:
        listener.close()
        store.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; give another one with --port") from error
        raise ValueError(f"cannot listen on port {port} of {host} ({error.strerror}); give another one") from error
