"""The annotation app over HTTP: signing in, the judge page, and the REST interface that the page works through.

Handlers are plain functions: they run in a thread pool, and all state is in the store.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import Route
from starlette.types import Scope

from annotation.guard import Guard
from annotation.judge_page import PATH, JudgePage
from annotation.records import (
    AnnotationError,
    Annotator,
    Card,
    InvalidName,
    Judgment,
    NotHeld,
    UnknownItem,
)
from annotation.routes.access import Service, SignedIn, cookie_name, visitor
from annotation.service import AnnotationService
from annotation.store import StoreUnavailable
from rlhf import __version__

STATIC = Path(__file__).parent / "static"
RETRY_AFTER = {"Retry-After": "1"}
MAX_ITEMS = 100  # named in one request
MAX_RESPONSES = 64

pages = APIRouter()
work = APIRouter()

Client = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$", description="the browser tab's id")]
ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
RequestId = Annotated[
    str,
    Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", description="a UUID; resending is harmless"),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    client: Client


class NextRequest(_Body):
    exclude: Annotated[list[ItemId], Field(max_length=MAX_ITEMS)] = []


class JudgmentRequest(_Body):
    id: RequestId
    item_id: ItemId
    kind: str
    ranks: Annotated[list[Annotated[int, Field(ge=1, le=MAX_RESPONSES)]], Field(max_length=MAX_RESPONSES)] | None = None
    strength: float | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    active_ms: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class UndoRequest(_Body):
    id: RequestId


class LeasesRequest(_Body):
    item_ids: Annotated[list[ItemId], Field(max_length=MAX_ITEMS)]


class ReleaseRequest(_Body):
    pass


class FreshFiles(StaticFiles):
    """Files that a browser asks for again at each load: a new version of the app is never shown with an old script."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        if Path(path).suffix not in (".js", ".css", ".svg"):
            raise HTTPException(404)
        return await super().get_response(path, scope)


def create_app(service: AnnotationService) -> FastAPI:
    """The whole app. Gradio is imported in the background when the app starts, or at the first visit of its page."""
    page = JudgePage(lambda request: visitor(request, service))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        page.start()
        yield
        await page.stop()

    app = FastAPI(title="rlhf annotate", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Guard)
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.include_router(pages)
    app.include_router(work, prefix="/api/v1")
    app.mount("/static", FreshFiles(directory=STATIC))
    app.router.routes.append(Route(PATH, page, include_in_schema=False))
    app.mount(PATH, page)
    return app


# Signing in and out


@pages.get("/", include_in_schema=False)
def root() -> Response:
    return RedirectResponse(PATH, 303)


@pages.get("/favicon.ico", include_in_schema=False)
def icon() -> Response:
    return FileResponse(STATIC / "icon.svg")


@pages.get("/login", response_class=HTMLResponse)
def login_page() -> Response:
    return _login_form()


@pages.post("/login", response_class=HTMLResponse)
def sign_in(request: Request, service: Service, name: Annotated[str, Form()] = "") -> Response:
    try:
        token = service.sign_in(name)
        # Whoever used this browser before is out.
        _end_session(request, service)
    except InvalidName as error:
        return _login_form(name, str(error), status=422)
    except StoreUnavailable as error:
        return _login_form(name, f"Not signed in: {error}", status=503, headers=RETRY_AFTER)
    response = RedirectResponse(PATH, 303)
    response.set_cookie(cookie_name(service), token, httponly=True, samesite="strict", path="/")
    return response


@pages.post("/logout")
def sign_out(request: Request, service: Service) -> Response:
    _end_session(request, service)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(cookie_name(service), httponly=True, samesite="strict", path="/")
    return response


def _end_session(request: Request, service: AnnotationService) -> None:
    token = request.cookies.get(cookie_name(service))
    if token:
        service.sign_out(token)


def _login_form(name: str = "", error: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    page = Template((STATIC / "login.html").read_text(encoding="utf-8"))
    filled = page.substitute(name=html.escape(name), error=html.escape(error))
    # a name can hold what UTF-8 cannot, and is shown all the same
    return HTMLResponse(filled.encode("utf-8", "replace"), status, headers)


# The work


@work.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@work.post("/next")
def next_card(body: NextRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    card = service.next_card(annotator.id, body.client, exclude=body.exclude)
    return {"card": _card(card), **_state(service, annotator)}


@work.post("/judgments", status_code=201)
def submit(body: JudgmentRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    values = body.model_dump(exclude={"client"})
    values["ranks"] = None if body.ranks is None else tuple(body.ranks)
    saved = service.submit(annotator.id, Judgment(**values))
    return {"saved": asdict(saved), **_state(service, annotator)}


@work.post("/undo")
def undo(body: UndoRequest, annotator: SignedIn, service: Service) -> dict[str, Any]:
    undone = service.undo(annotator.id, body.client, body.id)
    if undone is None:
        return {"undone": None, **_state(service, annotator)}
    previous = {"kind": undone.kind, "ranks": undone.ranks, "strength": undone.strength}
    return {"undone": {"card": _card(undone.card), "previous": previous}, **_state(service, annotator)}


@work.get("/progress")
def progress(annotator: SignedIn, service: Service) -> dict[str, Any]:
    return _state(service, annotator)


@work.post("/leases")
def renew(body: LeasesRequest, annotator: SignedIn, service: Service) -> dict[str, Sequence[str]]:
    return {"held": service.renew(annotator.id, body.client, body.item_ids)}


async def _release_body(request: Request) -> ReleaseRequest:
    """`navigator.sendBeacon` sends its JSON as plain text."""
    try:
        return ReleaseRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


@work.post("/release", status_code=204)
def release(body: Annotated[ReleaseRequest, Depends(_release_body)], annotator: SignedIn, service: Service) -> Response:
    service.release(annotator.id, body.client)
    return Response(status_code=204)


def _card(card: Card | None) -> dict[str, Any] | None:
    return None if card is None else asdict(card)


def _state(service: AnnotationService, annotator: Annotator) -> dict[str, Any]:
    return {"progress": asdict(service.progress(annotator.id)), "annotator": asdict(annotator)}


# What goes wrong


def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # the input is left out: it may be large, and need not be JSON
    wrong = [
        f"{'.'.join(str(part) for part in item['loc'] if part != 'body')}: {item['msg']}" for item in error.errors()
    ]
    return _json_error(422, "; ".join(wrong[:5]))


def _annotation_error(_: Request, error: Exception) -> Response:
    status = 409 if isinstance(error, NotHeld) else 404 if isinstance(error, UnknownItem) else 422
    return _json_error(status, str(error))


def _store_trouble(_: Request, error: Exception) -> Response:
    return _json_error(503, str(error), RETRY_AFTER)


def _unexpected(_: Request, error: Exception) -> Response:
    return _json_error(500, "the server failed at this; its log says why", {"X-Content-Type-Options": "nosniff"})


def _json_error(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    content = detail.encode("utf-8", "replace").decode("utf-8")
    return JSONResponse({"detail": content}, status, headers)


ERROR_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response | Awaitable[Response]]] = {
    RequestValidationError: _validation_error,
    AnnotationError: _annotation_error,
    StoreUnavailable: _store_trouble,
    Exception: _unexpected,
}
