"""Who may come in: accounts, their sessions, invites, and the limit on wrong tries. Any thread may call.

In the open mode, for one machine, a name is enough, and where no manager has a password everybody manages. Where
passwords are required nobody comes in without one. Accounts that have a password are asked for it in both.

Passwords are hashed and verified outside of transactions: it takes a tenth of a second, which no writer should wait.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from annotation import audit, campaigns
from annotation.passwords import Passwords, check_password
from annotation.records import ROLES, AnnotationError, Annotator, InvalidName
from annotation.store import Store
from annotation.tables import annotator, campaign, invite, login_failure, session

LONGEST_NAME = 64
LONGEST_NOTE = 200
SESSION_SECONDS = 30 * 24 * 3600.0  # from the sign-in
IDLE_SECONDS = 12 * 3600.0  # without a request, where passwords are required
STEP_SECONDS = 600.0  # that long after a request, the next one moves the end of its session
MAX_TRIES = 10  # wrong ones, of an account and of an address
TRIES_SECONDS = 15 * 60.0
MOST_USES = 1000
MOST_DAYS = 365
STATES = ("active", "paused", "closed")


class AccountError(AnnotationError):
    """What cannot be done with accounts, in words for the person."""


class WrongPassword(AccountError):
    """No account of this name has this password."""


class PasswordNeeded(AccountError):
    """The account has a password, and none was given."""


class TooManyTries(AccountError):
    """Too many wrong passwords; `seconds` from now on the next one is looked at."""

    def __init__(self, seconds: float):
        self.seconds = max(math.ceil(seconds), 1)
        minutes = -(-self.seconds // 60)
        wait = "a minute" if minutes == 1 else f"{minutes} minutes"
        super().__init__(f"there were {MAX_TRIES} wrong tries; wait {wait}, and then try again")


class AccountClosed(AccountError):
    """The account takes no sign-ins any more."""


class NameTaken(AccountError):
    """Somebody else has this name."""


class UnknownAccount(AccountError):
    """There is no such account."""


class InvalidInvite(AccountError):
    """The link is of no invite, or of one that has run out."""


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


@dataclass(frozen=True)
class Invite:
    """A link that makes accounts. `id` is a hash of the link's token, which is kept nowhere."""

    id: str
    role: str
    campaign: str | None
    note: str
    uses_left: int
    created_by: str | None
    created_at: float
    expires_at: float
    revoked: bool


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
        self._passwords = passwords or Passwords()

    # ---- sessions -----------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str = "", *, address: str = "") -> str:
        """Start a session and return its token, the only copy. In the open mode who comes first under a name is
        entered.

        Args:
            name: as the person writes it; case and spaces do not matter.
            password: of the account, if it has one.
            address: of the other machine, for the limit on wrong tries.

        Raises:
            InvalidName: the name is empty, too long, or holds characters that cannot be seen.
            PasswordNeeded: no password was given, and one is needed.
            TooManyTries: there were too many wrong ones; this one was not looked at.
            WrongPassword: the password is wrong, or there is no such account, which take the same time.
            AccountClosed: the account is closed.
        """
        shown, key = checked_name(name)
        with self.store.reading() as connection:
            known = _by_key(connection, key)
        if not self.passwords_required and (known is None or known.password_hash is None):
            return self.store.write(lambda connection: self._enter(connection, shown, key))
        if not password:
            raise PasswordNeeded("give your password")
        return self._verified(known, key, password, address, lambda connection: self._start(connection, known))

    def annotator_of(self, token: str | None) -> Annotator | None:
        """Whose session a token is; None when it is unknown, has run out or was ended, or the account is closed."""
        if not token:
            return None
        now = self.clock()
        columns = (annotator.c.id, annotator.c.name, annotator.c.role, annotator.c.state)
        query = (
            sa.select(*columns, session.c.created_at, session.c.expires_at, _has_manager().label("has_manager"))
            .select_from(session.join(annotator, session.c.annotator_id == annotator.c.id))
            .where(session.c.token_hash == self._keyed(token), session.c.revoked_at.is_(None))
            .where(session.c.expires_at > now, annotator.c.state != "closed")
        )
        if self.passwords_required:
            query = query.where(annotator.c.password_hash.is_not(None))
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if self.passwords_required:
            self._prolong(token, now, row.created_at, row.expires_at)
        role = row.role if self.passwords_required or row.has_manager else "manager"
        return Annotator(row.id, row.name or row.id, role, row.state)

    def sign_out(self, token: str) -> None:
        """End a session. Its tabs' leases run out by themselves."""
        own = session.c.token_hash == self._keyed(token)
        ended = sa.update(session).where(own, session.c.revoked_at.is_(None)).values(revoked_at=self.clock())
        self.store.write(lambda connection: connection.execute(ended))

    def has_manager(self) -> bool:
        """Whether somebody can manage by a password. Where nobody can, everybody manages in the open mode."""
        with self.store.reading() as connection:
            return bool(connection.execute(sa.select(_has_manager())).scalar_one())

    def change_password(self, annotator_id: str, old: str, new: str, *, address: str = "") -> str:
        """Give one's account another password, end all its sessions, and start one, whose token is returned.

        Raises:
            InvalidPassword: the new one is too easy to guess.
            WrongPassword, TooManyTries: as `sign_in`, of the old one.
            UnknownAccount: the account has no password; a manager gives it the first one.
        """
        with self.store.reading() as connection:
            known = _account(connection, annotator_id)
        if known.password_hash is None:
            raise UnknownAccount("your account has no password yet: a manager gives it one")
        if not old:
            raise PasswordNeeded("give the password that you have now")
        check_password(new, known.name)
        kept = self._passwords.hash(new)

        def change(connection: sa.Connection) -> str:
            self._keep_password(connection, known.id, kept, by=known.id)
            return self._start(connection, known)

        return self._verified(known, known.name_key, old, address, change)

    # ---- managing -----------------------------------------------------------------------------------------

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
            row = _by_key(connection, key)
            return _shown(_account(connection, name) if row is None else row)

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
        _check_role(role)
        check_password(password, shown)
        kept = self._passwords.hash(password)
        annotator_id = self.store.write(
            lambda connection: self._insert(connection, shown, key, role, password_hash=kept, by=by)
        )
        return self.find(annotator_id)

    def set_password(self, annotator_id: str, password: str, *, by: str | None) -> None:
        """Give an account another password and end its sessions.

        Raises:
            UnknownAccount, InvalidPassword: there is no such account, or it was erased; the password is too easy.
        """
        with self.store.reading() as connection:
            known = _account(connection, annotator_id)
        check_password(password, known.name)
        kept = self._passwords.hash(password)
        self.store.write(lambda connection: self._keep_password(connection, known.id, kept, by=by))

    def set_role(self, annotator_id: str, role: str, *, by: str | None) -> None:
        """Let an account do more or less.

        Raises:
            InvalidSetting: there is no such role, or a manager would have no password.
            LastManager: there is no other manager.
        """
        _check_role(role)

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = _account(connection, annotator_id)
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
        """Make an account active, paused (it is given no work) or closed (it cannot sign in, its sessions end).

        Raises:
            InvalidSetting: there is no such state.
            LastManager: the account to be closed is the only manager.
        """
        if state not in STATES:
            raise InvalidSetting(f"state is {state!r}; use {', '.join(STATES)}")

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = _account(connection, annotator_id)
            if known.state == state:
                return
            if state == "closed":
                _check_not_last(known, managers)
                self._end_sessions(connection, known.id)
                self._revoke_invites_of(connection, known.id)
            _update(connection, known.id, state=state)
            details = {"account": known.id, "from": known.state, "to": state}
            audit.record(connection, "account state changed", by, details, at=self.clock())

        self.store.write(change)

    def erase(self, annotator_id: str, *, by: str | None) -> None:
        """Forget whose account it was: name and password go, sessions end, judgments stay under the pseudonym.

        Raises:
            UnknownAccount: there is no such account, or it was erased.
            LastManager: it is the only manager.
        """

        def change(connection: sa.Connection) -> None:
            managers = _lock_managers(connection)
            known = _account(connection, annotator_id)
            _check_not_last(known, managers)
            self._end_sessions(connection, known.id)
            self._revoke_invites_of(connection, known.id)
            _update(connection, known.id, name=None, name_key=None, password_hash=None, state="closed")
            audit.record(connection, "account erased", by, {"account": known.id}, at=self.clock())

        self.store.write(change)

    # ---- invites ------------------------------------------------------------------------------------------

    def make_invite(
        self,
        role: str,
        *,
        campaign_id: int | None = None,
        uses: int = 1,
        days: float = 7,
        note: str = "",
        by: str | None,
    ) -> str:
        """A token, the only copy, with which people make accounts for themselves.

        Args:
            role: of the accounts, one of `ROLES`.
            campaign_id: of which they become members; None for none.
            uses: how many accounts.
            days: how long it is good.
            note: whom it is for.
            by: the manager; None for the command line.

        Raises:
            InvalidSetting: one of these cannot be.
            campaigns.CampaignError: there is no such campaign.
        """
        _check_role(role)
        if not 1 <= uses <= MOST_USES:
            raise InvalidSetting(f"uses is {uses}; give a number from 1 to {MOST_USES}")
        if not 0 < days <= MOST_DAYS:
            raise InvalidSetting(f"days is {days}; give a number up to {MOST_DAYS}")
        if len(note) > LONGEST_NOTE or not note.isprintable():
            raise InvalidSetting(f"the note is longer than {LONGEST_NOTE} characters or more than a line; shorten it")
        token = secrets.token_urlsafe(32)

        def make(connection: sa.Connection) -> str:
            if campaign_id is not None:
                campaigns.find(connection, campaign_id)
            now = self.clock()
            values = {"role": role, "campaign_id": campaign_id, "note": note, "uses_left": uses, "created_by": by}
            times = {"created_at": now, "expires_at": now + days * 24 * 3600}
            connection.execute(sa.insert(invite).values(token_hash=self._keyed(token), **values, **times))
            details = {"invite": self._keyed(token)[:12], "role": role, "campaign_id": campaign_id, "uses": uses}
            audit.record(connection, "invite made", by, details, at=now)
            return token

        return self.store.write(make)

    def invites(self) -> list[Invite]:
        """All invites, the newest first."""
        query = sa.select(invite, campaign.c.name.label("campaign")).outerjoin(campaign)
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(invite.c.created_at.desc(), invite.c.token_hash)).all()
        return [_shown_invite(row) for row in rows]

    def revoke_invite(self, invite_id: str, *, by: str | None) -> None:
        """Let a link make no more accounts.

        Raises:
            InvalidInvite: there is no such invite.
        """

        def revoke(connection: sa.Connection) -> None:
            own = invite.c.token_hash == invite_id
            if connection.execute(sa.select(invite.c.role).where(own)).first() is None:
                raise InvalidInvite("there is no such invite; reload the page")
            connection.execute(
                sa.update(invite).where(own, invite.c.revoked_at.is_(None)).values(revoked_at=self.clock())
            )
            audit.record(connection, "invite revoked", by, {"invite": invite_id[:12]}, at=self.clock())

        self.store.write(revoke)

    def invite_of(self, token: str) -> Invite:
        """The invite of a link, if it can still be used.

        Raises:
            InvalidInvite: it cannot.
        """
        query = sa.select(invite, campaign.c.name.label("campaign")).outerjoin(campaign)
        with self.store.reading() as connection:
            row = connection.execute(query.where(self._is_usable(token))).first()
        if row is None:
            raise InvalidInvite("this invite was used, has run out or was taken back: ask for a new one")
        return _shown_invite(row)

    def accept(self, token: str, name: str, password: str) -> str:
        """Make an account by an invite and start its session, whose token is returned.

        Raises:
            InvalidInvite, InvalidName, NameTaken, InvalidPassword: why there is none.
        """
        self.invite_of(token)
        shown, key = checked_name(name)
        check_password(password, shown)
        kept = self._passwords.hash(password)

        def use(connection: sa.Connection) -> str:
            usable = self._is_usable(token)
            taken = connection.execute(sa.update(invite).where(usable).values(uses_left=invite.c.uses_left - 1))
            if taken.rowcount != 1:
                raise InvalidInvite("this invite has just been used up or taken back: ask for a new one")
            row = connection.execute(sa.select(invite).where(invite.c.token_hash == self._keyed(token))).one()
            invite_id = row.token_hash[:12]
            annotator_id = self._insert(connection, shown, key, row.role, password_hash=kept, by=None, invite=invite_id)
            if row.campaign_id is not None:
                campaigns.add_member(connection, row.campaign_id, annotator_id, at=self.clock())
            return self._start(connection, _account(connection, annotator_id))

        return self.store.write(use)

    # ---- inside -------------------------------------------------------------------------------------------

    def _enter(self, connection: sa.Connection, shown: str, key: str) -> str:
        """A session by the name alone."""
        known = _by_key(connection, key)
        if known is None:
            annotator_id = self._insert(connection, shown, key, "annotator", password_hash=None, by=None)
            known = _account(connection, annotator_id)
        if known.password_hash is not None:
            raise PasswordNeeded("give your password")
        return self._start(connection, known)

    def _insert(
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
        """A new account; its id."""
        if _by_key(connection, key) is not None:
            raise NameTaken(f"the name {shown} is taken; choose another one")
        annotator_id = f"a{secrets.token_hex(6)}"
        now = self.clock()
        values = {"name": shown, "name_key": key, "role": role, "password_hash": password_hash, "created_at": now}
        connection.execute(sa.insert(annotator).values(id=annotator_id, **values))
        audit.record(connection, "account added", by, {"account": annotator_id, "role": role} | how, at=now)
        return annotator_id

    def _start(self, connection: sa.Connection, known: sa.Row | None) -> str:
        """A session of an account; its token."""
        assert known is not None
        if connection.execute(sa.select(annotator.c.state).where(annotator.c.id == known.id)).scalar_one() == "closed":
            raise AccountClosed("this account is closed; ask a manager")
        token = secrets.token_urlsafe(32)
        now = self.clock()
        until = now + (IDLE_SECONDS if self.passwords_required else SESSION_SECONDS)
        values = {"token_hash": self._keyed(token), "annotator_id": known.id, "created_at": now, "expires_at": until}
        connection.execute(sa.insert(session).values(values))
        return token

    def _prolong(self, token: str, now: float, created_at: float, expires_at: float) -> None:
        """Move the end of a session that is used, in steps: not every request writes."""
        until = min(now + IDLE_SECONDS, created_at + SESSION_SECONDS)
        if expires_at >= until - STEP_SECONDS:
            return
        own = session.c.token_hash == self._keyed(token)
        moved = sa.update(session).where(own, session.c.expires_at < until).values(expires_at=until)
        self.store.write(lambda connection: connection.execute(moved))

    def _verified(
        self,
        known: sa.Row | None,
        key: str,
        password: str,
        address: str,
        then: Callable[[sa.Connection], str],
    ) -> str:
        """What `then` gives, done in one transaction with the last look at the password and the tries.

        Of tries that come at once each one is counted before its outcome is told, so that no more than `MAX_TRIES`
        are told, the right one among them.
        """
        # hashed: people type passwords into the wrong field
        tried, origin = self._keyed(f"name {key}"), address_key(address)
        with self.store.reading() as connection:
            self._check_tries(connection, tried, origin)
        kept = None if known is None else known.password_hash
        is_right = self._passwords.verify(kept, password)
        is_outdated = is_right and kept is not None and self._passwords.is_outdated(kept)
        fresh = self._passwords.hash(password) if is_outdated else kept

        def conclude(connection: sa.Connection) -> str | None:
            _wait_for_turn(connection)
            self._check_tries(connection, tried, origin)
            now = self.clock()
            connection.execute(sa.delete(login_failure).where(login_failure.c.at <= now - TRIES_SECONDS))
            if not is_right or known is None or not _swap_hash(connection, known.id, kept, fresh):
                connection.execute(sa.insert(login_failure).values(name_key=tried, address=origin, at=now))
                return None
            return then(connection)

        token = self.store.write(conclude)
        if token is None:
            raise WrongPassword("the name or the password is wrong")
        return token

    def _check_tries(self, connection: sa.Connection, tried: str, origin: str) -> None:
        """Raises TooManyTries where as many as may be were wrong, of this name or of this address."""
        now = self.clock()
        ends = []
        for column, value in ((login_failure.c.name_key, tried), (login_failure.c.address, origin)):
            recent = sa.select(login_failure.c.at).where(column == value, login_failure.c.at > now - TRIES_SECONDS)
            last = connection.execute(recent.order_by(login_failure.c.at.desc()).offset(MAX_TRIES - 1).limit(1))
            ends += [at + TRIES_SECONDS for at in last.scalars()]
        if ends:
            raise TooManyTries(max(ends) - now)

    def _keep_password(self, connection: sa.Connection, annotator_id: str, kept: str, *, by: str | None) -> None:
        _update(connection, annotator_id, password_hash=kept)
        self._end_sessions(connection, annotator_id)
        audit.record(connection, "password set", by, {"account": annotator_id}, at=self.clock())

    def _end_sessions(self, connection: sa.Connection, annotator_id: str) -> None:
        own = (session.c.annotator_id == annotator_id) & session.c.revoked_at.is_(None)
        connection.execute(sa.update(session).where(own).values(revoked_at=self.clock()))

    def _revoke_invites_of(self, connection: sa.Connection, annotator_id: str) -> None:
        """Who manages no more lets nobody in either."""
        own = (invite.c.created_by == annotator_id) & invite.c.revoked_at.is_(None)
        connection.execute(sa.update(invite).where(own).values(revoked_at=self.clock()))

    def _is_usable(self, token: str) -> sa.ColumnElement[bool]:
        return sa.and_(
            invite.c.token_hash == self._keyed(token),
            invite.c.uses_left > 0,
            invite.c.revoked_at.is_(None),
            invite.c.expires_at > self.clock(),
        )

    def _keyed(self, text: str) -> str:
        """The hash under which a text is found again."""
        content = text.encode("utf-8", "surrogatepass")
        if not self._secret:
            return hashlib.sha256(content).hexdigest()
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()


def checked_name(name: str) -> tuple[str, str]:
    """A name as shown, and the key under which it is found again.

    Raises:
        InvalidName: it is empty, too long, or holds characters that cannot be seen.
    """
    shown = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(shown) <= LONGEST_NAME or not shown.isprintable():
        raise InvalidName(f"the name must have 1 to {LONGEST_NAME} characters that can be seen; give another one")
    return shown, shown.casefold()


def address_key(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, which is what a household gets."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False).network_address)


def _has_manager() -> sa.Exists:
    others = annotator.alias()
    return sa.exists().where(
        others.c.role == "manager", others.c.password_hash.is_not(None), others.c.state != "closed"
    )


def _wait_for_turn(connection: sa.Connection) -> None:
    """Counting tries and adding one is a single step; SQLite's writers take turns anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('rlhf_annotation_tries'))"))


def _by_key(connection: sa.Connection, key: str) -> sa.Row | None:
    return connection.execute(sa.select(annotator).where(annotator.c.name_key == key)).first()


def _account(connection: sa.Connection, annotator_id: str) -> sa.Row:
    """An account with a name."""
    row = connection.execute(sa.select(annotator).where(annotator.c.id == annotator_id)).first()
    if row is None:
        raise UnknownAccount(f"there is no account {annotator_id!r}; see the list of accounts")
    if row.name is None:
        raise UnknownAccount(f"the account {annotator_id} was erased; make a new one")
    return row


def _update(connection: sa.Connection, annotator_id: str, **values: str | None) -> None:
    connection.execute(sa.update(annotator).where(annotator.c.id == annotator_id).values(values))


def _swap_hash(connection: sa.Connection, annotator_id: str, kept: str | None, fresh: str | None) -> bool:
    """Put a newer hash of the same password; False where the password was changed meanwhile."""
    own = (annotator.c.id == annotator_id) & (annotator.c.password_hash == kept)
    if fresh == kept:
        return connection.execute(sa.select(annotator.c.id).where(own).with_for_update()).first() is not None
    return connection.execute(sa.update(annotator).where(own).values(password_hash=fresh)).rowcount == 1


def _lock_managers(connection: sa.Connection) -> list[str]:
    """Those who can manage, whom nobody else changes before the transaction ends."""
    rows = sa.select(annotator.c.id).where(annotator.c.role == "manager", annotator.c.state != "closed")
    rows = rows.where(annotator.c.password_hash.is_not(None)).order_by(annotator.c.id).with_for_update()
    return list(connection.execute(rows).scalars())


def _check_not_last(known: sa.Row, managers: list[str]) -> None:
    if managers == [known.id]:
        raise LastManager(f"{known.name} is the only manager; make somebody else a manager first")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidSetting(f"role is {role!r}; use {', '.join(ROLES)}")


def _shown(row: sa.Row) -> Account:
    return Account(row.id, row.name, row.role, row.state, row.password_hash is not None, row.created_at)


def _shown_invite(row: sa.Row) -> Invite:
    times = (row.created_at, row.expires_at, row.revoked_at is not None)
    return Invite(row.token_hash, row.role, row.campaign, row.note, row.uses_left, row.created_by, *times)
