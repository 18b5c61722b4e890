"""Features by key from an SQL database of the user's."""

import asyncio
import contextlib
import datetime as dt
import decimal
import os
import re
import socket
import sqlite3
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import polars as pl
import sqlalchemy as sa

from shoal.errors import ConnectionFailed, InvalidInput
from shoal.storage.lookup_reader import Values, Wanted, best, moment
from shoal.storage.spelled import SpelledStatement
from shoal.types import Key

T = TypeVar("T")

_MOST_KEYS = 500
"""Keys of one statement: SQLite has a limit on parameters, and plans get no better with more."""

_GRACE_S = 1.0
"""How long a server may take to end a statement by itself before its connection is cut, in seconds."""

_TEXT_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:([ T])\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?)?")


class SqlReader:
    """Reads a table or query with one statement for many keys, in a few threads with pooled connections.

    Parameters
    ----------
    url : str
        SQLAlchemy's.
    wanted : Wanted
        What to read.
    table, query : str, optional
        From where: one of them.
    connections : int
        Most connections, and threads.
    timeout_s : float
        How long a statement may take, in seconds.

    Raises
    ------
    InvalidInput
        The URL is none, or its driver is not installed.
    """

    def __init__(
        self,
        url: str,
        wanted: Wanted,
        *,
        table: str | None = None,
        query: str | None = None,
        connections: int = 4,
        timeout_s: float = 1.0,
    ) -> None:
        self._wanted = wanted
        self._engine = _engine(url, connections, timeout_s)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="shoal-lookup")
        self._source = _source(table, query, wanted)
        self._time: Callable[[dt.datetime], object] | None = None
        self._statements: dict[type, SpelledStatement] = {}
        self._running: weakref.WeakSet[_Running] = weakref.WeakSet()

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> list[Values | None]:
        """What the source has for each key; see :class:`~shoal.storage.lookup_reader.Reader`."""
        return await self._within(timeout_s, partial(self._found, keys))

    async def past(self, keys: Sequence[Key], timeout_s: float, most: int | None) -> pl.DataFrame | None:
        """All rows of some keys; see :class:`~shoal.storage.lookup_reader.Reader`."""
        return await self._within(timeout_s, partial(self._past, keys, most))

    async def _within(self, timeout_s: float, read: "Callable[[_Running], T]") -> T:
        """Read in one of the threads; who waits too long ends it."""
        loop = asyncio.get_running_loop()
        running = _Running()
        self._running.add(running)
        work = loop.run_in_executor(self._threads, self._read, read, running)
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except (TimeoutError, asyncio.CancelledError):
            running.interrupt()
            loop.call_later(_GRACE_S, running.cut)
            raise

    def look(self) -> None:
        """See whether the source is there and has the columns, and let go of it again.

        Raises
        ------
        ConnectionFailed
            It is not, or has not.
        """
        try:
            with self._errors(), self._engine.connect() as connection:
                connection.execute(self._everything().limit(0))
        finally:
            self._engine.dispose()

    def history(self) -> pl.DataFrame:
        """All rows there are; see :class:`~shoal.storage.lookup_reader.Reader`."""
        with self._errors(), self._engine.connect() as connection:
            if not self._is_sqlite:
                connection.exec_driver_sql("SET statement_timeout = 0")
            rows = connection.execute(self._everything()).all()
            connection.invalidate()  # its statement timeout is another one now
        return _frame(rows, self._wanted.all)

    async def close(self) -> None:
        """Let go of connections and threads; what is under way is cut short."""
        for running in list(self._running):
            running.interrupt()
            running.cut()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._engine.dispose()

    def _read(self, read: "Callable[[_Running], T]", running: "_Running") -> T:
        if running.is_over:
            raise TimeoutError
        with self._errors():
            try:
                return read(running)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated or running.is_over:
                    raise
                return read(running)  # the pool's connections were from before the server started anew

    def _found(self, keys: Sequence[Key], running: "_Running") -> list[Values | None]:
        found: defaultdict[tuple[object, ...], list[Values]] = defaultdict(list)
        width = len(self._wanted.keys)
        with self._engine.connect() as connection, running.on(connection.connection.dbapi_connection):
            limit = self._limit(connection)
            statement, limits = self._statement(limit), {} if self._wanted.as_of is None else {"limit": limit}
            for start in range(0, len(keys), _MOST_KEYS):
                for row in statement.run(connection, self._asked(keys[start : start + _MOST_KEYS]) | limits):
                    found[_normal(row[:width])].append(tuple(row[width:]))
        timed = self._wanted.as_of is not None
        rows = (found.get(_normal(key)) for key in keys)
        return [best(mine, timed) if mine else None for mine in rows]

    def _past(self, keys: Sequence[Key], most: int | None, running: "_Running") -> pl.DataFrame | None:
        rows: list[sa.Row[Any]] = []
        with self._engine.connect() as connection, running.on(connection.connection.dbapi_connection):
            for start in range(0, len(keys), _MOST_KEYS):
                left = None if most is None else most + 1 - len(rows)
                statement = self._everything().where(self._among()).limit(left)
                rows += connection.execute(statement, self._asked(keys[start : start + _MOST_KEYS]))
                if most is not None and len(rows) > most:
                    return None
        return _frame(rows, self._wanted.all)

    def _everything(self) -> sa.Select[Any]:
        return sa.select(*(self._source.c[name] for name in self._wanted.all))

    def _limit(self, connection: sa.Connection) -> object:
        """Now, as the source writes times; None where it has none at all."""
        if self._wanted.as_of is None:
            return None
        if self._time is None:
            column = self._source.c[self._wanted.as_of]
            example = connection.execute(sa.select(column).where(column.is_not(None)).limit(1)).scalar()
            if example is None:
                return None
            self._time = _writer(example)
        return self._time(dt.datetime.now(dt.UTC))

    def _statement(self, limit: object) -> SpelledStatement:
        """What asks for some keys; made once, which takes longer than running it."""
        spelled = self._statements.get(type(limit))
        if spelled is None:
            key_columns = [self._source.c[name] for name in self._wanted.keys]
            read = [*key_columns, *(self._source.c[name] for name in self._wanted.columns)]
            if self._wanted.as_of is None:
                made = sa.select(*read).where(self._among())
            else:
                made = self._newest(read, key_columns, sa.bindparam("limit", type_=sa.literal(limit).type))
            spelled = self._statements[type(limit)] = SpelledStatement(made, self._engine.dialect, listed="keys")
        return spelled

    def _among(self) -> sa.ColumnElement[bool]:
        key_columns = [self._source.c[name] for name in self._wanted.keys]
        asked: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
        return (key_columns[0] if len(key_columns) == 1 else sa.tuple_(*key_columns)).in_(asked)

    def _asked(self, keys: Sequence[Key]) -> dict[str, object]:
        values = [self._bound(key) for key in keys]
        return {"keys": [value[0] for value in values] if len(self._wanted.keys) == 1 else values}

    def _newest(
        self,
        read: Sequence[sa.ColumnElement[Any]],
        key_columns: Sequence[sa.ColumnElement[Any]],
        limit: sa.ColumnElement[Any],
    ) -> sa.Select[Any]:
        """The newest rows of each key that are not in the future; several where they are of the same time."""
        as_of = self._source.c[self._wanted.as_of or ""]
        past = self._among() & (as_of <= limit)
        newest = (
            sa.select(*(column.label(f"k{i}") for i, column in enumerate(key_columns)), sa.func.max(as_of).label("at"))
            .where(past)
            .group_by(*key_columns)
            .subquery()
        )
        same = [column == newest.c[f"k{i}"] for i, column in enumerate(key_columns)]
        return sa.select(*read).join(newest, sa.and_(*same, as_of == newest.c["at"]))

    def _bound(self, key: Key) -> tuple[object, ...]:
        # SQLite has no dates; Python's own way of writing them there is going away.
        return tuple(v.isoformat() if self._is_sqlite and isinstance(v, dt.date) else v for v in key)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            words = " ".join(str(reason).split())
            raise ConnectionFailed("the lookup's database does not answer as it should", detail=words) from error


