"""Snapshots, the models that are new in them, and where they come from."""

import datetime as dt
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from shoal.errors import InvalidInput, NotFound
from shoal.registry import audit, catalog
from shoal.registry.names import Reference
from shoal.registry.records import Lineage, ModelRecord, ModelVersion, SnapshotRecord
from shoal.registry.tables import aliases, fleets, models, snapshots
from shoal.storage.columns import json_text, json_value
from shoal.types import InputFile

MODELS_AT_ONCE = 10_000
"""Models handed to the database in one call; bounds the memory that a million of them take."""


def add(
    connection: sa.Connection,
    name: str,
    *,
    digest: str,
    new_models: Iterable[ModelRecord],
    model_count: int,
    lineage: Lineage,
    actor: str,
    at: dt.datetime,
    note: str,
) -> SnapshotRecord:
    """Add a snapshot under the next version, with its new models.

    Raises
    ------
    NotFound
        There is no such fleet, or its parent snapshot does not exist.
    InvalidInput
        A model comes twice, or there are more new models than models.
    """
    fleet = catalog.locked(connection, name)
    version = fleet["latest"] + 1
    if lineage.parent is not None and not 1 <= lineage.parent < version:
        raise NotFound(f"the parent snapshot {name}:{lineage.parent} does not exist; leave the parent out")
    connection.execute(fleets.update().where(fleets.c.id == fleet["id"]).values(latest=version))
    row = {
        "fleet_id": fleet["id"],
        "version": version,
        "digest": digest,
        "model_count": model_count,
        "new_models": 0,
        "note": note,
        "lineage": msgspec.to_builtins(lineage),
        "run": lineage.run,
        "created_at": at,
        "created_by": actor,
    }
    connection.execute(snapshots.insert().values(**row))
    added = _add_models(connection, fleet["id"], version, new_models)
    if added > model_count:
        raise InvalidInput(f"{added} new models, but only {model_count} in all; count the models of the whole snapshot")
    connection.execute(
        snapshots.update()
        .where(snapshots.c.fleet_id == fleet["id"], snapshots.c.version == version)
        .values(new_models=added)
    )
    after = {"digest": digest, "models": model_count, "new_models": added, "note": note, "lineage": row["lineage"]}
    audit.append(
        connection, at=at, actor=actor, action="snapshot.add", object=f"{name}:{version}", before=None, after=after
    )
    return one(connection, name, version)


