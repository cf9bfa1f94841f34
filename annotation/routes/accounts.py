"""Coming in and going out, invites and one's password as pages; accounts and invites as JSON for managers.

The pages are forms that work without scripts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from annotation.accounts import Accounts, LastManager, NameTaken, UnknownAccount
from annotation.invites import InvalidInvite, Invite
from annotation.passwords import InvalidPassword
from annotation.records import AnnotationError
from annotation.routes.access import Managing, Service, cookie_name, visitor
from annotation.routes.forms import Speech, Spoken, page
from annotation.service import AnnotationService
from annotation.sessions import AccountClosed, PasswordNeeded, TooManyTries, WrongPassword
from annotation.store import StoreUnavailable

START = "/annotate"
RETURNS = (START, "/admin")  # where signing in leads back to
RETRY_AFTER = {"Retry-After": "1"}
INVITE = re.compile(r"[\w-]{20,100}", re.ASCII)
HASHES_AT_ONCE = 4  # each takes 64 MiB and some cores
STATUS: dict[type[Exception], int] = {
    PasswordNeeded: 401,
    WrongPassword: 401,
    AccountClosed: 403,
    InvalidInvite: 404,
    UnknownAccount: 404,
    LastManager: 409,
    NameTaken: 409,
    TooManyTries: 429,
}
Result = TypeVar("Result")

pages = APIRouter()
admin = APIRouter(prefix="/admin")


# ---- pages ----------------------------------------------------------------------------------------------------


@pages.get("/login", response_class=HTMLResponse)
def login_page(service: Service, speech: Spoken, to: str = START) -> Response:
    return _login_form(service.accounts, speech, to=to)


@pages.post("/login", response_class=HTMLResponse)
async def sign_in(
    request: Request,
    service: Service,
    speech: Spoken,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    invite: Annotated[str, Form()] = "",
    to: Annotated[str, Form()] = START,
) -> Response:
    accounts = service.accounts
    leads_to = f"/invite/{invite}/join" if INVITE.fullmatch(invite) else _return_to(to)
    try:
        token = await _in_turn(request, service.sessions.sign_in, name, password, address=_address(request))
        return await _in_turn(request, _come_in, request, service, token, leads_to)
    except (AnnotationError, StoreUnavailable) as error:
        asks = isinstance(error, (PasswordNeeded, WrongPassword, TooManyTries))
        # that a name has a password is no mistake of whoever gave the name
        place = "hint" if isinstance(error, PasswordNeeded) else "error"
        said = {place: speech.of(error), **_status(error)}
        form = partial(_login_form, accounts, speech, name, asks_password=asks, invite=invite, to=to, **said)
        return await _in_turn(request, form)


@pages.post("/logout")
def sign_out(request: Request, service: Service) -> Response:
    _end_session(request, service)
    response = RedirectResponse("/login", 303)
    secure = request.app.state.site.secure
    response.delete_cookie(cookie_name(service), httponly=True, samesite="strict", path="/", secure=secure)
    return response


@pages.get("/invite/{token}", response_class=HTMLResponse)
def invite_page(request: Request, service: Service, speech: Spoken, token: str, new: bool = False) -> Response:
    """A form for a new account; whoever has one, and asks for no other, is shown the campaign to join."""
    try:
        found = service.invites.find(token)
        if found.campaign and not new and visitor(request, service) is not None:
            return RedirectResponse(f"/invite/{token}/join", 303)
        return _invite_form(speech, found, token)
    except (AnnotationError, StoreUnavailable) as error:
        return _no_invite(speech, error)


@pages.post("/invite/{token}", response_class=HTMLResponse)
async def accept_invite(
    request: Request,
    service: Service,
    speech: Spoken,
    token: str,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    again: Annotated[str, Form()] = "",
) -> Response:
    try:
        found = await _in_turn(request, service.invites.find, token)
        if password != again:
            return _invite_form(speech, found, token, name, speech.word("error.not_the_same"), True, status=422)
        try:
            session = await _in_turn(request, service.invites.accept, token, name, password)
        except InvalidInvite:
            raise
        except AnnotationError as error:
            of_password = isinstance(error, InvalidPassword)
            return _invite_form(speech, found, token, name, speech.of(error), of_password, **_status(error))
        return await _in_turn(request, _come_in, request, service, session)
    except (InvalidInvite, StoreUnavailable) as error:
        return _no_invite(speech, error)


@pages.get("/invite/{token}/join", response_class=HTMLResponse)
def join_page(request: Request, service: Service, speech: Spoken, token: str) -> Response:
    """Asks whoever is signed in whether they join. A link on another page brings no session along: one of ours does."""
    try:
        found = service.invites.find(token)
        if not found.campaign:
            return RedirectResponse(f"/invite/{token}", 303)
        person = visitor(request, service)
        if person is None:
            return _login_form(service.accounts, speech, invite=token)
        fields = {"campaign": found.campaign, "name": person.name}
        lead, who = (speech.word(key, **fields) for key in ("join.lead", "join.who"))
        return page("join.html", speech, {"lead": lead, "who": who, "token": token, "error": ""})
    except (AnnotationError, StoreUnavailable) as error:
        return _no_invite(speech, error)


@pages.post("/invite/{token}/join", response_class=HTMLResponse)
def join(request: Request, service: Service, speech: Spoken, token: str) -> Response:
    try:
        service.invites.find(token)
        person = visitor(request, service)
        if person is None:
            return _login_form(service.accounts, speech, invite=token, status=401)
        service.invites.join(token, person.id)
        return RedirectResponse(START, 303)
    except (AnnotationError, StoreUnavailable) as error:
        return _no_invite(speech, error)


@pages.get("/password", response_class=HTMLResponse)
def password_page(request: Request, service: Service, speech: Spoken) -> Response:
    person = visitor(request, service)
    return RedirectResponse("/login", 303) if person is None else _password_form(speech, person.name)


@pages.post("/password", response_class=HTMLResponse)
async def change_password(
    request: Request,
    service: Service,
    speech: Spoken,
    old: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    again: Annotated[str, Form()] = "",
) -> Response:
    person = await _in_turn(request, visitor, request, service)
    if person is None:
        return RedirectResponse("/login", 303)
    if password != again:
        return _password_form(speech, person.name, speech.word("error.new_not_the_same"), status=422)
    change = partial(service.sessions.change_password, person.id, old, password, address=_address(request))
    try:
        token = await _in_turn(request, change)
    except WrongPassword as error:
        return _password_form(speech, person.name, speech.word("error.old_wrong"), **_status(error))
    except (AnnotationError, StoreUnavailable) as error:
        return _password_form(speech, person.name, speech.of(error), **_status(error))
    return await _in_turn(request, _come_in, request, service, token)


# ---- managers -------------------------------------------------------------------------------------------------


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class UserRequest(_Body):
    name: str
    role: str = "annotator"
    password: str


class RoleRequest(_Body):
    role: str


class StateRequest(_Body):
    state: str


class PasswordRequest(_Body):
    password: str


class InviteRequest(_Body):
    role: str = "annotator"
    campaign_id: int | None = None
    uses: Annotated[int, Field(le=2**31)] = 1
    days: float = 7
    note: str = ""


@admin.get("/users")
def users(manager: Managing, service: Service) -> dict[str, Any]:
    return {"users": [asdict(account) for account in service.accounts.accounts()]}


@admin.post("/users", status_code=201)
async def add_user(request: Request, body: UserRequest, manager: Managing, service: Service) -> dict[str, Any]:
    account = await _in_turn(request, service.accounts.add, body.name, body.role, body.password, by=manager.id)
    return {"user": asdict(account)}


@admin.post("/users/{annotator_id}/role", status_code=204)
def set_role(annotator_id: str, body: RoleRequest, manager: Managing, service: Service) -> None:
    service.accounts.set_role(annotator_id, body.role, by=manager.id)


@admin.post("/users/{annotator_id}/state", status_code=204)
def set_state(annotator_id: str, body: StateRequest, manager: Managing, service: Service) -> None:
    service.accounts.set_state(annotator_id, body.state, by=manager.id)


@admin.post("/users/{annotator_id}/password", status_code=204)
async def set_password(
    request: Request, annotator_id: str, body: PasswordRequest, manager: Managing, service: Service
) -> None:
    await _in_turn(request, service.accounts.set_password, annotator_id, body.password, by=manager.id)


@admin.post("/users/{annotator_id}/erase", status_code=204)
def erase(annotator_id: str, manager: Managing, service: Service) -> None:
    service.accounts.erase(annotator_id, by=manager.id)


@admin.get("/invites")
def invites(manager: Managing, service: Service) -> dict[str, Any]:
    return {"invites": [asdict(found) for found in service.invites.all()]}


@admin.post("/invites", status_code=201)
def make_invite(request: Request, body: InviteRequest, manager: Managing, service: Service) -> dict[str, str]:
    token = service.invites.make(**body.model_dump(), by=manager.id)
    address = request.app.state.site.public_url or str(request.base_url).rstrip("/")
    return {"link": f"{address}/invite/{token}"}


@admin.post("/invites/{invite_id}/revoke", status_code=204)
def revoke_invite(invite_id: str, manager: Managing, service: Service) -> None:
    service.invites.revoke(invite_id, by=manager.id)


# ---- inside ---------------------------------------------------------------------------------------------------


def hashing_threads() -> ThreadPoolExecutor:
    """Threads for passwords: a few, and whoever waits for one holds none of those that do the annotators' work."""
    return ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="passwords")


