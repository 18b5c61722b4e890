"""Accepting predictions, each idempotency key once; inside the caller's transaction."""

import datetime as dt
import secrets
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shoal.errors import Conflict
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_ids import id_of
from shoal.ledger.prediction_records import Acceptance, NewPrediction
from shoal.ledger.prediction_retention import forgotten_at, kept_s
from shoal.ledger.prediction_tables import predictions
from shoal.ledger.stored import fingerprint
from shoal.storage.arrays import unnested

_IDEMPOTENCY_LOCK = 0x5A0A2
_c = predictions.c


def accept(
    connection: sa.Connection, new: Sequence[NewPrediction], *, at: dt.datetime, forget_s: float | None
) -> list[Acceptance | Conflict]:
    """Keep predictions; in the order given which they are and where they stand, or why one could not be kept.

    Of those that wait, each gets its place behind all that were accepted before; those that have an answer and no sink
    are done at once.
    """
    rows = [_row(one, at, forget_s) for one in new]
    found: dict[object, Acceptance | Conflict] = {}
    left = rows
    while left:
        found |= _insert(connection, left)
        left = [row for row in left if row["tag"] not in found and not _settled_by_other(connection, row, found)]
    return [found[row["tag"]] for row in rows]


def known(connection: sa.Connection, new: NewPrediction, *, at: dt.datetime) -> Acceptance | Conflict | None:
    """What has the idempotency key of a prediction, or why it is another's; None where nothing has."""
    row = _row(new, at, None)
    found: dict[object, Acceptance | Conflict] = {}
    _settled_by_other(connection, row, found)
    return found.get(row["tag"])


def _insert(connection: sa.Connection, rows: Sequence[dict[str, object]]) -> dict[object, Acceptance | Conflict]:
    """Insert what has no idempotency key that is taken; what there is now by tag."""
    is_sqlite = connection.dialect.name == "sqlite"
    insert = (sqlite.insert if is_sqlite else postgresql.insert)(predictions)
    if any(row["idempotency_key"] is not None for row in rows):
        if not is_sqlite:
            # Two transactions that insert the same keys in different orders would block each other.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_IDEMPOTENCY_LOCK)))
        insert = insert.on_conflict_do_nothing(
            index_elements=["principal", "idempotency_key"], index_where=sa.text("idempotency_key IS NOT NULL")
        )
    if is_sqlite:
        made = connection.execute(insert.returning(_c.number, _c.tag, _c.state), rows)
    else:
        names = list(rows[0])
        given = unnested({name: _c[name].type for name in names}, rows)
        ordered = sa.select(*[given.c[name] for name in names]).order_by(given.c.place)
        made = connection.execute(insert.from_select(names, ordered).returning(_c.number, _c.tag, _c.state))
    return {tag: Acceptance(id=id_of(number, tag), state=PredictionState(state)) for number, tag, state in made}


def _settled_by_other(
    connection: sa.Connection, row: dict[str, object], found: dict[object, Acceptance | Conflict]
) -> bool:
    """Whether somebody's prediction has the row's idempotency key; False if it was forgotten by now."""
    same = sa.and_(_c.principal == row["principal"], _c.idempotency_key == row["idempotency_key"])
    there = connection.execute(sa.select(_c.number, _c.tag, _c.state, _c.fingerprint).where(same)).one_or_none()
    if there is None:
        return False
    if there.fingerprint == row["fingerprint"]:
        its_id = id_of(there.number, there.tag)
        found[row["tag"]] = Acceptance(id=its_id, state=PredictionState(there.state), is_new=False)
    else:
        found[row["tag"]] = Conflict(
            "the idempotency key was used for another request; send each request with a key of its own"
        )
    return True


def _row(one: NewPrediction, at: dt.datetime, forget_s: float | None) -> dict[str, object]:
    is_done = one.answer is not None and one.sink is None
    return {
        "tag": secrets.token_hex(8),
        "kind": one.kind.value,
        "state": PredictionState.DONE.value if is_done else PredictionState.WAITING.value,
        "fleet": one.fleet,
        "principal": one.principal,
        "request_id": one.request_id,
        "lane": None if one.ordering_key is None else f"{one.fleet}:{one.ordering_key}",
        "idempotency_key": one.idempotency_key,
        "fingerprint": None if one.idempotency_key is None else fingerprint(one),
        "sink": one.sink,
        "attempts": 0,
        "most_attempts": one.most_attempts,
        "accepted_at": at,
        "expires_at": None if one.deadline_s is None else at + dt.timedelta(seconds=one.deadline_s),
        "settled_at": at if is_done else None,
        "forget_at": forgotten_at(at, kept_s(one, forget_s)) if is_done else None,
        "keep_s": one.keep_s,
        "size_bytes": len(one.request),
        "request": one.request,
        "answer": one.answer,
    }
