"""`rlhf annotate user` and `rlhf annotate invite`: accounts from the command line, for whoever can open the store."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Sequence

from annotation import campaigns
from annotation.accounts import Accounts
from annotation.arguments import STORE_HELP, Parser
from annotation.invites import Invites
from annotation.public_site import checked_public_url
from annotation.records import ROLES
from annotation.sessions import Sessions
from annotation.store import Store

SECRET = "RLHF_ANNOTATION_SECRET"
SHORTEST_SECRET = 32
PASSWORD = "RLHF_PASSWORD"
STATES = {"open": "active", "pause": "paused", "close": "closed"}
ACTIONS = ("list", "add", *STATES, "role", "password", "erase")
LOCAL_PORT = 7860


def secret_of_environment() -> bytes:
    """What keys the hashes of sessions and invites; empty where there is none.

    Raises:
        ValueError: it is too short to be one.
    """
    secret = os.environ.get(SECRET, "")
    if secret and len(secret) < SHORTEST_SECRET:
        fix = f'export {SECRET}="$(openssl rand -hex 32)", and keep it: another one ends all sessions and invites'
        raise ValueError(f"{SECRET} has {len(secret)} characters and needs {SHORTEST_SECRET}; {fix}")
    return secret.encode("utf-8", "surrogateescape")


def user_main(arguments: Sequence[str]) -> None:
    """List, add and change accounts."""
    parser = Parser(
        prog="rlhf annotate user",
        usage="rlhf annotate user list|add|open|pause|close|role|password|erase [NAME] --store URL",
        description="Accounts of the annotation app.",
        epilog=f"A password is asked for, or read from the environment variable {PASSWORD}.",
    )
    parser.add_argument("action", choices=ACTIONS, help="erase forgets name and password and keeps the judgments")
    parser.add_argument("name", nargs="?", help="of the account, or its id")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--role", choices=ROLES, help="for add and role; add makes an annotator without it")
    settings = parser.parse_args(arguments)
    action, name, role = settings.action, settings.name, settings.role
    if (name is None) != (action == "list"):
        raise ValueError(f"user {action} {'takes no name' if name else 'needs a name'}; {parser.usage}")
    if action == "role" and role is None:
        raise ValueError(f"user role needs --role {', '.join(ROLES)}")
    if action not in ("add", "role") and role is not None:
        raise ValueError(f"user {action} takes no --role; rlhf annotate user role {name} --role {role} changes it")
    store = Store.open(settings.store, create=action == "add")
    try:
        _act(Accounts(store, secret=secret_of_environment()), action, name, role)
    finally:
        store.close()


def _act(accounts: Accounts, action: str, name: str, role: str | None) -> None:
    if action == "list":
        for account in accounts.accounts():
            way = "password" if account.has_password else "name only"
            print(f"{account.id}  {account.role:11}  {account.state:6}  {way:9}  {account.name or '(erased)'}")
        return
    if action == "add":
        account = accounts.add(name, role or "annotator", read_password(), by=None)
        print(f"added {account.name} as {account.role} ({account.id})")
        return
    account = accounts.find(name)
    if action in STATES:
        accounts.set_state(account.id, STATES[action], by=None)
    elif action == "role":
        assert role is not None
        accounts.set_role(account.id, role, by=None)
    elif action == "password":
        accounts.set_password(account.id, read_password(), by=None)
    else:
        accounts.erase(account.id, by=None)
    done = {"role": f"is {role} now", "password": "has a new password", "erase": "is erased"}
    print(f"{account.name} ({account.id}) {done.get(action) or f'is {STATES[action]} now'}")


def read_password() -> str:
    """From the environment, or typed twice. Never from the command line, which others on the machine can see.

    Raises:
        ValueError: there is none, or it was not typed twice the same.
    """
    given = os.environ.get(PASSWORD)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise ValueError(f"there is no terminal to ask for a password; set {PASSWORD} in the environment")
    typed = getpass.getpass("password: ")
    if getpass.getpass("again: ") != typed:
        raise ValueError("the two passwords are not the same; try again")
    return typed


def invite_main(arguments: Sequence[str]) -> None:
    """Print a link with which people make accounts for themselves."""
    parser = Parser(prog="rlhf annotate invite", description="Make a link with which people make their accounts.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--role", choices=ROLES, default=ROLES[0], help=f"of the accounts; default {ROLES[0]}")
    campaign_help = "of which they become members, and so does who has an account; default none"
    parser.add_argument("--campaign", metavar="NAME", help=campaign_help)
    parser.add_argument("--uses", type=int, default=1, help="how many accounts and members; default 1")
    parser.add_argument("--days", type=float, default=7, help="how long the link is good; default 7")
    parser.add_argument("--note", default="", help="whom it is for; managers see it")
    parser.add_argument("--public_url", metavar="URL", help="what people open, as in rlhf annotate")
    port_help = f"of the app on this machine, without --public_url; default {LOCAL_PORT}"
    parser.add_argument("--port", type=int, metavar="PORT", help=port_help)
    settings = parser.parse_args(arguments)
    here = f"http://127.0.0.1:{settings.port or LOCAL_PORT}"
    address = checked_public_url(settings.public_url) if settings.public_url else here
    store = Store.open(settings.store, create=False)
    try:
        invites = Invites(Sessions(Accounts(store, secret=secret_of_environment())))
        campaign_id = None
        if settings.campaign:
            with store.reading() as connection:
                campaign_id = campaigns.by_name(connection, settings.campaign).id
        token = invites.make(
            settings.role,
            campaign_id=campaign_id,
            uses=settings.uses,
            days=settings.days,
            note=settings.note,
            by=None,
        )
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(invites.find(token).expires_at))
        uses = "one account" if settings.uses == 1 else f"{settings.uses} accounts"
        print(f"{address}/invite/{token}\n{uses}, role {settings.role}, until {until}")
        if not settings.public_url and settings.port is None:
            print(f"assumes the app on this machine at port {LOCAL_PORT}; otherwise give --port or --public_url")
    finally:
        store.close()
