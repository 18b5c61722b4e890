"""What only SQLite understands: pragmas, write locks, files that may only be read, and its error codes.

On SQLite, commits are flushed to the disk (``synchronous=FULL``). ``NORMAL`` would keep the file sound after a
power cut but may forget the last commits, and "promoted" has to stay true; the flush costs about a millisecond,
a shard of a run hundreds of them.
"""

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from shoal.errors import InvalidArtifact, InvalidInput, StorageError
from shoal.storage.columns import WholeText

PRAGMAS = ("busy_timeout = 5000", "foreign_keys = ON", "synchronous = FULL")

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and run the command again",
    sqlite3.SQLITE_IOERR: "the disk refused to write or read; check free space, quota and the disk itself",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that the folder exists and that you may write to it",
    sqlite3.SQLITE_READONLY: "is read-only for you; choose a folder you may write to, e.g. with SHOAL_HOME",
    sqlite3.SQLITE_PERM: "permission denied; choose a folder you may write to, e.g. with SHOAL_HOME",
    sqlite3.SQLITE_BUSY: "other processes kept it busy for too long; try again",
    sqlite3.SQLITE_LOCKED: "other processes kept it busy for too long; try again",
}
_Identity: TypeAlias = tuple[int, int]

_CLOSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

SETTLE_S = 1.0
"""A file that took another's place is opened after so many seconds: the other one's log may yet lie beside it."""


def prepare(engine: sa.Engine, *, must_exist: bool) -> None:
    """Make the engine's connections ours.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        New.
    must_exist : bool
        Whether a file that is not there is an error from the start; once one was there it always is.

    Raises
    ------
    InvalidInput
        The database would be in memory.
    """
    if engine.url.database in (None, "", ":memory:"):
        raise InvalidInput(
            "an SQLite database in memory is not shared by the workers of a run; give SHOAL_DATABASE_URL an "
            "SQLAlchemy URL such as sqlite:////srv/shoal/shoal.db"
        )
    engine.dialect.colspecs = {**engine.dialect.colspecs, sa.String: WholeText}  # texts that PostgreSQL would keep
    file = _File(must_exist=must_exist)
    sa.event.listen(engine, "do_connect", file.connect)
    sa.event.listen(engine, "connect", _set_up)
    sa.event.listen(engine, "checkout", file.require_same)
    sa.event.listen(engine, "checkout", _use_once)


def begin(connection: sa.Connection, *, writes: bool) -> None:
    """Begin a transaction.

    A write takes SQLite's write lock at once: a transaction that reads first and writes later would be refused
    half-way when somebody else wrote in between.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def use_wal(engine: sa.Engine) -> None:
    """Turn on write-ahead logging, which the file remembers; SQLite cannot do it inside a transaction."""
    raw = engine.raw_connection()
    with contextlib.closing(raw), contextlib.closing(raw.cursor()) as cursor:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            raise sa.exc.OperationalError("PRAGMA journal_mode = WAL", None, error) from error


def require_writable(connection: sa.Connection) -> None:
    """Fail now if the file may only be read; SQLite would say so at the first change, after other complaints."""
    connection.exec_driver_sql("PRAGMA user_version = 0")


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Whether others hold the lock, so that waiting may help."""
    return _code(error.orig) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translated(error: sa.exc.DBAPIError, where: str) -> StorageError | InvalidArtifact | None:
    """Our error for one of SQLite's, None where it is a fault of the caller's, such as a broken constraint."""
    code = _code(error.orig)
    if code in _DAMAGED:
        return InvalidArtifact(f"{where}: the file is damaged or no database ({error.orig}); restore it from a backup")
    if code in _ADVICE:
        return StorageError(f"{where}: {_ADVICE[code]}")
    if isinstance(error, sa.exc.OperationalError):
        return StorageError(f"{where}: {error.orig}; check that the database can be reached and try again")
    return None


class _File:
    """The file of an engine, which may be replaced by another one, e.g. from a backup, or taken away.

    An open connection goes on with the file that it has opened, wherever that is by now. So each is asked before it is
    used again whether its file is still the one of that name. A file that is gone is missed, and not made anew.
    """

    def __init__(self, *, must_exist: bool) -> None:
        self._must_exist = must_exist
        self._opened: _Identity | None = None
        self._other: _Identity | None = None
        self._since_s = 0.0

    def connect(
        self, dialect: Dialect, record: sa.pool.ConnectionPoolEntry, arguments: list[str], options: dict[str, object]
    ) -> sqlite3.Connection:
        """Open the file that is there now, unless it has just come."""
        path = Path(arguments[0])
        found = _identity(path)
        self._require_settled(path, found)
        if self._must_exist and found is None:
            raise StorageError(f"{path}: the file is not there; put it back")
        if found is not None:  # SQLite would make it anew if it went just now
            arguments, options = [_address(path, "mode=rw")], {**options, "uri": True}
        connection = _connect(dialect, record, path, arguments, options)
        self._must_exist = True
        self._opened = found = found or _identity(path)
        record.info["file"] = (path, found)
        return connection

    def _require_settled(self, path: Path, found: "_Identity | None") -> None:
        if self._opened is None or found is None or found == self._opened:
            return
        if found != self._other:
            self._other, self._since_s = found, time.monotonic()
        if time.monotonic() - self._since_s < SETTLE_S:
            raise StorageError(f"{path}: was replaced a moment ago; try again")

    def require_same(self, _connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        """Have a connection replaced whose file is no longer the one of that name."""
        path, opened = record.info["file"]
        if _identity(path) != opened:
            raise sa.exc.DisconnectionError("the file was replaced")


def _identity(path: Path) -> "_Identity | None":
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _address(path: Path, how: str) -> str:
    # With the empty host, for of a path that begins with two slashes the first part would be taken for it.
    return f"file://{quote(os.fsencode(path))}?{how}"


def _connect(
    dialect: Dialect,
    record: sa.pool.ConnectionPoolEntry,
    path: Path,
    arguments: list[str],
    options: dict[str, object],
) -> sqlite3.Connection:
    """Open the file; as it lies there, where nothing can be written beside it.

    Reading a database in WAL mode takes two files beside it. Where they are not there and cannot be made, nobody
    is writing it here, and SQLite is told that it does not change. That may become wrong later, so such a connection
    is used once.
    """
    connection: sqlite3.Connection = dialect.connect(*arguments, **options)  # type: ignore[assignment]
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if _code(error) not in _CLOSED or not path.is_file() or _may_write(path.parent):
            raise
        _require_whole(path)
        record.info["uses"] = 0
        return dialect.connect(_address(path, "mode=ro&immutable=1"), **{**options, "uri": True})  # type: ignore[return-value]
    except sqlite3.DatabaseError:
        # Whoever runs the first statement gets to know what is wrong with the file.
        return connection
    return connection


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _require_whole(path: Path) -> None:
    log = Path(f"{path}-wal")
    if log.is_file() and log.stat().st_size:
        raise StorageError(
            f"{path}: its newest changes are in {log.name}, which cannot be read without writing; run any shoal "
            "command once where the folder may be written"
        )


def _set_up(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _use_once(_connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
    if "uses" in record.info:
        if record.info["uses"]:
            raise sa.exc.DisconnectionError("opened for one transaction")
        record.info["uses"] = 1


def _code(error: object) -> int:
    """SQLite's primary result code; extended codes have more in the higher bits. 0 for other errors."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
