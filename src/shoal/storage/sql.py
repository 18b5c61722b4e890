"""The metadata database: transactions, retries, errors and migrations, the same on SQLite and PostgreSQL.

What only one of the two understands is in :mod:`shoal.storage.sqlite_engine` and
:mod:`shoal.storage.postgresql_engine`. The rest of Shoal writes SQLAlchemy Core:
``with database.write() as connection: connection.execute(...)``. A write block is one transaction that nobody else
writes beside on SQLite (``BEGIN IMMEDIATE``); code that must be alone on PostgreSQL too locks its row with
``.with_for_update()``, which SQLite has no need of and leaves out.
"""

import contextlib
import datetime as dt
import math
import os
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shoal.errors import InvalidInput, ShoalError, StorageError
from shoal.storage import postgresql_engine, sqlite_engine
from shoal.storage.columns import UNKEEPABLE
from shoal.storage.files import storage_errors

SCHEMA_VERSION = "0005"
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

RECONNECT_S = 5.0
"""For so long a PostgreSQL server that was there before, and restarts, is waited for, in seconds."""

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
        An SQLAlchemy URL, e.g. ``sqlite:////srv/shoal/shoal.db`` or ``postgresql://shoal@host/shoal``. SQLite
        databases are files: memory is not shared between connections. A file in a folder that may not be written is
        read.
    clock : callable, optional
        Gives the time in place of the database's own clock; for tests.
    patience_s : float
        How long :meth:`write` waits for other writers before it gives up, in seconds.
    must_exist : bool
        Whether a file of SQLite that is not there is missed rather than made.

    Raises
    ------
    InvalidInput
        The URL is none, or the driver that it names is not installed.
    """

    def __init__(
        self, url: str, *, clock: Clock | None = None, patience_s: float = 60.0, must_exist: bool = False
    ) -> None:
        self.engine = _engine(url, patience_s, must_exist=must_exist)
        self._single = self.engine
        self._clock = clock
        self._patience_s = patience_s
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        self._was_reached = False
        sa.event.listen(self.engine, "begin", _begin_transaction)
        if not self._is_sqlite:
            self._single = postgresql_engine.engine(self.engine.url, patience_s=patience_s, single=True)
        self._pools = [_Pool(engine) for engine in {self.engine, self._single}]
        for pool in self._pools:
            # Whoever forgets to close, or cannot, leaves no connection to be found by the garbage collector.
            weakref.finalize(self, pool.close)
        _open_databases.add(self)

    def migrate(self) -> None:
        """Bring the schema up to date; quick when it is, and safe when several processes do it at once.

        Raises
        ------
        StorageError
            The database cannot be written and its schema is not up to date, or a newer Shoal wrote it.
        """
        self._make_folder()
        version = self._schema_version()
        if version == SCHEMA_VERSION:
            return
        try:
            self._upgrade()
        except StorageError as error:
            has = "no tables yet" if version is None else f"schema {version}"
            raise StorageError(f"{error} (the database has {has}, this Shoal needs schema {SCHEMA_VERSION})") from error

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that may change things: committed when the block ends, undone when it raises.

        Raises
        ------
        StorageError
            The disk is full, the database cannot be reached, or others kept it busy for too long. When the connection
            breaks during the commit, nobody knows whether it was made; else nothing was changed.
        InvalidInput
            A value cannot be kept, e.g. a text with a NUL on PostgreSQL.
        InvalidArtifact
            The database file is damaged.
        """
        with self._errors(), self._begun(self.engine, writes=True) as connection:
            yield connection

    @contextlib.contextmanager
    def write_once(self) -> Iterator[sa.Connection]:
        """As :meth:`write`, for a block that runs one statement; it costs PostgreSQL half of the trips.

        Each statement is a transaction there, whatever comes after it in the block, on a connection that is always so:
        turning another over and back costs as much as the statement.
        """
        with self._errors(), self._begun(self._single, writes=True) as connection:
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
        with self._errors(), self._begun(self.engine, writes=False) as connection:
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

    def known_now(self) -> dt.datetime | None:
        """The time as :meth:`now` gives it, if it is known without asking; None: use the server's clock."""
        if self._clock is not None:
            return self._clock()
        return utc_now() if self._is_sqlite else None

    def unflushed(self) -> tuple[str, ...]:
        """Settings of the database, if any, by which what it says is committed may be lost in a power cut.

        They are left as they are: whoever runs the database may have chosen speed. SQLite's are ours.

        Raises
        ------
        StorageError
            The database cannot be reached.
        """
        if self._is_sqlite:
            return ()
        with self.read() as connection:
            return postgresql_engine.unflushed(connection)

    def close(self) -> None:
        """Close the connections, those in use when they are given back; others are opened if it is used again."""
        for pool in self._pools:
            pool.close()

    @contextlib.contextmanager
    def _begun(self, engine: sa.Engine, *, writes: bool) -> Iterator[sa.Connection]:
        """One transaction on a connection of the pool.

        Beginning is tried until it works or patience ends: nothing has run yet, so trying again is harmless. The
        block itself is never run twice.
        """
        with contextlib.ExitStack() as stack:
            yield self._patiently(lambda: self._begin(stack, engine, writes))

    def _begin(self, stack: contextlib.ExitStack, engine: sa.Engine, writes: bool) -> sa.Connection:
        with contextlib.ExitStack() as attempt:
            connection = attempt.enter_context(engine.connect())
            connection.execution_options(shoal_write=writes)
            attempt.enter_context(connection.begin())
            stack.push(attempt.pop_all())
        return connection

    def _patiently(self, step: Callable[[], Result]) -> Result:
        start = time.monotonic()
        while True:
            try:
                result = step()
            except sa.exc.OperationalError as error:
                if time.monotonic() > start + self._worth_waiting_s(error):
                    raise
                time.sleep(random.uniform(0.001, 0.05))  # noqa: S311
            else:
                self._was_reached = True
                return result

    def _worth_waiting_s(self, error: sa.exc.OperationalError) -> float:
        """How long this error, met before the first statement, may go on; -inf for one that will not pass."""
        if self._is_sqlite:
            return self._patience_s if sqlite_engine.is_busy(error) else -math.inf
        if postgresql_engine.is_passing(error):
            return self._patience_s
        # Where nothing ever answered, the address is wrong, most likely.
        return RECONNECT_S if self._was_reached and postgresql_engine.is_unreachable(error) else -math.inf

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            dialect = sqlite_engine if self._is_sqlite else postgresql_engine
            translated = dialect.translated(error, str(self.engine.url.database) if self._is_sqlite else self._where)
            if translated is None:
                raise
            raise translated from error
        except sa.exc.StatementError as error:  # it was not run: a value is none that its column can have
            if isinstance(error.orig, ShoalError):
                raise error.orig from error
            raise
        except sa.exc.TimeoutError as error:
            raise StorageError(
                f"{self._where}: all of this process's connections have been in use for too long; try again"
            ) from error
        except (UnicodeEncodeError, OverflowError) as error:  # half a character, or a number of more than 64 bits
            raise InvalidInput(UNKEEPABLE, detail=str(error)) from error

    @property
    def _where(self) -> str:
        return self.engine.url.render_as_string(hide_password=True)

    def _upgrade(self) -> None:
        if self._is_sqlite:
            with self._errors():
                self._patiently(lambda: sqlite_engine.use_wal(self.engine))
        with self.write() as connection:
            if self._is_sqlite:
                sqlite_engine.require_writable(connection)
            else:
                postgresql_engine.lock_schema(connection)
            if schema_version(connection) != SCHEMA_VERSION:
                # Alembic takes a third of a second to import, and nearly every start finds the schema as it should be.
                from shoal.storage.schema import upgrade

                upgrade(connection)

    def _make_folder(self) -> None:
        if self._is_sqlite and self.engine.url.database:
            path = Path(self.engine.url.database)
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)

    def _schema_version(self) -> str | None:
        with self.read() as connection:
            return schema_version(connection)


