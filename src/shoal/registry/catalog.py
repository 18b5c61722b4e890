"""Fleets and their descriptions."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.registry import audit
from shoal.registry.names import check_name
from shoal.registry.records import FleetRecord
from shoal.registry.tables import aliases, fleets


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What people say about a fleet; in an edit, None leaves a part as it is."""

    owner: str | None = None
    description: str | None = None
    category: str | None = None
    tags: tuple[str, ...] | None = None


def clean_tags(tags: Iterable[str] | None) -> tuple[str, ...] | None:
    """Tags sorted, each once.

    Raises
    ------
    InvalidInput
        A tag is empty, or the tags are one text instead of several.
    """
    if tags is None:
        return None
    if isinstance(tags, str):
        raise InvalidInput(f"tags are a list of texts, not one text; write tags=[{tags!r}]")
    cleaned = tuple(sorted({tag.strip() for tag in tags}))
    if "" in cleaned:
        raise InvalidInput("a tag cannot be empty; leave it out")
    return cleaned


def create(connection: sa.Connection, name: str, description: Description, *, actor: str, at: dt.datetime) -> None:
    """Add a fleet without snapshots.

    Raises
    ------
    InvalidInput
        The name is not safe in URLs and as a folder.
    Conflict
        There is one of that name, or one whose name differs only in case.
    """
    check_name(name, what="a fleet")
    known = dataclasses.asdict(description)
    row = {"name": name, "folded_name": name.lower(), "created_at": at, "created_by": actor, "latest": 0, **known}
    try:
        connection.execute(fleets.insert().values(row))
    except sa.exc.IntegrityError as error:
        raise Conflict(
            f"there is a fleet {name!r} already, or one whose name differs only in case; add a snapshot to it or "
            "choose another name"
        ) from error
    audit.append(connection, at=at, actor=actor, action="fleet.create", object=name, before=None, after=known)


def describe(connection: sa.Connection, name: str, edit: Description, *, actor: str, at: dt.datetime) -> None:
    """Change what people say about a fleet; what is said already changes nothing and leaves no entry in the audit.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    row = locked(connection, name)
    said = {part: value for part, value in dataclasses.asdict(edit).items() if value is not None}
    changes = {part: value for part, value in said.items() if _plain(value) != _plain(row[part])}
    if not changes:
        return
    before = {part: row[part] for part in changes}
    connection.execute(fleets.update().where(fleets.c.id == row["id"]).values(**changes))
    audit.append(connection, at=at, actor=actor, action="fleet.describe", object=name, before=before, after=changes)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def locked(connection: sa.Connection, name: str) -> sa.RowMapping:
    """The fleet's row, kept from other writers until the transaction ends.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    return _one(connection, sa.select(fleets).where(fleets.c.name == name).with_for_update(), name)


def found(connection: sa.Connection, name: str) -> sa.RowMapping:
    """The fleet's row.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    return _one(connection, sa.select(fleets).where(fleets.c.name == name), name)


def records(connection: sa.Connection, *, name: str | None, tag: str | None, category: str | None) -> list[FleetRecord]:
    """Fleets by name, filtered."""
    query = sa.select(fleets).order_by(fleets.c.name)
    if name is not None:
        query = query.where(fleets.c.name == name)
    if category is not None:
        query = query.where(fleets.c.category == category)
    rows = connection.execute(query).mappings().all()
    pointers = _aliases(connection, [row["id"] for row in rows] if name is not None else None)
    every = (_record(row, pointers.get(row["id"], {})) for row in rows)
    return [record for record in every if tag is None or tag in record.tags]


def _one(connection: sa.Connection, query: sa.Select[*tuple[object, ...]], name: str) -> sa.RowMapping:
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no fleet {name!r}; `shoal fleets list` shows those there are")
    return row


def _aliases(connection: sa.Connection, ids: Sequence[int] | None) -> dict[int, dict[str, int]]:
    query = sa.select(aliases.c.fleet_id, aliases.c.alias, aliases.c.version).order_by(aliases.c.alias)
    if ids is not None:
        query = query.where(aliases.c.fleet_id.in_(ids))
    pointers: dict[int, dict[str, int]] = {}
    for fleet_id, alias, version in connection.execute(query):
        pointers.setdefault(fleet_id, {})[alias] = version
    return pointers


def _record(row: sa.RowMapping, pointers: dict[str, int]) -> FleetRecord:
    return FleetRecord(
        name=row["name"],
        owner=row["owner"],
        description=row["description"],
        category=row["category"],
        tags=tuple(row["tags"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        latest=row["latest"] or None,
        aliases=pointers,
    )
