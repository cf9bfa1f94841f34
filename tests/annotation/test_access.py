"""Who may call which route, from where, and how the app may be opened: through the routes, on real databases."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.testclient import TestClient

from annotation.accounts import Accounts
from annotation.api import create_app
from annotation.app import check_certificate
from annotation.command import main
from annotation.invites import Invites
from annotation.passwords import Passwords
from annotation.public_site import Site, checked_public_url
from annotation.routes.access import cookie_name
from annotation.service import AnnotationService
from annotation.sessions import MAX_TRIES, Sessions
from annotation.store import Store
from annotation.tables import annotator, login_failure, member, session
from benchmarks.annotation.roles import MOUNTS, ROLES, ROUTES, routes_of

ADDRESS = "http://127.0.0.1:7860"
PUBLIC = "https://annotate.example.org"
WORDS = "seven brown lamps in rain"
OTHER_WORDS = "a slow tram to the sea"
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def accounts(store: Store, clock) -> Accounts:
    """With passwords required, and somebody of each role by the role's name."""
    quick = Passwords(time_cost=1, memory_kib=64, parallelism=1)
    accounts = Accounts(store, passwords_required=True, passwords=quick, clock=clock)
    for role in ROLES[1:]:
        accounts.add(role, role, f"{WORDS} {role}", by=None)
    return accounts


@pytest.fixture
def service(store: Store, accounts: Accounts, clock) -> AnnotationService:
    return AnnotationService(store, accounts=accounts, clock=clock)


@pytest.fixture
def app(service: AnnotationService) -> FastAPI:
    return create_app(service)


@pytest.fixture
def as_role(app: FastAPI) -> Callable[[str], TestClient]:
    """A browser that somebody of this role is signed in with."""

    def browser(role: str) -> TestClient:
        client = a_browser(app)
        if role != "anyone":
            form = {"name": role, "password": f"{WORDS} {role}"}
            assert client.post("/login", data=form).status_code == 303
        return client

    return browser


def a_browser(app: FastAPI, address: str = ADDRESS, **settings: object) -> TestClient:
    return TestClient(app, base_url=address, follow_redirects=False, **settings)


def error_of(page: str) -> str:
    found = re.search(r'<p id="error" class="error" role="alert">(.*?)</p>', page)
    assert found is not None
    return found[1]


# ---- roles ----------------------------------------------------------------------------------------------------


def test_every_route_is_open_to_its_role_and_closed_to_those_below(app: FastAPI, as_role) -> None:
    found = routes_of(app)
    assert {path for path, _ in found} - set(ROUTES) == set()
    assert len(found) >= 25
    wrong = []
    for role in ROLES:
        client = as_role(role)
        for path, method in found:
            answer = client.request(method, re.sub(r"{\w+}", "none", path), json={"client": "tab"})
            if path == "/password":
                refused = answer.headers.get("location") == "/login"
            else:
                refused = answer.status_code in (401, 403)
            if refused is (ROLES.index(role) >= ROLES.index(ROUTES[path])):
                wrong.append((role, method, path, answer.status_code))
    assert wrong == []


def test_every_mounted_app_is_closed_to_those_below_its_role(app: FastAPI, as_role) -> None:
    mounts = [route.path for route in app.routes if isinstance(route, Mount)]
    assert set(mounts) - set(MOUNTS) == set()
    for path in set(mounts) - {"/static"}:
        for role in ROLES[: ROLES.index(MOUNTS[path])]:
            client = as_role(role)
            for inside in ("/", "/config"):
                assert client.get(path + inside).status_code in (303, 401, 403), (role, path)


def test_a_refusal_says_what_is_missing(as_role) -> None:
    answer = as_role("annotator").get("/api/v1/admin/users")
    assert answer.status_code == 403
    assert answer.json()["detail"] == "this is for the role manager, and yours is annotator: ask a manager"
    answer = as_role("anyone").get("/api/v1/admin/users")
    assert (answer.status_code, "sign in again" in answer.json()["detail"]) == (401, True)


def test_a_role_that_was_taken_away_is_gone_at_the_next_request(accounts: Accounts, as_role) -> None:
    accounts.add("Ada", "manager", WORDS, by=None)
    client = as_role("manager")
    assert client.get("/api/v1/admin/users").status_code == 200
    accounts.set_role(accounts.find("manager").id, "annotator", by=None)
    assert client.get("/api/v1/admin/users").status_code == 403
    accounts.set_state(accounts.find("manager").id, "closed", by=None)
    assert client.get("/api/v1/progress").status_code == 401


