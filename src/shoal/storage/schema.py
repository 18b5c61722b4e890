"""Migrations: how a database of an older Shoal becomes one of this Shoal.

To change the schema: change the ``Table`` in the code, add ``migrations/versions/NNNN_what.py`` whose ``upgrade`` does
the same to existing databases, and raise ``SCHEMA_VERSION`` in :mod:`shoal.storage.sql`. A migration that was
released is never edited. The tests replay all of them and compare the result with the tables.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Run the migrations that the database has not had, inside the connection's transaction: all or none.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that may write.
    revision : str
        Where to stop.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
