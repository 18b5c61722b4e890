"""Results that are durable before they are answered: kept with as few trips to the database as there can be."""

import datetime as dt
import functools
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

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
        At least one; each with an answer, an idempotency key, and no sink.
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
        [one, *more] = rows
        given = {name: [row[name] for row in rows] for name in _GIVEN} if more else one
        found = (_of_several() if more else _of_one()).run(connection, {**given, "at": at})
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


def _insert(given: Mapping[str, sa.ColumnElement[Any]], *, several: bool) -> "sa.sql.dml.ReturningInsert[int, str]":
    """Insert what is given, at the server's time."""
    now = sa.func.coalesce(sa.bindparam("at", type_=_c.accepted_at.type), sa.func.clock_timestamp())
    computed = {
        **{name: sa.literal(value) for name, value in _SAME.items()},
        "accepted_at": now,
        "settled_at": now,
        "forget_at": now + given["keep_s"] * sa.literal_column("interval '1 second'"),
    }
    rows = sa.select(*given.values(), *computed.values())
    if several:  # in one order everywhere, so that two who insert the same keys wait instead of blocking each other
        rows = rows.order_by(given["principal"], given["idempotency_key"])
    insert = postgresql.insert(predictions).from_select([*given, *computed], rows)
    return insert.on_conflict_do_nothing(index_elements=_TAKEN, index_where=_WHERE).returning(_c.number, _c.tag)


_TAKEN: Final = ("principal", "idempotency_key")
_WHERE: Final = sa.text("idempotency_key IS NOT NULL")
_SQLITE: Final = (
    sqlite.insert(predictions)
    .on_conflict_do_nothing(index_elements=_TAKEN, index_where=_WHERE)
    .returning(_c.number, _c.tag)
)


# Making a statement takes longer than running it, and so does making arrays of one value each.
@functools.cache
def _of_one() -> SpelledStatement:
    given = {name: sa.bindparam(name, type_=_c[name].type) for name in _GIVEN}
    return SpelledStatement(_insert(given, several=False), psycopg.dialect())  # type: ignore[no-untyped-call]


@functools.cache
def _of_several() -> SpelledStatement:
    """Rows come as one array per column."""
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(_c[name].type)) for name in _GIVEN]
    given = sa.func.unnest(*arrays).table_valued(*[sa.column(name, _c[name].type) for name in _GIVEN])
    columns = given.render_derived(name="given").c
    statement = _insert({name: columns[name] for name in _GIVEN}, several=True)
    return SpelledStatement(statement, psycopg.dialect())  # type: ignore[no-untyped-call]
