"""Rows of a table as work: claimed in batches under a lease, renewed, released, settled.

Works on any table with the columns ``state``, ``owner``, ``lease_until`` and ``attempts``. What makes a claim safe is
not the clock: a row is settled only while it still carries the claim's owner and attempt, and nobody else can change it
meanwhile, so however wrong a clock is, a row is never settled twice. Time only decides when a silent worker's rows go
to others.
That clock is the database's (:meth:`shoal.storage.sql.Database.now`), one for all workers. When it is set back, leases
from before would seem to last for long; so a lease that ends later than any lease can is taken for run out.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from shoal.errors import InvalidInput, LeaseLost
from shoal.storage.arrays import among, unnested

LONGEST_LEASE_S = 3600.0
"""Leases may not be longer; workers that need more time renew."""

AT_ONCE = 500
"""Rows that one statement names."""

Value = str | int


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """A claimed row.

    Attributes
    ----------
    key : tuple
        Values of the table's key columns.
    owner : str
        Who holds it.
    attempt : int
        How often the row was claimed, this claim included.
    """

    key: tuple[Value, ...]
    owner: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What becomes of a claimed row.

    Attributes
    ----------
    holding : Holding
        The row.
    state : str
        Where it goes.
    values : mapping
        What is written to it.
    """

    holding: Holding
    state: str
    values: Mapping[str, object] = field(default_factory=dict)


