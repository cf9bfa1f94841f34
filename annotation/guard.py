"""What every request passes before a route sees it: who may ask, from where, and how much.

The app has this machine's own addresses, and a public one if it is given one: a request that names another host comes
from a page that made its name point here (DNS rebinding). A state change must come from a page of ours, if it comes
from a page.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation.public_site import LOOPBACK_ONLY, Site, hostname, is_loopback

MAX_BODY = 1_000_000  # bytes
# Who is cut off while still sending does not hear why, so this much of a body that is too large is read and dropped.
MOST_DROPPED = 64 * MAX_BODY
# Managers' files. The page looks at the session and at the declared length first, and then reads them piece by piece.
UPLOADS = "/admin/gradio_api/upload"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

GRADIO_PAGES = ("/annotate", "/admin")
# Gradio's files, each named by the hash of its content
HASHED_FILES = tuple(f"{page}/assets/" for page in GRADIO_PAGES)
FOREVER = "private, max-age=31536000, immutable"

_POLICY = (
    "default-src 'self'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
# Gradio starts with inline scripts and compiles the constant template of its HTML component.
GRADIO_POLICY = _POLICY.format(scripts=" 'unsafe-inline' 'unsafe-eval'")
STRICT_POLICY = _POLICY.format(scripts="")
ONE_YEAR = "max-age=31536000"


class Guard:
    """ASGI middleware: known hosts only, own origin on state changes, bounded bodies, security headers.

    Answers 421 to a foreign host, 403 to a foreign origin and 413 to a body over `MAX_BODY`, declared or chunked.
    """

    def __init__(self, app: ASGIApp, site: Site = LOOPBACK_ONLY):
        self.app = app
        self.site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(scope, send, self.site)
        refusal = _refusal(scope["method"], Headers(scope=scope), self.site)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if scope["path"] == UPLOADS:
            await self.app(scope, receive, send)
            return
        body = await _read(Headers(scope=scope), receive)
        if body is None:
            detail = f"the request is larger than {MAX_BODY} bytes"
            await _error(413, detail, {"connection": "close"})(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)


def _refusal(method: str, headers: Headers, site: Site) -> JSONResponse | None:
    host = headers.get("host", "")
    name = hostname(f"//{host}")
    if not is_loopback(name) and not (site.host and name == site.host):
        if site.public_url:
            return _error(421, f"this server answers on its own names only: use {site.public_url}")
        return _error(421, "this server answers on loopback names only: use http://127.0.0.1 or http://localhost")
    if method in SAFE_METHODS:
        return None
    # A program sends neither header; a browser sends at least one with every state change.
    origin, fetch_site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None and fetch_site in ("same-origin", "none"):
        return None
    if origin is not None and origin.lower() in _own_origins(host, name, site):
        return None
    return _error(403, "the request came from a page of another origin")


def _own_origins(host: str, name: str, site: Site) -> tuple[str, ...]:
    """Those of our pages. A proxy on this machine may name loopback as the host, and the browser the public address."""
    own = (f"http://{host}".lower(), f"https://{host}".lower()) if is_loopback(name) else ()
    return (*own, site.public_url) if site.public_url else own


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body, None if it is too large. Nothing here is large, so routes need not stream."""
    declared = headers.get("content-length", "0")
    expected = int(declared) if declared.isdecimal() else MOST_DROPPED
    if expected >= MOST_DROPPED:
        return None
    body, size, more = bytearray(), 0, True
    while more and size < MOST_DROPPED:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if max(size, expected) <= MAX_BODY:
            body += part
        more = message.get("more_body", False)
    return bytes(body) if max(size, expected) <= MAX_BODY else None


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(scope: Scope, send: Send, site: Site) -> Send:
    path = scope["path"]
    inside = any(path == page or path.startswith(f"{page}/") for page in GRADIO_PAGES)
    policy = GRADIO_POLICY if inside else STRICT_POLICY
    # for the public name alone: other programs of this machine may be at localhost without TLS
    is_public = site.secure and bool(site.host) and hostname(f"//{Headers(scope=scope).get('host', '')}") == site.host

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = policy
            headers["x-content-type-options"] = "nosniff"
            # With no-referrer a browser sends `Origin: null` with our own forms.
            headers["referrer-policy"] = "same-origin"
            if is_public:
                headers["strict-transport-security"] = ONE_YEAR
            lasting = path.startswith(HASHED_FILES) and message["status"] in (200, 304)
            headers.setdefault("cache-control", FOREVER if lasting else "no-store")
        await send(message)

    return sending


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
