"""Aliases: moving them, moving them back, and the history of both.

Every move is a row. A row knows which earlier move a rollback from it returns to (``beneath``): for a promotion, the
move it replaced; for a rollback, whatever lay beneath the move it returned to. So rolling back twice goes further back,
and never to and fro.
"""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from shoal.errors import Conflict, NotFound
from shoal.registry import audit, catalog, snapshots
from shoal.registry.names import check_name, check_printable
from shoal.registry.records import AliasChange, AliasRecord, Move
from shoal.registry.tables import alias_changes, aliases, fleets
from shoal.types import Json

_MOVES_REMEMBERED: Final = 1000


def promote(
    connection: sa.Connection,
    name: str,
    version: int,
    *,
    alias: str,
    actor: str,
    expected: int | None,
    reason: str,
    idempotency_key: str | None,
    at: dt.datetime,
) -> AliasChange:
    """Make the alias name a version, once for each idempotency key.

    Raises
    ------
    NotFound
        There is no such fleet or version, or its files were collected.
    Conflict
        The alias does not name ``expected`` (0: nothing) at this moment; or what has this key was done, and somebody
        moved the alias since, or was something else.
    """
    check_name(alias, what="an alias")
    fleet = catalog.locked(connection, name)
    snapshots.usable(connection, name, version)
    newest = _newest(connection, fleet["id"], alias)
    done = _done(connection, name, newest, alias=alias, actor=actor, idempotency_key=idempotency_key)
    if done is not None:
        return _same(done, Move.PROMOTE, version)
    _require(newest, expected, f"{name}@{alias}")
    return _move(
        connection, fleet, newest, alias=alias, move=Move.PROMOTE, to=version, beneath=_beneath(newest, version),
        actor=actor, at=at, reason=reason, idempotency_key=idempotency_key,
    )  # fmt: skip


def rollback(
    connection: sa.Connection,
    name: str,
    *,
    alias: str,
    actor: str,
    expected: int | None,
    onto: int | None,
    reason: str,
    idempotency_key: str | None,
    at: dt.datetime,
) -> AliasChange:
    """Make the alias name the version that it named before the present one was promoted; keys as of :func:`promote`.

    Raises
    ------
    NotFound
        There is no such fleet or alias, or nothing further back.
    Conflict
        As of :func:`promote`; or what it named before is not ``onto``.
    """
    fleet = catalog.locked(connection, name)
    newest = _newest(connection, fleet["id"], alias)
    done = _done(connection, name, newest, alias=alias, actor=actor, idempotency_key=idempotency_key)
    if done is not None:
        return _same(done, Move.ROLLBACK, done.after)
    _require(newest, expected, f"{name}@{alias}")
    newest, target = _beneath_newest(connection, fleet, alias, newest)
    if onto is not None and target["after"] != onto:
        raise Conflict(f"{name}@{alias} was moved at this moment and does not go back to {onto} any more; look again")
    return _move(
        connection, fleet, newest, alias=alias, move=Move.ROLLBACK, to=target["after"], beneath=target["beneath"],
        actor=actor, at=at, reason=reason, idempotency_key=idempotency_key,
    )  # fmt: skip


def before(connection: sa.Connection, name: str, *, alias: str, actor: str, idempotency_key: str | None) -> int | None:
    """The version that :func:`rollback` would go back to; None where that is none, or what has this key was done.

    Raises
    ------
    NotFound
        There is no such fleet.
    Conflict
        What has this key was done, and somebody moved the alias since.
    """
    fleet = catalog.found(connection, name)
    newest = _newest(connection, fleet["id"], alias)
    if newest is None or newest["beneath"] is None:
        return None
    if _done(connection, name, newest, alias=alias, actor=actor, idempotency_key=idempotency_key) is not None:
        return None
    version: int = _change(connection, fleet["id"], alias, newest["beneath"])["after"]
    return version


def of_fleet(connection: sa.Connection, name: str) -> list[AliasRecord]:
    """A fleet's aliases by name.

    Raises
    ------
    NotFound
        There is no such fleet.
    """
    fleet = catalog.found(connection, name)
    query = (
        sa.select(aliases.c.alias, aliases.c.version, alias_changes.c.at, alias_changes.c.actor)
        .join(
            alias_changes,
            sa.and_(
                alias_changes.c.fleet_id == aliases.c.fleet_id,
                alias_changes.c.alias == aliases.c.alias,
                alias_changes.c.number == aliases.c.changes,
            ),
        )
        .where(aliases.c.fleet_id == fleet["id"])
        .order_by(aliases.c.alias)
    )
    return [
        AliasRecord(fleet=name, alias=alias, version=version, changed_at=at, changed_by=actor)
        for alias, version, at, actor in connection.execute(query)
    ]


def history(connection: sa.Connection, name: str, alias: str | None) -> list[AliasChange]:
    """Every move of a fleet's aliases, newest first.

    Raises
    ------
    NotFound
        There is no such fleet or alias.
    """
    fleet = catalog.found(connection, name)
    query = sa.select(alias_changes).where(alias_changes.c.fleet_id == fleet["id"])
    if alias is not None:
        query = query.where(alias_changes.c.alias == alias)
    query = query.order_by(alias_changes.c.at.desc(), alias_changes.c.alias, alias_changes.c.number.desc())
    found = [_record(name, row) for row in connection.execute(query).mappings()]
    if alias is not None and not found:
        raise snapshots.no_alias(connection, fleet, alias)
    return found