# ---- pages ----------------------------------------------------------------------------------------------------


def test_the_login_page_asks_for_a_password_where_one_is_needed(app: FastAPI, store: Store, clock) -> None:
    asked = re.compile(r"<fieldset\s*>")
    assert asked.search(a_browser(app).get("/login").text)
    quick = Passwords(time_cost=1, memory_kib=64, parallelism=1)
    by_name = Accounts(store, passwords=quick, clock=clock)
    client = a_browser(create_app(AnnotationService(store, accounts=by_name, clock=clock)))
    assert "<fieldset hidden disabled>" in client.get("/login").text
    answer = client.post("/login", data={"name": "Manager"})
    assert answer.status_code == 401
    assert asked.search(answer.text)
    assert 'value="Manager"' in answer.text
    # asked for is no error
    assert '<p id="hint" class="hint">Give your password.</p>' in answer.text
    assert error_of(answer.text) == ""
    assert 'aria-invalid="true"' not in answer.text
    assert client.post("/login", data={"name": "Grace"}).status_code == 303


def test_the_login_page_says_when_everybody_manages(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/own.db")
    quick = Passwords(time_cost=1, memory_kib=64, parallelism=1)
    accounts = Accounts(store, passwords=quick)
    client = a_browser(create_app(AnnotationService(store, accounts=accounts)))
    assert "whoever signs in can manage everything" in client.get("/login").text
    client.post("/login", data={"name": "Ada"})
    assert client.get("/api/v1/admin/users").status_code == 200
    accounts.add("Grace", "manager", WORDS, by=None)
    assert "can manage everything" not in client.get("/login").text
    assert client.get("/api/v1/admin/users").status_code == 403
    store.close()


def test_wrong_tries_are_counted_by_the_address_that_asks(app: FastAPI, service: AnnotationService, clock) -> None:
    client = a_browser(app, client=("192.0.2.7", 4000))
    for number in range(MAX_TRIES):
        answer = client.post("/login", data={"name": f"name {number}", "password": WORDS})
        assert (answer.status_code, error_of(answer.text)) == (401, "The name or the password is wrong.")
    right = {"name": "manager", "password": f"{WORDS} manager"}
    answer = client.post("/login", data=right)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "900")
    assert "10 wrong tries" in error_of(answer.text)
    assert "set-cookie" not in answer.headers
    assert a_browser(app, client=("192.0.2.8", 4000)).post("/login", data=right).status_code == 303
    # a header does not make another address, where no proxy is told of
    forwarded = {"X-Forwarded-For": "192.0.2.9"}
    assert client.post("/login", data=right, headers=forwarded).status_code == 429


def test_an_invite_is_accepted_without_scripts(app: FastAPI, as_role) -> None:
    manager = as_role("manager")
    answer = manager.post("/api/v1/admin/invites", json={"role": "adjudicator", "uses": 1, "note": "for you"})
    assert answer.status_code == 201
    link = answer.json()["link"]
    assert re.fullmatch(rf"{ADDRESS}/invite/[\w-]{{43}}", link)
    guest = a_browser(app)
    page = guest.get(link)
    assert page.status_code == 200
    assert "<script" not in page.text
    assert page.text.count('autocomplete="new-password"') == 2
    assert 'autocomplete="username"' in page.text
    for form, words in (
        ({"name": "Grace", "password": WORDS, "again": OTHER_WORDS}, "The two passwords are not the same."),
        ({"name": "Grace", "password": "short", "again": "short"}, "The password must have 12 to 1024 characters"),
        ({"name": "Manager", "password": WORDS, "again": WORDS}, "The name Manager is taken; choose another one."),
    ):
        answer = guest.post(link, data=form)
        assert answer.status_code in (409, 422)
        assert words in error_of(answer.text)
        assert f'value="{form["name"]}"' in answer.text
        assert WORDS not in answer.text
    answer = guest.post(link, data={"name": "Grace", "password": WORDS, "again": WORDS})
    assert (answer.status_code, answer.headers["location"]) == (303, "/annotate")
    assert guest.get("/api/v1/progress").json()["annotator"]["name"] == "Grace"
    gone = a_browser(app).get(link)
    assert (gone.status_code, '<form method="post" hidden>' in gone.text) == (404, True)
    assert "ask for a new one" in gone.text


