"""The tables of the annotation store, as of the newest migration.

    campaign ─┐
    prompt ───┴─ item ─┬─ completion ── policy
                       ├─ slot        who works on it now, or has judged it
                       ├─ showing     in which order an annotator sees it
                       └─ judgment    what was said of it, for good
    annotator ── session

Times are seconds since 1970 (UTC), from the server's clock.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite counts up by itself in columns of type INTEGER only.
Counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# One row: what tells this store from others.
identity = sa.Table("identity", metadata, sa.Column("id", sa.Text, primary_key=True))

# Judgments carry the pseudonym alone: a name can be erased without touching them.
annotator = sa.Table(
    "annotator",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("name_key", sa.Text, unique=True),  # case-folded: Ann and ann are one person
    sa.Column("created_at", sa.Double, nullable=False),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

policy = sa.Table(
    "policy",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),  # of its weights; empty where they are not known
    sa.Column("manifest", sa.JSON(none_as_null=True)),  # of the run that made it
    sa.UniqueConstraint("name", "sha256"),
)

prompt = sa.Table(
    "prompt",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # hash of its messages
    sa.Column("messages", sa.JSON, nullable=False),
)

campaign = sa.Table(
    "campaign",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("overlap", sa.Integer, sa.CheckConstraint("overlap >= 1", name="overlap"), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

item = sa.Table(
    "item",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), nullable=False),
    sa.Column("prompt_id", sa.ForeignKey("prompt.id"), nullable=False),
    sa.Column("comparison_id", sa.Text, nullable=False),  # hash of prompt and responses
    sa.Column("source", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("campaign_id", "comparison_id"),
)

completion = sa.Table(
    "completion",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("policy_id", sa.ForeignKey("policy.id")),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("seed", sa.Text),  # as digits: a seed may not fit 64 bits
    sa.Column("finish_reason", sa.Text),
    sa.UniqueConstraint("item_id", "position"),
)

# One row for each judgment an item is to get. A lease belongs to an annotator and one of their browser tabs.
slot = sa.Table(
    "slot",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column(
        "state", sa.Text, sa.CheckConstraint("state IN ('open', 'leased', 'judged')", name="state"), nullable=False
    ),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id")),
    sa.Column("client", sa.Text),
    sa.Column("leased_until", sa.Double),
    sa.UniqueConstraint("item_id", "number"),
    sa.UniqueConstraint("item_id", "annotator_id"),
    sa.CheckConstraint("(state = 'open') = (annotator_id IS NULL)", name="held"),
    sa.Index(None, "state", "id"),
    sa.Index(None, "state", "leased_until"),
    sa.Index(None, "annotator_id", "state"),
)

# The blind order, kept from the first time an item is shown: what comes back is read in the order that was seen.
showing = sa.Table(
    "showing",
    metadata,
    sa.Column("item_id", sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), primary_key=True),
    sa.Column("shown_order", sa.JSON, nullable=False),  # positions of the completions from left to right
)

# Append-only, held by triggers. It has no checks on purpose: SQLite changes those by making the table anew, without
# its triggers. What one annotator says of one item is a chain of revisions; the last one counts.
judgment = sa.Table(
    "judgment",
    metadata,
    sa.Column("number", Counter, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),  # chosen by the browser: a resent judgment is the same one
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("supersedes", sa.ForeignKey("judgment.number"), unique=True),
    sa.Column("kind", sa.Text, nullable=False),  # ranking, skip, undo
    sa.Column("ranks", sa.JSON(none_as_null=True)),  # by position of the completions, not as shown
    sa.Column("strength", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("shown_order", sa.JSON, nullable=False),  # positions of the completions from left to right
    sa.Column("active_ms", sa.BigInteger, nullable=False),
    sa.Column("app_version", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("item_id", "annotator_id", "revision"),
    sa.Index(None, "annotator_id", "number"),
)
