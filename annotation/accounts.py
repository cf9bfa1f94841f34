"""Accounts: under which names, in which roles and states people come in. Any thread may call.

What lets them in is in `annotation.sessions`, and how they make accounts for themselves in `annotation.invites`.
Passwords are hashed and verified outside of transactions: it takes a tenth of a second, which no writer should wait.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from annotation import assignment, audit
from annotation.passwords import Passwords, check_password
from annotation.records import ROLES, AnnotationError, InvalidName
from annotation.store import Store
from annotation.tables import annotator, invite, session

LONGEST_NAME = 64
STATES = ("active", "paused", "closed")


class AccountError(AnnotationError):
    """What cannot be done with accounts, in words for the person."""


class NameTaken(AccountError):
    """Somebody else has this name."""


class UnknownAccount(AccountError):
    """There is no such account."""


class InvalidSetting(AccountError):
    """A role, state or number that does not exist."""


class LastManager(AccountError):
    """Without this account nobody could manage the others."""


@dataclass(frozen=True)
class Account:
    """An account as managers see it. An erased one has no name."""

    id: str
    name: str | None
    role: str
    state: str
    has_password: bool
    created_at: float


class Accounts:
    """The accounts of one store.

    Args:
        store: where they are kept.
        passwords_required: nobody comes in by the name alone.
        secret: keys the hashes that sessions, invites and tries are kept as. The tokens themselves are random, and
            cannot be found from a hash; with a secret that is not in the database, who can write to the database, or
            puts a changed copy in its place, cannot add a session or an invite whose token they know, and who reads it
            cannot tell which names were tried. Another secret ends all sessions and invites. Passwords do not depend
            on it. Processes that share a store need the same one, those that make invites too.
        passwords: how passwords are hashed.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        *,
        passwords_required: bool = False,
        secret: bytes = b"",
        passwords: Passwords | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.store = store
        self.passwords_required = passwords_required
        self.clock = clock
        self._secret = secret
        self.passwords = passwords or Passwords()

    def accounts(self) -> list[Account]:
        """All accounts in the order they were made, erased ones too."""
        with self.store.reading() as connection:
            rows = connection.execute(sa.select(annotator).order_by(annotator.c.created_at, annotator.c.id)).all()
        return [_shown(row) for row in rows]

    def find(self, name: str) -> Account:
        """An account by its name or its id.

        Raises:
            UnknownAccount: there is none.
        """
        key = " ".join(unicodedata.normalize("NFC", name).split()).casefold()
        with self.store.reading() as connection:
            row = by_key(connection, key)
            return _shown(account_row(connection, name) if row is None else row)

    def add(self, name: str, role: str, password: str, *, by: str | None) -> Account:
        """Make an account.

        Args:
            name: how it signs in.
            role: one of `ROLES`.
            password: as `check_password` wants it.
            by: the manager; None for the command line.

        Raises:
            InvalidName, NameTaken, InvalidPassword, InvalidSetting: what was given cannot be used.
        """
        shown, key = checked_name(name)
        check_role(role)
        check_password(password, shown)
        kept = self.passwords.hash(password)
        annotator_id = self.store.write(
            lambda connection: self.insert(connection, shown, key, role, password_hash=kept, by=by)
        )
        return self.find(annotator_id)

    def set_password(self, annotator_id: str, password: str, *, by: str | None) -> None:
        """Give an account another password and end its sessions.

        Raises:
            UnknownAccount, InvalidPassword: there is no such account, or it was erased; the password is too easy.
        """
        with self.store.reading() as connection:
            known = account_row(connection, annotator_id)
        check_password(password, known.name)
        kept = self.passwords.hash(password)
        self.store.write(lambda connection: self.keep_password(connection, known.id, kept, by=by))

    def set_role(self, annotator_id: str, role: str, *, by: str | None) -> None:
        """Let an account do more or less.

        Raises:
            InvalidSetting: there is no such role, or a manager would have no password.
            LastManager: there is no other manager.
        """
        check_role(role)

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = account_row(connection, annotator_id)
            if known.role == role:
                return
            if role == "manager" and known.password_hash is None:
                raise InvalidSetting(f"{known.name} has no password, and a manager needs one: give it one first")
            _check_not_last(known, managers)
            _update(connection, known.id, role=role)
            if known.role == "manager":
                self._revoke_invites_of(connection, known.id)
            details = {"account": known.id, "from": known.role, "to": role}
            audit.record(connection, "role changed", by, details, at=self.clock())

        self.store.write(change)

    def set_state(self, annotator_id: str, state: str, *, by: str | None) -> None:
        """Make an account active, paused (it is given no work) or closed: it cannot sign in, its sessions end, and what
        it has on its screens goes to others at once.

        Raises:
            InvalidSetting: there is no such state.
            LastManager: the account to be closed is the only manager.
        """
        if state not in STATES:
            raise InvalidSetting(f"state is {state!r}; use {', '.join(STATES)}")

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = account_row(connection, annotator_id)
            if known.state == state:
                return
            if state == "closed":
                _check_not_last(known, managers)
                self._shut_out(connection, known.id)
            _update(connection, known.id, state=state)
            details = {"account": known.id, "from": known.state, "to": state}
            audit.record(connection, "account state changed", by, details, at=self.clock())

        self.store.write(change)

    def erase(self, annotator_id: str, *, by: str | None) -> None:
        """Forget whose account it was: name and password go, judgments stay under the pseudonym; the rest is as closed.

        Raises:
            UnknownAccount: there is no such account, or it was erased.
            LastManager: it is the only manager.
        """

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = account_row(connection, annotator_id)
            _check_not_last(known, managers)
            self._shut_out(connection, known.id)
            _update(connection, known.id, name=None, name_key=None, password_hash=None, state="closed")
            audit.record(connection, "account erased", by, {"account": known.id}, at=self.clock())

        self.store.write(change)

    def has_manager(self) -> bool:
        """Whether somebody can manage by a password. Where nobody can, everybody manages in the open mode."""
        with self.store.reading() as connection:
            return bool(connection.execute(sa.select(some_manager())).scalar_one())

    # ---- in the transaction of the caller ------------------------------------------------------------------

    def insert(
        self,
        connection: sa.Connection,
        shown: str,
        key: str,
        role: str,
        *,
        password_hash: str | None,
        by: str | None,
        **how: str,
    ) -> str:
        """A new account, in the transaction of the caller; its id.

        Raises:
            NameTaken: somebody has the name.
        """
        if by_key(connection, key) is not None:
            raise NameTaken(f"the name {shown} is taken; choose another one")
        annotator_id = f"a{secrets.token_hex(6)}"
        now = self.clock()
        values = {"name": shown, "name_key": key, "role": role, "password_hash": password_hash, "created_at": now}
        connection.execute(sa.insert(annotator).values(id=annotator_id, **values))
        audit.record(connection, "account added", by, {"account": annotator_id, "role": role} | how, at=now)
        return annotator_id

    def keep_password(self, connection: sa.Connection, annotator_id: str, kept: str, *, by: str | None) -> None:
        """Another password, whose hash this is; all sessions end."""
        _update(connection, annotator_id, password_hash=kept)
        self._end_sessions(connection, annotator_id)
        audit.record(connection, "password set", by, {"account": annotator_id}, at=self.clock())

    def keyed(self, text: str) -> str:
        """The hash under which a text is found again."""
        content = text.encode("utf-8", "surrogatepass")
        if not self._secret:
            return hashlib.sha256(content).hexdigest()
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    def _shut_out(self, connection: sa.Connection, annotator_id: str) -> None:
        """End sessions and invites of somebody who does not come in any more, and give back what they hold."""
        self._end_sessions(connection, annotator_id)
        self._revoke_invites_of(connection, annotator_id)
        assignment.give_back_all(connection, annotator_id)

    def _end_sessions(self, connection: sa.Connection, annotator_id: str) -> None:
        own = (session.c.annotator_id == annotator_id) & session.c.revoked_at.is_(None)
        connection.execute(sa.update(session).where(own).values(revoked_at=self.clock()))

    def _revoke_invites_of(self, connection: sa.Connection, annotator_id: str) -> None:
        """Who manages no more lets nobody in either."""
        own = (invite.c.created_by == annotator_id) & invite.c.revoked_at.is_(None)
        connection.execute(sa.update(invite).where(own).values(revoked_at=self.clock()))


