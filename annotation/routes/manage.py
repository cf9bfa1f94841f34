"""The REST interface of managers: figures as JSON, CSV and plots, exports, the audit."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from annotation import audit, managing
from annotation.admin.users_tab import audit_table, users_table
from annotation.admin.words import language_of, words_in
from annotation.campaigns import CampaignError
from annotation.dashboard import Dashboard, Figures
from annotation.exporting.rows import cell
from annotation.figure_tables import Table, tables
from annotation.managing import Archives
from annotation.plots import FORMATS, PLOTS, draw_plot
from annotation.routes.access import Managing, Service
from rlhf.data.comparisons import DataError

router = APIRouter(prefix="/manage")

CampaignId = Annotated[int, Path(ge=1, le=2**53)]
Name = Annotated[str, Field(max_length=200)]


async def _dashboard(request: Request) -> Dashboard:
    return request.app.state.dashboard


async def _archives(request: Request) -> Archives:
    return request.app.state.archives


Documented = dict[int | str, dict[str, Any]]
SHEET: Documented = {200: {"content": {"text/csv": {}}}}
PLOT: Documented = {200: {"content": {media_type: {} for media_type in FORMATS.values()}}}
ARCHIVE: Documented = {200: {"content": {"application/zip": {}}}}

Board = Annotated[Dashboard, Depends(_dashboard)]
Packed = Annotated[Archives, Depends(_archives)]


class ExportRequest(BaseModel):
    """As `annotation.exporting.options.Options`, which says what may be."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    form: Name = "comparisons"
    container: Name = ""
    campaigns: Annotated[list[Name], Field(max_length=100)] = []
    aggregation: Name = ""
    when_split: Name = "tie"
    threshold: float | None = None
    validation_share: float = 0.0
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    plain: bool = False
    edit_pairs: bool = False
    best: bool = False
    include_gold: bool = False
    without_annotators: Annotated[list[Name], Field(max_length=1000)] = []


@router.get("/campaigns")
def campaigns(_: Managing, board: Board) -> dict[str, Any]:
    return {"campaigns": [asdict(each) for each in board.overviews()]}


@router.get("/campaigns/{campaign_id}")
def figures(campaign_id: CampaignId, _: Managing, board: Board) -> dict[str, Any]:
    return asdict(_figures(board, campaign_id))


@router.get("/campaigns/{campaign_id}/tables/{name}.csv", response_class=Response, responses=SHEET)
def table(campaign_id: CampaignId, name: str, _: Managing, board: Board) -> Response:
    found = tables(_figures(board, campaign_id))
    if name not in found:
        raise HTTPException(404, f"there is no table of this name; use one of {', '.join(found)}")
    return csv_answer(found[name], f"{name}.csv")


@router.get("/campaigns/{campaign_id}/plots/{name}.{form}", response_class=Response, responses=PLOT)
def plot(
    campaign_id: CampaignId, name: str, form: Literal["svg", "png"], _: Managing, board: Board, request: Request
) -> Response:
    if name not in PLOTS:
        raise HTTPException(404, f"there is no plot of this name; use one of {', '.join(PLOTS)}")
    words = words_in(language_of(request.headers.get("accept-language", "")))
    content = draw_plot(name, _figures(board, campaign_id), words, form=form)
    return Response(content, media_type=FORMATS[form])


@router.get("/users.csv", response_class=Response, responses=SHEET)
def users(_: Managing, service: Service) -> Response:
    return csv_answer(users_table(service.accounts.accounts()), "users.csv")


@router.get("/audit.csv", response_class=Response, responses=SHEET)
def audit_entries(_: Managing, service: Service) -> Response:
    with service.store.reading() as connection:
        found = audit_table(managing.audit_rows(connection, limit=None))
    return csv_answer(found, "audit.csv")


@router.get("/audit/verify")
def verify(_: Managing, service: Service) -> dict[str, Any]:
    with service.store.snapshot() as connection:
        return asdict(audit.verify(connection))


@router.post("/exports", status_code=201)
def export(body: ExportRequest, manager: Managing, archives: Packed) -> dict[str, Any]:
    try:
        made = archives.make(body.model_dump(), by=manager.id)
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    names = ("id", "name", "rows", "left_out", "expires_at")
    return {name: getattr(made, name) for name in names}


@router.get("/exports/{archive_id}", response_class=Response, responses=ARCHIVE)
def archive(archive_id: Annotated[str, Path(max_length=64)], _: Managing, archives: Packed) -> Response:
    try:
        found = archives.find(archive_id)
    except managing.UnknownArchive as error:
        raise HTTPException(404, str(error)) from None
    return FileResponse(found.path, media_type="application/zip", filename=found.name)


def _figures(board: Dashboard, campaign_id: int) -> Figures:
    try:
        return board.figures(campaign_id)
    except CampaignError as error:
        raise HTTPException(404, str(error)) from None


def csv_answer(found: Table, name: str) -> Response:
    """A table as a CSV file; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    content = io.StringIO()
    # texts are quoted: where a semicolon parts cells, none in a text begins a new one
    writer = csv.writer(content, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow([cell(column) for column, _ in found.columns])
    writer.writerows([_cell(value) for value in row] for row in found.rows)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(
        content.getvalue().encode("utf-8", "replace"), media_type="text/csv; charset=utf-8", headers=headers
    )


def _cell(value: Any) -> Any:
    """Numbers are no formulas, negative ones neither."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else cell(value)