class ClaimTable:
    """How the rows of one table are claimed.

    Parameters
    ----------
    table : sqlalchemy.Table
        Has the columns ``state``, ``owner``, ``lease_until``, ``attempts`` and those named below.
    key : sequence of str
        The columns that identify a row.
    order : str
        Rows are claimed in the order of this column.
    waiting, held, given_up : str
        The states of a row that waits, is claimed, and was claimed in vain too often.
    lane : str, optional
        A column; of the rows that have the same value there, only the first in ``order`` that waits or is claimed
        may be claimed, whoever asks. So they are settled one after the other, and one that goes back to waiting
        keeps its place. Rows with NULL there are free. Wants an index on the lane, the state and the order.
    """

    def __init__(
        self,
        table: sa.Table,
        *,
        key: Sequence[str],
        order: str,
        waiting: str,
        held: str,
        given_up: str,
        lane: str | None = None,
    ) -> None:
        self._table = table
        self._c = table.c
        self._key = [table.c[name] for name in key]
        self._order = table.c[order]
        self._waiting = waiting
        self._held = held
        self._given_up = given_up
        self._lane = lane
        # Making a question takes longer than asking it.
        self._head_of_lane = self._first_of_lane()
        self._questions: dict[int, tuple[sa.ColumnElement[bool], list[sa.Select[Any]]]] = {}

    def claim(
        self,
        connection: sa.Connection,
        scope: sa.ColumnElement[bool],
        *,
        owner: str,
        now: dt.datetime,
        lease_s: float,
        limit: int,
        parameters: Mapping[str, object] | None = None,
    ) -> list[sa.RowMapping]:
        """Take up to ``limit`` rows of the scope that wait or whose lease ran out, and give them back as they are now.

        Other workers' claims under way are skipped, not waited for. Who claims all the time gives a scope that is
        always the same object, with bound parameters for what changes and their values in ``parameters``.
        """
        asked = {**(parameters or {}), **clock(now), "claim_limit": limit}
        found = [tuple(row) for query in self._free(scope, parameters) for row in connection.execute(query, asked)]
        keys: list[tuple[Value, ...]] = [row[1:] for row in sorted(found)[:limit]]
        if not keys:
            return []
        chosen = self._among(connection, keys)
        until = now + dt.timedelta(seconds=checked_lease(lease_s))
        connection.execute(
            sa.update(self._table)
            .where(chosen)
            .values(state=self._held, owner=owner, lease_until=until, attempts=self._c.attempts + 1)
        )
        return list(connection.execute(sa.select(self._table).where(chosen).order_by(self._order)).mappings())

    def give_up(
        self,
        connection: sa.Connection,
        scope: sa.ColumnElement[bool],
        *,
        now: dt.datetime,
        attempts: int | sa.ColumnElement[int],
        error: str,
        more: Mapping[str, object] | None = None,
    ) -> int:
        """Take rows out of the game whose workers fell silent ``attempts`` times: they may be what kills them.

        ``attempts`` may be a column; ``more`` is what else is written to them.
        """
        hopeless = sa.and_(scope, self.run_out(now), self._c.attempts >= attempts)
        values: dict[str, object] = {**(more or {}), "state": self._given_up, "lease_until": None, "error": error}
        return connection.execute(sa.update(self._table).where(hopeless).values(**values)).rowcount

    def renew(
        self, connection: sa.Connection, holdings: Sequence[Holding], *, now: dt.datetime, lease_s: float
    ) -> list[Holding]:
        """Make the leases last ``lease_s`` from now, and give back those that were still held."""
        until = now + dt.timedelta(seconds=checked_lease(lease_s))
        renewed: list[Holding] = []
        for held in self._still_held(connection, holdings):
            chosen = self._among(connection, [holding.key for holding in held])
            connection.execute(sa.update(self._table).where(chosen).values(lease_until=until))
            renewed += held
        return renewed

    def settle_many(self, connection: sa.Connection, settlements: Sequence[Settlement]) -> list[Holding]:
        """Move held rows to other states, and give back those that were still held; the others stay as they are.

        The rows are written together where the same columns are: thousands cost little more than one. A row that stays
        held needs a new ``lease_until`` among its values.
        """
        wanted = {settlement.holding: settlement for settlement in settlements}
        settled: list[Holding] = []
        for held in self._still_held(connection, list(wanted)):
            self._write(connection, [wanted[holding] for holding in held])
            settled += held
        return settled

    def settle(
        self, connection: sa.Connection, holding: Holding, *, state: str, values: Mapping[str, object], what: str
    ) -> None:
        """Move a held row to another state, with what is to be written to it.

        Raises
        ------
        LeaseLost
            The row is not held by this claim any more; nothing was changed.
        """
        if not self._update(connection, holding, {**values, "state": state, "lease_until": None}):
            raise LeaseLost(
                f"{what} is not {holding.owner}'s any more (attempt {holding.attempt}): its lease ran out and another "
                "worker took it, or it is settled; drop this result and claim again"
            )

    def release_owner(self, connection: sa.Connection, scope: sa.ColumnElement[bool], *, owner: str) -> int:
        """Let go of all rows of an owner that is known to be gone, without waiting for its leases."""
        held = sa.and_(scope, self._c.state == self._held, self._c.owner == owner)
        values = {"state": self._waiting, "lease_until": None}
        return connection.execute(sa.update(self._table).where(held).values(**values)).rowcount

    def _free(self, scope: sa.ColumnElement[bool], parameters: Mapping[str, object] | None) -> Sequence[sa.Select[Any]]:
        """Questions for the first rows that may be claimed, which are kept from others until the transaction ends.

        There are two: each asks for the beginning of an index on the state and the order, whereas both in one would
        sort everything that waits.
        """
        if parameters is None:
            return self._made(scope)
        if id(scope) not in self._questions:
            self._questions[id(scope)] = (scope, self._made(scope))
        return self._questions[id(scope)][1]

    def _made(self, scope: sa.ColumnElement[bool]) -> list[sa.Select[Any]]:
        limit = sa.bindparam("claim_limit", type_=sa.Integer())
        return [
            sa.select(self._order, *self._key)
            .where(scope, free, *self._head_of_lane)
            .order_by(self._order)
            .limit(limit)
            .with_for_update(skip_locked=True)
            for free in (self.run_out(), self._c.state == self._waiting)
        ]

    def run_out(self, now: dt.datetime | None = None) -> sa.ColumnElement[bool]:
        """Whether a row is held by a worker that fell silent.

        Parameters
        ----------
        now : datetime, optional
            Unless told, the statement gets it with :func:`clock`.
        """
        until = self._c.lease_until
        if now is not None:
            moments: Mapping[str, Any] = clock(now)
        else:
            moments = {name: sa.bindparam(name, type_=until.type) for name in ("claim_now", "claim_latest")}
        over = sa.or_(until <= moments["claim_now"], until > moments["claim_latest"])
        return sa.and_(self._c.state == self._held, over)

    def _first_of_lane(self) -> list[sa.ColumnElement[bool]]:
        """No unsettled row of the same lane comes before."""
        if self._lane is None:
            return []
        earlier = self._table.alias("earlier")
        before = sa.and_(
            earlier.c[self._lane] == self._c[self._lane],
            earlier.c.state.in_((self._waiting, self._held)),
            earlier.c[self._order.name] < self._order,
        )
        return [sa.or_(self._c[self._lane].is_(None), ~sa.exists().where(before))]

    def _still_held(self, connection: sa.Connection, holdings: Sequence[Holding]) -> Iterator[list[Holding]]:
        """The holdings that hold, some at a time; their rows are kept from others until the transaction ends."""
        in_order = sorted(holdings, key=lambda holding: holding.key)
        for start in range(0, len(in_order), AT_ONCE):
            some = in_order[start : start + AT_ONCE]
            query = sa.select(*self._key, self._c.owner, self._c.attempts).where(
                self._among(connection, [holding.key for holding in some]), self._c.state == self._held
            )
            # In one order everywhere, so that two who lock the same rows wait instead of blocking each other.
            rows = connection.execute(query.order_by(*self._key).with_for_update())
            held = {tuple(row) for row in rows}
            yield [holding for holding in some if (*holding.key, holding.owner, holding.attempt) in held]

    def _among(self, connection: sa.Connection, keys: Sequence[tuple[Value, ...]]) -> sa.ColumnElement[bool]:
        if len(self._key) > 1:
            return sa.tuple_(*self._key).in_(keys)
        values = [key[0] for key in keys]
        if connection.dialect.name == "postgresql":
            return self._key[0] == among(self._key[0].type, values)
        return self._key[0].in_(values)

    def _write(self, connection: sa.Connection, settlements: Sequence[Settlement]) -> None:
        """Settle rows that this transaction has locked."""
        by_columns: dict[tuple[str, ...], list[dict[str, object]]] = {}
        for settlement in settlements:
            key = {f"key_{number}": value for number, value in enumerate(settlement.holding.key)}
            row = {"lease_until": None, **settlement.values, "state": settlement.state}
            by_columns.setdefault(tuple(sorted(row)), []).append(row | key)
        for columns, rows in by_columns.items():
            if connection.dialect.name == "postgresql":
                self._write_arrays(connection, columns, rows)
            else:
                same = [column == sa.bindparam(f"key_{number}") for number, column in enumerate(self._key)]
                values: dict[str, object] = {name: sa.bindparam(name) for name in columns}
                connection.execute(sa.update(self._table).where(*same).values(values), rows)

    def _write_arrays(
        self, connection: sa.Connection, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
    ) -> None:
        keys = {f"key_{number}": column.type for number, column in enumerate(self._key)}
        given = unnested(keys | {name: self._c[name].type for name in columns}, rows)
        same = [column == given.c[name] for column, name in zip(self._key, keys, strict=True)]
        values = {name: given.c[name] for name in columns}
        connection.execute(sa.update(self._table).where(*same).values(values))

    def _update(self, connection: sa.Connection, holding: Holding, values: Mapping[str, object]) -> bool:
        same = [column == value for column, value in zip(self._key, holding.key, strict=True)]
        still_held = sa.and_(
            *same,
            self._c.state == self._held,
            self._c.owner == holding.owner,
            self._c.attempts == holding.attempt,
        )
        return connection.execute(sa.update(self._table).where(still_held).values(**values)).rowcount == 1


def clock(now: dt.datetime) -> dict[str, dt.datetime]:
    """What statements with :meth:`ClaimTable.run_out` want to know of the time."""
    return {"claim_now": now, "claim_latest": now + dt.timedelta(seconds=LONGEST_LEASE_S)}


def checked_lease(lease_s: float) -> float:
    """Give the lease back if it can be granted.

    Raises
    ------
    InvalidInput
        It is not positive or longer than :data:`LONGEST_LEASE_S`.
    """
    if 0 < lease_s <= LONGEST_LEASE_S:
        return lease_s
    raise InvalidInput(
        f"a lease lasts more than 0 and at most {LONGEST_LEASE_S:.0f} s, not {lease_s} s; renew it instead"
    )
