"""Shards: claiming, finishing and failing them, and adding them up."""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from shoal.errors import Conflict, InvalidInput
from shoal.jobs.states import RunState, ShardState
from shoal.ledger import runs
from shoal.ledger.claims import ClaimTable, Holding
from shoal.ledger.records import Reconciliation, RunTotals, ShardClaim, ShardRecord
from shoal.ledger.tables import shards
from shoal.storage.columns import keepable
from shoal.types import Counts, Json

_CLAIMS = ClaimTable(
    shards,
    key=("run_id", "number"),
    order="number",
    waiting=ShardState.PENDING.value,
    held=ShardState.CLAIMED.value,
    given_up=ShardState.FAILED.value,
)
_COUNTED = ("rows", "scored", "fallback", "no_model", "invalid", "failed")


def of_run(connection: sa.Connection, run_id: str) -> list[ShardRecord]:
    """A run's shards by number.

    Raises
    ------
    NotFound
        There is no such run.
    """
    runs.one(connection, run_id)
    query = sa.select(shards).where(shards.c.run_id == run_id).order_by(shards.c.number)
    return [_record(row) for row in connection.execute(query).mappings()]


def claim(
    connection: sa.Connection,
    run_id: str,
    *,
    owner: str,
    now: dt.datetime,
    lease_s: float,
    limit: int,
    most_attempts: int,
) -> list[ShardClaim]:
    """Take shards that wait or whose worker fell silent; none when the run has nothing to do any more.

    Raises
    ------
    NotFound
        There is no such run.
    Conflict
        The run was not started.
    """
    state = runs.one(connection, run_id).state
    if state is RunState.PLANNED:
        raise Conflict(f"run {run_id} is planned; make it running before its shards are claimed")
    if state is not RunState.RUNNING:
        return []
    scope = shards.c.run_id == run_id
    silent = f"its workers fell silent {most_attempts} times; look for what kills them, e.g. too little memory"
    _CLAIMS.give_up(connection, scope, now=now, attempts=most_attempts, error=silent)
    rows = _CLAIMS.claim(connection, scope, owner=owner, now=now, lease_s=lease_s, limit=limit)
    return [_claim(row) for row in rows]


def renew(
    connection: sa.Connection, claims: Sequence[ShardClaim], *, now: dt.datetime, lease_s: float
) -> list[ShardClaim]:
    """Make the leases last longer, and give back the claims that still hold."""
    held = set(_CLAIMS.renew(connection, [_holding(claimed) for claimed in claims], now=now, lease_s=lease_s))
    until = now + dt.timedelta(seconds=lease_s)
    return [dataclasses.replace(claimed, lease_until=until) for claimed in claims if _holding(claimed) in held]


def finish(
    connection: sa.Connection, claimed: ShardClaim, counts: Counts, source_rows: int, part: Mapping[str, Json]
) -> None:
    """Record what became of a shard's rows, once.

    Raises
    ------
    LeaseLost
        Another worker holds the shard, or it is settled; nothing was changed.
    InvalidInput
        The outcomes do not add up to the rows.
    """
    if not counts.reconciles:
        raise InvalidInput(
            f"{_name(claimed)}: {counts.rows} rows, but {counts.outcomes} outcomes; every row has exactly one"
        )
    values = {**dataclasses.asdict(counts), "source_rows": source_rows, "part": part, "error": None}
    _settle(connection, claimed, ShardState.DONE, values)


def fail(connection: sa.Connection, claimed: ShardClaim, error: str, *, retry: bool) -> None:
    """Give a shard back because of an error: to be tried again, or for good.

    Raises
    ------
    LeaseLost
        Another worker holds the shard, or it is settled; nothing was changed.
    """
    _settle(connection, claimed, ShardState.PENDING if retry else ShardState.FAILED, {"error": keepable(error)})


def release(connection: sa.Connection, claimed: ShardClaim) -> None:
    """Give a shard back untouched, e.g. because the worker stops.

    Raises
    ------
    LeaseLost
        Another worker holds the shard, or it is settled; nothing was changed.
    """
    _settle(connection, claimed, ShardState.PENDING, {})


def owners(connection: sa.Connection, run_id: str) -> list[str]:
    """Who holds shards of a run now."""
    query = sa.select(shards.c.owner).where(shards.c.run_id == run_id, shards.c.state == ShardState.CLAIMED.value)
    return sorted({owner for owner in connection.execute(query.distinct()).scalars() if owner is not None})


