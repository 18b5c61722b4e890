"""What only PostgreSQL understands: its driver, pool and session settings, and its error codes.

Each process keeps a few connections open and opens more for a while when many threads ask at once, so that dozens of
workers fit under PostgreSQL's usual limit of a hundred. A connection that has idled, or on which the server has said
something meanwhile, is tried before it is used: a server that was restarted is noticed before anything has run on it,
when beginning anew is harmless.
"""

import select
import time
from typing import cast

import sqlalchemy as sa

from shoal.errors import InvalidArtifact, InvalidInput, StorageError
from shoal.storage.columns import UNKEEPABLE

KEPT_CONNECTIONS = 4
"""Connections that a process keeps open between uses."""
MORE_CONNECTIONS = 6
"""Connections that it opens beside those, and closes after use."""

_IDLE_S = 1.0
"""A connection that was not used for so long may have no server any more that could say that it goes, in seconds."""

_SCHEMA_LOCK = 0x5A0A1
"""Number of the advisory lock around migrations."""

_IDLE_IN_TRANSACTION_S = 45
"""A process that stops in the middle of a transaction, for its locks' sake, loses it after so long."""

_CONNECTING = {
    "connect_timeout": 5,
    "application_name": "shoal",
    # A server whose machine is gone, or whose network is, does not say so.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_PASSING = ("too many", "connection slots", "starting up", "shutting down")
_ADVICE = {
    "25006": "may only be read, e.g. because it is a standby; give SHOAL_DATABASE_URL the primary",
    "25P03": "ended a transaction that stood still; the machine may be overloaded, try again",
    "40001": "others changed the same rows at the same moment; try again",
    "40P01": "others changed the same rows at the same moment; try again",
    "42501": "refuses that to this user; grant it, or give SHOAL_DATABASE_URL another user",
    "53100": "its disk is full; free some space there and try again",
    "53300": "has no connection left; raise its max_connections or run fewer processes",
    "55P03": "others kept it busy for too long; try again",
    "57014": "gave up a statement that took too long; look at its statement_timeout and its load, then try again",
}
_FLUSHING = ("fsync", "synchronous_commit")
_DAMAGED = ("XX001", "XX002")


def url_of(url: sa.URL) -> sa.URL:
    """The URL with our driver in it, where it names none."""
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    return url


def engine(url: sa.URL, *, patience_s: float, single: bool = False) -> sa.Engine:
    """The engine for a PostgreSQL URL.

    Parameters
    ----------
    url : sqlalchemy.URL
        What it says about the connection goes before what we say.
    patience_s : float
        How long statements wait for others' locks, in seconds.
    single : bool
        Whether each statement is a transaction.

    Raises
    ------
    InvalidInput
        The URL names another driver than psycopg.
    """
    if url.drivername != "postgresql+psycopg":
        raise InvalidInput(f"Shoal reaches PostgreSQL by psycopg, not by {url.drivername!r}; write postgresql://...")
    connecting = {name: value for name, value in _CONNECTING.items() if name not in url.query}
    kept, more = (1, 1) if single else (KEPT_CONNECTIONS, MORE_CONNECTIONS)
    made = sa.create_engine(
        url,
        pool_size=kept,
        max_overflow=more,
        pool_use_lifo=True,
        connect_args=connecting,
        **({"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None} if single else {}),
    )
    settings = f"SET lock_timeout = {patience_s * 1000:.0f}"
    settings += f"; SET idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_S * 1000}; SET TimeZone = 'UTC'"

    def set_up(connection: sa.PoolProxiedConnection, _record: object) -> None:
        connection.execute(settings)
        connection.commit()

    sa.event.listen(made, "connect", set_up)
    sa.event.listen(made, "checkin", _given_back)
    sa.event.listen(made, "checkout", _require_alive)
    return made


def _given_back(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_s"] = time.monotonic()


def _require_alive(connection: sa.PoolProxiedConnection, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
    """Have the pool connect anew where the server is not there any more.

    A trip to the server each time would cost as much as many a transaction does. One that ends, or ends a session,
    closes the connection, which shows without asking.
    """
    from psycopg import Error

    used_s = record.info.get("used_s")
    if used_s is None or (time.monotonic() - used_s < _IDLE_S and not _was_told(connection)):
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Error as error:
        raise sa.exc.InvalidatePoolError from error


def _was_told(connection: sa.PoolProxiedConnection) -> bool:
    """Whether something has come that nobody asked for, such as the end of the connection."""
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def begin(connection: sa.Connection, *, writes: bool) -> None:
    """Say how the transaction is to be that the driver begins with the first statement.

    All statements of one that reads see the same state. Whether one may write is left to the server: it may say no.
    """
    from psycopg import Connection, IsolationLevel  # an optional dependency

    raw = cast("Connection[object]", connection.connection.dbapi_connection)
    level, read_only = (IsolationLevel.READ_COMMITTED, None) if writes else (IsolationLevel.REPEATABLE_READ, True)
    if raw.isolation_level != level:
        raw.isolation_level = level
    if raw.read_only != read_only:
        raw.read_only = read_only


def unflushed(connection: sa.Connection) -> tuple[str, ...]:
    """Those settings by which the server says that a commit is made before it survives a power cut."""
    settings = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in _FLUSHING}
    return tuple([name for name, value in settings.items() if value == "off"])


def lock_schema(connection: sa.Connection) -> None:
    """Keep other migrations out until this transaction ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


def is_unreachable(error: sa.exc.DBAPIError) -> bool:
    """Whether no connection came about; asked about an error before the first statement."""
    return isinstance(error, sa.exc.OperationalError) and getattr(error.orig, "sqlstate", None) is None


def is_passing(error: sa.exc.DBAPIError) -> bool:
    """Whether the server is there but takes no connection just now."""
    return any(phrase in str(error.orig) for phrase in _PASSING)


def translated(error: sa.exc.DBAPIError, where: str) -> StorageError | InvalidArtifact | InvalidInput | None:
    """Our error for one of PostgreSQL's, None where it is a fault of the caller's, such as a broken constraint."""
    code = getattr(error.orig, "sqlstate", None)
    said = " ".join(str(error.orig).split())
    if code in _DAMAGED:
        return InvalidArtifact(f"{where}: the database is damaged ({said}); restore it from a backup")
    if code in _ADVICE:
        return StorageError(f"{where}: {_ADVICE[code]}")
    if isinstance(error, sa.exc.DataError):
        return InvalidInput(UNKEEPABLE, detail=said)
    if isinstance(error, sa.exc.ProgrammingError) and error.statement is None:  # before there was a connection
        return InvalidInput(f"{where}: {said}; mend SHOAL_DATABASE_URL")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InternalError):
        return StorageError(f"{where}: {said}; check that the database can be reached and try again")
    return None
