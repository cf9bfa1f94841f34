"""The managers' page: a Gradio Blocks at /admin, mounted as the judge page is and built at its first visit.

Whether a manager asks is looked up twice: here, before Gradio sees a request, and in every handler. Of Gradio's routes
only those exist that the page needs; files are uploaded, and never served.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp

from annotation import campaigns
from annotation.admin import campaigns_tab, dashboard_tab, data_tab, users_tab
from annotation.admin.desk import Call, Desk
from annotation.admin.words import LANGUAGES, language_of, words_in
from annotation.dashboard import Dashboard
from annotation.judge_page import CHECKED, PUBLIC, JudgePage, gradio, mounted
from annotation.managing import MAX_UPLOAD, Archives
from annotation.records import Annotator
from annotation.routes.access import has_role, visitor
from annotation.routes.forms import Speech, page
from annotation.service import AnnotationService
from annotation.store import StoreUnavailable

ADMIN_PATH = "/admin"
UPLOAD = "gradio_api/upload"
READ = ("", "config", "gradio_api/upload_progress", "gradio_api/heartbeat", "gradio_api/app_id")
WRITTEN = ("gradio_api/run/predict", UPLOAD)
MULTIPART = 10_000  # bytes around an uploaded file
HEAD = (
    '<link rel="stylesheet" href="/static/admin.css"><link rel="stylesheet" href="/static/rendered.css">'
    '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
    '<script type="module" src="/static/admin.js"></script>'
)


class AdminPage(JudgePage):
    """ASGI app for all of `ADMIN_PATH`, for managers."""

    def __init__(self, service: AnnotationService, dashboard: Dashboard, archives: Archives, *, public_url: str = ""):
        build = partial(build_page, service, dashboard, archives, public_url=public_url)
        super().__init__(lambda request: visitor(request, service), build)

    async def _answer(self, request: Request) -> ASGIApp | None:
        """What to answer in place of the page; None where Gradio may."""
        path = request.url.path.removeprefix(ADMIN_PATH).removeprefix("/").removesuffix("/")
        reads = request.method in ("GET", "HEAD")
        if reads and path.startswith(PUBLIC):
            return None
        if path not in (READ if reads else WRITTEN if request.method == "POST" else ()):
            return JSONResponse({"detail": "there is no such page"}, 404)
        try:
            annotator = await run_in_threadpool(self._annotator_of, request)
        except StoreUnavailable as error:
            return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})
        refusal = _refusal(annotator, request, is_page=path == "")
        if refusal is None and annotator is not None:
            request.scope[CHECKED] = annotator.id
        return refusal


def _refusal(annotator: Annotator | None, request: Request, *, is_page: bool) -> ASGIApp | None:
    if annotator is None:
        if is_page:
            return RedirectResponse(f"/login?to={ADMIN_PATH}", 303)
        return JSONResponse({"detail": "you are not signed in, or your session has ended: sign in again"}, 401)
    if not has_role(annotator, "manager"):
        if is_page and "text/html" in request.headers.get("accept", ""):
            return _not_yours(annotator, request)
        return JSONResponse({"detail": f"this is for managers, and you are {annotator.role}: ask one of them"}, 403)
    if request.url.path.endswith(UPLOAD):
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_UPLOAD + MULTIPART:
            return JSONResponse({"detail": f"a file has {MAX_UPLOAD} bytes at most; split it"}, 413)
    return None


def _not_yours(annotator: Annotator, request: Request) -> ASGIApp:
    """The refusal as a page, with ways on."""
    speech = Speech(language_of(request.headers.get("accept-language", "")))
    lead = speech.word("refused.lead", name=annotator.name, role=speech.word(f"role.{annotator.role}"))
    return page("refused.html", speech, {"lead": lead, "error": ""}, 403)


def build_page(
    service: AnnotationService, dashboard: Dashboard, archives: Archives, *, public_url: str = ""
) -> FastAPI:
    """The page as an app of its own, with the settings of `judge_page.mounted`, and none from the environment."""
    gr = gradio()
    i18n = gr.I18n(**{language: dict(words_in(language)) for language in LANGUAGES})
    desk = Desk(gr, i18n, service, dashboard, archives, public_url)
    # no file that was uploaded or made is older than an hour
    with gr.Blocks(analytics_enabled=False, title="Manage", fill_width=True, delete_cache=(600, 3600)) as blocks:
        _lay_out(desk, blocks)
    return mounted(gr, blocks, ADMIN_PATH, head=HEAD, i18n=i18n, max_file_size=MAX_UPLOAD)


def _lay_out(desk: Desk, blocks: Any) -> None:
    gr, say = desk.gr, desk.say
    with gr.Row(elem_classes="head"):
        gr.HTML(say("nav"), apply_default_css=False)
        who = gr.HTML(apply_default_css=False)
    chosen = desk.choice(label=say("campaign"), elem_id="campaign", filterable=True)

    def newest() -> int | None:
        with desk.store.reading() as connection:
            return max((each.id for each in campaigns.all_campaigns(connection)), default=None)

    def campaign_choices(campaign_id: int | None) -> Any:
        with desk.store.reading() as connection:
            found = campaigns.all_campaigns(connection)
        value = campaign_id if campaign_id in [each.id for each in found] else newest()
        return gr.Dropdown(choices=[(each.name, each.id) for each in found], value=value)

    with gr.Tabs():
        with gr.Tab(say("tab.dashboard")) as dashboard_of:
            board = dashboard_tab.build(desk, chosen)
        with gr.Tab(say("tab.campaigns")) as campaigns_of:
            show_campaign, campaign_parts = campaigns_tab.build(desk, chosen, campaign_choices)
        with gr.Tab(say("tab.data")) as data_of:
            show_data, data_parts = data_tab.build(desk, chosen)
        with gr.Tab(say("tab.users")) as users_of:
            show_users, user_parts = users_tab.build(desk, chosen)

    def opened(call: Call) -> list[Any]:
        return [campaign_choices(None), _who_html(call)]

    first = desk.on(blocks.load, opened, [], [chosen, who])
    for event in (first.then, chosen.input):
        desk.on(event, show_campaign, [chosen], campaign_parts)
        ahead = desk.on(event, board.show_overview, [chosen], board.overview)
        desk.on(ahead.then, board.show, [chosen], board.figures, progress="minimal")

    def ticking(is_active: bool, show: Callable[..., list[Any]] | None = None) -> Callable[..., list[Any]]:
        """What turns the timer on or off, and fills the tab that comes into view."""

        def turn(call: Call, *values: Any) -> list[Any]:
            return [gr.Timer(active=is_active), *(show(call, *values) if show else ())]

        return turn

    def show_board(call: Call, campaign_id: int | None) -> list[Any]:
        # Gradio opens the first tab before the list of campaigns has chosen: this answer may come after that one's
        return board.show(call, newest() if campaign_id is None else campaign_id)

    desk.on(dashboard_of.select, ticking(True, show_board), [chosen], [board.timer, *board.figures])
    desk.on(campaigns_of.select, ticking(False, show_campaign), [chosen], [board.timer, *campaign_parts])
    desk.on(data_of.select, ticking(False, show_data), [], [board.timer, *data_parts])
    desk.on(users_of.select, ticking(False, show_users), [], [board.timer, *user_parts])


def _who_html(call: Call) -> str:
    """Who is signed in, and the way out."""
    name, sign_out = html.escape(call.manager.name), html.escape(call.words["sign_out"])
    button = f"<button>{sign_out}</button>"
    return f'<form class="who" method="post" action="/logout"><span dir="auto">{name}</span>{button}</form>'
