"""SQL in everything that a request can say: nobody else's row changes, nothing fails, nothing is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from annotation import audit
from annotation.accounts import Accounts
from benchmarks.annotation.databases import content
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.roles import PASSWORD, App, app_with_accounts

SQL = (
    "' OR '1'='1",
    "' OR 1=1 -- ",
    '" OR ""="',
    "1 OR 1=1",
    "1; DELETE FROM session",
    "'; DROP TABLE judgment; --",
    "'; UPDATE annotator SET role = 'manager'; --",
    "x', 'manager', 'active', NULL); --",
    "') UNION SELECT token_hash FROM session --",
    "' || (SELECT password_hash FROM annotator LIMIT 1) || '",
    "'; SELECT pg_sleep(600); --",
    "1 AND (SELECT count(*) FROM annotator a, annotator b) > 0",
    "\\'; DROP TABLE item; --",
    "%27%20OR%201=1%20--%20",
    "\u02bc OR 1=1 --",
    "$$; DROP TABLE slot; $$",
    "manager'/*",
    ":name %(name)s ? {0} %s",
    "judgment' AND '1'='1' AND 'long enough'='long enough",
)
TELLING = ("sqlite3", "psycopg", "sqlalchemy", "OperationalError", "ProgrammingError", "syntax error", "$argon2id$")
# What a request says in the places that the SQL is not in; whom it would change is nobody else's concern.
EXAMPLES: dict[str, Any] = {
    "client": "tab",
    "exclude": ["1"],
    "kind": "ranking",
    "ranks": [1, 2],
    "aspects": {"helpful": [1, 2]},
    "rationale": "why",
    "edits": {"0": "better"},
    "reason": "long",
    "item_ids": ["1"],
    "campaign_id": 1,
    "version": 1,
    "messages": [{"role": "user", "content": "Why?"}],
    "old": PASSWORD,
    "new": "new",
    "name": "manager",
    "password": PASSWORD,
    "again": PASSWORD,
    "role": "annotator",
    "state": "active",
    "form": "comparisons",
    "campaigns": ["main"],
    "without_annotators": ["paused"],
}
PATHS = {"campaign_id": "1", "name": "progress", "form": "svg", "archive_id": "0", "token": "none"}


@dataclass(frozen=True)
class Request:
    """One to send. `place` says where the SQL is."""

    route: str
    method: str
    url: str
    place: str = ""
    json: Any = None
    form: Any = None
    query: Any = None


@dataclass
class Answers:
    """What came back: the places that SQL was sent in, and the answers that should not be."""

    places: set[tuple[str, str, str]] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    telling: list[str] = field(default_factory=list)
    count: int = 0
    accepted: int = 0
    slowest: float = 0.0

    def add(self, request: Request, answer: httpx.Response, seconds: float) -> None:
        self.places.add((request.method, request.route, request.place))
        self.count += 1
        self.accepted += answer.is_success
        self.slowest = max(self.slowest, seconds)
        # the right name and password let in, whatever invite or way back comes with them
        let_in = request.route == "/login" and request.place not in ("invite", "to") and answer.status_code == 303
        if answer.status_code >= 500 or let_in:
            self.failed.append(f"{request} {answer.status_code}")
        if any(word in answer.text for word in TELLING):
            self.telling.append(f"{request} {answer.text[:200]}")


def sql(kind: str, folder: Path, *, payloads: Sequence[str] = SQL) -> Figure:
    """SQL in every parameter and field of every route, as a manager, and in the headers that the app reads."""
    with app_with_accounts(kind, folder, "sql") as app:
        own = {"victim": Accounts(app.store).add("victim", "annotator", PASSWORD, by=None).id}
        own |= a_bystander(app)
        before = content(app.store)
        with app.signed_in("manager") as browser:
            found = send_all(app, browser, own, payloads)
            still_in = browser.get("/api/v1/progress").status_code == 200
        guesses = [guess(app, payload) for payload in payloads]
        changed = changed_rows(before, content(app.store), own["victim"])
        with app.store.reading() as connection:
            problems = audit.verify(connection).problems
    routes = len({place[:2] for place in found.places})
    text = (
        f"{found.count + len(guesses)} requests with SQL in {len(found.places)} places of {routes} routes and in "
        f"headers: {len(found.failed)} failures, {len(changed)} rows changed, {len(found.telling)} answers with words "
        "of the database"
    )
    kept = still_in and set(guesses) == {401}
    kept = kept and not (found.failed or changed or found.telling or problems)
    details = {"failed": found.failed[:5], "changed": changed[:5], "telling": found.telling[:5]}
    details |= {"accepted": found.accepted, "slowest": found.slowest}
    return Figure("SQL in requests", kind, text, kept, details)


def send_all(app: App, browser: httpx.Client, own: dict[str, str], payloads: Sequence[str]) -> Answers:
    found = Answers()
    document = browser.get("/openapi.json").json()
    for request in requests_of(document, own, payloads):
        if request.form is not None:
            app.forget_tries()  # else they are looked at no more
        begun = time.perf_counter()
        answer = browser.request(
            request.method,
            request.url,
            json=request.json,
            data=request.form,
            params=request.query,
            timeout=300,  # SQL that sleeps sleeps longer
        )
        found.add(request, answer, time.perf_counter() - begun)
    return found


def a_bystander(app: App) -> dict[str, str]:
    """Somebody has judged, and the manager asked and invited; the ids of what may be named."""
    with app.signed_in("annotator") as browser:
        for _ in range(6):
            card = browser.post("/api/v1/next", json={"client": "their-tab"}).json()["card"]
            said = {"client": "their-tab", "id": str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking"}
            answer = browser.post("/api/v1/judgments", json=said | {"ranks": [1, 2], "rationale": "theirs"})
            assert answer.status_code == 201, answer.text
    with app.signed_in("manager") as browser:
        browser.post("/api/v1/admin/invites", json={"note": "theirs"})
        invites = browser.get("/api/v1/admin/invites").json()["invites"]
        card = browser.post("/api/v1/next", json={"client": "tab"}).json()["card"]
        prompt = app.cancelled_prompt(browser)
    return {"invite_id": invites[0]["id"], "request_id": prompt, "item_id": card["item_id"]}


def requests_of(document: dict[str, Any], own: dict[str, str], payloads: Sequence[str]) -> Iterator[Request]:
    """Every operation of the app's own document with each payload in each place, the others as they should be."""
    paths = {**PATHS, "annotator_id": own["victim"], **own}
    said = EXAMPLES | {"item_id": own["item_id"]}
    for route, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            named = {each["name"]: paths[each["name"]] for each in parameters if each["in"] == "path"}
            media, fields = body_of(document, operation)
            body = {name: said[name] for name in fields if name in said}
            plain = Request(route, method, route.format(**named), **({media: body} if media else {}))
            for payload in payloads:
                for each in parameters:
                    if each["in"] == "path":
                        url = route.format(**named | {each["name"]: quote(payload, safe="")})
                        yield replace(plain, url=url, place=each["name"])
                    else:
                        yield replace(plain, query={each["name"]: payload}, place=each["name"])
                for name in fields:
                    for value in with_payload(said.get(name), payload):
                        fresh = {"id": str(uuid.uuid4())} if "id" in fields else {}
                        yield replace(plain, place=name, **{media: body | fresh | {name: value}})


