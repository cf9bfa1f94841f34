"""Users, invites and the audit."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from annotation import audit, campaigns, managing
from annotation.accounts import Account
from annotation.admin.dashboard_tab import API
from annotation.admin.desk import NOTHING, Call, Desk, Mistake, links, number_of, said, table_html
from annotation.figure_tables import Table
from annotation.records import ROLES

STATES = {"pause": "paused", "resume": "active", "close": "closed"}
AUDIT_SHOWN = 200
NO_CAMPAIGN = 0  # in the list of campaigns to join


def build(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    """Components and events of the tab. Returns what fills its tables and lists, a function of the call, and those.

    An invite is to the campaign that is `chosen`, unless another one is given.
    """
    gr, say = desk.gr, desk.say
    with gr.Tabs():
        with gr.Tab(say("users.title")):
            show_users, users = _users(desk)
        with gr.Tab(say("invites.title")):
            show_invites, invites = _invites(desk, chosen)
        with gr.Tab(say("audit.title")):
            show_audit, entries = _audit(desk)

    def show(call: Call) -> list[Any]:
        return [*show_users(call), *show_invites(call), *show_audit(call)]

    return show, [*users, *invites, *entries]


# ---- users ----------------------------------------------------------------------------------------------------


def _users(desk: Desk) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    table = desk.table()
    files = gr.HTML()
    user = desk.choice(label=say("users.user"), elem_id="user")
    with gr.Row():
        buttons = {name: gr.Button(say(f"users.{name}")) for name in STATES}
    with gr.Row(elem_classes="bar"):
        role = gr.Radio(label=say("users.role"), choices=list(ROLES), value=ROLES[0])
        set_role = gr.Button(say("users.set_role"), scale=0, min_width=260)
    with gr.Row(elem_classes="bar"):
        password = gr.Textbox(label=say("users.password"), type="password", max_lines=1)
        set_password = gr.Button(say("users.set_password"), scale=0, min_width=260)
    with gr.Row(elem_classes="bar"):
        confirmed = gr.Textbox(label=say("users.confirm"), info=say("users.confirm.info"), max_lines=1)
        erase = gr.Button(say("users.erase"), variant="stop", scale=0, min_width=260)
    told = gr.HTML()
    accounts = desk.service.accounts

    def show(call: Call, chosen: str | None = None) -> list[Any]:
        found = accounts.accounts()
        translated = ("role", "state", "has_password")
        shown_users = table_html(users_table(found), call.words, call.words["users.title"], translated=translated)
        choices = [(f"{each.name} ({each.id})", each.id) for each in found if each.name is not None]
        known = {each for _, each in choices}
        files = links([(call.words["csv"], f"{API}/users.csv")])
        return [shown_users, gr.Dropdown(choices=choices, value=chosen if chosen in known else None), files]

    def after(call: Call, user_id: str, message: str) -> list[Any]:
        return [*show(call, user_id), said(message)]

    filled = [table, user, files]
    for name, state in STATES.items():

        def turn(call: Call, user_id: str | None, state: str = state) -> list[Any]:
            found = _named(accounts.accounts(), user_id)
            accounts.set_state(found.id, state, by=call.manager.id)
            message = call.words["users.state_set"].format(name=found.name, state=call.words[f"value.{state}"])
            return after(call, found.id, message)

        desk.on(buttons[name].click, turn, [user], [*filled, told])

    def give_role(call: Call, user_id: str | None, role: str) -> list[Any]:
        found = _named(accounts.accounts(), user_id)
        accounts.set_role(found.id, role, by=call.manager.id)
        message = call.words["users.state_set"].format(name=found.name, state=call.words[f"value.{role}"])
        return after(call, found.id, message)

    def give_password(call: Call, user_id: str | None, given: str) -> list[Any]:
        found = _named(accounts.accounts(), user_id)
        accounts.set_password(found.id, given or "", by=call.manager.id)
        return [*after(call, found.id, call.words["users.password_set"].format(name=found.name)), ""]

    def forget(call: Call, user_id: str | None, typed: str) -> list[Any]:
        found = _named(accounts.accounts(), user_id)
        if (typed or "").strip() != found.name:
            raise Mistake("users.not_confirmed", name=found.name)
        accounts.erase(found.id, by=call.manager.id)
        return [*after(call, "", call.words["users.erased"].format(id=found.id)), ""]

    desk.on(set_role.click, give_role, [user, role], [*filled, told])
    desk.on(set_password.click, give_password, [user, password], [*filled, told, password])
    desk.on(erase.click, forget, [user, confirmed], [*filled, told, confirmed])
    return show, filled


def users_table(accounts: list[Account]) -> Table:
    """All accounts."""
    return Table(
        (
            *(("annotator", "text"), ("name", "text"), ("role", "text"), ("state", "text")),
            *(("has_password", "text"), ("created_at", "time")),
        ),
        tuple(
            (each.id, each.name, each.role, each.state, "yes" if each.has_password else "no", each.created_at)
            for each in accounts
        ),
    )


def _named(accounts: list[Account], user_id: str | None) -> Account:
    for each in accounts:
        if each.id == user_id and each.name is not None:
            return each
    raise Mistake("mistake.no_user")


# ---- invites --------------------------------------------------------------------------------------------------


def _invites(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    with gr.Row():
        role = gr.Radio(label=say("users.role"), choices=list(ROLES), value=ROLES[0])
        own = desk.choice(label=say("invites.campaign"))
        uses = gr.Number(label=say("invites.uses"), value=1, precision=0, minimum=1)
        days = gr.Number(label=say("invites.days"), value=7, precision=0, minimum=1)
        note = gr.Textbox(label=say("invites.note"), max_lines=1)
    make = gr.Button(say("invites.make"), variant="primary")
    link = gr.Textbox(label=say("invites.link"), interactive=False, buttons=["copy"])
    told = gr.HTML()
    table = desk.table()
    with gr.Row(elem_classes="bar"):
        invite = desk.choice(label=say("invites.invite"))
        revoke = gr.Button(say("invites.revoke"), scale=0, min_width=260)
    kept = desk.service.invites

    def show(call: Call) -> list[Any]:
        found = kept.all()
        columns = (
            *(("invite", "text"), ("role", "text"), ("campaign", "text"), ("note", "text"), ("uses_left", "count")),
            *(("expires_at", "time"), ("state", "text")),
        )

        def state(each: Any) -> str:
            if each.revoked:
                return "revoked"
            return "used" if not each.uses_left else "expired" if each.expires_at <= call.at else "usable"

        rows = tuple(
            (each.id[:12], each.role, each.campaign, each.note, each.uses_left, each.expires_at, state(each))
            for each in found
        )
        usable = [(f"{each.id[:12]} {each.note}", each.id) for each in found if state(each) == "usable"]
        return [
            table_html(Table(columns, rows), call.words, call.words["invites.title"], translated=("role", "state")),
            gr.Dropdown(choices=usable, value=None),
        ]

    def campaign_choices(call: Call, campaign_id: int | None) -> list[Any]:
        with desk.store.reading() as connection:
            names = [(each.name, each.id) for each in campaigns.all_campaigns(connection)]
        known = {each for _, each in names}
        choices = [(call.words["invites.all"], NO_CAMPAIGN), *names]
        return [gr.Dropdown(choices=choices, value=campaign_id if campaign_id in known else NO_CAMPAIGN)]

    def invited(call: Call, role: str, campaign_id: int | None, uses: Any, days: Any, note: str) -> list[Any]:
        token = kept.make(
            role,
            campaign_id=campaign_id or None,
            uses=number_of(uses, "invites.uses"),
            days=number_of(days, "invites.days"),
            note=(note or "").strip(),
            by=call.manager.id,
        )
        return [f"{call.address}/invite/{token}", said(call.words["invites.made"]), *show(call)]

    def take_back(call: Call, invite_id: str | None) -> list[Any]:
        if not invite_id:
            raise Mistake("mistake.no_invite")
        kept.revoke(invite_id, by=call.manager.id)
        return [said(call.words["invites.revoked"]), *show(call)]

    filled = [table, invite]
    desk.on(make.click, invited, [role, own, uses, days, note], [link, told, *filled])
    desk.on(revoke.click, take_back, [invite], [told, *filled])
    desk.on(chosen.change, campaign_choices, [chosen], [own])
    return show, filled


# ---- audit ----------------------------------------------------------------------------------------------------


def _audit(desk: Desk) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    with gr.Row(elem_classes="bar"):
        verify = gr.Button(say("audit.verify"), variant="primary", scale=0, min_width=200)
        again = gr.Button(say("refresh"), scale=0, min_width=120)
    told = gr.HTML()
    table = desk.table()
    files = gr.HTML()

    def show(call: Call) -> list[Any]:
        with desk.store.reading() as connection:
            rows = managing.audit_rows(connection, limit=AUDIT_SHOWN)
        shown_entries = table_html(audit_table(rows), call.words, call.words["audit.title"], whole=False)
        return [shown_entries, links([(call.words["csv"], f"{API}/audit.csv")])]

    def check(call: Call) -> list[Any]:
        with desk.store.snapshot() as connection:
            found = audit.verify(connection)
        return [verified_html(found, call.words)]

    desk.on(verify.click, check, [], [told], progress="minimal")
    desk.on(again.click, show, [], [table, files])
    return show, [table, files]


def audit_table(rows: list[Any]) -> Table:
    """Entries of the audit."""
    columns = (
        *(("number", "count"), ("at", "time"), ("actor", "text"), ("name", "text"), ("action", "text")),
        ("details", "text"),
    )
    return Table(
        columns,
        tuple(
            (row.number, row.at, row.actor_id, row.name, row.action, json.dumps(row.details, ensure_ascii=False))
            for row in rows
        ),
    )


def verified_html(found: audit.Verified, words: Mapping[str, str]) -> str:
    """What a look at both chains found."""
    if not found.problems:
        good = words["audit.good"].format(judgments=found.judgments.length, entries=found.audit.length)
        heads = words["audit.heads"].format(
            judgments=found.judgments.hash or NOTHING, audit=found.audit.hash or NOTHING
        )
        return f'{said(good)}<p class="soft hash">{html.escape(heads)}</p>'
    wrong = "".join(f"<li>{html.escape(problem)}</li>" for problem in found.problems[:50])
    bad = html.escape(words["audit.bad"].format(count=len(found.problems)))
    return f'<div role="alert" class="wrong"><p>{bad}</p><ul>{wrong}</ul></div>'