def test_who_has_an_account_joins_a_campaign_by_its_invite(
    app: FastAPI, as_role, accounts: Accounts, store: Store, fill
) -> None:
    fill(1)
    link = as_role("manager").post("/api/v1/admin/invites", json={"campaign_id": 1}).json()["link"]
    token = link.removeprefix(f"{ADDRESS}/invite/")
    accounts.add("Ada", "annotator", WORDS, by=None)
    # a link on another page brings no session along: the way goes by the sign-in
    ada = a_browser(app)
    page = ada.get(link)
    assert f'<a href="/invite/{token}/join">' in page.text
    page = ada.get(f"{link}/join")
    assert f'<input type="hidden" name="invite" value="{token}">' in page.text
    assert ada.post("/login", data={"name": "Ada", "password": OTHER_WORDS, "invite": token}).text.count(token) == 1
    answer = ada.post("/login", data={"name": "Ada", "password": WORDS, "invite": token})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/invite/{token}/join")
    # who is signed in is asked at once, and nothing happens before they say so
    answer = ada.get(link)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/invite/{token}/join")
    page = ada.get(f"{link}/join")
    assert "You are invited to main." in page.text
    assert "You are signed in as Ada." in page.text
    assert "Sie sind als Ada angemeldet." in ada.get(f"{link}/join", headers={"Accept-Language": "de"}).text
    with store.reading() as connection:
        assert connection.execute(sa.select(member)).all() == []
    answer = ada.post(f"{link}/join")
    assert (answer.status_code, answer.headers["location"]) == (303, "/annotate")
    assert ada.post(f"{link}/join").status_code == 404  # it was for one
    with store.reading() as connection:
        (found,) = connection.execute(sa.select(annotator.c.name).join(member)).scalars()
    assert found == "Ada"


def test_joining_is_for_those_who_are_signed_in_and_came_from_here(app: FastAPI, as_role, fill) -> None:
    fill(1)
    manager = as_role("manager")
    link = manager.post("/api/v1/admin/invites", json={"campaign_id": 1}).json()["link"]
    assert a_browser(app).post(f"{link}/join").status_code == 401
    assert manager.post(f"{link}/join", headers={"Origin": "https://evil.example"}).status_code == 403
    # another account can be made all the same, and an invite of no campaign makes nothing else
    assert 'autocomplete="new-password"' in manager.get(f"{link}?new=true").text
    other = manager.post("/api/v1/admin/invites", json={}).json()["link"]
    assert 'autocomplete="new-password"' in manager.get(other).text
    assert manager.get(f"{other}/join").headers["location"] == other.removeprefix(ADDRESS)
    # what is sent as an invite leads nowhere else
    form = {"name": "manager", "password": f"{WORDS} manager"}
    for invite in ("//evil.example", "../../x", "a" * 19, "a" * 101):
        assert a_browser(app).post("/login", data={**form, "invite": invite}).headers["location"] == "/annotate"


def test_the_forms_speak_the_language_of_the_browser_and_show_what_is_to_be_mended(app: FastAPI, as_role) -> None:
    link = as_role("manager").post("/api/v1/admin/invites", json={}).json()["link"]
    german = a_browser(app)
    german.headers["Accept-Language"] = "de-AT,de;q=0.9,en;q=0.5"
    page = german.get(link).text
    for words in ('<html lang="de">', "Sie sind eingeladen", "Mindestens 12 Zeichen", ">Konto anlegen<"):
        assert words in page
    assert ">Anmelden ·" in german.get("/login").text.replace("<title>", ">")
    form = {"name": "manager", "password": WORDS, "again": WORDS}
    for change, status, words, field in (
        ({"again": OTHER_WORDS}, 422, "Die beiden Passwörter sind nicht gleich.", "password"),
        ({"password": "short", "again": "short"}, 422, "Das Passwort braucht mindestens 12 Zeichen", "password"),
        ({}, 409, "Dieser Name ist vergeben", "name"),
    ):
        answer = german.post(link, data=form | change)
        assert answer.status_code == status
        assert error_of(answer.text).startswith(words)
        assert re.findall(r'<input id="(\w+)"[^>]*autofocus>', answer.text) == [field]
    answer = german.post("/login", data={"name": "manager", "password": OTHER_WORDS})
    assert error_of(answer.text) == "Name oder Passwort ist falsch."
    assert "verbraucht" in german.get("/invite/none").text
    assert "Passwort ändern" in as_role("annotator").get("/password", headers={"Accept-Language": "de"}).text
    # a language that there are no words in
    assert '<html lang="en">' in a_browser(app).get(link, headers={"Accept-Language": "fi"}).text


