"""The tables in the code are those that the migrations make, on a new database and on every older one."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import shoal.ledger  # registers its tables
import shoal.registry  # noqa: F401
from shoal.errors import StorageError
from shoal.storage.schema import MIGRATIONS, upgrade
from shoal.storage.sql import SCHEMA_VERSION, Database, metadata, schema_version


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


REVISIONS = [script.revision for script in reversed(list(scripts().walk_revisions()))]


def differences(connection: sa.Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True}
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def declared(metadata: sa.MetaData) -> dict[str, object]:
    """What Alembic does not compare: keys and constraints with their names."""
    return {
        name: {
            "primary": [column.name for column in table.primary_key],
            "unique": sorted(str(c.name) for c in table.constraints if isinstance(c, sa.UniqueConstraint)),
            "foreign": sorted(
                (str(c.name), tuple(c.column_keys), tuple(e.target_fullname for e in c.elements))
                for c in table.foreign_key_constraints
            ),
            "nullable": {column.name: column.nullable for column in table.columns},
        }
        for name, table in metadata.tables.items()
        if name != "alembic_version"
    }


def test_migrations_make_the_tables_of_the_code(databases):
    database = Database(databases.empty())
    database.migrate()
    with database.read() as connection:
        assert differences(connection) == []
        replayed = sa.MetaData()
        replayed.reflect(connection)
    assert declared(replayed) == declared(metadata)


def test_the_comparison_sees_a_missing_column(database):
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE runs DROP COLUMN error"))
    with database.read() as connection:
        assert [difference[0] for difference in differences(connection)] == ["add_column"]


def test_the_code_knows_the_newest_migration():
    assert scripts().get_current_head() == SCHEMA_VERSION
    assert sorted(REVISIONS) == REVISIONS


@pytest.mark.parametrize("old", REVISIONS)
def test_every_older_schema_is_brought_up_to_date(databases, old):
    database = Database(databases.empty())
    with database.write() as connection:
        upgrade(connection, old)
    database.migrate()
    with database.read() as connection:
        assert schema_version(connection) == SCHEMA_VERSION
        assert differences(connection) == []


def test_a_failing_migration_leaves_nothing(databases, monkeypatch):
    database = Database(databases.empty())

    def half(connection: sa.Connection) -> None:
        upgrade(connection, "0001")
        raise RuntimeError("power cut")

    monkeypatch.setattr("shoal.storage.schema.upgrade", half)
    with pytest.raises(RuntimeError):
        database.migrate()
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == []


def test_a_database_of_a_newer_shoal_is_refused(database):
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="install the newer Shoal"):
        database.migrate()
