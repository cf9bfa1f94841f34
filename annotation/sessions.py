"""Coming in and going out: sessions, and the limit on wrong tries. Any thread may call.

In the open mode, for one machine, a name is enough, and where no manager has a password everybody manages. Where
passwords are required nobody comes in without one. Accounts that have a password are asked for it in both.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
from collections.abc import Callable

import sqlalchemy as sa

from annotation.accounts import AccountError, Accounts, UnknownAccount, account_row, by_key, checked_name, some_manager
from annotation.passwords import check_password
from annotation.records import Annotator
from annotation.tables import annotator, login_failure, session

SESSION_SECONDS = 30 * 24 * 3600.0  # from the sign-in
IDLE_SECONDS = 12 * 3600.0  # without a request, where passwords are required
STEP_SECONDS = 600.0  # that long after a request, the next one moves the end of its session
MAX_TRIES = 10  # wrong ones, of an account and of an address
TRIES_SECONDS = 15 * 60.0
# made once: it takes longer than running it
_BY_TOKEN = (
    sa.select(
        *(annotator.c.id, annotator.c.name, annotator.c.role, annotator.c.state),
        *(annotator.c.password_hash.is_not(None).label("has_password"), some_manager().label("has_manager")),
        *(session.c.created_at, session.c.expires_at),
    )
    .select_from(session.join(annotator, session.c.annotator_id == annotator.c.id))
    .where(session.c.token_hash == sa.bindparam("token_hash"), session.c.revoked_at.is_(None))
    .where(session.c.expires_at > sa.bindparam("now"), annotator.c.state != "closed")
)


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


class Sessions:
    """The sessions of accounts."""

    def __init__(self, accounts: Accounts):
        self.accounts = accounts
        self.store = accounts.store
        self.clock = accounts.clock

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
            known = by_key(connection, key)
        if not self.accounts.passwords_required and (known is None or known.password_hash is None):
            return self.store.write(lambda connection: self._enter(connection, shown, key))
        if not password:
            raise PasswordNeeded("give your password")
        return self._verified(known, key, password, address, lambda connection: self.start(connection, known))

    def annotator_of(self, token: str | None) -> Annotator | None:
        """Whose session a token is; None when it is unknown, has run out or was ended, or the account is closed."""
        if not token:
            return None
        now = self.clock()
        with self.store.asking() as connection:
            row = connection.execute(_BY_TOKEN, {"token_hash": self.accounts.keyed(token), "now": now}).first()
        if row is None or (self.accounts.passwords_required and not row.has_password):
            return None
        if self.accounts.passwords_required:
            self._prolong(token, now, row.created_at, row.expires_at)
        role = row.role if self.accounts.passwords_required or row.has_manager else "manager"
        return Annotator(row.id, row.name or row.id, role, row.state, bool(row.has_password))

    def sign_out(self, token: str) -> None:
        """End a session. Its tabs' leases run out by themselves."""
        own = session.c.token_hash == self.accounts.keyed(token)
        ended = sa.update(session).where(own, session.c.revoked_at.is_(None)).values(revoked_at=self.clock())
        self.store.write(lambda connection: connection.execute(ended))

    def change_password(self, annotator_id: str, old: str, new: str, *, address: str = "") -> str:
        """Give one's account another password, end all its sessions, and start one, whose token is returned.

        Raises:
            InvalidPassword: the new one is too easy to guess.
            WrongPassword, TooManyTries: as `sign_in`, of the old one.
            UnknownAccount: the account has no password; a manager gives it the first one.
        """
        with self.store.reading() as connection:
            known = account_row(connection, annotator_id)
        if known.password_hash is None:
            raise UnknownAccount("your account has no password yet: a manager gives it one")
        if not old:
            raise PasswordNeeded("give the password that you have now")
        check_password(new, known.name)
        kept = self.accounts.passwords.hash(new)

        def change(connection: sa.Connection) -> str:
            self.accounts.keep_password(connection, known.id, kept, by=known.id)
            return self.start(connection, known)

        return self._verified(known, known.name_key, old, address, change)

    def start(self, connection: sa.Connection, known: sa.Row | None) -> str:
        """A session of an account, in the transaction of the caller; its token.

        Raises:
            AccountClosed: the account is closed.
        """
        assert known is not None
        if connection.execute(sa.select(annotator.c.state).where(annotator.c.id == known.id)).scalar_one() == "closed":
            raise AccountClosed("this account is closed; ask a manager")
        token = secrets.token_urlsafe(32)
        now = self.clock()
        until = now + (IDLE_SECONDS if self.accounts.passwords_required else SESSION_SECONDS)
        values = {"annotator_id": known.id, "created_at": now, "expires_at": until}
        connection.execute(sa.insert(session).values(token_hash=self.accounts.keyed(token), **values))
        return token

    def _enter(self, connection: sa.Connection, shown: str, key: str) -> str:
        """A session by the name alone."""
        known = by_key(connection, key)
        if known is None:
            annotator_id = self.accounts.insert(connection, shown, key, "annotator", password_hash=None, by=None)
            known = account_row(connection, annotator_id)
        if known.password_hash is not None:
            raise PasswordNeeded("give your password")
        return self.start(connection, known)

    def _prolong(self, token: str, now: float, created_at: float, expires_at: float) -> None:
        """Move the end of a session that is used, in steps: not every request writes."""
        until = min(now + IDLE_SECONDS, created_at + SESSION_SECONDS)
        if expires_at >= until - STEP_SECONDS:
            return
        own = session.c.token_hash == self.accounts.keyed(token)
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
        tried, origin = self.accounts.keyed(f"name {key}"), address_key(address)
        with self.store.reading() as connection:
            self._check_tries(connection, tried, origin)
        kept = None if known is None else known.password_hash
        is_right = self.accounts.passwords.verify(kept, password)
        is_outdated = is_right and kept is not None and self.accounts.passwords.is_outdated(kept)
        fresh = self.accounts.passwords.hash(password) if is_outdated else kept

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


def address_key(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, which is what a household gets."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False).network_address)


def _wait_for_turn(connection: sa.Connection) -> None:
    """Counting tries and adding one is a single step; SQLite's writers take turns anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('rlhf_annotation_tries'))"))


def _swap_hash(connection: sa.Connection, annotator_id: str, kept: str | None, fresh: str | None) -> bool:
    """Put a newer hash of the same password; False where the password was changed meanwhile."""
    own = (annotator.c.id == annotator_id) & (annotator.c.password_hash == kept)
    if fresh == kept:
        return connection.execute(sa.select(annotator.c.id).where(own).with_for_update()).first() is not None
    return connection.execute(sa.update(annotator).where(own).values(password_hash=fresh)).rowcount == 1
