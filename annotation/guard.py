"""What every request passes before a route sees it: who may ask, from where, and how much.

The app has no address but this machine's own: a request that names another host comes from a page that made its
name point here (DNS rebinding). A state change must come from a page of ours, if it comes from a page.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1_000_000  # bytes
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

# Gradio's files, each named by the hash of its content
HASHED_FILES = "/annotate/assets/"
FOREVER = "private, max-age=31536000, immutable"

_POLICY = (
    "default-src 'self'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
# Gradio starts with inline scripts and compiles the constant template of its HTML component.
GRADIO_POLICY = _POLICY.format(scripts=" 'unsafe-inline' 'unsafe-eval'")
STRICT_POLICY = _POLICY.format(scripts="")


class Guard:
    """ASGI middleware: loopback hosts only, own origin on state changes, bounded bodies, security headers.

    Answers 421 to a foreign host, 403 to a foreign origin and 413 to a body over `MAX_BODY`, declared or chunked.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(scope, send)
        refusal = _refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        body = await _read(Headers(scope=scope), receive)
        if body is None:
            detail = f"the request is larger than {MAX_BODY} bytes"
            await _error(413, detail, {"connection": "close"})(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine by definition and not by a lookup."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(method: str, headers: Headers) -> JSONResponse | None:
    host = headers.get("host", "")
    if not is_loopback(_hostname(f"//{host}")):
        return _error(421, "this server answers on loopback names only: use http://127.0.0.1 or http://localhost")
    if method in SAFE_METHODS:
        return None
    # A program sends neither header; a browser sends at least one with every state change.
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None and site in ("same-origin", "none"):
        return None
    if origin is not None and _is_origin_of(origin, host):
        return None
    return _error(403, "the request came from a page of another origin")


def _is_origin_of(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body, None if it is too large. Nothing here is large, so routes need not stream."""
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > MAX_BODY:
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(scope: Scope, send: Send) -> Send:
    path = scope["path"]
    policy = GRADIO_POLICY if path == "/annotate" or path.startswith("/annotate/") else STRICT_POLICY

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = policy
            headers["x-content-type-options"] = "nosniff"
            # With no-referrer a browser sends `Origin: null` with our own forms.
            headers["referrer-policy"] = "same-origin"
            lasting = path.startswith(HASHED_FILES) and message["status"] in (200, 304)
            headers.setdefault("cache-control", FOREVER if lasting else "no-store")
        await send(message)

    return sending


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