async def _in_turn(request: Request, function: Callable[..., Result], *arguments: Any, **settings: Any) -> Result:
    threads = request.app.state.hashing
    return await asyncio.get_running_loop().run_in_executor(threads, partial(function, *arguments, **settings))


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def status_of(error: Exception) -> tuple[int, dict[str, str]]:
    """The status that an error of accounts is answered with, and its headers."""
    if isinstance(error, StoreUnavailable):
        return 503, RETRY_AFTER
    return STATUS.get(type(error), 422), {"Retry-After": str(error.seconds)} if isinstance(error, TooManyTries) else {}


def _status(error: Exception) -> dict[str, Any]:
    status, headers = status_of(error)
    return {"status": status, "headers": headers}


def _come_in(request: Request, service: AnnotationService, token: str, to: str = START) -> Response:
    """To the work, under a new token; whoever used this browser before is out."""
    _end_session(request, service)
    response = RedirectResponse(to, 303)
    secure = request.app.state.site.secure
    response.set_cookie(cookie_name(service), token, httponly=True, samesite="strict", path="/", secure=secure)
    return response


def _return_to(asked: str) -> str:
    """A page of ours; a link that names another one leads to the work."""
    return asked if asked in RETURNS else START


def _end_session(request: Request, service: AnnotationService) -> None:
    token = request.cookies.get(cookie_name(service))
    if token:
        service.sign_out(token)


