"""The metadata database: transactions, retries, errors and migrations, the same on SQLite and PostgreSQL.

Everything that only one of the two understands is in this file. The rest of Shoal writes SQLAlchemy Core:
``with database.write() as connection: connection.execute(...)``. A write block is one transaction that nobody else
writes beside on SQLite (``BEGIN IMMEDIATE``); code that must be alone on PostgreSQL too locks its row with
``.with_for_update()``, which SQLite has no need of and leaves out.

On SQLite, commits are flushed to the disk (``synchronous=FULL``). ``NORMAL`` would keep the file sound after a
power cut but may forget the last commits, and "promoted" has to stay true; the flush costs about a millisecond,
a shard of a run hundreds of them.
"""

import contextlib
import datetime as dt
import os
import random
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shoal.errors import InvalidArtifact, InvalidInput, StorageError
from shoal.storage.files import storage_errors

SCHEMA_VERSION = "0003"
"""The newest migration in ``storage/migrations/versions``; a test keeps the two equal."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables of Shoal register here."""

_SCHEMA_LOCK = 0x5A0A1
"""Number of PostgreSQL's advisory lock around migrations."""

_SQLITE_PRAGMAS = ("busy_timeout = 5000", "foreign_keys = ON", "synchronous = FULL")

_SQLITE_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and run the command again",
    sqlite3.SQLITE_IOERR: "the disk refused to write or read; check free space, quota and the disk itself",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that the folder exists and that you may write to it",
    sqlite3.SQLITE_READONLY: "is read-only for you; choose a folder you may write to, e.g. with SHOAL_HOME",
    sqlite3.SQLITE_PERM: "permission denied; choose a folder you may write to, e.g. with SHOAL_HOME",
    sqlite3.SQLITE_BUSY: "other processes kept it busy for too long; try again",
    sqlite3.SQLITE_LOCKED: "other processes kept it busy for too long; try again",
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Clock = Callable[[], dt.datetime]
Result = TypeVar("Result")


