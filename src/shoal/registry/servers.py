"""Servers: who tells that it is there, and who has not for a while. No audit: nothing of it is anybody's decision."""

import dataclasses
import datetime as dt
from collections.abc import Mapping

import sqlalchemy as sa

from shoal.registry.deployment_records import ServerRecord
from shoal.registry.tables import servers
from shoal.storage.sql import upsert
from shoal.types import Json

FORGOTTEN_AFTER_S = 3600.0
"""A server that was silent for so long is forgotten, in seconds."""


def beat(connection: sa.Connection, record: ServerRecord, *, at: dt.datetime) -> ServerRecord:
    """Note what a server tells of itself, and forget those that have long been silent."""
    record = dataclasses.replace(record, beat_at=at)
    row = dataclasses.asdict(record)
    row["fleets"] = _held(record.fleets, row.pop("missed"))
    upsert(connection, servers, key={"id": row.pop("id")}, values=row)
    long_ago = at - dt.timedelta(seconds=FORGOTTEN_AFTER_S)
    connection.execute(servers.delete().where(servers.c.beat_at < long_ago))
    return record


def alive(connection: sa.Connection, *, since: dt.datetime | None) -> list[ServerRecord]:
    """Servers that were heard of since, by the database's clock; by URL."""
    query = sa.select(servers).order_by(servers.c.url, servers.c.id)
    if since is not None:
        query = query.where(servers.c.beat_at >= since)
    return [_record(row) for row in connection.execute(query).mappings()]


def _held(fleets: Mapping[str, int], missed: Mapping[str, int]) -> dict[str, Json]:
    """The column about fleets: the version of each, or ``[version or null, version that should be]``."""
    return {**fleets, **{name: [fleets.get(name), version] for name, version in missed.items()}}


def _record(row: sa.RowMapping) -> ServerRecord:
    both = {name: one if isinstance(one, list) else [one, None] for name, one in row["fleets"].items()}
    fleets = {name: version for name, (version, _) in both.items() if version is not None}
    missed = {name: wanted for name, (_, wanted) in both.items() if wanted is not None}
    return ServerRecord(**{**row, "fleets": fleets, "missed": missed})


def forget(connection: sa.Connection, server_id: str) -> bool:
    """Forget a server, which stops; whether it was known."""
    return connection.execute(servers.delete().where(servers.c.id == server_id)).rowcount == 1
