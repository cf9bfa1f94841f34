"""The judge page: a Gradio Blocks around one HTML component, whose script works through the REST interface.

The component's template is constant, and no Gradio event leads to Python: texts reach the page as JSON and enter it
as text. Gradio takes seconds to import, so it is imported in a thread of its own while the rest already answers.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.records import Annotator
from annotation.store import StoreUnavailable

STATIC = Path(__file__).parent / "static"
PATH = "/annotate"
# All that the page asks Gradio for. The rest of Gradio's routes (uploads, files, its API) does not exist here.
PUBLIC = ("assets/", "static/", "svelte/", "theme.css", "favicon.ico")
PRIVATE = ("", "config")
CHECKED = "rlhf.annotator"  # in the scope of a request whose session is valid
# Gradio keeps the page that is being built in one place for the whole process: what two threads build at once is mixed.
_BUILDING = threading.Lock()

JS_ON_LOAD = "import('/static/judge.js').then((judge) => judge.start(element));"
STYLES = ("judge.css", "screens.css", "rendered.css")
LANGUAGES = ("en", "de")


def _head() -> str:
    """Links to all that the page is made of, so that the browser asks for it at once."""
    styles = [name for name in STYLES if (STATIC / name).exists()]
    scripts = sorted(path.name for path in STATIC.glob("*.js") if path.name != "admin.js")
    return "".join(
        (
            *(f'<link rel="stylesheet" href="/static/{name}">' for name in styles),
            *(f'<link rel="modulepreload" href="/static/{name}">' for name in scripts),
            '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">',
        )
    )


def _words(language: str) -> dict[str, str]:
    """What the page says in a language; its scripts read the same file."""
    return json.loads((STATIC / f"strings.{language}.json").read_text(encoding="utf-8"))


def check_environment() -> None:
    """Raises:
    ValueError: Gradio is not installed, or a variable is set under which it would let visitors rewrite the program.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the annotation app needs gradio: pip install 'rlhf-loop[annotation]'")
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise ValueError("GRADIO_VIBE_MODE is set, which lets visitors edit the app's code; unset it")


def build() -> FastAPI:
    """The page as an app of its own, with every setting said here and none taken from the environment."""
    gr = gradio()
    i18n = gr.I18n(**{language: _words(language) for language in LANGUAGES})
    with gr.Blocks(analytics_enabled=False, title="Annotate", fill_width=True) as blocks:
        gr.HTML(
            html_template=(STATIC / "card.html").read_text(encoding="utf-8"),
            js_on_load=JS_ON_LOAD,
            label=i18n("sheet.label"),
            apply_default_css=False,
            elem_id="judge-page",
        )
    return mounted(gr, blocks, PATH, head=_head(), i18n=i18n)


def mounted(gr: Any, blocks: Any, path: str, *, head: str, i18n: Any, max_file_size: int = 1) -> FastAPI:
    """Blocks as an app of its own at a path. Whoever has their id in the request's scope under `CHECKED` may see it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Where the parent has a list of foreign origins, Gradio brings none of its own; this one is empty.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    return gr.mount_gradio_app(
        app,
        blocks,
        path=path,
        server_name="127.0.0.1",
        root_path="",
        auth_dependency=lambda request: request.scope.get(CHECKED),
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=head,
        i18n=i18n,
        footer_links=[],
        run_history=False,
        show_error=False,
        allowed_paths=[],
        max_file_size=max_file_size,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def gradio() -> Any:
    """Gradio, imported with none of its settings taken from the environment.

    Raises:
        ValueError: as `check_environment`.
    """
    check_environment()
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name != "GRADIO_TEMP_DIR"]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return _import_gradio()


def _import_gradio() -> Any:
    """Gradio without the stubs for editors that it writes into its own folder at each import.

    They take two fifths of the time, and the folder may be read-only.
    """
    if "gradio" in sys.modules or (spec := importlib.util.find_spec("gradio")) is None or spec.loader is None:
        return importlib.import_module("gradio")
    package = importlib.util.module_from_spec(spec)
    sys.modules["gradio"] = package
    try:
        # one module of the package, before the package itself runs and imports all others
        stubs: Any = importlib.import_module("gradio.component_meta")
        stubs.create_or_modify_pyi = lambda *_: None
        spec.loader.exec_module(package)
        return package
    except (ImportError, AttributeError):
        # another version, which is built differently
        for name in [name for name in sys.modules if name.partition(".")[0] == "gradio"]:
            del sys.modules[name]
        return importlib.import_module("gradio")


class JudgePage:
    """ASGI app for all of `PATH`: checks the session, then hands over to Gradio as soon as that is there.

    Another page of Gradio's gives another `build`, and says in `_answer` what may be asked of it.
    """

    def __init__(self, annotator_of: Callable[[Request], Annotator | None], build: Callable[[], FastAPI] = build):
        self._annotator_of = annotator_of
        self._build = build
        self._task: asyncio.Task[None] | None = None
        self._app: asyncio.Future[ASGIApp] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begin to import Gradio; returns at once."""
        if self._task is None:
            self._app = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._serve(self._app))

    async def stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await self._task

    def _built(self) -> FastAPI:
        with _BUILDING:
            return self._build()

    async def _serve(self, ready: asyncio.Future[ASGIApp]) -> None:
        """Hold Gradio's own start and stop in one task."""
        building = asyncio.ensure_future(_in_daemon_thread(self._built))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((building, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not building.done():
            building.cancel()
            ready.cancel()
            return
        try:
            app = building.result()
        except BaseException as error:
            ready.set_exception(error)
            raise
        async with app.router.lifespan_context(app):
            ready.set_result(app)
            await stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        answer = await self._answer(request)
        if answer is None:
            self.start()
            assert self._app is not None
            answer = await asyncio.shield(self._app)
            # Our mount has taken its part off the path, and Gradio's own mount wants to see it.
            scope["root_path"] = scope.get("app_root_path", "")
            # Gradio compresses each file anew at each request, which on this machine alone costs more than it saves.
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp | None:
        """What to answer in place of the page; None where the page may be shown."""
        path = request.url.path.removeprefix(PATH).removeprefix("/")
        if request.method not in ("GET", "HEAD"):
            return JSONResponse({"detail": "the page takes no requests but GET"}, 405, {"allow": "GET, HEAD"})
        if path.startswith(PUBLIC):
            return None
        if path not in PRIVATE:
            return JSONResponse({"detail": "there is no such page"}, 404)
        try:
            annotator = await run_in_threadpool(self._annotator_of, request)
        except StoreUnavailable as error:
            return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})
        if annotator is None:
            return RedirectResponse("/login", 303)
        request.scope[CHECKED] = annotator.id
        return None


async def _in_daemon_thread(function: Callable[[], Any]) -> Any:
    """As `asyncio.to_thread`, but a program that ends does not wait for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    async def called() -> Any:
        return function()

    def settle(value: Any, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)

    def run() -> None:
        try:
            # Where no loop runs, Gradio makes some for its locks, and never closes them.
            outcome: tuple[Any, BaseException | None] = (asyncio.run(called()), None)
        except BaseException as error:
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="judge-page", daemon=True).start()
    return await result
