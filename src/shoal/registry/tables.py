"""The registry's tables."""

import datetime as dt

import sqlalchemy as sa
from sqlalchemy import Column, Integer, Named, Text, TypedColumns

from shoal.storage.columns import JsonText, UtcTime
from shoal.storage.sql import metadata
from shoal.types import Json


class _Fleets(TypedColumns):
    id = Column(Integer, primary_key=True)
    name = Column(Text, nullable=False)
    # Two names that differ only in case would be one folder on some systems.
    folded_name = Column(Text, nullable=False, unique=True)
    owner = Column(Text, nullable=False)
    description = Column(Text, nullable=False)
    category = Column(Text, nullable=False)
    tags: Named[Json] = Column(JsonText, nullable=False)
    created_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    created_by = Column(Text, nullable=False)
    latest = Column(Integer, nullable=False)


class _Snapshots(TypedColumns):
    fleet_id: Named[int] = Column(Integer, sa.ForeignKey("fleets.id"), primary_key=True)
    version: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    digest = Column(Text, nullable=False)
    model_count = Column(Integer, nullable=False)
    new_models = Column(Integer, nullable=False)
    note = Column(Text, nullable=False)
    lineage: Named[Json] = Column(JsonText, nullable=False)
    run: Named[str | None] = Column(Text)
    created_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    created_by = Column(Text, nullable=False)
    collected_at: Named[dt.datetime | None] = Column(UtcTime)


class _Models(TypedColumns):
    # In this order, the primary key finds a model's history; nothing else is asked of this table.
    fleet_id: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    key_text: Named[str] = Column(Text, primary_key=True)
    level: Named[str] = Column(Text, primary_key=True)
    version: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    family = Column(Text, nullable=False)
    rows: Named[int] = Column(sa.BigInteger, nullable=False)
    trained_at: Named[dt.datetime | None] = Column(UtcTime)
    metrics: Named[Json] = Column(JsonText, nullable=False)


class _Aliases(TypedColumns):
    fleet_id: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    alias: Named[str] = Column(Text, primary_key=True)
    version = Column(Integer, nullable=False)
    changes = Column(Integer, nullable=False)


class _AliasChanges(TypedColumns):
    fleet_id: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    alias: Named[str] = Column(Text, primary_key=True)
    number: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    move = Column(Text, nullable=False)
    before: Named[int | None] = Column(Integer)
    after: Named[int] = Column(Integer, nullable=False)
    # Number of the change that a rollback from here returns to; NULL when there is none.
    beneath: Named[int | None] = Column(Integer)
    actor = Column(Text, nullable=False)
    at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    reason = Column(Text, nullable=False)


class _Audit(TypedColumns):
    number: Named[int] = Column(sa.BigInteger, primary_key=True, autoincrement=False)
    at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    actor = Column(Text, nullable=False)
    action = Column(Text, nullable=False)
    object = Column(Text, nullable=False, index=True)
    before: Named[Json] = Column(JsonText)
    after: Named[Json] = Column(JsonText)
    previous = Column(Text, nullable=False)
    digest = Column(Text, nullable=False)


class _AuditHead(TypedColumns):
    # One row. Writers lock it, so that entries form one chain; it also shows when the last entries were cut off.
    id: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    number: Named[int] = Column(sa.BigInteger, nullable=False)
    digest = Column(Text, nullable=False)


class _Serving(TypedColumns):
    fleet_id: Named[int] = Column(Integer, sa.ForeignKey("fleets.id"), primary_key=True, autoincrement=False)
    alias = Column(Text, nullable=False)
    pinned: Named[int | None] = Column(Integer)
    loaded: Named[bool] = Column(sa.Boolean, nullable=False)
    spec: Named[Json] = Column(JsonText, nullable=False)
    changed_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    changed_by = Column(Text, nullable=False)


class _ApiKeys(TypedColumns):
    id: Named[str] = Column(Text, primary_key=True)
    name = Column(Text, nullable=False)
    role = Column(Text, nullable=False)
    hash = Column(Text, nullable=False)
    created_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    created_by = Column(Text, nullable=False)
    expires_at: Named[dt.datetime | None] = Column(UtcTime)
    revoked_at: Named[dt.datetime | None] = Column(UtcTime)
    # The key that took its place; it is taken for a while yet.
    replaced_by: Named[str | None] = Column(Text)


class _Servers(TypedColumns):
    id: Named[str] = Column(Text, primary_key=True)
    url = Column(Text, nullable=False)
    grpc_url: Named[str | None] = Column(Text)
    admin_url: Named[str | None] = Column(Text)
    category = Column(Text, nullable=False)
    fleets: Named[Json] = Column(JsonText, nullable=False)
    staleness_s: Named[float] = Column(sa.Double, nullable=False)
    started_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    beat_at: Named[dt.datetime] = Column(UtcTime, nullable=False)


class _Stores(TypedColumns):
    category: Named[str] = Column(Text, primary_key=True)
    folder = Column(Text, nullable=False)
    changed_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    changed_by = Column(Text, nullable=False)


class _Sources(TypedColumns):
    name: Named[str] = Column(Text, primary_key=True)
    spec: Named[Json] = Column(JsonText, nullable=False)
    changed_at: Named[dt.datetime] = Column(UtcTime, nullable=False)
    changed_by = Column(Text, nullable=False)


def _snapshot_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["fleet_id", "version"], ["snapshots.fleet_id", "snapshots.version"])


fleets = sa.Table("fleets", metadata, _Fleets)
snapshots = sa.Table("snapshots", metadata, _Snapshots)
models = sa.Table("models", metadata, _Models, _snapshot_key())
aliases = sa.Table("aliases", metadata, _Aliases, _snapshot_key())
alias_changes = sa.Table(
    "alias_changes",
    metadata,
    _AliasChanges,
    sa.ForeignKeyConstraint(["fleet_id", "after"], ["snapshots.fleet_id", "snapshots.version"]),
)
audit = sa.Table("audit", metadata, _Audit)
audit_head = sa.Table("audit_head", metadata, _AuditHead)
serving = sa.Table("serving", metadata, _Serving)
api_keys = sa.Table("api_keys", metadata, _ApiKeys)
servers = sa.Table("servers", metadata, _Servers)
stores = sa.Table("stores", metadata, _Stores)
sources = sa.Table("sources", metadata, _Sources)
