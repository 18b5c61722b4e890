"""Runs: creating them with their inputs and shards, and moving them from state to state."""

import datetime as dt
import secrets
from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.jobs.states import (
    ACTIVE_RUN_STATES,
    FINAL_RUN_STATES,
    RUN_TRANSITIONS,
    RunState,
    ShardState,
    require_transition,
)
from shoal.ledger.records import RunRecord, ShardPlan
from shoal.ledger.tables import run_inputs, runs, shards
from shoal.storage import filters
from shoal.storage.columns import keepable
from shoal.types import InputFile, Json

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_COUNTS = ("source_rows", "rows", "scored", "fallback", "no_model", "invalid", "failed")


def new_id(at: dt.datetime) -> str:
    """An id that sorts by time and that nobody else has made up in the same second."""
    return f"{at:%Y%m%d-%H%M%S}-" + "".join(secrets.choice(_LETTERS) for _ in range(4))


def create(
    connection: sa.Connection,
    *,
    kind: str,
    fleet: str,
    version: int | None,
    spec: Mapping[str, Json],
    inputs: Sequence[InputFile],
    plans: Sequence[ShardPlan],
    actor: str,
    at: dt.datetime,
    expires_at: dt.datetime | None,
    resumes: str | None,
) -> RunRecord:
    """Add a planned run.

    Raises
    ------
    InvalidInput
        Two shards have the same number.
    NotFound
        The run to be resumed does not exist.
    """
    if len({plan.number for plan in plans}) != len(plans):
        raise InvalidInput("two shards have the same number; number them from 0")
    if resumes is not None:
        one(connection, resumes)
    run_id = _free_id(connection, at)
    connection.execute(
        runs.insert().values(
            id=run_id, kind=kind, fleet=fleet, version=version, spec=spec, state=RunState.PLANNED.value, actor=actor,
            created_at=at, expires_at=expires_at, resumes=resumes,
        )
    )  # fmt: skip
    if inputs:
        connection.execute(
            run_inputs.insert(),
            [{"run_id": run_id, "number": n, **msgspec.to_builtins(file)} for n, file in enumerate(inputs)],
        )
    if plans:
        connection.execute(shards.insert(), [_shard_row(run_id, plan) for plan in plans])
    return one(connection, run_id)


def one(connection: sa.Connection, run_id: str, *, lock: bool = False) -> RunRecord:
    """One run, on request kept from other writers until the transaction ends.

    Raises
    ------
    NotFound
        There is no such run.
    """
    query = sa.select(runs).where(runs.c.id == run_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}; `shoal runs list` shows those there are")
    return _record(row)


def listed(
    connection: sa.Connection, *, state: RunState | None, fleet: str | None, kind: str | None, limit: int
) -> list[RunRecord]:
    """Runs, newest first.

    Raises
    ------
    InvalidInput
        There is no such state, or the limit is none.
    """
    query = sa.select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(filters.limit(limit))
    state = filters.word("state", RunState, state)
    for column, value in ((runs.c.state, state), (runs.c.fleet, fleet), (runs.c.kind, kind)):
        if value is not None:
            query = query.where(column == str(value))
    return [_record(row) for row in connection.execute(query).mappings()]


def inputs_of(connection: sa.Connection, run_id: str) -> list[InputFile]:
    """The files that a run has pinned, in the order it named them.

    Raises
    ------
    NotFound
        There is no such run.
    """
    one(connection, run_id)
    c = run_inputs.c
    query = sa.select(c.path, c.size_bytes, c.sha256, c.rows).where(c.run_id == run_id).order_by(c.number)
    return [InputFile(**row) for row in connection.execute(query).mappings()]


def transition(
    connection: sa.Connection, run_id: str, to: RunState, *, error: str | None, at: dt.datetime
) -> RunRecord:
    """Move a run to another state.

    Raises
    ------
    NotFound
        There is no such run.
    Conflict
        The transition table does not have that step, or the run has expired.
    """
    run = one(connection, run_id, lock=True)
    require_transition(RUN_TRANSITIONS, run.state, to, what=f"run {run_id}")
    if to is RunState.RUNNING and run.expires_at is not None and run.expires_at <= at:
        raise Conflict(f"run {run_id} expired at {run.expires_at:%Y-%m-%d %H:%M} UTC; start a new run")
    values: dict[str, object] = {"state": to.value, "error": None if error is None else keepable(error)}
    if to is RunState.RUNNING:
        values |= {"started_at": run.started_at or at, "ended_at": None}
    if to is RunState.FAILED or to in FINAL_RUN_STATES:
        values |= {"ended_at": at}
    connection.execute(runs.update().where(runs.c.id == run_id).values(**values))
    return one(connection, run_id)


def overdue(connection: sa.Connection, at: dt.datetime) -> list[str]:
    """Runs whose time to be resumed is over and that have not begun to commit."""
    expirable = [state.value for state, following in RUN_TRANSITIONS.items() if RunState.EXPIRED in following]
    query = sa.select(runs.c.id).where(runs.c.expires_at <= at, runs.c.state.in_(expirable)).order_by(runs.c.id)
    return list(connection.execute(query).scalars())


def pinned(connection: sa.Connection) -> set[tuple[str, int]]:
    """Fleet and version that runs which may still go on have pinned."""
    active = [state.value for state in ACTIVE_RUN_STATES]
    query = sa.select(runs.c.fleet, runs.c.version).where(runs.c.state.in_(active), runs.c.version.is_not(None))
    return {(fleet, version) for fleet, version in connection.execute(query.distinct()) if version is not None}


def _free_id(connection: sa.Connection, at: dt.datetime) -> str:
    while True:
        run_id = new_id(at)
        if connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id)).scalar() is None:
            return run_id


def _shard_row(run_id: str, plan: ShardPlan) -> dict[str, object]:
    nothing_yet = dict.fromkeys(_COUNTS, 0)
    return {
        "run_id": run_id,
        "number": plan.number,
        "source": plan.source,
        "state": ShardState.PENDING.value,
        "attempts": 0,
        **nothing_yet,
    }


def _record(row: sa.RowMapping) -> RunRecord:
    values = dict(row)
    return RunRecord(state=RunState(values.pop("state")), **values)
