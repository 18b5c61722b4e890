"""What is served: which fleets are loaded, which alias they follow, what is pinned, and how they are served."""

import datetime as dt
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from shoal.registry import audit, catalog, snapshots
from shoal.registry.deployment_records import Desired
from shoal.registry.names import CHAMPION, check_name
from shoal.registry.tables import aliases, fleets, serving
from shoal.registry.tables import snapshots as snapshots_table
from shoal.storage.columns import json_text, json_value
from shoal.storage.sql import upsert
from shoal.types import Json

Keep: TypeAlias = Literal["keep"]
KEEP: Final = "keep"
"""Leave the pinned version as it is; None would let it go."""

_DEFAULT: Mapping[str, Json] = {"alias": CHAMPION, "pinned": None, "loaded": True, "spec": {}}


def every(connection: sa.Connection) -> list[Desired]:
    """What servers are to do, for all fleets by name, in one query."""
    return [_desired(row) for row in connection.execute(_QUERY).mappings()]


def one(connection: sa.Connection, name: str) -> Desired:
    """What servers are to do with one fleet.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    catalog.found(connection, name)
    return _desired(connection.execute(_QUERY.where(fleets.c.name == name)).mappings().one())


def change(
    connection: sa.Connection,
    name: str,
    *,
    loaded: bool | None,
    alias: str | None,
    pinned: int | Keep | None,
    spec: Mapping[str, Json] | None,
    actor: str,
    at: dt.datetime,
) -> Desired:
    """Say what servers are to do with a fleet; what is None or ``"keep"`` stays.

    Raises
    ------
    InvalidInput
        The alias's name is not safe.
    NotFound
        There is no such fleet, it does not have the alias, or the version to be pinned does not exist or was collected.
    """
    fleet = catalog.locked(connection, name)
    if alias is not None:
        _require_alias(connection, fleet, check_name(alias, what="an alias"))
    if pinned is not None and pinned != KEEP:
        snapshots.usable(connection, name, pinned)
    wishes: dict[str, Json] = {
        "loaded": loaded,
        "alias": alias,
        "spec": None if spec is None else json_value(json_text(spec)),
    }
    changes: dict[str, Json] = {part: value for part, value in wishes.items() if value is not None}
    if pinned != KEEP:
        changes["pinned"] = pinned
    _write(connection, fleet, changes, actor=actor, at=at)
    return one(connection, name)


def _require_alias(connection: sa.Connection, fleet: sa.RowMapping, alias: str) -> None:
    """Refuse an alias that nothing has, but for the champion before anything was promoted; what holds may be said."""
    known = set(connection.execute(sa.select(aliases.c.alias).where(aliases.c.fleet_id == fleet["id"])).scalars())
    now = connection.execute(sa.select(serving.c.alias).where(serving.c.fleet_id == fleet["id"])).scalar()
    if alias not in known and alias != (now or CHAMPION) and not (alias == CHAMPION and not known):
        raise snapshots.no_alias(connection, fleet, alias)


def pinned_versions(connection: sa.Connection) -> set[tuple[str, int]]:
    """Fleet and version of all that is pinned."""
    query = sa.select(fleets.c.name, serving.c.pinned).join(serving).where(serving.c.pinned.is_not(None))
    return {(name, version) for name, version in connection.execute(query) if version is not None}


def _write(
    connection: sa.Connection, fleet: sa.RowMapping, changes: Mapping[str, Json], *, actor: str, at: dt.datetime
) -> None:
    """Write what is new. Servers look whenever something changed: what is no news makes none."""
    row = connection.execute(sa.select(serving).where(serving.c.fleet_id == fleet["id"])).mappings().one_or_none()
    before: dict[str, Json] = dict(_DEFAULT) if row is None else {part: row[part] for part in _DEFAULT}
    after = {**before, **changes}
    if row is not None and after == before:
        return
    key = {"fleet_id": fleet["id"]}
    upsert(connection, serving, key=key, values={**after, "changed_at": at, "changed_by": actor})
    told = None if row is None else {part: before[part] for part in changes}
    audit.append(
        connection, at=at, actor=actor, action="serving.set", object=fleet["name"], before=told, after=dict(changes)
    )


def _query() -> sa.Select[*tuple[object, ...]]:
    follows = sa.func.coalesce(serving.c.alias, CHAMPION)
    named = sa.and_(aliases.c.fleet_id == fleets.c.id, aliases.c.alias == follows)
    meant = sa.and_(
        snapshots_table.c.fleet_id == fleets.c.id,
        snapshots_table.c.version == sa.func.coalesce(serving.c.pinned, aliases.c.version),
        snapshots_table.c.collected_at.is_(None),
    )
    own = [serving.c[name] for name in ("alias", "pinned", "loaded", "spec", "changed_at")]
    snapshot = [column.label(f"snapshot_{column.name}") for column in snapshots_table.c]
    return (
        sa.select(fleets.c.name.label("fleet"), fleets.c.category, fleets.c.tags, *own, *snapshot)
        .join(serving, isouter=True)
        .join(aliases, named, isouter=True)
        .join(snapshots_table, meant, isouter=True)
        .order_by(fleets.c.name)
    )


_QUERY = _query()


def _desired(row: sa.RowMapping) -> Desired:
    told = row["changed_at"] is not None
    snapshot = {name.removeprefix("snapshot_"): row[name] for name in row if name.startswith("snapshot_")}
    return Desired(
        fleet=row["fleet"],
        alias=row["alias"] if told else CHAMPION,
        pinned=row["pinned"],
        loaded=row["loaded"] if told else True,
        snapshot=snapshots.record({"name": row["fleet"], **snapshot}) if snapshot["version"] is not None else None,
        spec=row["spec"] if told else {},
        category=row["category"],
        tags=tuple(row["tags"]),
        changed_at=row["changed_at"],
    )
