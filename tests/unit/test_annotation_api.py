"""The REST interface and the pages around it, on a real SQLite store."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

import annotation.store
from annotation.api import create_app
from annotation.app import serve
from annotation.guard import MAX_BODY, Guard
from annotation.importing import import_comparisons
from annotation.judge_page import check_environment
from annotation.public_site import is_loopback
from annotation.service import AnnotationService
from annotation.store import Store
from annotation.tables import judgment, session, slot
from rlhf.data.comparisons import Comparison, Message, Response

ADDRESS = "http://127.0.0.1:7860"
OPEN_TO_ALL = {"/", "/favicon.ico", "/login", "/logout", "/invite/{token}", "/invite/{token}/join", "/api/v1/health"}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


NOTHING_JUDGED = {"judged": 0, "skipped": 0, "flagged": 0, "done": 0, "waiting": 0}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Three pairs and a ranking of three; other writers are waited for one second."""
    monkeypatch.setattr(annotation.store, "WAIT_SECONDS", 1)
    store = Store.open(f"sqlite:///{tmp_path}/annotations.db")
    sizes = (2, 2, 2, 3)
    rows = [
        Comparison(
            prompt=(Message("user", f"question {number}"),),
            responses=tuple(Response(f"{number} {word}") for word in ("first", "second", "third")[:size]),
        )
        for number, size in enumerate(sizes, start=1)
    ]
    import_comparisons(store, rows, name="Plain words")
    yield store
    store.close()


@pytest.fixture
def cookie(store: Store) -> str:
    return f"rlhf_session_{store.id}"


@pytest.fixture
def app(store: Store, clock: Clock) -> FastAPI:
    return create_app(AnnotationService(store, lease_seconds=60, clock=clock))


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """A browser without a session."""
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)


@pytest.fixture
def ada(app: FastAPI) -> TestClient:
    return signed_in(app, "Ada")


def signed_in(app: FastAPI, name: str) -> TestClient:
    client = TestClient(app, base_url=ADDRESS, follow_redirects=False)
    assert client.post("/login", data={"name": name}).status_code == 303
    return client


def a_judgment(item_id: str, **settings: Any) -> dict[str, Any]:
    body = {"client": "tab-1", "id": str(uuid.uuid4()), "item_id": item_id, "kind": "ranking", "ranks": [1, 2]}
    return body | {"active_ms": 1500} | settings


def next_item(client: TestClient, tab: str = "tab-1", exclude: tuple[str, ...] = ()) -> str:
    answer = client.post("/api/v1/next", json={"client": tab, "exclude": list(exclude)})
    assert answer.status_code == 200, answer.text
    return answer.json()["card"]["item_id"]


def routes(app: FastAPI) -> dict[str, set[str]]:
    """Every path of ours with its methods; mounted apps are left out, and tested by themselves."""
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(app.routes):
        if route.methods and route.path != "/openapi.json":
            found.setdefault(str(route.path), set()).update(route.methods)
    return found


def num_judgments(store: Store) -> int:
    with store.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(judgment)).scalar_one()


# ---- work -----------------------------------------------------------------------------------------------------


def test_an_item_is_given_judged_taken_back_and_judged_again(store: Store, ada: TestClient) -> None:
    answer = ada.post("/api/v1/next", json={"client": "tab-1"}).json()
    card = answer["card"]
    assert {name: card[name] for name in ("item_id", "campaign", "prompt", "leased_until")} == {
        "item_id": "1",
        "campaign": "Plain words",
        "prompt": [{"role": "user", "content": "question 1"}],
        "leased_until": 1_000_060.0,
    }
    assert sorted(card["responses"]) == ["1 first", "1 second"]
    assert answer["progress"] == {**NOTHING_JUDGED, "available": 4, "total": 4}
    assert answer["annotator"]["name"] == "Ada"

    body = a_judgment("1", ranks=[2, 1], strength=3)
    saved = ada.post("/api/v1/judgments", json=body)
    assert saved.status_code == 201
    assert saved.json()["saved"] == {"judgment_id": body["id"], "item_id": "1", "revision": 1}
    assert saved.json()["progress"] == {**NOTHING_JUDGED, "judged": 1, "available": 3, "total": 4, "done": 1}

    undo = {"client": "tab-1", "id": str(uuid.uuid4())}
    undone = ada.post("/api/v1/undo", json=undo)
    assert undone.status_code == 200
    assert undone.json()["undone"]["card"]["responses"] == card["responses"]
    unsaid = {"both_bad": False, "aspects": {}, "edits": {}, "rationale": None, "reason": None}
    assert undone.json()["undone"]["previous"] == {"kind": "ranking", "ranks": [2, 1], "strength": 3, **unsaid}
    assert undone.json()["progress"]["judged"] == 0
    assert ada.post("/api/v1/undo", json=undo).json() == undone.json()

    again = ada.post("/api/v1/judgments", json=a_judgment("1", ranks=[1, 1])).json()
    assert again["saved"]["revision"] == 3
    assert ada.get("/api/v1/progress").json()["progress"]["judged"] == 1
    with store.reading() as connection:
        rows = connection.execute(sa.select(judgment.c.kind, judgment.c.strength, judgment.c.active_ms)).all()
    assert [tuple(row) for row in rows] == [("ranking", 3.0, 1500), ("undo", None, 0), ("ranking", None, 1500)]


