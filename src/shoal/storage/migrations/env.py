"""Run by Alembic: migrates the connection that :func:`shoal.storage.schema.upgrade` hands over."""

from alembic import context

from shoal.storage.sql import metadata

connection = context.config.attributes["connection"]
# One transaction around all migrations, begun and ended by whoever handed over the connection.
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
