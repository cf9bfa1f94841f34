"""The first tables; judgments can be added, and neither changed nor removed.

A migration says what was done once: it does not look at `annotation.tables`, which moves on.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create everything."""
    identity = op.create_table("identity", sa.Column("id", sa.Text, nullable=False), sa.PrimaryKeyConstraint("id"))
    op.bulk_insert(identity, [{"id": secrets.token_hex(6)}])
    op.create_table(
        "annotator",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("name_key", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name_key"),
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.Text, nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "policy",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("manifest", sa.JSON),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "sha256"),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "campaign",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.CheckConstraint("overlap >= 1", name="overlap"),
    )
    op.create_table(
        "item",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("campaign_id", COUNTER, sa.ForeignKey("campaign.id"), nullable=False),
        sa.Column("prompt_id", sa.Text, sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("comparison_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("campaign_id", "comparison_id"),
    )
    op.create_table(
        "completion",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("policy_id", COUNTER, sa.ForeignKey("policy.id")),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("seed", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("item_id", "position"),
    )
    op.create_table(
        "slot",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id")),
        sa.Column("client", sa.Text),
        sa.Column("leased_until", sa.Double),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("item_id", "number"),
        sa.UniqueConstraint("item_id", "annotator_id"),
        sa.CheckConstraint("state IN ('open', 'leased', 'judged')", name="state"),
        sa.CheckConstraint("(state = 'open') = (annotator_id IS NULL)", name="held"),
    )
    op.create_index("ix_slot_state_id", "slot", ["state", "id"])
    op.create_index("ix_slot_state_leased_until", "slot", ["state", "leased_until"])
    op.create_index("ix_slot_annotator_id_state", "slot", ["annotator_id", "state"])
    op.create_table(
        "showing",
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("shown_order", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("item_id", "annotator_id"),
    )
    op.create_table(
        "judgment",
        sa.Column("number", COUNTER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("annotator_id", sa.Text, sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("supersedes", COUNTER, sa.ForeignKey("judgment.number")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ranks", sa.JSON(none_as_null=True)),
        sa.Column("strength", sa.Double),
        sa.Column("reason", sa.Text),
        sa.Column("shown_order", sa.JSON, nullable=False),
        sa.Column("active_ms", sa.BigInteger, nullable=False),
        sa.Column("app_version", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("supersedes"),
        sa.UniqueConstraint("item_id", "annotator_id", "revision"),
    )
    op.create_index("ix_judgment_annotator_id_number", "judgment", ["annotator_id", "number"])
    forbid_changes("judgment")


def forbid_changes(table: str) -> None:
    """Triggers that let new rows be added and nothing else."""
    if op.get_bind().dialect.name == "sqlite":
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for what in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} {refuse}")
        # REPLACE removes the row in its way without asking a trigger on DELETE
        taken = f"EXISTS (SELECT 1 FROM {table} WHERE number = NEW.number OR id = NEW.id)"
        chain = "item_id = NEW.item_id AND annotator_id = NEW.annotator_id AND revision = NEW.revision"
        taken += f" OR EXISTS (SELECT 1 FROM {table} WHERE {chain} OR supersedes = NEW.supersedes)"
        op.execute(f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {taken} {refuse}")
        return
    op.execute(
        f"CREATE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_is_append_only()"
    )