def test_a_judgment_sent_twice_is_one_judgment(store: Store, ada: TestClient) -> None:
    body = a_judgment(next_item(ada))
    answers = [ada.post("/api/v1/judgments", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert num_judgments(store) == 1


def test_a_skip_keeps_its_reason(store: Store, ada: TestClient) -> None:
    item_id = next_item(ada)
    body = a_judgment(item_id, kind="skip", ranks=None, reason="both are in Dutch ⚓")
    progress = ada.post("/api/v1/judgments", json=body).json()["progress"]
    assert progress == {**NOTHING_JUDGED, "skipped": 1, "available": 3, "total": 4}
    with store.reading() as connection:
        assert connection.execute(sa.select(judgment.c.reason)).scalar_one() == "both are in Dutch ⚓"
    assert next_item(ada) == "2"


def test_two_tabs_of_one_person_and_two_people_get_different_items(app: FastAPI, ada: TestClient) -> None:
    grace = signed_in(app, "Grace")
    found = [next_item(ada, "tab-1"), next_item(ada, "tab-2"), next_item(grace, "tab-1")]
    assert found == ["1", "2", "3"]
    assert next_item(ada, "tab-1") == "1"
    assert next_item(ada, "tab-1", exclude=("1",)) == "4"
    assert grace.post("/api/v1/next", json={"client": "tab-2"}).json()["card"] is None


def test_leases_are_renewed_and_given_back(app: FastAPI, ada: TestClient, clock: Clock) -> None:
    next_item(ada)
    clock.now += 50
    assert ada.post("/api/v1/leases", json={"client": "tab-1", "item_ids": ["1", "2"]}).json() == {"held": ["1"]}
    clock.now += 50
    grace = signed_in(app, "Grace")
    assert next_item(grace) == "2"
    # as navigator.sendBeacon sends it
    beacon = ada.post("/api/v1/release", content='{"client": "tab-1"}', headers={"Content-Type": "text/plain"})
    assert beacon.status_code == 204
    assert next_item(grace, exclude=("2",)) == "1"


def test_a_judgment_of_what_went_to_somebody_else_is_refused(app: FastAPI, ada: TestClient, clock: Clock) -> None:
    item_id = next_item(ada)
    clock.now += 61
    grace = signed_in(app, "Grace")
    # what is open goes first, what was left behind last
    assert [next_item(grace, exclude=("2", "3", "4")), item_id] == ["1", "1"]
    answer = ada.post("/api/v1/judgments", json=a_judgment(item_id))
    assert answer.status_code == 409
    assert "went to somebody else" in answer.json()["detail"]


@pytest.mark.parametrize(("item_id", "words"), [("99", "no such item in this store"), ("1", "never shown to you")])
def test_an_item_that_is_not_there_or_not_ones_own_is_not_found(ada: TestClient, item_id: str, words: str) -> None:
    answer = ada.post("/api/v1/judgments", json=a_judgment(item_id, kind="skip", ranks=None))
    assert (answer.status_code, words in answer.json()["detail"]) == (404, True)
    assert ada.post("/api/v1/history/open", json={"client": "tab-1", "item_id": item_id}).status_code == 404


@pytest.mark.parametrize(
    "path, change, named",
    [
        ("judgments", {"ranks": [1, 5]}, "ranks are [1, 5]"),
        ("judgments", {"ranks": [1]}, "2 whole numbers"),
        ("judgments", {"ranks": None}, "2 whole numbers"),
        ("judgments", {"ranks": [1, "2"]}, "ranks.1"),
        ("judgments", {"ranks": [1, True]}, "ranks.1"),
        ("judgments", {"ranks": [0, 1]}, "ranks.0"),
        ("judgments", {"strength": 4}, "strength"),
        ("judgments", {"kind": "best"}, "kind"),
        ("judgments", {"kind": "skip"}, "neither ranks nor strength"),
        ("judgments", {"reason": "no"}, "reason"),
        ("judgments", {"active_ms": -1}, "active_ms"),
        ("judgments", {"active_ms": 10**20}, "active_ms"),
        ("judgments", {"id": "1"}, "id"),
        ("judgments", {"client": ""}, "client"),
        ("judgments", {"client": "tab\u0000"}, "client"),
        ("judgments", {"item_id": "1; DROP TABLE"}, "item_id"),
        ("judgments", {"rank": 1}, "rank"),
        ("next", {"exclude": "1"}, "exclude"),
        ("next", {"exclude": ["1"] * 101}, "exclude"),
        ("next", {"client": None}, "client"),
        ("undo", {"id": "again"}, "id"),
        ("leases", {"item_ids": None}, "item_ids"),
        ("release", {"client": 7}, "client"),
    ],
)
def test_bad_input_is_named(ada: TestClient, path: str, change: dict[str, Any], named: str) -> None:
    assert next_item(ada) == "1"
    bodies = {
        "judgments": a_judgment("1"),
        "next": {"client": "tab-1", "exclude": []},
        "undo": {"client": "tab-1", "id": str(uuid.uuid4())},
        "leases": {"client": "tab-1", "item_ids": ["1"]},
        "release": {"client": "tab-1"},
    }
    answer = ada.post(f"/api/v1/{path}", json=bodies[path] | change)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    "path, change, named",
    [
        ("judgments", {"rationale": "n" * 10_001}, "the rationale has 10001 characters, and 10000 is the most"),
        ("judgments", {"rationale": "n" * 200_001}, "rationale: String should have at most 200000"),
        ("judgments", {"kind": "skip", "ranks": None, "reason": "n" * 2001}, "reason: String should have at most"),
        ("judgments", {"edits": {"0": "n" * 200_001}}, "edits.0: String should have at most"),
        ("diff", {"old": "n" * 200_001, "new": ""}, "old: String should have at most"),
    ],
)
def test_what_is_too_long_is_said_to_be(ada: TestClient, path: str, change: dict[str, Any], named: str) -> None:
    assert next_item(ada) == "1"
    body = change if path == "diff" else a_judgment("1") | change
    answer = ada.post(f"/api/v1/{path}", json=body)
    assert (answer.status_code, named in answer.json()["detail"]) == (413, True), answer.text


@pytest.mark.parametrize(
    "text, status",
    [
        ('{"client": "tab-1", "id": NaN}', 422),
        ('{"client": "tab-1", "id": "\\ud800"}', 422),
        ('{"client": ', 422),
        ("[" * 100_000, 400),
        ("", 422),
        ("null", 422),
        ("\xff", 400),
    ],
)
def test_what_is_no_json_of_ours_is_no_failure_of_the_server(ada: TestClient, text: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = ada.post("/api/v1/undo", content=text.encode("latin-1"), headers=headers)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


def test_a_busy_store_asks_to_come_again_and_loses_nothing(store: Store, client: TestClient, ada: TestClient) -> None:
    body = a_judgment(next_item(ada))
    other = sqlite3.connect(str(store.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers = [ada.post("/api/v1/judgments", json=body), client.post("/login", data={"name": "Grace"})]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert [answer.headers["retry-after"] for answer in answers] == ["1", "1"]
    assert "another writer held the store" in answers[0].json()["detail"]
    assert "Another writer held the store" in answers[1].text
    assert 'value="Grace"' in answers[1].text
    assert num_judgments(store) == 0
    other.execute("ROLLBACK")
    other.close()
    assert ada.post("/api/v1/judgments", json=body).status_code == 201
    assert num_judgments(store) == 1


# ---- sessions -------------------------------------------------------------------------------------------------


def test_nothing_but_signing_in_works_without_a_session(app: FastAPI, store: Store, cookie: str) -> None:
    # /password is a page, and leads to signing in
    closed = {path: methods for path, methods in routes(app).items() if path not in {*OPEN_TO_ALL, "/password"}}
    assert len(closed) >= 15
    for path, methods in closed.items():
        for method in methods - {"HEAD", "OPTIONS"}:
            for cookies in ({}, {cookie: "guess"}):
                stranger = TestClient(app, base_url=ADDRESS, cookies=cookies)
                answer = stranger.request(method, path, json=minimal_body(path))
                assert answer.status_code == 401, path
                assert "sign in" in answer.json()["detail"]
    with store.reading() as connection:
        assert connection.execute(sa.select(slot.c.state).distinct()).scalars().all() == ["open"]


def minimal_body(path: str) -> dict[str, Any]:
    fields = {"judgments": a_judgment("1"), "undo": {"id": str(uuid.uuid4())}, "leases": {"item_ids": []}}
    return {"client": "tab-1"} | fields.get(path.rpartition("/")[2], {})


def test_the_cookie_is_for_this_site_and_not_for_scripts(client: TestClient, cookie: str) -> None:
    header = client.post("/login", data={"name": "Ada"}).headers["set-cookie"]
    assert re.fullmatch(rf"{cookie}=[\w-]{{43}}; HttpOnly; Path=/; SameSite=strict", header)


def test_two_stores_on_one_machine_do_not_sign_each_other_out(ada: TestClient, tmp_path: Path) -> None:
    """Browsers send a cookie to every port of a host."""
    other = Store.open(f"sqlite:///{tmp_path}/other.db")
    neighbour = TestClient(create_app(AnnotationService(other)), base_url=ADDRESS, follow_redirects=False)
    neighbour.cookies = ada.cookies
    assert neighbour.post("/login", data={"name": "Ada"}).status_code == 303
    assert neighbour.get("/api/v1/progress").status_code == ada.get("/api/v1/progress").status_code == 200
    other.close()


def test_signing_in_never_takes_a_token_that_was_there(store: Store, client: TestClient, cookie: str) -> None:
    planted = "a" * 43
    client.cookies.set(cookie, planted)
    tokens = [planted]
    for _ in range(2):
        client.post("/login", data={"name": "Ada"})
        tokens.append(client.cookies.get(cookie, domain="127.0.0.1"))
    assert len(set(tokens)) == 3
    # only the last one works: the one before it was given up when its browser signed in anew
    statuses = []
    for token in tokens:
        fresh = TestClient(client.app, base_url=ADDRESS, cookies={cookie: token})
        statuses.append(fresh.get("/api/v1/progress").status_code)
    assert statuses == [401, 401, 200]


def test_signing_out_ends_the_session_on_the_server(ada: TestClient, store: Store, cookie: str) -> None:
    token = ada.cookies[cookie]
    answer = ada.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert f'{cookie}=""; ' in answer.headers["set-cookie"]
    assert cookie not in ada.cookies
    ada.cookies.set(cookie, token)
    assert ada.get("/api/v1/progress").status_code == 401
    with store.reading() as connection:
        assert connection.execute(sa.select(session.c.revoked_at)).scalar_one() is not None


def test_a_name_that_cannot_be_used_is_said_on_the_page(client: TestClient) -> None:
    answer = client.post("/login", data={"name": '"><script>alert(1)</script>' + "x" * 64})
    assert answer.status_code == 422
    assert "1 to 64 characters" in answer.text
    assert "<script>" not in answer.text
    assert "set-cookie" not in answer.headers
    assert client.post("/login").status_code == 422


def test_a_tab_whose_annotator_signed_out_elsewhere_keeps_its_work(app: FastAPI, ada: TestClient) -> None:
    """Both tabs share the cookie; the page says for whom it works."""
    mine = ada.get("/api/v1/progress").json()["annotator"]["id"]
    item_id = next_item(ada)
    ada.post("/login", data={"name": "Grace"})
    answer = ada.post("/api/v1/judgments", json=a_judgment(item_id), headers={"X-Annotator": mine})
    assert (answer.status_code, "signed in as Grace" in answer.json()["detail"]) == (401, True)


# ---- the guard ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7861"},
        {"Origin": "http://127.0.0.1:7860.example.org"},
        {"Origin": "http://localhost:7860"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_no_page_of_another_origin_changes_anything(
    app: FastAPI, ada: TestClient, store: Store, headers: dict[str, str]
) -> None:
    found = {path: methods - {"GET", "HEAD"} for path, methods in routes(app).items()}
    changes = [(re.sub(r"{\w+}", "1", path), method) for path, methods in found.items() for method in methods]
    assert len(changes) >= 20
    for path, method in [*changes, ("/annotate/", "POST"), ("/annotate/gradio_api/upload", "POST")]:
        answer = ada.request(method, path, json=minimal_body(path), headers=headers)
        assert answer.status_code == 403, path
        assert "set-cookie" not in answer.headers
    assert ada.get("/api/v1/progress").status_code == 200
    with store.reading() as connection:
        assert connection.execute(sa.select(slot.c.state).distinct()).scalars().all() == ["open"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "127.0.0.1", "a.localhost:1"])
def test_a_page_of_our_own_may(app: FastAPI, host: str) -> None:
    client = TestClient(app, base_url=f"http://{host}", follow_redirects=False)
    headers = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/login", data={"name": "Ada"}, headers=headers).status_code == 303


@pytest.mark.parametrize(
    "host",
    ["example.org", "127.0.0.1.example.org", "localhost.example.org", "192.168.0.7:7860", "0.0.0.0", "", "[", "x@y"],
)
def test_a_name_that_was_made_to_point_here_gets_nothing(client: TestClient, host: str) -> None:
    for path in ("/api/v1/health", "/login", "/static/judge.js", "/annotate/assets/x.js"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert "loopback" in answer.json()["detail"]


@pytest.mark.parametrize("name, loopback", [("127.8.9.1", True), ("::1", True), ("localhost.", False), ("::2", False)])
def test_loopback_is_told_without_a_lookup(name: str, loopback: bool) -> None:
    assert is_loopback(name) is loopback


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000
    yield b" " * (size % 1000)


@pytest.mark.parametrize("path", ["/api/v1/judgments", "/api/v1/release", "/login"])
def test_a_body_has_a_limit_declared_or_not(ada: TestClient, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b" " * (MAX_BODY + 1), chunks(MAX_BODY + 1)):
        answer = ada.post(path, content=content, headers=headers)
        assert answer.status_code == 413
        assert str(MAX_BODY) in answer.json()["detail"]
    for content in (b" " * MAX_BODY, chunks(MAX_BODY)):
        assert ada.post(path, content=content, headers=headers).status_code == 422


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"3000000")]])
def test_a_body_that_is_too_large_is_read_before_it_is_refused(
    app: FastAPI, headers: list[tuple[bytes, bytes]]
) -> None:
    """Whoever is cut off while sending does not hear why."""
    parts = [{"type": "http.request", "body": b" " * 1_000_000, "more_body": more} for more in (True, True, False)]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append((message.get("status"), len(parts)))

    scope = {"type": "http", "method": "POST", "path": "/api/v1/next", "headers": [(b"host", b"localhost"), *headers]}
    with ThreadPoolExecutor() as apart:  # in the main thread a browser of other tests may have its own loop
        apart.submit(lambda: asyncio.run(Guard(app)(scope, receive, send))).result()
    assert sent[0] == (413, 0)


def test_every_answer_carries_the_security_headers(ada: TestClient) -> None:
    paths = ["/login", "/api/v1/health", "/api/v1/progress", "/static/judge.js", "/nothing", "/annotate/nothing"]
    answers = [ada.get(path) for path in paths] + [ada.post("/login", headers={"Origin": "null"})]
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert policy["img-src"] == "'self' data: blob:"
        assert policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
        inside = answer.request.url.path.startswith("/annotate")
        assert policy["script-src"] == ("'self' 'unsafe-inline' 'unsafe-eval'" if inside else "'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        # not no-referrer: browsers then send `Origin: null` with the forms of this site
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == ("no-cache" if "static" in str(answer.request.url) else "no-store")


def test_errors_are_json(ada: TestClient) -> None:
    assert ada.get("/nothing").json() == {"detail": "Not Found"}
    assert ada.get("/api/v1/next").json() == {"detail": "Method Not Allowed"}
    assert ada.get("/static/missing.js").json() == {"detail": "Not Found"}


def test_an_unexpected_failure_tells_nothing(app: FastAPI, ada: TestClient, store: Store, cookie: str) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("ALTER TABLE slot RENAME TO gone"))
    client = TestClient(app, base_url=ADDRESS, raise_server_exceptions=False, cookies={cookie: ada.cookies[cookie]})
    answer = client.post("/api/v1/next", json={"client": "tab-1"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the server failed at this; its log says why", "final": False}


# ---- pages ----------------------------------------------------------------------------------------------------


def test_health_needs_no_session(client: TestClient) -> None:
    assert client.get("/api/v1/health").json()["status"] == "ok"


def test_documentation_from_other_sites_is_off(client: TestClient) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
    assert "/api/v1/judgments" in client.get("/openapi.json").json()["paths"]


def test_the_document_says_how_a_refusal_looks(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    rest = {path: list(methods.values()) for path, methods in paths.items() if path.startswith("/api/v1/")}
    assert len(rest) >= 25
    for path, answers in ((path, method["responses"]) for path, methods in rest.items() for method in methods):
        assert "422" not in answers, path
        assert answers["default"]["content"] == {
            "application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}
        }
    assert list(paths["/api/v1/manage/users.csv"]["get"]["responses"]["200"]["content"]) == ["text/csv"]


def test_static_files_are_asked_for_at_each_load_and_sources_of_pages_are_none(client: TestClient) -> None:
    script = client.get("/static/judge.js")
    assert "/javascript" in script.headers["content-type"]  # Gradio registers the older name
    assert client.get("/static/judge.js", headers={"If-None-Match": script.headers["etag"]}).status_code == 304
    for path in ("login.html", "card.html", "../api.py", "%2e%2e/api.py", ""):
        assert client.get(f"/static/{path}").status_code == 404


def test_pages_ask_to_sign_in(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/", "/annotate", "/annotate/", "/annotate/config")]
    assert [answer.status_code for answer in answers] == [303] * 4
    assert [answer.headers["location"] for answer in answers] == ["/annotate", "/login", "/login", "/login"]


def test_gradio_shows_the_page_and_does_nothing_else(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GRADIO_ANALYTICS_ENABLED": "True",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_MCP_SERVER": "True",
        "GRADIO_ROOT_PATH": "https://example.org",
        "GRADIO_RUN_HISTORY": "True",
        "GRADIO_SHARE": "True",
        "GRADIO_SSR_MODE": "True",
    }.items():
        monkeypatch.setenv(name, value)
    with TestClient(app, base_url=ADDRESS) as client:
        client.post("/login", data={"name": "Ada"})
        page = client.get("/annotate/")
        assert page.status_code == 200
        config = client.get("/annotate/config").json()
        assert len(config["components"]) == 1
        assert config["dependencies"] == []
        assert "value" not in config["components"][0]["props"]
        said = {name: config.get(name) for name in ("analytics_enabled", "show_error", "mcp_server", "run_history")}
        assert said == {"analytics_enabled": False, "show_error": False, "mcp_server": False, "run_history": False}
        assert config["footer_links"] == []
        assert "example.org" not in page.text
        for path in ("gradio_api/info", "gradio_api/mcp/", "gradio_api/app_id", "gradio_api/file=/etc/passwd", "runs"):
            assert client.get(f"/annotate/{path}").status_code == 404, path
        for path in ("", "gradio_api/upload", "gradio_api/queue/join", "login", "gradio_api/run/predict"):
            assert client.post(f"/annotate/{path}").status_code == 405, path
        script = re.search(r'src="[^"]*?/annotate/(assets/[\w.-]+\.js)"|src="\./(assets/[\w.-]+\.js)"', page.text)
        assert script is not None
        assert client.get(f"/annotate/{script[1] or script[2]}").status_code == 200


# ---- the process ----------------------------------------------------------------------------------------------


def test_a_taken_port_is_said_before_anything_is_loaded(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"port {port} of 127.0.0.1 is in use; give another one with --port"
        ) as caught:
            serve(store, host="127.0.0.1", port=port)
    assert caught.value.__cause__.errno == errno.EADDRINUSE


def test_a_mode_in_which_visitors_edit_the_program_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_VIBE_MODE", "1")
    with pytest.raises(ValueError, match="GRADIO_VIBE_MODE is set"):
        check_environment()
    with pytest.raises(ValueError, match="GRADIO_VIBE_MODE is set"):
        serve(store, host="127.0.0.1", port=0)