def ever_named(connection: sa.Connection) -> set[tuple[str, int]]:
    """Fleet and version of every snapshot that an alias names or ever named."""
    query = sa.select(fleets.c.name, alias_changes.c.after).join(fleets, fleets.c.id == alias_changes.c.fleet_id)
    return {(name, version) for name, version in connection.execute(query.distinct())}


def _require(newest: sa.RowMapping | None, expected: int | None, reference: str) -> None:
    now = newest["after"] if newest is not None else 0
    if expected is not None and now != expected:
        raise Conflict(
            f"{reference} names {now or 'nothing'} by now, not {expected or 'nothing'}; look again and decide"
        )


def _done(
    connection: sa.Connection,
    name: str,
    newest: sa.RowMapping | None,
    *,
    alias: str,
    actor: str,
    idempotency_key: str | None,
) -> AliasChange | None:
    """The move that a request made which is sent again, its answer having been lost; None where it made none yet.

    The audit knows: its entry is of the same transaction as the move. Only the latest moves are looked at, for nobody
    sends a request again after so many others.
    """
    if idempotency_key is None:
        return None
    check_printable(idempotency_key, what="idempotency key")
    if newest is None:
        return None
    entries = audit.entries(connection, object=f"{name}@{alias}", limit=_MOVES_REMEMBERED)
    keys = [entry.after.get("idempotency_key") if isinstance(entry.after, dict) else None for entry in entries]
    mine = [key == idempotency_key and entry.actor == actor for key, entry in zip(keys, entries, strict=True)]
    if not any(mine):
        return None
    if mine[0]:
        return _record(name, newest)
    raise Conflict(
        f"this request moved {name}@{alias} already, and it was moved again since: it names {newest['after']} by now; "
        "look again and decide"
    )


def _same(done: AliasChange, move: Move, version: int) -> AliasChange:
    """What was done already, if it is what is asked for now."""
    if (done.move, done.after) != (move, version):
        raise Conflict("this idempotency key was used for another move; take a new one for each")
    return done


def _beneath_newest(
    connection: sa.Connection, fleet: sa.RowMapping, alias: str, newest: sa.RowMapping | None
) -> tuple[sa.RowMapping, sa.RowMapping]:
    """The newest move, and the one that a rollback from it returns to."""
    if newest is None or newest["beneath"] is None:
        name, now = fleet["name"], "names nothing" if newest is None else f"named nothing before {newest['after']}"
        raise NotFound(f"{name}@{alias} {now}; promote the version you want with `shoal promote {name}:VERSION`")
    return newest, _change(connection, fleet["id"], alias, newest["beneath"])


def _beneath(newest: sa.RowMapping | None, version: int) -> int | None:
    """Promoting what is there already adds nothing to go back to."""
    if newest is None:
        return None
    beneath: int | None = newest["beneath"] if newest["after"] == version else newest["number"]
    return beneath


def _move(
    connection: sa.Connection,
    fleet: sa.RowMapping,
    newest: sa.RowMapping | None,
    *,
    alias: str,
    move: Move,
    to: int,
    beneath: int | None,
    actor: str,
    at: dt.datetime,
    reason: str,
    idempotency_key: str | None,
) -> AliasChange:
    before = newest["after"] if newest is not None else None
    number = newest["number"] + 1 if newest is not None else 1
    row = {
        "alias": alias,
        "number": number,
        "move": move.value,
        "before": before,
        "after": to,
        "actor": actor,
        "at": at,
    }
    connection.execute(alias_changes.insert().values(fleet_id=fleet["id"], beneath=beneath, reason=reason, **row))
    _point(connection, fleet["id"], alias, to, number)
    said: dict[str, Json] = {"version": to, "reason": reason}
    if idempotency_key is not None:
        said["idempotency_key"] = idempotency_key
    audit.append(
        connection, at=at, actor=actor, action=f"alias.{move}", object=f"{fleet['name']}@{alias}",
        before=None if before is None else {"version": before}, after=said,
    )  # fmt: skip
    return AliasChange(
        fleet=fleet["name"], alias=alias, number=number, move=move, before=before, after=to, actor=actor, at=at,
        reason=reason,
    )  # fmt: skip


def _point(connection: sa.Connection, fleet_id: int, alias: str, version: int, changes: int) -> None:
    if changes == 1:
        connection.execute(aliases.insert().values(fleet_id=fleet_id, alias=alias, version=version, changes=changes))
        return
    connection.execute(
        aliases.update()
        .where(aliases.c.fleet_id == fleet_id, aliases.c.alias == alias)
        .values(version=version, changes=changes)
    )


def _newest(connection: sa.Connection, fleet_id: int, alias: str) -> sa.RowMapping | None:
    query = (
        sa.select(alias_changes)
        .where(alias_changes.c.fleet_id == fleet_id, alias_changes.c.alias == alias)
        .order_by(alias_changes.c.number.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().one_or_none()


def _change(connection: sa.Connection, fleet_id: int, alias: str, number: int) -> sa.RowMapping:
    query = sa.select(alias_changes).where(
        alias_changes.c.fleet_id == fleet_id, alias_changes.c.alias == alias, alias_changes.c.number == number
    )
    return connection.execute(query).mappings().one()


def _record(name: str, row: sa.RowMapping) -> AliasChange:
    return AliasChange(
        fleet=name,
        alias=row["alias"],
        number=row["number"],
        move=Move(row["move"]),
        before=row["before"],
        after=row["after"],
        actor=row["actor"],
        at=row["at"],
        reason=row["reason"],
    )