def test_a_changed_password_is_a_new_session(app: FastAPI, as_role, service: AnnotationService) -> None:
    here, elsewhere = as_role("annotator"), as_role("annotator")
    token = here.cookies[cookie_name(service)]
    form = {"old": f"{WORDS} annotator", "password": OTHER_WORDS, "again": OTHER_WORDS}
    answer = here.post("/password", data=form | {"old": WORDS})
    assert (answer.status_code, error_of(answer.text)) == (401, "The password that you have now is another one.")
    assert elsewhere.get("/api/v1/progress").status_code == 200
    assert here.post("/password", data=form).status_code == 303
    assert here.cookies[cookie_name(service)] != token
    assert here.get("/api/v1/progress").status_code == 200
    assert elsewhere.get("/api/v1/progress").status_code == 401
    assert 'value="annotator" readonly' in here.get("/password").text


def test_managers_keep_accounts_through_the_interface(app: FastAPI, as_role, store: Store) -> None:
    manager = as_role("manager")
    answer = manager.post("/api/v1/admin/users", json={"name": "Grace", "password": WORDS})
    assert answer.status_code == 201
    grace = answer.json()["user"]
    assert (grace["name"], grace["role"], grace["state"], grace["has_password"]) == (
        "Grace",
        "annotator",
        "active",
        True,
    )
    at = f"/api/v1/admin/users/{grace['id']}"
    assert manager.post(f"{at}/role", json={"role": "adjudicator"}).status_code == 204
    assert manager.post(f"{at}/state", json={"state": "paused"}).status_code == 204
    assert manager.post(f"{at}/password", json={"password": OTHER_WORDS}).status_code == 204
    users = {user["name"]: user for user in manager.get("/api/v1/admin/users").json()["users"]}
    assert (users["Grace"]["role"], users["Grace"]["state"]) == ("adjudicator", "paused")
    assert "argon2" not in manager.get("/api/v1/admin/users").text
    assert a_browser(app).post("/login", data={"name": "Grace", "password": OTHER_WORDS}).status_code == 303
    assert manager.post(f"{at}/erase").status_code == 204
    answers = [
        manager.post(f"{at}/erase"),
        manager.post("/api/v1/admin/users", json={"name": "manager", "password": WORDS}),
        manager.post("/api/v1/admin/users", json={"name": "Edsger", "password": "short"}),
        manager.post(f"/api/v1/admin/users/{users['manager']['id']}/state", json={"state": "closed"}),
        manager.post("/api/v1/admin/invites", json={"role": "king"}),
        manager.post("/api/v1/admin/invites/none/revoke"),
    ]
    assert [answer.status_code for answer in answers] == [404, 409, 422, 409, 422, 404]
    assert all(answer.json()["detail"] for answer in answers)


# ---- a public address -----------------------------------------------------------------------------------------


@pytest.fixture
def public_app(service: AnnotationService) -> FastAPI:
    return create_app(service, Site(PUBLIC, True, ("192.0.2.1", "10.0.0.0/8")))


def test_a_public_app_answers_under_its_own_name_and_loopback_only(public_app: FastAPI) -> None:
    for host, status in (
        ("annotate.example.org", 200),
        ("annotate.example.org:443", 200),
        ("127.0.0.1:7860", 200),
        ("example.org", 421),
        ("annotate.example.org.example.com", 421),
        ("192.0.2.1", 421),
        ("", 421),
    ):
        answer = a_browser(public_app, PUBLIC).get("/login", headers={"Host": host})
        assert answer.status_code == status, host
        lasting = answer.headers.get("strict-transport-security")
        assert lasting == ("max-age=31536000" if host.startswith("annotate.example.org") and status == 200 else None)


@pytest.mark.parametrize(
    "host, origin, status",
    [
        ("annotate.example.org", PUBLIC, 303),
        # a proxy that does not hand the name on
        ("127.0.0.1:7860", PUBLIC, 303),
        ("127.0.0.1:7860", ADDRESS, 303),
        ("annotate.example.org", "http://annotate.example.org", 403),
        ("annotate.example.org", "https://annotate.example.org:444", 403),
        ("annotate.example.org", "https://example.org", 403),
        ("annotate.example.org", "https://annotate.example.org.example.com", 403),
        ("annotate.example.org", ADDRESS, 403),
        ("annotate.example.org", "null", 403),
    ],
)
def test_state_changes_come_from_the_public_address(public_app: FastAPI, host: str, origin: str, status: int) -> None:
    form = {"name": "manager", "password": f"{WORDS} manager"}
    answer = a_browser(public_app, PUBLIC).post("/login", data=form, headers={"Host": host, "Origin": origin})
    assert answer.status_code == status