def _login_form(
    accounts: Accounts,
    speech: Speech,
    name: str = "",
    error: str = "",
    asks_password: bool = False,
    invite: str = "",
    *,
    hint: str = "",
    to: str = START,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    asks_password = asks_password or accounts.passwords_required
    is_open = not accounts.passwords_required
    # a store that cannot be reached has no more to say
    everybody = status != 503 and is_open and not accounts.has_manager()
    fields = {
        "name": name,
        "error": error,
        "hint": hint,
        "invite": invite,
        "to": _return_to(to),
        "everybody": speech.word("login_everybody") if everybody else "",
        "password_off": "" if asks_password else "hidden disabled",
        "name_focus": "" if asks_password and name else "autofocus",
        "password_focus": "autofocus" if asks_password and name else "",
    }
    return page("login.html", speech, fields, status, headers)


def _invite_form(
    speech: Speech,
    found: Invite,
    token: str,
    name: str = "",
    error: str = "",
    of_password: bool = False,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    role = speech.word(f"role.{found.role}")
    lead = speech.word("invite.lead_to", campaign=found.campaign, role=role) if found.campaign else ""
    fields = {
        "name": name,
        "error": error,
        "lead": lead or speech.word("invite.lead", role=role),
        "form_off": "",
        "other": f"/invite/{token}/join" if found.campaign else "/login",
        "name_focus": "" if of_password else "autofocus",
        "password_focus": "autofocus" if of_password else "",
    }
    return page("invite.html", speech, fields, status, headers)


def _no_invite(speech: Speech, error: Exception) -> Response:
    fields = {"name": "", "error": "", "lead": speech.of(error), "form_off": "hidden", "other": "/login"}
    return page("invite.html", speech, fields | {"name_focus": "", "password_focus": ""}, *status_of(error))


def _password_form(
    speech: Speech, name: str, error: str = "", *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return page("password.html", speech, {"name": name, "error": error}, status, headers)