def utc_now() -> dt.datetime:
    """The time by this machine's wall clock, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


class Database:
    """One database, shared by the threads of a process; every process opens its own.

    Parameters
    ----------
    url : str
        An SQLAlchemy URL, e.g. ``sqlite:////srv/shoal/shoal.db``. SQLite databases are files: memory is not shared
        between connections.
    clock : callable, optional
        Gives the time in place of the database's own clock; for tests.
    patience_s : float
        How long :meth:`write` waits for other writers before it gives up, in seconds.

    Raises
    ------
    InvalidInput
        The URL is none, or the driver that it names is not installed.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, patience_s: float = 60.0) -> None:
        self.engine = _engine(url)
        self._clock = clock
        self._patience_s = patience_s
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        if self._is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
        sa.event.listen(self.engine, "begin", _begin_transaction)
        _open_databases.add(self)
        # Whoever forgets to close, or cannot, leaves no connection to be found by the garbage collector.
        weakref.finalize(self, self.engine.dispose)

    def migrate(self) -> None:
        """Bring the schema up to date; quick when it is, and safe when several processes do it at once.

        Raises
        ------
        StorageError
            The database cannot be written, or a newer Shoal wrote it.
        """
        self._make_folder()
        if self._schema_version() == SCHEMA_VERSION:
            return
        if self._is_sqlite:
            self._use_wal()
        with self.write() as connection:
            _lock_schema(connection)
            if schema_version(connection) != SCHEMA_VERSION:
                # Alembic takes a third of a second to import, and nearly every start finds the schema as it should be.
                from shoal.storage.schema import upgrade

                upgrade(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that may change things: committed when the block ends, undone when it raises.

        Raises
        ------
        StorageError
            The disk is full, the database cannot be reached, or others kept it busy for too long.
        InvalidArtifact
            The database file is damaged.
        """
        with self._errors(), self._begun({"shoal_write": True}) as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only reads; all its statements see the same state.

        Raises
        ------
        StorageError
            The database cannot be reached.
        InvalidArtifact
            The database file is damaged.
        """
        with self._errors(), self._begun(self._read_options()) as connection:
            yield connection

    def now(self, connection: sa.Connection) -> dt.datetime:
        """The time by the one clock that leases and records go by: the database's.

        A server's clock is the same for all its clients, whatever their own say. SQLite has no server; all its
        clients share a machine, and so that machine's clock.
        """
        if self._clock is not None:
            return self._clock()
        if self._is_sqlite:
            return utc_now()
        moment: dt.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return moment.astimezone(dt.UTC)

    def close(self) -> None:
        """Close the idle connections; the database opens new ones when it is used again."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _begun(self, options: dict[str, object]) -> Iterator[sa.Connection]:
        """One transaction on a connection of the pool.

        Beginning is tried until it works or patience ends: nothing has run yet, so trying again is harmless. The
        block itself is never run twice.
        """
        with contextlib.ExitStack() as stack:
            yield self._patiently(lambda: self._begin(stack, options))

    def _begin(self, stack: contextlib.ExitStack, options: dict[str, object]) -> sa.Connection:
        with contextlib.ExitStack() as attempt:
            connection = attempt.enter_context(self.engine.connect().execution_options(**options))
            attempt.enter_context(connection.begin())
            stack.push(attempt.pop_all())
        return connection

    def _patiently(self, step: Callable[[], Result]) -> Result:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return step()
            except sa.exc.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.05))  # noqa: S311

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            translated = _translated(error, self.engine.url)
            if translated is None:
                raise
            raise translated from error

    def _read_options(self) -> dict[str, object]:
        return {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def _make_folder(self) -> None:
        if self._is_sqlite and self.engine.url.database:
            path = Path(self.engine.url.database)
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)

    def _schema_version(self) -> str | None:
        with self.read() as connection:
            return schema_version(connection)

    def _use_wal(self) -> None:
        """Turn on write-ahead logging, which the file remembers; SQLite cannot do it inside a transaction."""
        with self._errors():
            self._patiently(self._try_wal)

    def _try_wal(self) -> None:
        raw = self.engine.raw_connection()
        with contextlib.closing(raw), contextlib.closing(raw.cursor()) as cursor:
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                raise sa.exc.OperationalError("PRAGMA journal_mode = WAL", None, error) from error


def _engine(url: str) -> sa.Engine:
    advice = "give SHOAL_DATABASE_URL an SQLAlchemy URL such as sqlite:////srv/shoal/shoal.db"
    try:
        engine = sa.create_engine(url)
    except sa.exc.ArgumentError as error:  # its message may show the password
        raise InvalidInput(f"the database's URL cannot be read; {advice}") from error
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the database's driver {error.name!r} is not installed; install it, or {advice}") from error
    if engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
        raise InvalidInput(f"an SQLite database in memory is not shared by the workers of a run; {advice}")
    return engine


def upsert(
    connection: sa.Connection, table: sa.Table, *, key: Mapping[str, object], values: Mapping[str, object]
) -> None:
    """Write a row, whether or not there is one of this key.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        A transaction that may write.
    table : sqlalchemy.Table
        The table.
    key : mapping
        The primary key.
    values : mapping
        All other columns.
    """
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    row = insert.values(**key, **values)
    connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=dict(values)))


def schema_version(connection: sa.Connection) -> str | None:
    """The newest migration that the database has had, None for a new database.

    Raises
    ------
    StorageError
        A newer Shoal wrote it.
    """
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise StorageError(
            f"the database has schema {version}, this Shoal knows up to {SCHEMA_VERSION}; install the newer Shoal"
        )
    return version


def _lock_schema(connection: sa.Connection) -> None:
    """Keep other migrations out until this transaction ends; on SQLite nobody else is in anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_transaction
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_transaction(connection: sa.Connection) -> None:
    """Begin as the block asked for.

    A write takes SQLite's write lock at once: a transaction that reads first and writes later would be refused
    half-way when somebody else wrote in between.
    """
    if connection.dialect.name == "sqlite":
        writes = connection.get_execution_options().get("shoal_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_busy(error: sa.exc.DBAPIError) -> bool:
    return _sqlite_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _sqlite_code(error: sa.exc.DBAPIError) -> int:
    """SQLite's primary result code; extended codes have more in the higher bits. 0 for other databases."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def _translated(error: sa.exc.DBAPIError, url: sa.URL) -> StorageError | InvalidArtifact | None:
    """Our error for one of the database's, None where it is a fault of the caller's, such as a broken constraint."""
    code = _sqlite_code(error)
    where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
    if code in _DAMAGED:
        return InvalidArtifact(f"{where}: the file is damaged or no database ({error.orig}); restore it from a backup")
    if code in _SQLITE_ADVICE:
        return StorageError(f"{where}: {_SQLITE_ADVICE[code]}")
    if isinstance(error, sa.exc.OperationalError):
        return StorageError(f"{where}: {error.orig}; check that the database can be reached and try again")
    return None


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _close_before_fork() -> None:
    """SQLite connections must not cross a fork: the child would drop locks that the parent believes it holds."""
    for database in list(_open_databases):
        database.close()


os.register_at_fork(before=_close_before_fork)