def test_the_cookie_of_a_public_app_never_goes_without_tls(public_app: FastAPI) -> None:
    client = a_browser(public_app, PUBLIC)
    header = client.post("/login", data={"name": "manager", "password": f"{WORDS} manager"}).headers["set-cookie"]
    assert header.endswith("; HttpOnly; Path=/; SameSite=strict; Secure")
    link = client.post("/api/v1/admin/invites", json={}, headers={"Host": "127.0.0.1:7860"})
    assert link.status_code == 201
    assert link.json()["link"].startswith(f"{PUBLIC}/invite/")
    assert client.post("/logout").headers["set-cookie"].endswith("; Secure")


def test_only_a_proxy_that_was_told_of_says_who_asks(public_app: FastAPI, store: Store) -> None:
    def tries(peer: str, forwarded: str) -> int:
        client = a_browser(public_app, PUBLIC, client=(peer, 4000))
        form = {"name": "nobody", "password": WORDS}
        return client.post("/login", data=form, headers={"X-Forwarded-For": forwarded}).status_code

    assert tries("192.0.2.1", "198.51.100.7") == 401
    assert tries("10.9.8.7", "203.0.113.1, 198.51.100.8") == 401
    assert tries("198.51.100.9", "203.0.113.2") == 401
    with store.reading() as connection:
        found = list(connection.execute(sa.select(login_failure.c.address).order_by(login_failure.c.id)).scalars())
    assert found == ["198.51.100.7", "198.51.100.8", "198.51.100.9"]


@pytest.mark.parametrize(
    "path, inside",
    [("/annotate", True), ("/admin", True), ("/admin/config", True), ("/administration", False), ("/login", False)],
)
def test_gradio_pages_have_their_own_policy_and_no_others(app: FastAPI, path: str, inside: bool) -> None:
    policy = a_browser(app).get(path).headers["content-security-policy"]
    assert ("'unsafe-eval'" in policy) is inside


