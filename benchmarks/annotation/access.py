"""Who gets in: wrong tries, sessions, pages of other origins, and every route and function by every role."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from annotation.sessions import MAX_TRIES, TRIES_SECONDS
from annotation.tables import login_failure
from benchmarks.annotation.databases import content
from benchmarks.annotation.durability import run_at_once
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.roles import PASSWORD, ROLES, ROUTES, App, app_with_accounts

SAFE = ("GET", "HEAD", "OPTIONS")
# what a manager's page asks Gradio for besides its functions
GRADIO = ("config", "gradio_api/info", "gradio_api/queue/join", "gradio_api/upload", "gradio_api/call/x")


def login(kind: str, folder: Path, *, tries: int = 30, sign_ins: int = 20, with_pages: bool = True) -> Figure:
    """The limit on wrong tries, new sessions, foreign pages, roles: against one running app.

    Args:
        kind, folder: of the database.
        tries: wrong ones at once, of an account and from an address.
        sign_ins: of one person one after the other.
        with_pages: also the functions of Gradio's pages, which take seconds to be there.
    """
    with app_with_accounts(kind, folder, "login") as app:
        tried = wrong_tries(app, tries)
        sessions = renewed_sessions(app, sign_ins)
        foreign = foreign_pages(app)
        roles = role_matrix(app, with_pages=with_pages)
    text = (
        f"{tried['of_account']} of {tries} wrong tries of an account looked at, {tried['of_address']} of {tries} of an "
        f"address; {sessions['tokens']} session ids in {sign_ins} sign-ins, {sessions['alive']} of before alive; "
        f"{foreign['refused']} of {foreign['tried']} foreign requests refused; {roles['routes']} routes and "
        f"{roles['functions']} functions x {roles['roles']} roles: {len(roles['successes'])} unexpected successes"
    )
    limits = {"of_account": MAX_TRIES, "of_address": MAX_TRIES, "right_ones": [429, 429], "later": [303, 303]}
    kept = (
        {name: tried[name] for name in limits} == limits
        and sessions == {"tokens": sign_ins, "alive": 0, "planted": 0}
        and foreign["refused"] == foreign["tried"]
        and not foreign["changed"]
        and not roles["successes"]
        and not roles["refusals"]
    )
    details = {"tries": tried, "sessions": sessions, "foreign": foreign, "roles": roles}
    return Figure("signing in, sessions, roles", kind, text, kept, details)


def wrong_tries(app: App, tries: int) -> dict[str, Any]:
    """How many of so many wrong tries at once were looked at; what the right password then gives, and later.

    All from addresses of this machine, each of which counts as one: one account from many, many names from one.
    """

    def ask(name: str, password: str, address: str) -> int:
        with app.browser(address=address) as browser:
            return browser.post("/login", data={"name": name, "password": password}).status_code

    def at_once(asked: list[tuple[str, str]]) -> Counter[int]:
        found: list[int] = []
        problems = run_at_once(
            [lambda name=name, at=at: found.append(ask(name, "this is not it", at)) for name, at in asked]
        )
        assert not problems, problems
        return Counter(found)

    of_account = at_once([("annotator", f"127.0.1.{number + 1}") for number in range(tries)])
    of_address = at_once([(f"nobody {number}", "127.0.2.1") for number in range(tries)])
    right = [("annotator", PASSWORD, "127.0.3.1"), ("manager", PASSWORD, "127.0.2.1")]
    now = [ask(*each) for each in right]
    earlier = sa.update(login_failure).values(at=login_failure.c.at - TRIES_SECONDS)
    app.store.write(lambda connection: connection.execute(earlier))
    return {
        "of_account": of_account[401],
        "of_address": of_address[401],
        "answers": sorted((of_account + of_address).items()),
        "right_ones": now,
        "later": [ask(*each) for each in right],
    }


def renewed_sessions(app: App, sign_ins: int) -> dict[str, int]:
    """Sign in again and again with the cookie of before, the first one planted; then change password, and go."""
    tokens = ["planted"]

    def ask(method: str, path: str, token: str, form: dict[str, str] | None = None) -> httpx.Response:
        with app.browser() as browser:
            return browser.request(method, path, data=form, headers={"Cookie": f"{app.cookie}={token}"})

    for _ in range(sign_ins):
        answer = ask("POST", "/login", tokens[-1], {"name": "adjudicator", "password": PASSWORD})
        tokens.append(answer.cookies[app.cookie])
    change = {"old": PASSWORD, "password": f"{PASSWORD}!", "again": f"{PASSWORD}!"}
    last = ask("POST", "/password", tokens[-1], change).cookies[app.cookie]
    back = {"old": f"{PASSWORD}!", "password": PASSWORD, "again": PASSWORD}
    newest = ask("POST", "/password", last, back).cookies[app.cookie]
    ask("POST", "/logout", newest)
    used = [*tokens, last, newest]
    alive = [ask("GET", "/api/v1/progress", token).status_code == 200 for token in used]
    return {"tokens": len(set(tokens[1:])), "alive": sum(alive), "planted": tokens[1:].count("planted")}


def foreign_pages(app: App) -> dict[str, Any]:
    """Every state change as a page of another origin would send it, with a manager's cookie."""
    url = app.server.url
    headers = [
        *({"Origin": origin} for origin in ("http://example.org", "https://example.org", "null", f"{url}.example.org")),
        *({"Origin": origin} for origin in (url.replace("127.0.0.1", "localhost"), f"{url}1", "http://127.0.0.1")),
        *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")),
    ]
    changes = [(path, method) for path, method in app.routes() if method not in SAFE]
    changes += [("/annotate/", "POST"), *((f"/admin/{path}", "POST") for path in (*GRADIO, "gradio_api/run/predict"))]
    with app.signed_in("manager") as browser:
        before = content(app.store)
        statuses = Counter(
            browser.request(method, filled(path), json={"client": "tab"}, headers=foreign).status_code
            for path, method in changes
            for foreign in headers
        )
    after = content(app.store)
    changed = [name for name in before if before[name] != after[name]]
    return {"routes": len(changes), "tried": statuses.total(), "refused": statuses[403], "changed": changed}


