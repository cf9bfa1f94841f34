"""The tables of the annotation store, as of the newest migration.

    campaign ─┐
    prompt ───┴─ item ─┬─ completion ── policy
                       ├─ slot        who works on it now, or has judged it
                       ├─ showing     in which order an annotator sees it
                       ├─ judgment    what was said of it, for good
                       └─ disagreement    that an adjudicator is to decide it
    campaign ─┬─ guideline ── guideline_ack
              ├─ member
              └─ live_request ── live_answer      an annotator's prompt on its way to be an item
    annotator ─┬─ session
               └─ invite
    audit, chain, login_failure, live_worker

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
    sa.Column("role", sa.Text, nullable=False, server_default="annotator"),  # annotator, adjudicator, manager
    sa.Column("state", sa.Text, nullable=False, server_default="active"),  # active, paused (no work), closed
    sa.Column("password_hash", sa.Text),  # argon2id; none where the app asks for a name only
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

invite = sa.Table(
    "invite",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("campaign_id", sa.ForeignKey("campaign.id")),  # whose member one becomes; none for all open ones
    sa.Column("note", sa.Text, nullable=False),  # whom it is for, in the manager's words
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("created_by", sa.ForeignKey("annotator.id")),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

login_failure = sa.Table(
    "login_failure",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index(None, "name_key", "at"),
    sa.Index(None, "address", "at"),
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
    sa.Column("state", sa.Text, nullable=False, server_default="open"),  # open, paused, closed
    sa.Column("settings", sa.JSON, nullable=False, server_default="{}"),  # annotation.campaigns.CampaignSettings
)

# Who may work on a campaign that is for members only.
member = sa.Table(
    "member",
    metadata,
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), primary_key=True),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), primary_key=True),
    sa.Column("added_at", sa.Double, nullable=False),
)

guideline = sa.Table(
    "guideline",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),  # Markdown
    sa.Column("created_by", sa.ForeignKey("annotator.id")),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("campaign_id", "version"),
)

guideline_ack = sa.Table(
    "guideline_ack",
    metadata,
    sa.Column("guideline_id", sa.ForeignKey("guideline.id"), primary_key=True),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
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
    sa.Column("kind", sa.Text, nullable=False, server_default="work"),  # work, gold, qualification, live
    sa.Column("gold", sa.JSON(none_as_null=True)),  # the ranks that are right, by position
    sa.Column("usefulness", sa.Double),  # the higher, the sooner it is given where the campaign orders by it
    sa.UniqueConstraint("campaign_id", "comparison_id"),
    sa.Index(None, "campaign_id", "kind"),
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
    sa.Column("scores", sa.JSON(none_as_null=True)),  # by reward model, as found when it was sampled
    sa.UniqueConstraint("item_id", "position"),
)

# One row for each judgment an item is to get. A lease belongs to an annotator and one of their browser tabs. Gold
# items and adjudications get theirs when somebody is given one. Campaign and kind stand here as well as in `item`, so
# that the next free slot is found along one index.
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
    sa.Column("campaign_id", Counter),
    sa.Column("kind", sa.Text, nullable=False, server_default="work"),  # work, gold, qualification, adjudication, live
    sa.Column("priority", sa.Double, nullable=False, server_default="0"),  # the lowest comes first
    sa.Column("shuffle", sa.Double, nullable=False, server_default="0"),  # uniform on [0, 1) (annotation.drawing)
    sa.UniqueConstraint("item_id", "number"),
    sa.UniqueConstraint("item_id", "annotator_id"),
    sa.CheckConstraint("(state = 'open') = (annotator_id IS NULL)", name="held"),
    sa.Index("ix_slot_campaign_id_kind_state_priority_id", "campaign_id", "kind", "state", "priority", "id"),
    sa.Index("ix_slot_campaign_id_kind_state_shuffle", "campaign_id", "kind", "state", "shuffle"),
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
    sa.Column("probability", sa.Double),  # that the choice fell on this item then; none where nothing is drawn
    sa.Column("chosen_by", sa.Text),  # order, random, gold, qualification, adjudication, own (a live prompt)
)

# Append-only, held by triggers. It has no checks on purpose: SQLite changes those by making the table anew, without
# its triggers. What one annotator says of one item is a chain of revisions; the last one counts. Hashes chain all
# judgments: each is over the one before and the row (annotation.audit).
judgment = sa.Table(
    "judgment",
    metadata,
    sa.Column("number", Counter, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),  # chosen by the browser: a resent judgment is the same one
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("supersedes", sa.ForeignKey("judgment.number"), unique=True),
    sa.Column("kind", sa.Text, nullable=False),  # ranking, skip, flag, undo
    sa.Column("ranks", sa.JSON(none_as_null=True)),  # by position of the completions, not as shown
    sa.Column("strength", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("shown_order", sa.JSON, nullable=False),  # positions of the completions from left to right
    sa.Column("active_ms", sa.BigInteger, nullable=False),
    sa.Column("app_version", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("role", sa.Text),  # the slot's kind: work, gold, qualification, adjudication, live
    sa.Column("both_bad", sa.Boolean),
    sa.Column("aspects", sa.JSON(none_as_null=True)),  # name -> [rating by position]
    sa.Column("rationale", sa.Text),
    sa.Column("edits", sa.JSON(none_as_null=True)),  # position (as digits) -> the annotator's better text
    sa.Column("guideline_version", sa.Integer),
    sa.Column("probability", sa.Double),  # the showing's
    sa.Column("hash", sa.Text),
    sa.UniqueConstraint("item_id", "annotator_id", "revision"),
    sa.Index(None, "annotator_id", "number"),
)

# Items that wait for an adjudicator: found anew whenever a judgment or the places of an item change
# (annotation.adjudication), so that nobody has to look through all of them.
disagreement = sa.Table(
    "disagreement",
    metadata,
    sa.Column("item_id", sa.ForeignKey("item.id"), primary_key=True),
)

# Append-only, held by triggers, chained by hashes: what managers and the app itself did.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", Counter, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("actor_id", sa.Text),  # none: the app, or the command line
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

# The ends of the two chains: who adds to one locks its row, and a row that is missing at the end is missed.
chain = sa.Table(
    "chain",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # judgment, audit
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

live_request = sa.Table(
    "live_request",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # chosen by the browser
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), nullable=False),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), nullable=False),
    sa.Column("client", sa.Text, nullable=False),  # the tab that gets the item
    sa.Column("messages", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # waiting, running, done, failed, cancelled
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("leased_until", sa.Double),  # a worker that dies gives its request back
    sa.Column("item_id", sa.ForeignKey("item.id")),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Index(None, "state", "created_at"),
)

live_answer = sa.Table(
    "live_answer",
    metadata,
    sa.Column("request_id", sa.ForeignKey("live_request.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("policy_id", sa.ForeignKey("policy.id")),
    sa.Column("text", sa.Text, nullable=False),  # what there is of it so far
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("seed", sa.Text),
    sa.Column("finish_reason", sa.Text),  # none while it grows
)

live_worker = sa.Table(
    "live_worker",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("policies", sa.JSON, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)
