"""The socket that the app listens on."""

from __future__ import annotations

import socket

import pytest

from annotation.app import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_waits_for_no_receipt(host: str) -> None:
    try:
        listener = listen(host, 0)
    except ValueError as error:
        pytest.skip(str(error))
    with listener, socket.create_connection(listener.getsockname()[:2]), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