def release_owner(connection: sa.Connection, run_id: str, owner: str) -> int:
    """Give back all shards of an owner that is gone; how many there were."""
    return _CLAIMS.release_owner(connection, shards.c.run_id == run_id, owner=owner)


def retry_failed(connection: sa.Connection, run_id: str) -> int:
    """Make failed shards wait again; how many there were."""
    failed = sa.and_(shards.c.run_id == run_id, shards.c.state == ShardState.FAILED.value)
    return connection.execute(shards.update().where(failed).values(state=ShardState.PENDING.value)).rowcount


def totals(connection: sa.Connection, run_id: str) -> RunTotals:
    """What a run has done so far.

    Raises
    ------
    NotFound
        There is no such run.
    """
    runs.one(connection, run_id)
    names = ("source_rows", *_COUNTED)
    sums = [sa.func.sum(shards.c[name]).label(name) for name in names]
    query = sa.select(shards.c.state, sa.func.count().label("shards"), *sums).where(shards.c.run_id == run_id)
    rows = connection.execute(query.group_by(shards.c.state)).mappings().all()
    by_state = {ShardState(row["state"]): row for row in rows}
    summed = {name: sum(int(row[name]) for row in rows) for name in names}
    return RunTotals(
        run_id=run_id,
        source_rows=summed.pop("source_rows"),
        counts=Counts(**summed),
        shards={state: int(by_state[state]["shards"]) if state in by_state else 0 for state in ShardState},
    )


def reconcile(connection: sa.Connection, run_id: str) -> Reconciliation:
    """Compare rows with outcomes, per shard and over all.

    Raises
    ------
    NotFound
        There is no such run.
    """
    total = totals(connection, run_id)
    outcomes = sum((shards.c[name] for name in _COUNTED[1:]), start=sa.literal(0))
    query = (
        sa.select(shards)
        .where(shards.c.run_id == run_id)
        .where(sa.or_(shards.c.rows != outcomes, _counted_unfinished()))
        .order_by(shards.c.number)
    )
    differences = [_difference(_record(row)) for row in connection.execute(query).mappings()]
    if not total.counts.reconciles:
        differences.append(f"the run: {total.counts.rows} rows, but {total.counts.outcomes} outcomes")
    counted = [file.rows for file in runs.inputs_of(connection, run_id)]
    known = [rows for rows in counted if rows is not None]
    return Reconciliation(
        totals=total,
        input_rows=sum(known) if counted and len(known) == len(counted) else None,
        differences=tuple(differences),
    )


def _counted_unfinished() -> sa.ColumnElement[bool]:
    return sa.and_(shards.c.state != ShardState.DONE.value, sa.or_(shards.c.rows != 0, shards.c.source_rows != 0))


def _difference(shard: ShardRecord) -> str:
    counts = shard.counts
    if shard.state is not ShardState.DONE:
        return f"shard {shard.number}: {shard.state}, but has {counts.rows} rows counted"
    each = ", ".join(f"{name} {getattr(counts, name)}" for name in _COUNTED[1:])
    return f"shard {shard.number}: {counts.rows} rows, but {counts.outcomes} outcomes ({each})"


def _settle(connection: sa.Connection, claimed: ShardClaim, state: ShardState, values: Mapping[str, object]) -> None:
    _CLAIMS.settle(connection, _holding(claimed), state=state.value, values=values, what=_name(claimed))


def _name(claimed: ShardClaim) -> str:
    return f"shard {claimed.number} of run {claimed.run_id}"


def _holding(claimed: ShardClaim) -> Holding:
    return Holding(key=(claimed.run_id, claimed.number), owner=claimed.owner, attempt=claimed.attempt)


def _claim(row: sa.RowMapping) -> ShardClaim:
    return ShardClaim(
        run_id=row["run_id"],
        number=row["number"],
        source=row["source"],
        owner=row["owner"],
        attempt=row["attempts"],
        lease_until=row["lease_until"],
    )


def _record(row: sa.RowMapping) -> ShardRecord:
    return ShardRecord(
        run_id=row["run_id"],
        number=row["number"],
        source=row["source"],
        state=ShardState(row["state"]),
        owner=row["owner"],
        lease_until=row["lease_until"],
        attempts=row["attempts"],
        source_rows=row["source_rows"],
        counts=Counts(**{name: row[name] for name in _COUNTED}),
        part=row["part"],
        error=row["error"],
    )
