"""A table of a user's database that results are written to, each once."""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shoal.errors import ConnectionFailed, InvalidInput
from shoal.storage.columns import UtcTime
from shoal.storage.postgresql_engine import url_of

_TIMEOUT_S = 30


class SinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """A result as a row.

    Attributes
    ----------
    prediction_id : str
        The key.
    fleet, model, version, request_id, principal : str
        What was asked, of whom, and by whom; ``version`` is the snapshot that answered.
    accepted_at : datetime
        When it was accepted, UTC.
    response : str
        The response, the protocol's JSON.
    """

    prediction_id: str
    fleet: str
    model: str
    version: str
    request_id: str
    principal: str
    accepted_at: dt.datetime
    response: str


class SinkTable:
    """Writes results to a table, which is made when it is not there.

    Parameters
    ----------
    url : str
        SQLAlchemy's, of SQLite or PostgreSQL.
    table : str
        Its name, with its schema where needed.

    Raises
    ------
    InvalidInput
        The URL is none, or of another kind of database.
    """

    def __init__(self, url: str, table: str) -> None:
        self._engine = _engine(url)
        schema, _, name = table.rpartition(".")
        self._table = sa.Table(
            name,
            sa.MetaData(),
            sa.Column("prediction_id", sa.Text, primary_key=True),
            *(sa.Column(one, sa.Text, nullable=False) for one in ("fleet", "model", "version")),
            *(sa.Column(one, sa.Text, nullable=False) for one in ("request_id", "principal")),
            sa.Column("accepted_at", UtcTime, nullable=False),
            sa.Column("response", sa.Text, nullable=False),
            schema=schema or None,
        )
        self._is_there = False

    def write(self, rows: Sequence[SinkRow]) -> None:
        """Write results, all in one transaction; those that are there already stay as they are.

        Raises
        ------
        ConnectionFailed
            The database cannot be reached or does not take them; nothing was written.
        """
        make = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        insert = make(self._table).on_conflict_do_nothing(index_elements=["prediction_id"])
        with self._errors():
            if not self._is_there:
                with contextlib.suppress(sa.exc.IntegrityError, sa.exc.ProgrammingError), self._engine.begin() as made:
                    # Another process may make it at the same moment; looking first would be too early.
                    made.execute(sa.schema.CreateTable(self._table, if_not_exists=True))
                self._is_there = True
            with self._engine.begin() as connection:
                connection.execute(insert, [msgspec.structs.asdict(row) for row in rows])

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            self._is_there = False
            reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            words = " ".join(str(reason).split())
            raise ConnectionFailed("the sink's database does not take the results", detail=words) from error


def _engine(url: str) -> sa.Engine:
    try:
        parsed = url_of(sa.make_url(url))
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise InvalidInput(f"results go to tables of SQLite or PostgreSQL, not of {parsed.get_backend_name()}")
        waiting = {"timeout": _TIMEOUT_S} if parsed.get_backend_name() == "sqlite" else {"connect_timeout": 5}
        engine = sa.create_engine(
            parsed, poolclass=sa.pool.QueuePool, pool_size=1, max_overflow=1, connect_args=waiting
        )
    except sa.exc.ArgumentError as error:  # its message may show the password
        raise InvalidInput("the sink's URL cannot be read; write one of SQLAlchemy's") from error
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the sink's driver {error.name!r} is not installed; install it") from error
    return engine
