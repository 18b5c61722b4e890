"""Results that are durable before they are answered: kept with as few trips to the database as there can be."""

import datetime as dt
import functools
import hashlib
import secrets
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_ids import id_of
from shoal.ledger.prediction_records import NewPrediction, PredictionKind
from shoal.ledger.prediction_tables import predictions
from shoal.storage.spelled import SpelledStatement

_c = predictions.c
_GIVEN: Final = (
    "tag", "fleet", "principal", "request_id", "idempotency_key", "fingerprint", "most_attempts", "keep_s",
    "size_bytes", "request", "answer",
)  # fmt: skip
_SAME: Final = {
    "kind": PredictionKind.STORED.value,
    "state": PredictionState.DONE.value,
    "attempts": 0,
}


def store(connection: sa.Connection, new: Sequence[NewPrediction], *, at: dt.datetime | None) -> list[str | None]:
    """Keep results, in one statement.

    Parameters
    ----------
    connection : Connection
        One that may write; no transaction is needed around it.
    new : sequence of NewPrediction
        Each with an answer, an idempotency key, and no sink.
    at : datetime or None
        The time; None: by the server's clock.

    Returns
    -------
    list of str or None
        Their ids; None where the idempotency key is taken.
    """
    rows = [_row(one) for one in new]
    if connection.dialect.name == "sqlite":
        assert at is not None
        made = [{**row, **_SAME, **_times(one, at)} for row, one in zip(rows, new, strict=True)]
        found = connection.execute(_SQLITE, made)
    else:
        columns: dict[str, object] = {name: [row[name] for row in rows] for name in _GIVEN}
        found = _spelled().run(connection, {**columns, "at": at})
    ids = {tag: id_of(number, tag) for number, tag in found}
    return [ids.get(str(row["tag"])) for row in rows]


def _row(one: NewPrediction) -> dict[str, object]:
    return {
        "tag": secrets.token_hex(8),
        "fleet": one.fleet,
        "principal": one.principal,
        "request_id": one.request_id,
        "idempotency_key": one.idempotency_key,
        "fingerprint": fingerprint(one),
        "most_attempts": one.most_attempts,
        "keep_s": one.keep_s,
        "size_bytes": len(one.request),
        "request": one.request,
        "answer": one.answer,
    }


def fingerprint(one: NewPrediction) -> str:
    """What has to be the same for two predictions to be one, beside the idempotency key; 64 hexadecimal digits."""
    parts = (one.fleet, one.sink or "", one.ordering_key or "")
    return hashlib.sha256("\n".join(parts).encode() + b"\n" + one.request).hexdigest()


def _times(one: NewPrediction, at: dt.datetime) -> dict[str, object]:
    forget_at = None if one.keep_s is None else at + dt.timedelta(seconds=one.keep_s)
    return {"accepted_at": at, "settled_at": at, "forget_at": forget_at}


def _statement() -> "postgresql.Insert":
    """Insert rows that come as one array per column, at the server's time."""
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(_c[name].type)) for name in _GIVEN]
    given = sa.func.unnest(*arrays).table_valued(*[sa.column(name, _c[name].type) for name in _GIVEN])
    given = given.render_derived(name="given")
    now = sa.func.coalesce(sa.bindparam("at", type_=_c.accepted_at.type), sa.func.clock_timestamp())
    computed = {
        **{name: sa.literal(value) for name, value in _SAME.items()},
        "accepted_at": now,
        "settled_at": now,
        "forget_at": now + given.c.keep_s * sa.literal_column("interval '1 second'"),
    }
    # In one order everywhere, so that two who insert the same keys wait instead of blocking each other.
    rows = sa.select(*[given.c[name] for name in _GIVEN], *computed.values()).order_by(
        given.c.principal, given.c.idempotency_key
    )
    return postgresql.insert(predictions).from_select([*_GIVEN, *computed], rows)


_TAKEN: Final = ("principal", "idempotency_key")
_WHERE: Final = sa.text("idempotency_key IS NOT NULL")
# Made once: making one takes longer than running it.
_POSTGRESQL: Final = (
    _statement()
    .on_conflict_do_nothing(index_elements=_TAKEN, index_where=_WHERE)
    .returning(_c.number, _c.tag)
)  # fmt: skip
_SQLITE: Final = (
    sqlite.insert(predictions)
    .on_conflict_do_nothing(index_elements=_TAKEN, index_where=_WHERE)
    .returning(_c.number, _c.tag)
)


@functools.cache
def _spelled() -> SpelledStatement:
    return SpelledStatement(_POSTGRESQL, psycopg.dialect())  # type: ignore[no-untyped-call]