@pytest.mark.parametrize(
    "url, origin",
    [
        ("https://Annotate.example.org/", "https://annotate.example.org"),
        ("https://annotate.example.org:443", "https://annotate.example.org"),
        ("https://annotate.example.org:8443", "https://annotate.example.org:8443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_a_public_address_is_kept_as_browsers_send_it(url: str, origin: str) -> None:
    assert checked_public_url(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.org", "example.org", "https://", "https://a@example.org", "https://example.org/app"),
        *("https://127.0.0.1", "https://example.org:port", "https://example.org?x", "https://zürich.example", ""),
    ],
)
def test_what_is_no_public_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"such as https://annotate\.example\.org") as refused:
        checked_public_url(url)
    assert ("a host name of its own" in str(refused.value)) is url.endswith("/app")


# ---- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `rlhf annotate ...` on the store; what it printed, errors after "error: "."""
    for name in ("RLHF_ANNOTATION_SECRET", "RLHF_PASSWORD"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **environment: str) -> str:
        with monkeypatch.context() as context:
            for name, value in environment.items():
                context.setenv(name, value)
            with contextlib.suppress(SystemExit):
                main([*arguments, "--store", url])
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_all_that_a_public_address_is_missing_is_said_at_once(command) -> None:
    said = command("--host", "0.0.0.0")
    assert said.startswith("error: the app can be reached from other machines, and this is missing:\n")
    lines = said.splitlines()[1:]
    assert [line.strip().split(":")[0].split(",")[0] for line in lines] == [
        "--public_url",
        "--tls_certificate and --tls_key",
        "RLHF_ANNOTATION_SECRET in the environment",
        "a manager with a password",
    ]
    command("user", "add", "Ada", "--role", "manager", RLHF_PASSWORD=WORDS)
    arguments = ("--host", "127.0.0.1", "--behind_proxy", "--public_url", PUBLIC)
    assert command(*arguments).count("\n") == 2
    assert "RLHF_ANNOTATION_SECRET has 5 characters and needs 32" in command(*arguments, RLHF_ANNOTATION_SECRET="short")
    assert command("--accounts", "--tls_key", "key.pem") == (
        "error: tls_key is given without tls_certificate; give both, such as --tls_certificate certificate.pem\n"
    )
    assert "give addresses or networks" in command("--behind_proxy", "--trusted_proxies", "proxy")
    assert "add it, or leave both out" in command("--trusted_proxies", "127.0.0.1")


def test_passwords_are_not_asked_for_while_nobody_manages(command) -> None:
    said = command("--accounts")
    assert "error: the app asks for passwords, and this is missing:" in said
    assert "rlhf annotate user add NAME --role manager" in said


def test_accounts_and_invites_are_made_on_the_command_line(command, store: Store, clock) -> None:
    secret = {"RLHF_ANNOTATION_SECRET": SECRET}
    assert command("user", "add", "Ada", "--role", "manager", RLHF_PASSWORD=WORDS).startswith("added Ada as manager (a")
    assert command("user", "add", "Grace", RLHF_PASSWORD=OTHER_WORDS).startswith("added Grace as annotator")
    command("user", "pause", "grace")
    command("user", "role", "Grace", "--role", "adjudicator")
    listed = [line.split() for line in command("user", "list").splitlines()]
    assert [line[1:] for line in listed] == [
        ["manager", "active", "password", "Ada"],
        ["adjudicator", "paused", "password", "Grace"],
    ]
    said = command("invite", "--role", "adjudicator", "--uses", "10", "--days", "7", "--public_url", PUBLIC, **secret)
    link, terms = said.splitlines()
    assert terms.startswith("10 accounts, role adjudicator, until ")
    local = {port: command("invite", *port, **secret).splitlines() for port in ((), ("--port", "7890"))}
    assert local[()][0].startswith("http://127.0.0.1:7860/invite/")
    assert local[()][2] == "assumes the app on this machine at port 7860; otherwise give --port or --public_url"
    assert local["--port", "7890"][0].startswith("http://127.0.0.1:7890/invite/")
    assert len(local["--port", "7890"]) == 2
    quick = Passwords(time_cost=1, memory_kib=64, parallelism=1)
    accounts = Accounts(store, passwords_required=True, secret=SECRET.encode(), passwords=quick)
    token = link.removeprefix(f"{PUBLIC}/invite/")
    sessions = Sessions(accounts)
    assert sessions.annotator_of(Invites(sessions).accept(token, "Edsger", WORDS)).role == "adjudicator"
    sessions.sign_in("Ada", WORDS)
    command("user", "erase", "Grace")
    command("user", "close", "Edsger")
    assert "Ada is the only manager" in command("user", "close", "Ada")
    with store.reading() as connection:
        states = connection.execute(sa.select(annotator.c.name, annotator.c.state).order_by(annotator.c.created_at))
        assert [tuple(row) for row in states] == [("Ada", "active"), (None, "closed"), ("Edsger", "closed")]
        assert len(connection.execute(sa.select(session)).all()) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("user", "add", "Grace"), "no terminal to ask for a password; set RLHF_PASSWORD"),
        (("user", "add"), "user add needs a name"),
        (("user", "list", "Ada"), "user list takes no name"),
        (("user", "role", "Ada"), "user role needs --role"),
        (("user", "close", "Ada", "--role", "manager"), "user close takes no --role"),
        (("user", "close", "Ada"), "there is no account 'Ada'"),
        (("user", "add", "Ada", "--password", WORDS), "unrecognized arguments: --password"),
        (("invite", "--campaign", "nothing"), "campaign 'nothing' is not in the store"),
        (("invite", "--public_url", "example.org"), "such as https://annotate.example.org"),
    ],
)
def test_what_cannot_be_done_with_accounts_is_said(command, store: Store, arguments, words: str, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert words in command(*arguments)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    with pytest.raises(ValueError, match=f"tls file {certificate} is not there"):
        check_certificate(str(certificate), str(key))
    certificate.write_text("nothing")
    key.write_text("nothing")
    with pytest.raises(ValueError, match="give a certificate with its chain and its key as PEM"):
        check_certificate(str(certificate), str(key))
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run([*made, *files], check=True, capture_output=True, timeout=120)
    check_certificate(str(certificate), str(key))
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "pkey", "-aes128", "-passout", "pass:word", "-in", str(key), "-out", str(locked)]
    subprocess.run(lock, check=True, capture_output=True, timeout=120)
    with pytest.raises(ValueError, match="the key without a passphrase"):
        check_certificate(str(certificate), str(locked))
