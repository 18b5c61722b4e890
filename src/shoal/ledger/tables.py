"""The ledger's tables."""

import datetime as dt

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Integer, Named, Text, TypedColumns

from shoal.storage.columns import JsonText, UtcTime
from shoal.storage.sql import metadata
from shoal.types import Json


class _Runs(TypedColumns):
    id: Named[str] = Column(Text, primary_key=True)
    kind = Column(Text, nullable=False)
    fleet = Column(Text, nullable=False)
    version: Named[int | None] = Column(Integer)
    spec: Named[Json] = Column(JsonText, nullable=False)
    state = Column(Text, nullable=False, index=True)
    actor = Column(Text, nullable=False)
    created_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    started_at: Named[dt.datetime | None] = Column(UtcTime)
    ended_at: Named[dt.datetime | None] = Column(UtcTime)
    expires_at: Named[dt.datetime | None] = Column(UtcTime)
    error: Named[str | None] = Column(Text)
    resumes: Named[str | None] = Column(Text, sa.ForeignKey("runs.id"))


class _RunInputs(TypedColumns):
    run_id: Named[str] = Column(Text, sa.ForeignKey("runs.id"), primary_key=True)
    number: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    path = Column(Text, nullable=False)
    size_bytes: Named[int] = Column(BigInteger, nullable=False)
    sha256 = Column(Text, nullable=False)
    rows: Named[int | None] = Column(BigInteger)


class _Shards(TypedColumns):
    run_id: Named[str] = Column(Text, sa.ForeignKey("runs.id"), primary_key=True)
    number: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    source: Named[Json] = Column(JsonText, nullable=False)
    state = Column(Text, nullable=False)
    owner: Named[str | None] = Column(Text)
    lease_until: Named[dt.datetime | None] = Column(UtcTime)
    attempts = Column(Integer, nullable=False)
    source_rows: Named[int] = Column(BigInteger, nullable=False)
    rows: Named[int] = Column(BigInteger, nullable=False)
    scored: Named[int] = Column(BigInteger, nullable=False)
    fallback: Named[int] = Column(BigInteger, nullable=False)
    no_model: Named[int] = Column(BigInteger, nullable=False)
    invalid: Named[int] = Column(BigInteger, nullable=False)
    failed: Named[int] = Column(BigInteger, nullable=False)
    part: Named[Json] = Column(JsonText)
    error: Named[str | None] = Column(Text)


runs = sa.Table("runs", metadata, _Runs)
run_inputs = sa.Table("run_inputs", metadata, _RunInputs)
shards = sa.Table("shards", metadata, _Shards, sa.Index(None, "run_id", "state", "number"))
