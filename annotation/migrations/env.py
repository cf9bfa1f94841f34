"""What Alembic runs: migrations on the connection that the store hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from annotation.tables import metadata

config = context.config
context.configure(
    connection=config.attributes["connection"],
    target_metadata=metadata,
    version_table=config.get_main_option("version_table"),
)
context.run_migrations()
