"""Reading predictions: one, some, or the newest of a kind; inside the caller's transaction."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_ids import id_of, parsed_id, unknown
from shoal.ledger.prediction_records import PredictionKind, PredictionRecord
from shoal.ledger.prediction_tables import predictions
from shoal.storage import filters

_c = predictions.c
_LISTED = [column for column in predictions.columns if column.name not in ("request", "answer")]


def one(connection: sa.Connection, text: str) -> PredictionRecord:
    """A prediction with all that is kept of it.

    Raises
    ------
    NotFound
        There is none of this id.
    """
    number, tag = parsed_id(text)
    row = connection.execute(sa.select(predictions).where(_c.number == number, _c.tag == tag)).mappings().one_or_none()
    if row is None:
        raise unknown(text)
    return _record(row)


def many(connection: sa.Connection, ids: Sequence[str]) -> list[PredictionRecord]:
    """Predictions with all that is kept of them, in the order given; those that are not there are left out.

    Raises
    ------
    NotFound
        A text is no id.
    """
    numbers = [parsed_id(one)[0] for one in ids]
    rows = connection.execute(sa.select(predictions).where(_c.number.in_(numbers))).mappings()
    found = {record.id: record for record in map(_record, rows)}
    return [found[one] for one in ids if one in found]


def of_request(
    connection: sa.Connection, request_id: str, *, principal: str | None, limit: int
) -> list[PredictionRecord]:
    """The newest durable results of a request, newest first, with all that is kept of them.

    Raises
    ------
    InvalidInput
        The limit is none.
    """
    wanted = sa.and_(_c.kind == sa.literal_column("'stored'"), _c.request_id == request_id)
    if principal is not None:
        wanted = sa.and_(wanted, _c.principal == principal)
    found = connection.execute(
        sa.select(predictions).where(wanted).order_by(_c.number.desc()).limit(filters.limit(limit))
    )
    return [_record(row) for row in found.mappings()]


def listed(
    connection: sa.Connection,
    *,
    state: PredictionState | None,
    kind: PredictionKind | None,
    fleet: str | None,
    principal: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
) -> list[PredictionRecord]:
    """The newest predictions, newest first, filtered; without what was asked and answered.

    Raises
    ------
    InvalidInput
        There is no such state or kind, a time has no zone, or the limit is none.
    """
    state, kind = filters.word("state", PredictionState, state), filters.word("kind", PredictionKind, kind)
    wanted = {"state": state, "kind": kind, "fleet": fleet, "principal": principal}
    conditions = [_c[name] == str(value) for name, value in wanted.items() if value is not None]
    conditions += [] if since is None else [_c.accepted_at >= filters.moment("since", since)]
    conditions += [] if until is None else [_c.accepted_at < filters.moment("until", until)]
    query = sa.select(*_LISTED).where(*conditions).order_by(_c.number.desc()).limit(filters.limit(limit))
    return [_record(row) for row in connection.execute(query).mappings()]


def _record(row: sa.RowMapping) -> PredictionRecord:
    lane: str | None = row["lane"]
    return PredictionRecord(
        id=id_of(row["number"], row["tag"]),
        kind=PredictionKind(row["kind"]),
        state=PredictionState(row["state"]),
        fleet=row["fleet"],
        principal=row["principal"],
        request_id=row["request_id"],
        ordering_key=None if lane is None else lane.partition(":")[2],
        idempotency_key=row["idempotency_key"],
        sink=row["sink"],
        attempts=row["attempts"],
        accepted_at=row["accepted_at"],
        due_at=row["due_at"],
        expires_at=row["expires_at"],
        settled_at=row["settled_at"],
        forget_at=row["forget_at"],
        error=row["error"],
        request=row.get("request"),
        answer=row.get("answer"),
    )
