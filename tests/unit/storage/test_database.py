import contextlib
import datetime as dt
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from shoal.errors import InvalidArtifact, InvalidInput, StorageError
from shoal.registry.tables import audit_head, fleets, stores
from shoal.storage.columns import JsonText, UtcTime, json_text, json_value
from shoal.storage.sql import Database, upsert, utc_now

PLUS_TWO = dt.timezone(dt.timedelta(hours=2))


def pragma(database: Database, name: str) -> object:
    with database.read() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def head(connection: sa.Connection) -> int:
    return connection.execute(sa.select(audit_head.c.number)).scalar_one()


def locked_head(connection: sa.Connection) -> int:
    return connection.execute(sa.select(audit_head.c.number).with_for_update()).scalar_one()


def set_head(connection: sa.Connection, number: int) -> None:
    connection.execute(audit_head.update().values(number=number))


def test_settings_by_which_a_power_cut_undoes_commits_are_known(sqlite_databases, postgresql_databases):
    assert Database(sqlite_databases.migrated()).unflushed() == ()
    url = postgresql_databases.migrated()  # of a server that tests hurry by switching both off
    assert Database(url).unflushed() == ("fsync", "synchronous_commit")
    assert Database(f"{url}&options=-csynchronous_commit%3Dlocal").unflushed() == ("fsync",)


def test_commits_survive_a_power_cut_and_keys_are_enforced(sqlite_databases):
    database = Database(sqlite_databases.migrated())
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "synchronous") == 2
    assert pragma(database, "foreign_keys") == 1


def test_a_block_that_raises_changes_nothing(database):
    def change_and_fail() -> None:
        with database.write() as connection:
            set_head(connection, 7)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    with database.read() as connection:
        assert head(connection) == 0


def test_a_read_sees_one_state_while_others_write(database):
    with database.read() as reader:
        before = head(reader)
        with database.write() as writer:
            set_head(writer, 5)
        assert head(reader) == before
    with database.read() as reader:
        assert head(reader) == 5


def test_writers_wait_for_each_other(url, database):
    def add() -> None:
        own = Database(url)
        for _ in range(20):
            with own.write() as connection:
                set_head(connection, locked_head(connection) + 1)

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert head(connection) == 120


def test_a_writer_gives_up_in_the_end(url, database, monkeypatch):
    monkeypatch.setattr("shoal.storage.sqlite_engine.PRAGMAS", ("busy_timeout = 10",))
    impatient = Database(url, patience_s=0.1)

    def write() -> None:
        with impatient.write() as connection:
            locked_head(connection)
            pytest.fail("two writers at once")

    with database.write() as connection:
        locked_head(connection)
        with pytest.raises(StorageError, match="busy for too long"):
            write()
    with impatient.write() as connection:
        set_head(connection, 1)


def test_a_child_of_a_fork_uses_connections_of_its_own(database):
    with database.write() as connection:
        set_head(connection, 1)
    assert database.engine.pool.checkedin() == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert database.engine.pool.checkedin() == 0, "a connection of the parent crossed the fork"
            with database.write() as connection:
                set_head(connection, head(connection) + 1)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with database.write() as connection:
        set_head(connection, head(connection) + 1)
        assert head(connection) == 3


def test_a_full_disk_is_a_storage_error_and_changes_nothing(sqlite_databases):
    url = sqlite_databases.migrated()
    database = Database(url)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    cramped = Database(url)
    sa.event.listen(cramped.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages + 2}"))

    def change_much() -> None:
        with cramped.write() as connection:
            set_head(connection, 9)
            connection.execute(fleets.insert().values(_fleet("a" * 100_000)))

    with pytest.raises(StorageError, match="the disk is full"):
        change_much()
    with database.read() as connection:
        assert head(connection) == 0


def test_a_folder_in_place_of_the_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}").migrate()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Database(f"sqlite:///{tmp_path}/file/shoal.db").migrate()


@pytest.mark.parametrize("damage", [b"no database at all" * 100, None])
def test_a_damaged_file_is_an_invalid_artifact(tmp_path, damage):
    path = tmp_path / "shoal.db"
    database = Database(f"sqlite:///{path}")
    if damage is None:
        database.migrate()
        database.close()
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        damage = bytes(content)
    path.write_bytes(damage)
    with pytest.raises(InvalidArtifact, match="restore it from a backup"):
        database.migrate()


def test_faults_of_the_caller_stay_what_they_are(database):
    with database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("a")))
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("a")))


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("sqlite://someone:secret@/nowhere/at/all.db", "SHOAL_DATABASE_URL"),
        ("what is this, secret", "SHOAL_DATABASE_URL"),
        ("nosuch://x:secret@host/db", "SHOAL_DATABASE_URL"),
        ("oracle://x:secret@host/db", "SQLite or PostgreSQL, not in oracle"),
        ("mysql://x:secret@host/db", "SQLite or PostgreSQL, not in mysql"),
        ("sqlite://", "not shared"),
        ("sqlite:///:memory:", "not shared"),
        ("postgresql+pg8000://x:secret@host/db", "not installed|psycopg"),
        ("mysql+pymysql://x:secret@host/db", "SQLite or PostgreSQL, not in mysql"),
    ],
)
def test_an_unusable_url_is_invalid_input_and_its_password_is_not_shown(url, advice):
    with pytest.raises(InvalidInput, match=advice) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_times_come_back_aware_and_in_utc(database):
    at = dt.datetime(2026, 7, 1, 12, 30, tzinfo=PLUS_TWO)
    with database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("a", at)))
        stored = connection.execute(sa.select(fleets.c.created_at)).scalar_one()
        assert stored == at
        assert stored.tzinfo is dt.UTC
        early = sa.select(fleets.c.name).where(fleets.c.created_at < at + dt.timedelta(microseconds=1))
        assert connection.execute(early).scalars().all() == ["a"]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (dt.datetime(2026, 7, 1), "has no time zone"),
        (dt.datetime.min.replace(tzinfo=PLUS_TWO), "outside of the years"),
        (dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=2))), "outside of the years"),
    ],
)
def test_what_is_no_time_in_utc_is_invalid_input_written_or_asked_for(database, at, said):
    with pytest.raises(InvalidInput, match=said), database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("b", at)))
    with pytest.raises(InvalidInput, match=said), database.read() as connection:
        connection.execute(sa.select(fleets.c.name).where(fleets.c.created_at < at))


