"""Servers: who tells that it is there, and who has not for a while. No audit: nothing of it is anybody's decision."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from shoal.registry.records import ServerRecord
from shoal.registry.tables import servers
from shoal.storage.sql import upsert

FORGOTTEN_AFTER_S = 3600.0
"""A server that was silent for so long is forgotten, in seconds."""


def beat(connection: sa.Connection, record: ServerRecord, *, at: dt.datetime) -> ServerRecord:
    """Note what a server tells of itself, and forget those that have long been silent."""
    record = dataclasses.replace(record, beat_at=at)
    row = dataclasses.asdict(record)
    upsert(connection, servers, key={"id": row.pop("id")}, values=row)
    long_ago = at - dt.timedelta(seconds=FORGOTTEN_AFTER_S)
    connection.execute(servers.delete().where(servers.c.beat_at < long_ago))
    return record


def alive(connection: sa.Connection, *, since: dt.datetime | None) -> list[ServerRecord]:
    """Servers that were heard of since, by the database's clock; by URL."""
    query = sa.select(servers).order_by(servers.c.url, servers.c.id)
    if since is not None:
        query = query.where(servers.c.beat_at >= since)
    return [ServerRecord(**row) for row in connection.execute(query).mappings()]


def forget(connection: sa.Connection, server_id: str) -> bool:
    """Forget a server, which stops; whether it was known."""
    return connection.execute(servers.delete().where(servers.c.id == server_id)).rowcount == 1
