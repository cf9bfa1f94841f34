"""Accounts, guidelines, gold items, adjudication, an audit that shows changes, live prompts.

Judgments of before have no hash: the audit begins with the hash over all of them.
"""

from __future__ import annotations

import hashlib
import json
import time

import sqlalchemy as sa
from alembic import op

from annotation.migrations.versions.r0001_judgments import COUNTER, forbid_changes

revision = "0002"
down_revision = "0001"

OLD_COLUMNS = (
    *("number", "id", "item_id", "annotator_id", "revision", "supersedes", "kind", "ranks", "strength", "reason"),
    *("shown_order", "active_ms", "app_version", "created_at"),
)


def upgrade() -> None:
    """Add columns and tables; nothing that is there changes."""
    people()
    campaigns()
    work()
    judgments()
    live()


def people() -> None:
    op.add_column("annotator", sa.Column("role", sa.Text, nullable=False, server_default="annotator"))
    op.add_column("annotator", sa.Column("state", sa.Text, nullable=False, server_default="active"))
    op.add_column("annotator", sa.Column("password_hash", sa.Text))
    op.create_table(
        "invite",
        sa.Column("token_hash", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("campaign_id", COUNTER, sa.ForeignKey("campaign.id")),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("created_by", sa.Text, sa.ForeignKey("annotator.id")),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "login_failure",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_login_failure_name_key_at", "login_failure", ["name_key", "at"])
    op.create_index("ix_login_failure_address_at", "login_failure", ["address", "at"])


def campaigns() -> None:
    op.add_column("campaign", sa.Column("state", sa.Text, nullable=False, server_default="open"))
    op.add_column("campaign", sa.Column("settings", sa.JSON, nullable=False, server_default="{}"))
    op.create_table(
        "member",
        sa.Column("campaign_id", COUNTER, sa.ForeignKey("campaign.id"), nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", "annotator_id"),
    )
    op.create_table(
        "guideline",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("campaign_id", COUNTER, sa.ForeignKey("campaign.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, sa.ForeignKey("annotator.id")),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("campaign_id", "version"),
    )
    op.create_table(
        "guideline_ack",
        sa.Column("guideline_id", COUNTER, sa.ForeignKey("guideline.id"), nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("guideline_id", "annotator_id"),
    )


def work() -> None:
    op.add_column("item", sa.Column("kind", sa.Text, nullable=False, server_default="work"))
    op.add_column("item", sa.Column("gold", sa.JSON(none_as_null=True)))
    op.add_column("item", sa.Column("usefulness", sa.Double))
    op.add_column("completion", sa.Column("scores", sa.JSON(none_as_null=True)))
    op.add_column("slot", sa.Column("campaign_id", COUNTER))
    op.add_column("slot", sa.Column("kind", sa.Text, nullable=False, server_default="work"))
    op.add_column("slot", sa.Column("priority", sa.Double, nullable=False, server_default="0"))
    op.add_column("slot", sa.Column("shuffle", sa.Double, nullable=False, server_default="0"))
    op.execute("UPDATE slot SET campaign_id = (SELECT campaign_id FROM item WHERE item.id = slot.item_id)")
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(f"UPDATE slot SET shuffle = {'0.5 + random() / 18446744073709551616.0' if sqlite else 'random()'}")
    op.drop_index("ix_slot_state_id", "slot")
    op.create_index(
        "ix_slot_campaign_id_kind_state_priority_id", "slot", ["campaign_id", "kind", "state", "priority", "id"]
    )
    op.create_index("ix_slot_campaign_id_kind_state_shuffle", "slot", ["campaign_id", "kind", "state", "shuffle"])
    op.add_column("showing", sa.Column("probability", sa.Double))
    op.add_column("showing", sa.Column("chosen_by", sa.Text))
    op.create_index("ix_item_campaign_id_kind", "item", ["campaign_id", "kind"])


def judgments() -> None:
    for name, kind in (
        *(("role", sa.Text), ("both_bad", sa.Boolean), ("aspects", sa.JSON(none_as_null=True)), ("rationale", sa.Text)),
        *(("edits", sa.JSON(none_as_null=True)), ("guideline_version", sa.Integer), ("probability", sa.Double)),
        ("hash", sa.Text),
    ):
        op.add_column("judgment", sa.Column(name, kind))
    op.create_table(
        "audit",
        sa.Column("number", COUNTER, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor_id", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "chain",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    begin_audit()
    forbid_audit_changes()


def begin_audit() -> None:
    """The first entry: how many judgments there are, and the hash over all of them in order."""
    rows = op.get_bind().execute(sa.text(f"SELECT {', '.join(OLD_COLUMNS)} FROM judgment ORDER BY number")).mappings()
    digest, count = hashlib.sha256(), 0
    for row in rows:
        values = {name: _parsed(value) if name in ("ranks", "shown_order") else value for name, value in row.items()}
        digest.update(_canonical(values) + b"\n")
        count += 1
    details = {"judgments_before": count, "sha256": digest.hexdigest()}
    entry = {"at": time.time(), "actor_id": None, "action": "audit begins", "details": details}
    head = hashlib.sha256(_canonical({"before": "", **entry})).hexdigest()
    names = ("at", "actor_id", "action", "hash")
    audit = sa.table("audit", *(sa.column(name) for name in names), sa.column("details", sa.JSON))
    op.execute(sa.insert(audit).values(**entry, hash=head))
    chain = sa.table("chain", *(sa.column(name) for name in ("name", "length", "hash")))
    op.bulk_insert(
        chain,
        [
            {"name": "judgment", "length": count, "hash": digest.hexdigest()},
            {"name": "audit", "length": 1, "hash": head},
        ],
    )


def _parsed(value: object) -> object:
    """JSON as SQLite gives it back, a text; PostgreSQL has parsed it."""
    return json.loads(value) if isinstance(value, str) else value


def _canonical(values: dict[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def forbid_audit_changes() -> None:
    """As `forbid_changes` does for judgments; REPLACE could only take the place of a number here."""
    if op.get_bind().dialect.name != "sqlite":
        forbid_changes("audit")
        return
    refuse = "BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END"
    for what in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER audit_no_{what.lower()} BEFORE {what} ON audit {refuse}")
    taken = "EXISTS (SELECT 1 FROM audit WHERE number = NEW.number)"
    op.execute(f"CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN {taken} {refuse}")


def live() -> None:
    op.create_table(
        "live_request",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("campaign_id", COUNTER, sa.ForeignKey("campaign.id"), nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("leased_until", sa.Double),
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id")),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_live_request_state_created_at", "live_request", ["state", "created_at"])
    op.create_table(
        "live_answer",
        sa.Column("request_id", sa.Text, sa.ForeignKey("live_request.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("policy_id", COUNTER, sa.ForeignKey("policy.id")),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("seed", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.PrimaryKeyConstraint("request_id", "position"),
    )
    op.create_table(
        "live_worker",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("policies", sa.JSON, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