def checked_name(name: str) -> tuple[str, str]:
    """A name as shown, and the key under which it is found again.

    Raises:
        InvalidName: it is empty, too long, or holds characters that cannot be seen.
    """
    shown = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(shown) <= LONGEST_NAME or not shown.isprintable():
        raise InvalidName(f"the name must have 1 to {LONGEST_NAME} characters that can be seen; give another one")
    return shown, shown.casefold()


def some_manager() -> sa.Exists:
    """That somebody can manage by a password."""
    others = annotator.alias()
    return sa.exists().where(
        others.c.role == "manager", others.c.password_hash.is_not(None), others.c.state != "closed"
    )


def by_key(connection: sa.Connection, key: str) -> sa.Row | None:
    """An account by the key of its name."""
    return connection.execute(sa.select(annotator).where(annotator.c.name_key == key)).first()


def account_row(connection: sa.Connection, annotator_id: str) -> sa.Row:
    """An account with a name.

    Raises:
        UnknownAccount: there is no such account, or it was erased.
    """
    row = connection.execute(sa.select(annotator).where(annotator.c.id == annotator_id)).first()
    if row is None:
        raise UnknownAccount(f"there is no account {annotator_id!r}; see the list of accounts")
    if row.name is None:
        raise UnknownAccount(f"the account {annotator_id} was erased; make a new one")
    return row


def _update(connection: sa.Connection, annotator_id: str, **values: str | None) -> None:
    connection.execute(sa.update(annotator).where(annotator.c.id == annotator_id).values(values))


def _lock_managers(connection: sa.Connection) -> list[str]:
    """Those who can manage, whom nobody else changes before the transaction ends."""
    rows = sa.select(annotator.c.id).where(annotator.c.role == "manager", annotator.c.state != "closed")
    rows = rows.where(annotator.c.password_hash.is_not(None)).order_by(annotator.c.id).with_for_update()
    return list(connection.execute(rows).scalars())


def _check_not_last(known: sa.Row, managers: list[str]) -> None:
    if managers == [known.id]:
        raise LastManager(f"{known.name} is the only manager; make somebody else a manager first")


def check_role(role: str) -> None:
    """Raises InvalidSetting where there is no such role."""
    if role not in ROLES:
        raise InvalidSetting(f"role is {role!r}; use {', '.join(ROLES)}")


def _shown(row: sa.Row) -> Account:
    return Account(row.id, row.name, row.role, row.state, row.password_hash is not None, row.created_at)
