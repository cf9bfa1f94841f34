"""The annotation app as a process: a socket, a server, an orderly end."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from annotation.accounts import Accounts
from annotation.api import create_app
from annotation.judge_page import check_environment
from annotation.public_site import LOOPBACK_ONLY, Site
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


def serve(
    store: Store,
    *,
    host: str,
    port: int,
    accounts: Accounts | None = None,
    site: Site = LOOPBACK_ONLY,
    tls: tuple[str, str] | None = None,
) -> None:
    """Serve the annotation app until SIGINT or SIGTERM; what was acknowledged is in the store at any moment.

    Prints one line with the address as soon as it listens.

    Args:
        store: where everything is kept; closed at the end.
        host: the address to listen on.
        port: 0 takes any free one.
        accounts: who may come in; none for the open mode.
        site: how browsers reach the app.
        tls: files of a certificate and its key, where the app itself speaks TLS.

    Raises:
        ValueError: the port is taken or not allowed, the certificate cannot be used, or the environment would open the
            app to its visitors.
    """
    check_environment()
    certificate, key = tls or (None, None)
    if certificate and key:
        check_certificate(certificate, key)
    listener = listen(host, port)
    service = AnnotationService(store, accounts=accounts)
    config = uvicorn.Config(
        create_app(service, site),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,  # the app itself does, for those it was told of
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    address = f"[{host}]" if ":" in host else host
    here = f"{'https' if tls else 'http'}://{address}:{listener.getsockname()[1]}"
    url = f"{site.public_url} at {here}" if site.public_url else here
    num_items = service.num_items()
    items = (
        "1 item" if num_items == 1 else f"{num_items} items" if num_items else "empty: rlhf annotate import fills it"
    )
    try:
        Server(config, f"annotate: {url}  ({store.address}; {items}; Ctrl-C stops)").run(sockets=[listener])
    finally:
        listener.close()
        store.close()


def check_certificate(certificate: str, key: str) -> None:
    """Raises:
    ValueError: the files are not there, or are no certificate and its key.
    """
    try:
        # nobody is there to be asked for a passphrase
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except FileNotFoundError as error:
        missing = next(file for file in (certificate, key) if not Path(file).is_file())
        raise ValueError(f"tls file {missing} is not there; name the certificate and its key as PEM") from error
    except (ssl.SSLError, OSError) as error:
        fix = "give a certificate with its chain and its key as PEM, the key without a passphrase"
        raise ValueError(f"tls_certificate {certificate} and tls_key {key} cannot be used ({error}); {fix}") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket to listen on.

    Raises:
        ValueError: it cannot be had, such as a port in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; give another one with --port") from error
        raise ValueError(f"cannot listen on port {port} of {host} ({error.strerror}); give another one") from error
    # Connections inherit it. asyncio sets it on sockets that it makes itself only: without, the second of two packets
    # waits for the receipt of the first, for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
