"""The managers' page and routes through the whole app: who may, and that nothing runs for those who may not."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from annotation import campaigns
from annotation.admin.campaigns_tab import FIELDS, field_value, ranks_of, settings_of
from annotation.admin.data_tab import command_line, options_of
from annotation.admin.desk import Mistake
from annotation.admin_page import build_page
from annotation.api import create_app
from annotation.campaigns import Aspect, CampaignError, CampaignSettings
from annotation.dashboard import Dashboard
from annotation.importing import import_comparisons
from annotation.judge_page import CHECKED
from annotation.managing import MAX_UPLOAD, Archives
from annotation.routes.access import cookie_name
from annotation.service import AnnotationService
from annotation.store import Store
from annotation.tables import annotator, audit, judgment
from tests.annotation.items import comparison
from tests.annotation.saying import Desk

PASSWORD = "a long enough passphrase"
PREDICT = "/admin/gradio_api/run/predict"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store and one app for the module: Gradio takes seconds to import."""
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('admin')}/annotations.db")
    import_comparisons(store, [comparison(number) for number in range(1, 4)], overlap=2)
    yield store
    store.close()


@pytest.fixture(scope="module")
def service(store: Store) -> AnnotationService:
    return AnnotationService(store)


@pytest.fixture(scope="module")
def app(service: AnnotationService) -> FastAPI:
    return create_app(service)


