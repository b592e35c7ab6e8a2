"""Alembic's entry: it runs the steps on the connection that `monitoring.migrations.upgrade` holds."""

from alembic import context

from monitoring.migrations import VERSION_TABLE
from monitoring.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
