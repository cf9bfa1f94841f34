"""Who may call what, and the app with passwords and somebody of each role."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from annotation import campaigns
from annotation.accounts import Accounts
from annotation.api import create_app
from annotation.service import AnnotationService
from annotation.store import Store
from annotation.tables import login_failure
from benchmarks.annotation.databases import database
from benchmarks.annotation.durability import fill
from benchmarks.annotation.server import Server

ROLES = ("anyone", "annotator", "adjudicator", "manager")
PASSWORD = "seven brown lamps in rain"
# Path -> the lowest role that may call it, by all of its methods.
ROUTES = {
    "/": "anyone",
    "/favicon.ico": "anyone",
    "/openapi.json": "anyone",
    "/login": "anyone",
    "/logout": "anyone",
    "/invite/{token}": "anyone",
    "/invite/{token}/join": "anyone",
    "/password": "annotator",
    "/api/v1/health": "anyone",
    "/api/v1/next": "annotator",
    "/api/v1/judgments": "annotator",
    "/api/v1/undo": "annotator",
    "/api/v1/progress": "annotator",
    "/api/v1/leases": "annotator",
    "/api/v1/release": "annotator",
    "/api/v1/guidelines/accept": "annotator",
    "/api/v1/history": "annotator",
    "/api/v1/history/open": "annotator",
    "/api/v1/work": "annotator",
    "/api/v1/diff": "annotator",
    "/api/v1/live": "annotator",
    "/api/v1/live/{request_id}": "annotator",
    "/api/v1/live/{request_id}/events": "annotator",
    "/api/v1/live/{request_id}/cancel": "annotator",
    "/api/v1/adjudication/next": "adjudicator",
    "/api/v1/admin/users": "manager",
    "/api/v1/admin/users/{annotator_id}/role": "manager",
    "/api/v1/admin/users/{annotator_id}/state": "manager",
    "/api/v1/admin/users/{annotator_id}/password": "manager",
    "/api/v1/admin/users/{annotator_id}/erase": "manager",
    "/api/v1/manage/users.csv": "manager",
    "/api/v1/manage/campaigns": "manager",
    "/api/v1/manage/campaigns/{campaign_id}": "manager",
    "/api/v1/manage/campaigns/{campaign_id}/tables/{name}.csv": "manager",
    "/api/v1/manage/campaigns/{campaign_id}/plots/{name}.{form}": "manager",
    "/api/v1/manage/audit.csv": "manager",
    "/api/v1/manage/audit/verify": "manager",
    "/api/v1/manage/exports": "manager",
    "/api/v1/manage/exports/{archive_id}": "manager",
    "/api/v1/admin/invites": "manager",
    "/api/v1/admin/invites/{invite_id}/revoke": "manager",
}
MOUNTS = {"/static": "anyone", "/annotate": "annotator", "/admin": "manager"}


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Path and method of every route, mounted apps left out; what ends a session comes last."""
    found = [
        (str(route.path), method)
        for route in iter_route_contexts(app.routes)
        for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(found, key=lambda route: route[0] == "/logout")


@dataclass
class App:
    """A running app that asks for passwords; annotator, adjudicator and manager are the names of those who are so."""

    store: Store
    server: Server

    @property
    def cookie(self) -> str:
        return f"rlhf_session_{self.store.id}"

    def routes(self) -> list[tuple[str, str]]:
        return routes_of(create_app(AnnotationService(self.store)))

    def browser(self, *, address: str = "127.0.0.1") -> httpx.Client:
        """One that nobody is signed in with, at an address of this machine."""
        transport = httpx.HTTPTransport(local_address=address, verify=False)  # reading certificates takes its time
        return httpx.Client(base_url=self.server.url, transport=transport, timeout=60)

    def sign_in(self, who: str) -> str:
        """The token of a new session; wrong tries of before do not count."""
        self.forget_tries()
        with self.browser() as browser:
            answer = browser.post("/login", data={"name": who, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return answer.cookies[self.cookie]

    def signed_in(self, who: str) -> httpx.Client:
        browser = self.browser()
        if who != "anyone":
            browser.cookies.set(self.cookie, self.sign_in(who))
        return browser

    def cancelled_prompt(self, browser: httpx.Client) -> str:
        """The id of a live prompt that was taken back; campaigns take them from now on."""
        settings = campaigns.CampaignSettings(live=True)
        self.store.write(
            lambda connection: campaigns.change(connection, 1, settings=settings, actor_id=None, at=time.time())
        )
        asked = {"client": "tab", "id": str(uuid.uuid4())}
        messages = [{"role": "user", "content": "Why?"}]
        browser.post("/api/v1/live", json=asked | {"campaign_id": 1, "messages": messages}).raise_for_status()
        browser.post(f"/api/v1/live/{asked['id']}/cancel", json={"client": "tab"}).raise_for_status()
        return asked["id"]

    def forget_tries(self) -> None:
        self.store.write(lambda connection: connection.execute(sa.delete(login_failure)))


@contextmanager
def app_with_accounts(kind: str, folder: Path, name: str) -> Iterator[App]:
    """On a database of its own with twenty items."""
    with database(kind, folder) as url:
        fill(url, 20, overlap=2)
        store = Store.open(url)
        accounts = Accounts(store, passwords_required=True)
        for role in ROLES[1:]:
            accounts.add(role, role, PASSWORD, by=None)
        try:
            with Server(url, folder / f"{name}-{kind}.log", flags=["--accounts"]) as server:
                yield App(store, server)
        finally:
            store.close()
