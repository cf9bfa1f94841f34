"""Invites: links by which people make accounts for themselves, or join a campaign. Any thread may call."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from annotation import audit, campaigns
from annotation.accounts import AccountError, InvalidSetting, account_row, check_role, checked_name
from annotation.passwords import check_password
from annotation.sessions import Sessions
from annotation.tables import campaign, invite, member

LONGEST_NOTE = 200
MOST_USES = 1000
MOST_DAYS = 365
GONE = "this invite was used, has run out or was taken back: ask for a new one"


class InvalidInvite(AccountError):
    """The link is of no invite, or of one that has run out."""


@dataclass(frozen=True)
class Invite:
    """A link that makes accounts and members. `id` is a hash of the link's token, which is kept nowhere."""

    id: str
    role: str
    campaign: str | None
    note: str
    uses_left: int
    created_by: str | None
    created_at: float
    expires_at: float
    revoked: bool


class Invites:
    """The invites of a store."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.accounts = sessions.accounts
        self.store = sessions.store
        self.clock = sessions.clock

    def make(
        self,
        role: str,
        *,
        campaign_id: int | None = None,
        uses: int = 1,
        days: float = 7,
        note: str = "",
        by: str | None,
    ) -> str:
        """A token, the only copy, with which people make accounts for themselves, or join a campaign with their own.

        Args:
            role: of the accounts, one of `ROLES`.
            campaign_id: of which they become members; None for none.
            uses: how many accounts and members.
            days: how long it is good.
            note: whom it is for.
            by: the manager; None for the command line.

        Raises:
            InvalidSetting: one of these cannot be.
            campaigns.CampaignError: there is no such campaign.
        """
        check_role(role)
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
            connection.execute(sa.insert(invite).values(token_hash=self.accounts.keyed(token), **values, **times))
            number = self.accounts.keyed(token)[:12]
            details = {"invite": number, "role": role, "campaign_id": campaign_id, "uses": uses}
            audit.record(connection, "invite made", by, details, at=now)
            return token

        return self.store.write(make)

    def all(self) -> list[Invite]:
        """All invites, the newest first."""
        query = sa.select(invite, campaign.c.name.label("campaign")).outerjoin(campaign)
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(invite.c.created_at.desc(), invite.c.token_hash)).all()
        return [_shown_invite(row) for row in rows]

    def revoke(self, invite_id: str, *, by: str | None) -> None:
        """Let a link make no more accounts and members.

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

    def find(self, token: str) -> Invite:
        """The invite of a link, if it can still be used.

        Raises:
            InvalidInvite: it cannot.
        """
        query = sa.select(invite, campaign.c.name.label("campaign")).outerjoin(campaign)
        with self.store.reading() as connection:
            row = connection.execute(query.where(self._is_usable(token))).first()
        if row is None:
            raise InvalidInvite(GONE)
        return _shown_invite(row)

    def accept(self, token: str, name: str, password: str) -> str:
        """Make an account by an invite and start its session, whose token is returned.

        Raises:
            InvalidInvite, InvalidName, NameTaken, InvalidPassword: why there is none.
        """
        self.find(token)
        shown, key = checked_name(name)
        check_password(password, shown)
        kept = self.accounts.passwords.hash(password)

        def use(connection: sa.Connection) -> str:
            usable = self._is_usable(token)
            taken = connection.execute(sa.update(invite).where(usable).values(uses_left=invite.c.uses_left - 1))
            if taken.rowcount != 1:
                raise InvalidInvite("this invite has just been used up or taken back: ask for a new one")
            row = connection.execute(sa.select(invite).where(invite.c.token_hash == self.accounts.keyed(token))).one()
            number = row.token_hash[:12]
            annotator_id = self.accounts.insert(
                connection, shown, key, row.role, password_hash=kept, by=None, invite=number
            )
            if row.campaign_id is not None:
                campaigns.add_member(connection, row.campaign_id, annotator_id, at=self.clock())
            return self.sessions.start(connection, account_row(connection, annotator_id))

        return self.store.write(use)

    def join(self, token: str, annotator_id: str) -> None:
        """Make somebody who has an account a member of the invite's campaign. Their role stays; a member takes no use.

        Raises:
            InvalidInvite: it cannot be used, or is of no campaign.
        """

        def use(connection: sa.Connection) -> None:
            row = connection.execute(sa.select(invite).where(self._is_usable(token)).with_for_update()).first()
            if row is None:
                raise InvalidInvite(GONE)
            if row.campaign_id is None:
                raise InvalidInvite("this invite is of no campaign: it makes accounts only")
            own = (member.c.campaign_id == row.campaign_id) & (member.c.annotator_id == annotator_id)
            if connection.execute(sa.select(member).where(own)).first() is not None:
                return
            used = sa.update(invite).where(invite.c.token_hash == row.token_hash)
            connection.execute(used.values(uses_left=row.uses_left - 1))
            campaigns.add_member(connection, row.campaign_id, annotator_id, at=self.clock())
            details = {"campaign": row.campaign_id, "invite": row.token_hash[:12]}
            audit.record(connection, "campaign joined", annotator_id, details, at=self.clock())

        self.store.write(use)

    def _is_usable(self, token: str) -> sa.ColumnElement[bool]:
        return sa.and_(
            invite.c.token_hash == self.accounts.keyed(token),
            invite.c.uses_left > 0,
            invite.c.revoked_at.is_(None),
            invite.c.expires_at > self.clock(),
        )


def _shown_invite(row: sa.Row) -> Invite:
    times = (row.created_at, row.expires_at, row.revoked_at is not None)
    return Invite(row.token_hash, row.role, row.campaign, row.note, row.uses_left, row.created_by, *times)