def test_times_compare_as_text_as_they_do_as_times():
    column, dialect = UtcTime(), sa.create_engine("sqlite://").dialect
    moments = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=n) for n in (0, 1, 999_999, 10**6)]
    bind = column.dialect_impl(dialect).bind_processor(dialect)
    assert sorted(bind(moment) for moment in moments) == [bind(moment) for moment in moments]


def test_json_has_one_text():
    assert json_text({"b": 1, "a": [1.5, None, True]}) == json_text({"a": (1.5, None, True), "b": 1})
    assert json_text({"x": float("nan")}) == '{"x":null}'
    assert json_value(json_text({"b": {"c": "ä"}})) == {"b": {"c": "ä"}}
    assert JsonText().process_bind_param(None, sa.create_engine("sqlite://").dialect) is None


def test_the_clock_can_be_replaced(url):
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    database = Database(url, clock=lambda: moment)
    with database.read() as connection:
        assert database.now(connection) == moment
    ordinary = Database(url)
    with ordinary.read() as connection:
        assert abs(ordinary.now(connection) - utc_now()) < dt.timedelta(seconds=5)


def test_what_is_append_only_refuses_changes_by_any_program(databases):
    database = Database(databases.migrated())
    entry = "1, '2026-01-01 00:00:00.000000', 'a', 'b', 'c', NULL, NULL, '', 'd'"
    with database.write() as connection:
        connection.exec_driver_sql(f"INSERT INTO audit VALUES ({entry})")
    program, refusal = _another_program(database)
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with contextlib.closing(program()) as raw, pytest.raises(refusal, match="append-only"):
            raw.execute(statement)


def test_what_is_append_only_refuses_to_be_truncated(postgresql_databases):
    database = Database(postgresql_databases.migrated())
    for table in ("audit", "alias_changes"):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), database.write() as connection:
            connection.exec_driver_sql(f"TRUNCATE {table}")


def _another_program(database: Database) -> tuple[Callable[[], Any], type[Exception]]:
    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        return lambda: sqlite3.connect(url.database), sqlite3.IntegrityError
    return lambda: psycopg.connect(dbname=url.database, user=url.username, **url.query), psycopg.IntegrityError


@pytest.mark.parametrize("text", ["half of \ud83d", "a\x00b"])
def test_what_the_database_cannot_keep_is_invalid_input(database, text):
    with pytest.raises(InvalidInput, match="cannot keep this value"), database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("a") | {"owner": text}))
    with pytest.raises(InvalidInput, match="cannot keep this value"), database.read() as connection:
        connection.execute(sa.select(fleets).where(fleets.c.owner == text))


def test_json_keeps_any_character(database):
    tags = ["a\x00b", "\u2028"]
    with database.write() as connection:
        connection.execute(fleets.insert().values(_fleet("a") | {"tags": tags}))
        assert connection.execute(sa.select(fleets.c.tags)).scalar_one() == tags


def test_a_number_of_more_than_64_bits_is_invalid_input(sqlite_databases):
    database = Database(sqlite_databases.migrated())
    with pytest.raises(InvalidInput, match="cannot keep this value"), database.read() as connection:
        connection.execute(sa.select(fleets).where(fleets.c.latest == 2**70))


def test_threads_that_find_no_connection_free_are_told_so(sqlite_databases, monkeypatch):
    database = Database(sqlite_databases.migrated())
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.01)

    def many(stack: contextlib.ExitStack) -> None:
        for _ in range(50):
            stack.enter_context(database.read())

    with contextlib.ExitStack() as stack, pytest.raises(StorageError, match="in use for too long"):
        many(stack)


def test_rows_are_written_whether_or_not_they_are_there(database):
    for url in ("http://a", "http://b"):
        with database.write() as connection:
            values = {"folder": url, "changed_at": utc_now(), "changed_by": "ann"}
            upsert(connection, stores, key={"category": "retail"}, values=values)
    with database.read() as connection:
        assert [tuple(row) for row in connection.execute(sa.select(stores.c.category, stores.c.folder))] == [
            ("retail", "http://b")
        ]


def _fleet(name: str, at: dt.datetime | None = None) -> dict[str, object]:
    return {
        "name": name, "folded_name": name, "owner": "", "description": "", "category": "", "tags": [],
        "created_at": at or utc_now(), "created_by": "", "latest": 0,
    }  # fmt: skip


def test_a_connection_that_is_given_back_after_closing_is_closed_then(database):
    """A thread that is still at work when a workspace is closed leaves nothing open for the collector to find."""
    with database.read() as connection:
        driven = connection.connection.driver_connection
        database.close()
        assert head(connection) == 0
    if isinstance(driven, psycopg.Connection):
        assert driven.closed
    else:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driven.execute("SELECT 1")
    with database.read() as connection:  # it opens another one when it is used again
        assert head(connection) == 0