def role_matrix(app: App, *, with_pages: bool) -> dict[str, Any]:
    """Every route and function by every role, and by a session that was ended."""
    routes = app.routes()
    browsers = {role: app.signed_in(role) for role in ROLES} | {"ended": app.signed_in("annotator")}
    browsers["ended"].post("/logout", headers={"Origin": app.server.url})
    functions = functions_of(browsers["manager"]) if with_pages else []
    successes, refusals = [], []
    for role, browser in browsers.items():
        rank = ROLES.index("anyone" if role == "ended" else role)
        asked: list[tuple[str, str, str, dict[str, Any]]] = []
        if rank < ROLES.index("manager"):  # for a manager they would run
            asked += [("/admin/gradio_api/run/predict", "POST", "manager", call) for call in functions]
            asked += [(f"/admin/{path}", "POST", "manager", {}) for path in GRADIO if with_pages]
        asked += [(path, method, ROUTES.get(path, "nobody"), {"client": "tab"}) for path, method in routes]
        for path, method, lowest, body in asked:
            answer = browser.request(method, filled(path), json=body)
            refused = answer.status_code in (401, 403, 404 if path.startswith("/admin/") else 403)
            if path == "/password":
                refused = answer.headers.get("location") == "/login"
            may = lowest != "nobody" and rank >= ROLES.index(lowest)
            if refused is may:
                (refusals if refused else successes).append([role, method, path, answer.status_code])
        browser.close()
    counts = {"routes": len(routes), "functions": len(functions), "roles": len(browsers)}
    return counts | {"successes": successes, "refusals": refusals}


def functions_of(manager: httpx.Client) -> list[dict[str, Any]]:
    """A call of each function of the managers' page."""
    found = manager.get("/admin/config", timeout=300).json()["dependencies"]
    return [{"fn_index": each["id"], "data": [None] * len(each["inputs"]), "session_hash": "s"} for each in found]


def filled(path: str) -> str:
    """A path whose parameters name nothing."""
    return re.sub(r"{\w+}", "none", path)