class _Running:
    """A fetch that is under way in a thread, and how to end it from outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: object = None
        self.is_over = False

    @contextlib.contextmanager
    def on(self, connection: object) -> Iterator[None]:
        """Say which connection it uses, while it does."""
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def interrupt(self) -> None:
        """Nobody waits any more: do not begin, and end a statement that can be ended at once."""
        self.is_over = True
        with self._lock:
            if isinstance(self._connection, sqlite3.Connection):
                self._connection.interrupt()

    def cut(self) -> None:
        """The server should have ended the statement by now: shut the connection, whatever is at its other end."""
        with self._lock:
            driver = getattr(self._connection, "fileno", None)
            if driver is None:
                return
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(driver())) as line:
                line.shutdown(socket.SHUT_RDWR)


def _engine(url: str, connections: int, timeout_s: float) -> sa.Engine:
    try:
        parsed = _read_only(sa.make_url(url))
        engine = sa.create_engine(
            parsed,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_use_lifo=True,
            pool_timeout=timeout_s,
            pool_reset_on_return=None,
            connect_args=_arguments(parsed, timeout_s),
        )
    except sa.exc.ArgumentError as error:  # its message may show the password
        raise InvalidInput("the source's URL cannot be read; write one of SQLAlchemy's") from error
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the source's driver {error.name!r} is not installed; install it") from error
    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", _limit_statements(timeout_s))
    return engine


def _read_only(url: sa.URL) -> sa.URL:
    """PostgreSQL through the driver that we bring; SQLite files are neither made nor written."""
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith("file:"):
        return url.set(database=f"file:{url.database}", query={**url.query, "mode": "ro", "uri": "true"})
    return url


def _arguments(url: sa.URL, timeout_s: float) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": timeout_s, "check_same_thread": False}
    if url.drivername != "postgresql+psycopg":
        return {}
    usual = {
        "connect_timeout": 2, "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 1, "keepalives_count": 3,
        "tcp_user_timeout": 5000,
    }  # fmt: skip
    return {name: value for name, value in usual.items() if name not in url.query}


def _limit_statements(timeout_s: float) -> Callable[[Any, object], None]:
    def limit(connection: Any, _record: object) -> None:
        autocommit, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {max(1, round(timeout_s * 1000))}")
            cursor.execute("SET default_transaction_read_only = on")
        connection.autocommit = autocommit

    return limit


def _source(table: str | None, query: str | None, wanted: Wanted) -> sa.FromClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in dict.fromkeys((*wanted.keys, *wanted.columns))]
    if query is not None:
        return sa.text(query).columns(*columns).subquery("source")
    schema, _, name = (table or "").rpartition(".")
    return sa.table(name, *columns, schema=schema or None)


def _normal(key: Sequence[object]) -> tuple[object, ...]:
    """A key as it compares, whichever way the database gives it."""
    return tuple(v.isoformat() if isinstance(v, dt.date) else v for v in key)


def _writer(example: object) -> Callable[[dt.datetime], object]:
    """How to write a time as the source writes this one, so that the two compare as times do."""
    if isinstance(example, dt.datetime):
        return (lambda now: now) if example.tzinfo else (lambda now: now.replace(tzinfo=None))
    if isinstance(example, dt.date):
        return lambda now: now.date()
    if isinstance(example, int | float | decimal.Decimal):
        return lambda now: now.timestamp()
    layout = _TEXT_TIME.fullmatch(example) if isinstance(example, str) else None
    if layout is None:
        moment(example)  # says what is wrong with it, if it is no time at all
        raise InvalidInput(f"the times of the source cannot be compared: {example!r}; write 2026-01-31 12:00:00")
    between, fraction, zone = layout.groups()
    if between is None:
        return lambda now: now.date().isoformat()
    if zone not in (None, "Z", "+00:00", "+0000"):
        raise InvalidInput(f"times of different zones, such as {example!r}, do not compare as texts: keep them in UTC")
    digits = len(fraction) - 1 if fraction else 0
    return lambda now: _text(now, between, digits) + (zone or "")


def _text(now: dt.datetime, between: str, digits: int) -> str:
    whole = now.strftime(f"%Y-%m-%d{between}%H:%M:%S")
    return (
        f"{whole}.{now.microsecond:06d}".ljust(len(whole) + 1 + digits, "0")[: len(whole) + 1 + digits]
        if digits
        else whole
    )


def _frame(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> pl.DataFrame:
    """Rows of a database as a frame. Decimals become the doubles that they become when they are served."""
    series = []
    for i, name in enumerate(columns):
        values = [float(v) if isinstance(v, decimal.Decimal) else v for v in (row[i] for row in rows)]
        series.append(pl.Series(name, values, strict=False))
    return pl.DataFrame(series)
