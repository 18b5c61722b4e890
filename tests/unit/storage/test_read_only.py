"""SQLite where nothing may be written: what is there is read, and what cannot be done is said."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import shoal.storage.schema  # noqa: F401 - imported while it may be read
from shoal.errors import StorageError
from shoal.registry import Lineage, Registry
from shoal.storage.sql import SCHEMA_VERSION, Database
from tests.databases import unprivileged


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a fleet, in which everybody may read; pytest's own folders are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-read-only-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def url(home: Path) -> str:
    return f"sqlite:///{home / 'shoal.db'}"


def fill(home: Path) -> Database:
    database = Database(url(home))
    database.migrate()
    registry = Registry(database)
    registry.create_fleet("flights", actor="ann")
    registry.add_snapshot("flights", digest="d", models=(), model_count=0, lineage=Lineage(), actor="ann")
    registry.promote("flights", 1, actor="ann")
    return database


def close(home: Path) -> None:
    """Take away all rights to write."""
    for path in home.iterdir():
        path.chmod(0o444)
    home.chmod(0o555)


def test_a_database_that_nobody_writes_is_read(home):
    fill(home).close()
    assert [path.name for path in home.iterdir()] == ["shoal.db"]
    close(home)
    with unprivileged():
        database = Database(url(home))
        database.migrate()
        registry = Registry(database)
        assert registry.resolve("flights").version == 1
        assert registry.head().number == 3
        with pytest.raises(StorageError, match="is read-only for you"):
            registry.promote("flights", 1, actor="ann")
        assert registry.verify_audit().intact
        database.close()
    assert [path.name for path in home.iterdir()] == ["shoal.db"]


def test_what_others_write_meanwhile_is_seen(home):
    writer = fill(home)
    close(home)
    with unprivileged():
        reader = Registry(Database(url(home)))
        assert reader.head().number == 3
    Registry(writer).create_fleet("weather", actor="ann")
    with unprivileged():
        assert reader.head().number == 4
    writer.close()
    with unprivileged():
        assert reader.head().number == 4
    home.chmod(0o755)
    fresh = Database(url(home))
    Registry(fresh).create_fleet("trains", actor="ann")
    home.chmod(0o555)
    with unprivileged():
        assert [fleet.name for fleet in reader.fleets()] == ["flights", "trains", "weather"]
    fresh.close()
    with unprivileged():
        assert reader.head().number == 5


def test_changes_that_only_a_writer_could_read_are_not_passed_over(home):
    writer = fill(home)
    kept = {path.name: path.read_bytes() for path in home.iterdir()}
    assert kept["shoal.db-wal"]
    writer.close()
    for name in ("shoal.db", "shoal.db-wal"):
        (home / name).write_bytes(kept[name])
    close(home)
    with unprivileged(), pytest.raises(StorageError, match="its newest changes are in"):
        Database(url(home)).migrate()


def test_an_older_schema_that_cannot_be_migrated_is_refused(home):
    database = fill(home)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    database.close()
    close(home)
    with (
        unprivileged(),
        pytest.raises(
            StorageError, match=f"read-only for you.*has schema 0002, this Shoal needs schema {SCHEMA_VERSION}"
        ),
    ):
        Database(url(home)).migrate()


def test_a_folder_without_a_database_is_refused(home):
    close(home)
    with unprivileged(), pytest.raises(StorageError, match="cannot be opened"):
        Database(url(home)).migrate()
    with unprivileged(), pytest.raises(StorageError, match=r"permission|Permission"):
        Database(f"sqlite:///{home}/below/shoal.db").migrate()


def test_a_database_that_may_not_even_be_read_is_refused(home):
    fill(home).close()
    (home / "shoal.db").chmod(0o000)
    home.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match="cannot be opened"):
        Database(url(home)).migrate()