@pytest.fixture(scope="module")
def running(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def tokens(service: AnnotationService) -> dict[str, str]:
    """Role -> the token of somebody's session."""
    people = {"manager": "Mara", "adjudicator": "Adi", "annotator": "Ann"}
    for role, name in people.items():
        service.accounts.add(name, role, PASSWORD, by=None)
    return {role: service.sign_in(name, PASSWORD) for role, name in people.items()}


@pytest.fixture
def as_role(running: TestClient, service: AnnotationService, tokens: dict[str, str]) -> Callable[[str], TestClient]:
    """The client, signed in as somebody of that role; "" signs out."""

    def sign_in(role: str) -> TestClient:
        running.cookies.clear()
        if role:
            running.cookies.set(cookie_name(service), tokens[role])
        return running

    return sign_in


def functions_of(client: TestClient) -> list[dict[str, Any]]:
    return client.get("/admin/config").json()["dependencies"]


def call(client: TestClient, number: int, data: list[Any], **headers: str) -> Any:
    body = {"fn_index": number, "data": data, "session_hash": "s"}
    return client.post(PREDICT, json=body, headers=headers)


def usual_value(component: dict[str, Any]) -> Any:
    """What a component sends, so that Gradio has nothing to object and the handler is called."""
    least = {"slider": 0, "number": 1}
    return least[component["type"]] if component["type"] in least else component["props"].get("value")


def content(store: Store) -> list[Any]:
    """All that a handler could have changed, but for sessions."""
    with store.reading() as connection:
        tables = (annotator, audit, judgment, campaigns.campaign, campaigns.guideline, campaigns.member)
        return [connection.execute(sa.select(table)).all() for table in tables]


# ---- who may --------------------------------------------------------------------------------------------------


def test_the_page_is_for_managers(as_role) -> None:
    answer = as_role("").get("/admin", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?to=/admin")
    for role in ("annotator", "adjudicator"):
        assert as_role(role).get("/admin").status_code == 403
        assert as_role(role).get("/admin/config").status_code == 403
    answer = as_role("manager").get("/admin")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_browser_of_somebody_else_gets_a_page_with_ways_on(as_role) -> None:
    client = as_role("annotator")
    answer = client.get("/admin", headers={"accept": "text/html", "accept-language": "en"})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "This page is for managers. You are signed in as Ann, with the role annotator." in answer.text
    assert '<a href="/annotate">' in answer.text
    german = client.get("/admin", headers={"accept": "text/html", "accept-language": "de"})
    assert "Diese Seite ist für die Verwaltung. Sie sind als Ann angemeldet" in german.text
    assert client.get("/admin").json()["detail"].startswith("this is for managers")
    assert client.get("/admin/config", headers={"accept": "text/html"}).json()["detail"]


@pytest.mark.parametrize(
    ("asked", "leads_to"),
    [("/admin", "/admin"), ("", "/annotate"), ("//evil.example", "/annotate"), ("https://evil.example", "/annotate")]
    + [(bad, "/annotate") for bad in ("/admin@evil.example", "/\\evil.example", "/admin\r\nx: y", "javascript:1")],
)
def test_signing_in_leads_back_to_a_page_of_ours_alone(as_role, asked: str, leads_to: str) -> None:
    client = as_role("")
    form = client.get("/login", params={"to": asked}).text
    assert f'<input type="hidden" name="to" value="{leads_to}">' in form
    wrong = client.post("/login", data={"name": "Mara", "password": "another one", "to": asked})
    assert f'<input type="hidden" name="to" value="{leads_to}">' in wrong.text
    answer = client.post("/login", data={"name": "Mara", "password": PASSWORD, "to": asked}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, leads_to)


@pytest.mark.parametrize("role", ["", "annotator", "adjudicator"])
def test_no_function_of_the_page_runs_for_others(as_role, store: Store, role: str) -> None:
    functions = functions_of(as_role("manager"))
    assert len(functions) > 20
    before = content(store)
    client = as_role(role)
    for function in functions:
        answer = call(client, function["id"], [None] * len(function["inputs"]))
        assert answer.status_code == (403 if role else 401), function["id"]
    for path in ("queue/join", "upload", "call/x", "api/predict", "component_server", "reset", "cancel"):
        assert client.post(f"/admin/gradio_api/{path}", json={}).status_code in (401, 403, 404)
    assert content(store) == before


def test_every_handler_looks_for_itself_whoever_saw_the_page(service: AnnotationService, store: Store, tokens) -> None:
    """Gradio's part alone, with a door that lets everybody in."""

    async def built() -> FastAPI:
        # where no loop runs, Gradio makes some for its locks and never closes them
        return build_page(service, Dashboard(store), Archives(store))

    with ThreadPoolExecutor() as apart:  # in the main thread a browser of other tests may have its own loop
        blocks_app = apart.submit(lambda: asyncio.run(built())).result()

    async def open_door(scope: Any, receive: Any, send: Any) -> None:
        scope[CHECKED] = "anybody"
        await blocks_app(scope, receive, send)

    before = content(store)
    with TestClient(open_door, base_url="http://127.0.0.1") as client:
        config = client.get("/admin/config").json()
        values = {each["id"]: usual_value(each) for each in config["components"]}
        for token in (tokens["annotator"], tokens["adjudicator"], ""):
            client.cookies.clear()
            if token:
                client.cookies.set(cookie_name(service), token)
            for function in config["dependencies"]:
                answer = call(client, function["id"], [values[number] for number in function["inputs"]])
                assert answer.status_code == 500
                assert answer.json()["error"].startswith("this page is for managers"), function["id"]
    assert content(store) == before


def test_functions_are_short_private_and_without_a_queue(as_role) -> None:
    client = as_role("manager")
    for function in functions_of(client):
        assert function["queue"] is False
        assert function["api_visibility"] == "private"
    config = client.get("/admin/config").json()
    assert config["footer_links"] == []
    assert not config.get("is_space")
    assert not any(component["type"] == "state" for component in config["components"])


@pytest.mark.parametrize(
    "path",
    [
        "campaigns",
        "campaigns/1",
        "campaigns/1/tables/annotators.csv",
        "campaigns/1/plots/judgments_per_day.svg",
        "users.csv",
        "audit.csv",
        "audit/verify",
        "exports/0",
    ],
)
def test_routes_are_for_managers(as_role, path: str) -> None:
    assert as_role("").get(f"/api/v1/manage/{path}").status_code == 401
    for role in ("annotator", "adjudicator"):
        assert as_role(role).get(f"/api/v1/manage/{path}").status_code == 403
    assert as_role("manager").get(f"/api/v1/manage/{path}").status_code == (404 if path == "exports/0" else 200)


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/passwd", "gradio_api/info", "monitoring", "gradio_api/token"])
def test_routes_of_gradio_that_the_page_does_not_need_are_not_there(as_role, path: str) -> None:
    assert as_role("manager").get(f"/admin/{path}").status_code == 404


# ---- what a handler does --------------------------------------------------------------------------------------


def function_named(client: TestClient, name: str) -> dict[str, Any]:
    """The function of a handler that fills a component of that label, when a button of another one is pressed."""
    config = client.get("/admin/config").json()
    labels = {component["id"]: json.dumps(component["props"].get("value", "")) for component in config["components"]}
    for function in config["dependencies"]:
        for target, event in function["targets"]:
            if event == "click" and f'\\"{name}\\"' in labels[target]:
                return function
    raise AssertionError(f"no button {name}")


def test_a_manager_writes_guidelines_and_the_audit_says_who(as_role, store: Store, service, tokens) -> None:
    client = as_role("manager")
    function = function_named(client, "guidelines.save")
    answer = call(client, function["id"], [1, "Be *kind*."])
    assert answer.status_code == 200, answer.text
    with store.reading() as connection:
        assert campaigns.newest_guideline(connection, 1).text == "Be *kind*."
        newest = connection.execute(sa.select(audit).order_by(audit.c.number.desc()).limit(1)).one()
    assert newest.action == "guidelines written"
    assert newest.actor_id == service.annotator_of(tokens["manager"]).id


def test_the_dashboard_that_opens_before_a_campaign_is_chosen_shows_the_newest_one(as_role) -> None:
    """Its answer may come last, and would take the figures away again."""
    client = as_role("manager")
    functions = functions_of(client)
    selecting = (each for each in functions if [event for _, event in each["targets"]] == ["select"] and each["inputs"])
    first = next(selecting)
    answers = [call(client, first["id"], [campaign_id]).json()["data"] for campaign_id in (None, 1)]
    assert answers[0] == answers[1]
    assert "cards" in json.dumps(answers[0])


def test_the_head_of_the_dashboard_comes_before_the_statistics(as_role) -> None:
    client = as_role("manager")
    config = client.get("/admin/config").json()
    (chosen,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == "campaign")
    fillers = [each for each in config["dependencies"] if each["inputs"] == [chosen]]
    by_event = [each for each in fillers if [chosen, "input"] in each["targets"]]
    (ahead,) = (each for each in by_event if len(each["outputs"]) == 2)
    _, head = call(client, ahead["id"], [1]).json()["data"]
    assert head.count('class="card"') == 4
    everything = next(each for each in fillers if each["trigger_after"] == ahead["id"])
    assert set(ahead["outputs"]) < set(everything["outputs"])
    filled = call(client, everything["id"], [1]).json()["data"]
    whole = filled[everything["outputs"].index(ahead["outputs"][1])]
    assert whole.startswith(head.removesuffix("</div>"))
    assert whole.count('class="card"') == 6


def test_a_mistake_is_told_in_words_and_as_text(as_role) -> None:
    client = as_role("manager")
    function = function_named(client, "gold.mark")
    answer = call(client, function["id"], [1, 1, "<img src=x>", "gold", 1, False])
    assert answer.status_code == 500
    assert answer.json()["error"] == "ranks are &#x27;&lt;img src=x&gt;&#x27;; give one per response, such as 1, 2"
    german = call(client, function["id"], [1, 1, "one", "gold", 1, False], **{"accept-language": "de"})
    assert german.json()["error"] == "Ränge sind &#x27;one&#x27;; einen je Antwort angeben, etwa 1, 2"


def test_the_page_speaks_the_browsers_language(as_role) -> None:
    client = as_role("manager")
    function = function_named(client, "audit.verify")
    english = call(client, function["id"], [])
    german = call(client, function["id"], [], **{"accept-language": "de-DE,de;q=0.9"})
    assert "are as they were written" in english.text
    assert "wie sie geschrieben wurden" in german.text


def test_an_uploaded_file_is_bounded_before_it_is_read(as_role) -> None:
    client = as_role("manager")
    answer = client.post("/admin/gradio_api/upload", headers={"content-length": str(2 * MAX_UPLOAD)}, content=b"x")
    assert answer.status_code == 413


def test_a_file_above_the_usual_limit_of_a_request_can_be_uploaded(as_role) -> None:
    client = as_role("manager")
    answer = client.post("/admin/gradio_api/upload", files={"files": ("items.jsonl", b" " * 2_000_000)})
    assert answer.status_code == 200, answer.text
    assert as_role("annotator").post("/admin/gradio_api/upload", files={"files": ("a", b"x")}).status_code == 403


# ---- routes ---------------------------------------------------------------------------------------------------


def test_an_export_is_made_fetched_and_in_the_audit(as_role, store: Store) -> None:
    desk = Desk(store)
    desk.say(1, "somebody", (1, 2))
    client = as_role("manager")
    made = client.post("/api/v1/manage/exports", json={"form": "trl"})
    assert made.status_code == 201, made.text
    assert made.json()["rows"] == {"train": 1}
    fetched = client.get(f"/api/v1/manage/exports/{made.json()['id']}")
    assert fetched.content.startswith(b"PK")
    assert as_role("annotator").get(f"/api/v1/manage/exports/{made.json()['id']}").status_code == 403
    with store.reading() as connection:
        newest = connection.execute(sa.select(audit).order_by(audit.c.number.desc()).limit(1)).one()
    assert (newest.action, newest.details["options"]["form"]) == ("export made", "trl")


@pytest.mark.parametrize("body", [{"form": "pickle"}, {"threshold": 3.0}, {"form": 1}, {"other": True}])
def test_an_export_that_cannot_be_made_is_refused(as_role, body: dict[str, Any]) -> None:
    assert as_role("manager").post("/api/v1/manage/exports", json=body).status_code == 422


def test_figures_tables_and_plots_are_answered(as_role) -> None:
    client = as_role("manager")
    figures = client.get("/api/v1/manage/campaigns/1").json()
    assert figures["overview"]["items"] == 3
    assert client.get("/api/v1/manage/campaigns").json()["campaigns"][0]["campaign"]["name"] == "main"
    table = client.get("/api/v1/manage/campaigns/1/tables/progress.csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.text.startswith('"campaign","state","items",')
    plot = client.get("/api/v1/manage/campaigns/1/plots/ratings.svg")
    assert plot.headers["content-type"] == "image/svg+xml"
    assert "script-src 'self';" in plot.headers["content-security-policy"]
    for path in ("tables/other.csv", "plots/other.svg"):
        assert client.get(f"/api/v1/manage/campaigns/1/{path}").status_code == 404
    assert client.get("/api/v1/manage/campaigns/99").status_code == 404
    assert client.get("/api/v1/manage/audit/verify").json()["problems"] == []


# ---- forms ----------------------------------------------------------------------------------------------------


def test_a_form_gives_the_settings_that_filled_it() -> None:
    settings = CampaignSettings(
        order="random",
        gold_share=0.05,
        qualification_items=4,
        aspects=(Aspect("helpful", 7), Aspect("true: to facts", 2)),
        skip_reasons=("a", "b"),
        flag_reasons=(),
        content_warning="careful",
        live=True,
    )
    filled = {name: field_value(settings, name) for name in FIELDS}
    assert settings_of(filled) == settings
    assert asdict(settings_of({name: field_value(CampaignSettings(), name) for name in FIELDS})) == asdict(
        CampaignSettings()
    )


@pytest.mark.parametrize(
    ("name", "value", "refusal", "text"),
    [
        ("aspects", "helpful: many", Mistake, "aspect 'helpful: many' has 'many' levels"),
        ("aspects", "true", Mistake, "aspect 'true' has no levels; write it as true: 5"),
        ("aspects", "helpful: 5\nhonest", Mistake, "aspect 'honest' has no levels"),
        ("qualification_items", None, Mistake, "Qualification: items before work is empty; give a whole number"),
        ("qualification_items", 1.5, Mistake, "Qualification: items before work is 1.5; give a whole number"),
        ("gold_share", 2, CampaignError, "gold_share is 2"),
        ("order", "best", CampaignError, "order is 'best'"),
    ],
)
def test_a_form_that_cannot_be_is_refused(name: str, value: Any, refusal: type[ValueError], text: str) -> None:
    filled = {field: field_value(CampaignSettings(), field) for field in FIELDS}
    with pytest.raises(refusal, match=f"^{re.escape(text)}"):
        settings_of(filled | {name: value})


@pytest.mark.parametrize(("text", "ranks"), [("1, 2", [1, 2]), ("2 1 1", [2, 1, 1]), ("1;2", [1, 2])])
def test_ranks_are_read_as_people_write_them(text: str, ranks: list[int]) -> None:
    assert ranks_of(text) == ranks


@pytest.mark.parametrize("text", ["", None, "first", "1, -2", "1.5"])
def test_ranks_that_are_no_numbers_are_refused(text: str | None) -> None:
    with pytest.raises(Mistake):
        ranks_of(text)


def test_the_command_line_of_an_export_says_what_was_asked() -> None:
    options = options_of(
        *("trl", "parquet", "dawid_skene", "leave_out", 0.8, 0.1, 3, ["Plain words"], ["paused"]),
        *(True, False, False, False),
    )
    assert command_line("sqlite:////data/a.db", options) == (
        "rlhf annotate export --store sqlite:////data/a.db --out exported --format trl --container parquet "
        "--aggregation dawid_skene --threshold 0.8 --when_split leave_out --validation_share 0.1 --seed 3 "
        "--campaign 'Plain words' --without_annotators paused --plain"
    )


def test_the_app_starts_without_what_takes_seconds_to_import() -> None:
    heavy = ("gradio", "scipy", "pandas", "matplotlib", "datasets", "torch")
    code = f"import sys, annotation.api; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
