"""Which snapshots are still needed, and giving up the others."""

import datetime as dt
from collections.abc import Set as AbstractSet

import sqlalchemy as sa

from shoal.registry import aliases, audit, serving, snapshots
from shoal.registry.records import SnapshotRecord
from shoal.registry.tables import fleets
from shoal.registry.tables import snapshots as snapshots_table


def referenced(connection: sa.Connection, active: AbstractSet[tuple[str, int]]) -> set[str]:
    """Digests of the snapshots that have to stay."""
    needed = _needed(connection, active)
    return {snapshot.digest for snapshot in snapshots.every(connection) if _identity(snapshot) in needed}


def collect(
    connection: sa.Connection, active: AbstractSet[tuple[str, int]], *, actor: str, at: dt.datetime
) -> list[SnapshotRecord]:
    """Mark what nothing refers to as collected, and give back what was marked now."""
    # Aliases move only under their fleet's lock, so what is unreferenced here is so when the transaction ends.
    connection.execute(sa.select(fleets.c.id).order_by(fleets.c.id).with_for_update())
    needed = _needed(connection, active)
    given_up = [
        snapshot
        for snapshot in snapshots.every(connection)
        if snapshot.collected_at is None and _identity(snapshot) not in needed
    ]
    for snapshot in given_up:
        _mark(connection, snapshot, actor=actor, at=at)
    return given_up


def _needed(connection: sa.Connection, active: AbstractSet[tuple[str, int]]) -> set[tuple[str, int]]:
    newest = {(name, latest) for name, latest in connection.execute(sa.select(fleets.c.name, fleets.c.latest))}
    return newest | set(active) | aliases.ever_named(connection) | serving.pinned_versions(connection)


def _identity(snapshot: SnapshotRecord) -> tuple[str, int]:
    return snapshot.fleet, snapshot.version


def _mark(connection: sa.Connection, snapshot: SnapshotRecord, *, actor: str, at: dt.datetime) -> None:
    fleet_id = sa.select(fleets.c.id).where(fleets.c.name == snapshot.fleet).scalar_subquery()
    connection.execute(
        snapshots_table.update()
        .where(snapshots_table.c.fleet_id == fleet_id, snapshots_table.c.version == snapshot.version)
        .values(collected_at=at)
    )
    audit.append(
        connection, at=at, actor=actor, action="snapshot.collect", object=snapshot.reference,
        before={"digest": snapshot.digest}, after=None,
    )  # fmt: skip