def of_fleet(connection: sa.Connection, name: str) -> list[SnapshotRecord]:
    """A fleet's snapshots, newest first.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    fleet = catalog.found(connection, name)
    query = _select().where(snapshots.c.fleet_id == fleet["id"]).order_by(snapshots.c.version.desc())
    return [record(row) for row in connection.execute(query).mappings()]


def every(connection: sa.Connection) -> list[SnapshotRecord]:
    """All snapshots of all fleets."""
    return [record(row) for row in connection.execute(_select()).mappings()]


def one(connection: sa.Connection, name: str, version: int) -> SnapshotRecord:
    """One snapshot.

    Raises
    ------
    NotFound
        There is no such fleet or version.
    """
    fleet = catalog.found(connection, name)
    query = _select().where(snapshots.c.fleet_id == fleet["id"], snapshots.c.version == version)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        newest = f"its newest is {fleet['latest']}" if fleet["latest"] else "it has none yet"
        raise NotFound(f"fleet {name!r} has no snapshot {version}; {newest}")
    return record(row)


def resolve(connection: sa.Connection, reference: Reference) -> SnapshotRecord:
    """The snapshot that a reference means now.

    Raises
    ------
    NotFound
        There is no such fleet, alias or version, or garbage collection gave the snapshot up.
    """
    if reference.version is None:
        return usable(connection, reference.fleet, _aliased(connection, reference))
    return usable(connection, reference.fleet, reference.version)


def usable(connection: sa.Connection, name: str, version: int) -> SnapshotRecord:
    """A snapshot whose files are there.

    Raises
    ------
    NotFound
        There is no such fleet or version, or garbage collection gave it up.
    """
    snapshot = one(connection, name, version)
    if snapshot.collected_at is not None:
        raise NotFound(
            f"the files of {snapshot.reference} were collected on {snapshot.collected_at:%Y-%m-%d}; "
            f"`shoal fleets show {name}` shows the snapshots there are"
        )
    return snapshot


def lineage(connection: sa.Connection, name: str, version: int) -> Lineage:
    """Where a snapshot comes from.

    Raises
    ------
    NotFound
        There is no such fleet or version.
    """
    one(connection, name, version)
    fleet = catalog.found(connection, name)
    query = sa.select(snapshots.c.lineage).where(snapshots.c.fleet_id == fleet["id"], snapshots.c.version == version)
    return _lineage(connection.execute(query).mappings().one()["lineage"])


def model_history(connection: sa.Connection, name: str, key_text: str) -> list[ModelVersion]:
    """The snapshots in which the models of a key were new, newest first; a key may have models on several levels.

    Raises
    ------
    NotFound
        There is no such fleet, or it never had a model of that key.
    """
    fleet = catalog.found(connection, name)
    query = (
        sa.select(models, snapshots.c.created_at, snapshots.c.created_by, snapshots.c.run)
        .join(snapshots)
        .where(models.c.fleet_id == fleet["id"], models.c.key_text == key_text)
        .order_by(models.c.version.desc(), models.c.level)
    )
    history = [_model_version(row) for row in connection.execute(query).mappings()]
    if not history:
        raise NotFound(f"fleet {name!r} never had a model {key_text!r}; `shoal fleets models {name}` lists its keys")
    return history


def _add_models(connection: sa.Connection, fleet_id: int, version: int, new_models: Iterable[ModelRecord]) -> int:
    added = 0
    remaining = iter(new_models)
    while chunk := list(itertools.islice(remaining, MODELS_AT_ONCE)):
        rows = [_model_row(fleet_id, version, model) for model in chunk]
        try:
            connection.execute(models.insert(), rows)
        except sa.exc.IntegrityError as error:
            raise InvalidInput(_which_twice(chunk)) from error
        added += len(chunk)
    return added


def _which_twice(chunk: Sequence[ModelRecord]) -> str:
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for model in chunk:
        identity = (model.key_text, model.level)
        if identity in seen:
            return f"model {model.key_text!r} of level {model.level} comes twice; give every key one model per level"
        seen.add(identity)
    return "a model comes twice; give every key one model per level"


def _model_row(fleet_id: int, version: int, model: ModelRecord) -> dict[str, object]:
    return {
        "fleet_id": fleet_id,
        "version": version,
        "key_text": model.key_text,
        "level": json_text(model.level),
        "family": model.family,
        "rows": model.rows,
        "trained_at": model.trained_at,
        "metrics": model.metrics,
    }


def _model_version(row: sa.RowMapping) -> ModelVersion:
    metrics: Mapping[str, float | None] = row["metrics"]
    model = ModelRecord(
        key_text=row["key_text"],
        level=msgspec.convert(json_value(row["level"]), tuple[str, ...]),
        family=row["family"],
        rows=row["rows"],
        trained_at=row["trained_at"],
        metrics={name: math.nan if value is None else float(value) for name, value in metrics.items()},
    )
    return ModelVersion(
        version=row["version"], model=model, created_at=row["created_at"], created_by=row["created_by"], run=row["run"]
    )


def _aliased(connection: sa.Connection, reference: Reference) -> int:
    fleet = catalog.found(connection, reference.fleet)
    query = sa.select(aliases.c.version).where(aliases.c.fleet_id == fleet["id"], aliases.c.alias == reference.alias)
    version = connection.execute(query).scalar()
    if version is None:
        raise no_alias(connection, fleet, str(reference.alias))
    return version


def no_alias(connection: sa.Connection, fleet: sa.RowMapping, alias: str) -> NotFound:
    """The error that says that a fleet does not have an alias, and which ones it has."""
    name, latest = fleet["name"], fleet["latest"]
    if not latest:
        return NotFound(f"fleet {name!r} has no snapshot yet; train or register one first")
    query = sa.select(aliases.c.alias).where(aliases.c.fleet_id == fleet["id"]).order_by(aliases.c.alias)
    known = ", ".join(connection.execute(query).scalars())
    return NotFound(
        f"fleet {name!r} has no alias {alias!r}{f', only {known}' if known else ', and no other yet'}; promote a "
        f"snapshot with `shoal promote {name}:{latest} --alias {alias}` or name a version, e.g. {name}:{latest}"
    )


def _lineage(stored: Mapping[str, Any]) -> Lineage:
    inputs = tuple(InputFile(**file) for file in stored["inputs"])
    return Lineage(**{**stored, "inputs": inputs})


def _select() -> sa.Select[*tuple[object, ...]]:
    return sa.select(snapshots, fleets.c.name).join(fleets)


def record(row: Mapping[Any, Any]) -> SnapshotRecord:
    """The record of a row of the table, with the fleet's ``name``."""
    return SnapshotRecord(
        fleet=row["name"],
        version=row["version"],
        digest=row["digest"],
        model_count=row["model_count"],
        new_models=row["new_models"],
        note=row["note"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        run=row["run"],
        collected_at=row["collected_at"],
    )