def body_of(document: dict[str, Any], operation: dict[str, Any]) -> tuple[str, list[str]]:
    """How an operation takes its body, "json" or "form", and the fields of it."""
    for media_type, found in operation.get("requestBody", {}).get("content", {}).items():
        schema = found["schema"].get("$ref", "").rpartition("/")[2]
        properties = document["components"]["schemas"][schema]["properties"]
        return ("json" if media_type == "application/json" else "form"), list(properties)
    return ("json", ["client"]) if operation["operationId"].startswith("release") else ("", [])


def with_payload(value: Any, payload: str) -> Iterator[Any]:
    """The value with the payload in place of each text or number in it, names of fields too."""
    if isinstance(value, list):
        yield from ([inner, *value[1:]] for inner in with_payload(value[0], payload))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (value | {name: changed} for changed in with_payload(inner, payload))
            yield {payload: inner}
    else:
        yield payload


def guess(app: App, payload: str) -> int:
    """What the payload is answered as a session and as whom the page works for."""
    with app.browser() as browser:
        said = {"Cookie": f"{app.cookie}={payload}", "X-Annotator": payload, "Accept-Language": payload}
        headers = {name: value.strip().encode() for name, value in said.items()}
        return browser.get("/api/v1/progress", headers=headers).status_code


def changed_rows(before: dict[str, list[Any]], after: dict[str, list[Any]], victim: str) -> list[str]:
    """Rows of before that are another way or gone, but for those that the requests were free to change."""
    free = ("chain", "login_failure")
    return [
        f"{table}: {row}"
        for table, rows in before.items()
        if table not in free
        for row in rows
        # places of items that nobody had are taken; the victim gets passwords that look like SQL
        if row not in after.get(table, []) and victim not in row and not (table == "slot" and "open" in row)
    ]


def sqlmap(kind: str, folder: Path) -> Figure:
    """Another program looks for a way in, through what an annotator sends with a judgment."""
    program = shutil.which("sqlmap")
    if program is None:
        raise FileNotFoundError("sqlmap is not installed; apt-get install sqlmap")
    said = {"client": "tab", "id": "10000000-1000-1000-1000-100000000000", "kind": "ranking", "ranks": [1, 2]}
    with app_with_accounts(kind, folder, "sqlmap") as app:
        with app.signed_in("annotator") as browser:
            card = browser.post("/api/v1/next", json={"client": "tab"}).json()["card"]
            cookie = f"{app.cookie}={browser.cookies[app.cookie]}"
        body = json.dumps(said | {"item_id": card["item_id"], "rationale": "why"})
        command = [program, "-u", f"{app.server.url}/api/v1/judgments", "--data", body, "-p", "item_id,rationale,kind"]
        command += ["--cookie", cookie, "--headers", "Content-Type: application/json"]
        command += ["--randomize", "id", "--batch", "--level", "3", "--risk", "2", "--disable-coloring"]
        command += ["--ignore-code", "404,422", "--output-dir", str(folder), "--dbms", kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        with app.store.reading() as connection:
            verified = audit.verify(connection)
    taken = verified.judgments.length
    lines = [line for line in done.stdout.splitlines() if "injectable" in line or "CRITICAL" in line]
    safe = "all tested parameters do not appear to be injectable" in done.stdout
    verdict = "no parameter is injectable" if safe else "; ".join(lines[-3:]) or done.stdout[-300:]
    text = f"{verdict}; {taken} of its judgments were taken"
    return Figure("sqlmap", kind, text, safe and taken > 0 and not verified.problems, {"lines": lines})
