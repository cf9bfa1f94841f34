"""The annotation app over HTTP: signing in, the judge page, and the REST interface that the page works through.

Handlers are plain functions: they run in a thread pool, and all state is in the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from annotation.accounts import AccountError
from annotation.admin_page import ADMIN_PATH, AdminPage
from annotation.dashboard import Dashboard
from annotation.guard import Guard
from annotation.judge_page import PATH, JudgePage
from annotation.managing import Archives
from annotation.public_site import LOOPBACK_ONLY, Site
from annotation.records import AnnotationError, NotHeld, TooLong, UnknownItem
from annotation.routes import accounts
from annotation.routes.access import visitor
from annotation.routes.live import router as live
from annotation.routes.manage import router as managing
from annotation.routes.work import router as annotator_work
from annotation.service import AnnotationService
from annotation.store import StoreUnavailable
from rlhf import __version__

STATIC = Path(__file__).parent / "static"
RETRY_AFTER = {"Retry-After": "1"}

pages = APIRouter()
work = APIRouter()


class Refusal(BaseModel):
    """What the REST interface answers where it does not do what was asked.

    Attributes:
        detail: why, in words.
        final: the same request would be refused again. A proxy in between does not say so.
    """

    detail: str
    final: bool = False


REFUSALS: dict[int | str, dict[str, Any]] = {"default": {"model": Refusal, "description": "Not done"}}


class FreshFiles(StaticFiles):
    """Files that a browser asks for again at each load: a new version of the app is never shown with an old script."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        if Path(path).suffix not in (".js", ".css", ".svg", ".json"):
            raise HTTPException(404)
        return await super().get_response(path, scope)


def create_app(service: AnnotationService, site: Site = LOOPBACK_ONLY) -> FastAPI:
    """The whole app. Gradio is imported in the background when the app starts, or at the first visit of its page.

    Args:
        service: the work, and the accounts.
        site: how browsers reach it.
    """
    page = JudgePage(lambda request: visitor(request, service))
    dashboard = Dashboard(service.store, clock=service.clock)
    archives = Archives(service.store, clock=service.clock)
    admin_page = AdminPage(service, dashboard, archives, public_url=site.public_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        page.start()
        yield
        await page.stop()
        await admin_page.stop()
        archives.close()

    app = FastAPI(title="rlhf annotate", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.state.site = site
    app.state.dashboard = dashboard
    app.state.archives = archives
    app.state.hashing = accounts.hashing_threads()
    app.add_middleware(Guard, site=site)
    if site.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(site.trusted_proxies))
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.include_router(pages)
    app.include_router(accounts.pages)
    for router in (accounts.admin, work, annotator_work, managing, live):
        app.include_router(router, prefix="/api/v1", responses=REFUSALS)
    app.mount("/static", FreshFiles(directory=STATIC))
    for path, shown in ((PATH, page), (ADMIN_PATH, admin_page)):
        app.router.routes.append(Route(path, shown, include_in_schema=False))
        app.mount(path, shown)
    return app


# Where one begins


@pages.get("/", include_in_schema=False)
def root() -> Response:
    return RedirectResponse(PATH, 303)


@pages.get("/favicon.ico", include_in_schema=False)
def icon() -> Response:
    return FileResponse(STATIC / "icon.svg")


# Whether it lives


@work.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


# What goes wrong


def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # the input is left out: it may be large, and need not be JSON
    wrong = [
        f"{'.'.join(str(part) for part in item['loc'] if part != 'body')}: {item['msg']}" for item in error.errors()
    ]
    too_long = any(item["type"] == "string_too_long" for item in error.errors())
    return _json_error(413 if too_long else 422, "; ".join(wrong[:5]), final=True)


def _account_error(_: Request, error: Exception) -> Response:
    status, headers = accounts.status_of(error)
    return _json_error(status, str(error), headers)


def _annotation_error(_: Request, error: Exception) -> Response:
    statuses = {NotHeld: 409, UnknownItem: 404, TooLong: 413}
    status = next((status for kind, status in statuses.items() if isinstance(error, kind)), 422)
    return _json_error(status, str(error), final=True)


def _store_trouble(_: Request, error: Exception) -> Response:
    return _json_error(503, str(error), RETRY_AFTER)


def _unexpected(_: Request, error: Exception) -> Response:
    return _json_error(500, "the server failed at this; its log says why", {"X-Content-Type-Options": "nosniff"})


def _json_error(status: int, detail: str, headers: dict[str, str] | None = None, *, final: bool = False) -> Response:
    content = Refusal(detail=detail.encode("utf-8", "replace").decode("utf-8"), final=final)
    return JSONResponse(content.model_dump(), status, headers)


ERROR_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response | Awaitable[Response]]] = {
    RequestValidationError: _validation_error,
    AccountError: _account_error,
    AnnotationError: _annotation_error,
    StoreUnavailable: _store_trouble,
    Exception: _unexpected,
}