def _engine(text: str, patience_s: float, *, must_exist: bool) -> sa.Engine:
    advice = "give SHOAL_DATABASE_URL an SQLAlchemy URL such as sqlite:////srv/shoal/shoal.db"
    try:
        url = postgresql_engine.url_of(sa.make_url(text))
        if url.get_backend_name() == "postgresql":
            return postgresql_engine.engine(url, patience_s=patience_s)
        if url.get_backend_name() != "sqlite":
            raise InvalidInput(
                f"Shoal keeps its records in SQLite or PostgreSQL, not in {url.get_backend_name()}; {advice}"
            )
        engine = sa.create_engine(url)
    except sa.exc.ArgumentError as error:  # its message may show the password
        raise InvalidInput(f"the database's URL cannot be read; {advice}") from error
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the database's driver {error.name!r} is not installed; install it, or {advice}") from error
    sqlite_engine.prepare(engine, must_exist=must_exist)
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


def _begin_transaction(connection: sa.Connection) -> None:
    """Begin as the block asked for."""
    dialect = sqlite_engine if connection.dialect.name == "sqlite" else postgresql_engine
    dialect.begin(connection, writes=bool(connection.get_execution_options().get("shoal_write", False)))


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _close_before_fork() -> None:
    """SQLite connections must not cross a fork: the child would drop locks that the parent believes it holds."""
    for database in list(_open_databases):
        database.close()


os.register_at_fork(before=_close_before_fork)


class _Pool:
    """The connections of an engine: those that are given back after they were to be closed are closed then.

    Without it they would go back to a pool that nobody has any more, for the garbage collector to find.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._closings = 0
        # Not of every kind of connection it is told that it is going to be made.
        sa.event.listen(engine, "do_connect", lambda _dialect, record, _args, _options: self._opening(record))
        sa.event.listen(engine, "connect", lambda _connection, record: self._opening(record))
        sa.event.listen(engine, "checkin", self._returned)

    def close(self) -> None:
        """Close those that idle now, and the others later."""
        self._closings += 1
        self._engine.dispose()

    def _opening(self, record: sa.pool.ConnectionPoolEntry) -> None:
        # The first time counts: one that was begun before the pool was closed belongs to what was closed.
        record.info.setdefault("closings", self._closings)

    def _returned(self, _connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        if record.info.get("closings", self._closings) != self._closings:
            record.invalidate()
