"""Items on which annotators disagree get a table of their own: whoever decides them no longer waits for a look at all.

What is in it is found here as `annotation.adjudication` finds it, once, among the judgments that are there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from annotation.migrations.versions.r0001_judgments import COUNTER

revision = "0003"
down_revision = "0002"

STANDING = """
SELECT j.item_id, j.ranks FROM judgment AS j
WHERE j.kind = 'ranking' AND coalesce(j.role, 'work') = 'work'
AND NOT EXISTS (SELECT 1 FROM judgment AS later WHERE later.supersedes = j.number)
AND EXISTS (SELECT 1 FROM slot WHERE slot.item_id = j.item_id AND slot.kind = 'work')
AND NOT EXISTS (SELECT 1 FROM slot WHERE slot.item_id = j.item_id AND slot.kind = 'work' AND slot.state <> 'judged')
AND NOT EXISTS (SELECT 1 FROM slot
                WHERE slot.item_id = j.item_id AND slot.kind = 'adjudication' AND slot.state = 'judged')
"""


def upgrade() -> None:
    """Add the table; nothing that is there changes."""
    added = op.create_table(
        "disagreement",
        sa.Column("item_id", COUNTER, sa.ForeignKey("item.id"), nullable=False),
        sa.PrimaryKeyConstraint("item_id"),
    )
    best: dict[int, set[tuple[int, ...]]] = {}
    for row in op.get_bind().execute(sa.text(STANDING).columns(item_id=sa.Integer, ranks=sa.JSON)):
        top = tuple(place for place, rank in enumerate(row.ranks) if rank == min(row.ranks))
        best.setdefault(row.item_id, set()).add(top)
    rows = [{"item_id": item_id} for item_id, tops in sorted(best.items()) if len(tops) > 1]
    if rows:
        op.bulk_insert(added, rows)
