"""The ledger's table of predictions that are kept."""

import datetime as dt

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, Named, Text, TypedColumns

from shoal.storage.columns import UtcTime
from shoal.storage.sql import metadata


class _Predictions(TypedColumns):
    # In the order in which they were accepted; on SQLite never used again, so that an order once given stays.
    number: Named[int] = Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    tag = Column(Text, nullable=False)
    kind = Column(Text, nullable=False)
    state = Column(Text, nullable=False)
    fleet = Column(Text, nullable=False)
    principal = Column(Text, nullable=False)
    request_id = Column(Text, nullable=False)
    lane: Named[str | None] = Column(Text)
    idempotency_key: Named[str | None] = Column(Text)
    fingerprint: Named[str | None] = Column(Text)
    sink: Named[str | None] = Column(Text)
    delivery: Named[str | None] = Column(Text)
    owner: Named[str | None] = Column(Text)
    lease_until: Named[dt.datetime | None] = Column(UtcTime)
    attempts: Named[int] = Column(Integer, nullable=False)
    most_attempts: Named[int] = Column(Integer, nullable=False)
    accepted_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    due_at: Named[dt.datetime | None] = Column(UtcTime)
    expires_at: Named[dt.datetime | None] = Column(UtcTime)
    settled_at: Named[dt.datetime | None] = Column(UtcTime)
    forget_at: Named[dt.datetime | None] = Column(UtcTime)
    size_bytes: Named[int] = Column(BigInteger, nullable=False)
    error: Named[str | None] = Column(Text)
    request: Named[bytes] = Column(LargeBinary, nullable=False)
    answer: Named[bytes | None] = Column(LargeBinary)
    keep_s: Named[float | None] = Column(Float)


def _partial(*columns: str, where: str, unique: bool = False) -> sa.Index:
    """An index of some rows only, so that the others cost nothing."""
    condition = sa.text(where)
    return sa.Index(None, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


predictions = sa.Table(
    "predictions",
    metadata,
    _Predictions,
    sa.Index(None, "state", "number"),
    _partial("lane", "state", "number", where="lane IS NOT NULL"),
    _partial("principal", "idempotency_key", where="idempotency_key IS NOT NULL", unique=True),
    _partial("forget_at", where="forget_at IS NOT NULL"),
    _partial("request_id", where="kind = 'stored'"),
    sqlite_autoincrement=True,
)
