"""Predictions as work: claiming and settling them, what waits, and trying again; inside the caller's transaction."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from shoal.errors import Conflict
from shoal.jobs.states import PREDICTION_TRANSITIONS, PredictionState
from shoal.ledger.claims import ClaimTable, Holding, Settlement, clock
from shoal.ledger.prediction_ids import id_of, parsed_id, unknown
from shoal.ledger.prediction_intake import accept
from shoal.ledger.prediction_records import Backlog, PredictionClaim, PredictionKind, PredictionResult
from shoal.ledger.prediction_retention import forget, forgotten_at, is_old, kept_s
from shoal.ledger.prediction_tables import predictions
from shoal.storage.arrays import one_of

SILENT_ATTEMPTS = 2
"""What killed its workers so often is claimed alone from then on: it may be what kills them, its neighbours are not."""

MOST_COUNTED = 100_000
"""Dead letters are counted up to so many: how many there are is asked all the time."""

_WAITING, _CLAIMED = PredictionState.WAITING.value, PredictionState.CLAIMED.value
_CLAIMS = ClaimTable(
    predictions,
    key=("number",),
    order="number",
    waiting=_WAITING,
    held=_CLAIMED,
    given_up=PredictionState.FAILED.value,
    lane="lane",
)
_c = predictions.c


def is_work(
    connection: sa.Connection,
    fleets: Collection[str],
    *,
    now: dt.datetime,
    suspects: bool,
    full_sinks: Collection[str] = (),
) -> bool:
    """Whether there seems to be something to claim; asked before, for claiming keeps other writers out."""
    question = _IS_WORK[suspects, connection.dialect.name]
    return bool(connection.execute(question, {**_asked(fleets, full_sinks, now), **clock(now)}).scalar())


def claim(
    connection: sa.Connection,
    fleets: Collection[str],
    *,
    owner: str,
    now: dt.datetime,
    lease_s: float,
    limit: int,
    suspects: bool,
    full_sinks: Collection[str] = (),
) -> list[PredictionClaim]:
    """Take predictions that wait or whose worker fell silent; or one of those whose workers did so again and again.

    None that goes to a sink which is full.
    """
    rows = _CLAIMS.claim(
        connection,
        _CLAIMABLE[suspects, connection.dialect.name],
        owner=owner,
        now=now,
        lease_s=lease_s,
        limit=1 if suspects else limit,
        parameters=_asked(fleets, full_sinks, now),
    )
    return [_claim(row, now) for row in rows]


def _asked(fleets: Collection[str], full_sinks: Collection[str], now: dt.datetime) -> dict[str, object]:
    return {"now": now, "fleets": list(fleets), "full_sinks": list(full_sinks)}


def _claimable(suspects: bool, dialect: str) -> sa.ColumnElement[bool]:
    now = sa.bindparam("now", type_=_c.due_at.type)
    silent = sa.and_(_c.state == _CLAIMED, _c.attempts >= SILENT_ATTEMPTS)
    return sa.and_(
        silent if suspects else sa.not_(silent),
        _c.attempts < _c.most_attempts,
        sa.or_(_c.due_at.is_(None), _c.due_at <= now),
        sa.or_(_c.expires_at.is_(None), _c.expires_at > now),
        one_of(_c.fleet, "fleets", dialect=dialect),
        sa.or_(_c.sink.is_(None), sa.not_(one_of(_c.sink, "full_sinks", dialect=dialect))),
    )


def _is_work(claimable: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(sa.exists().where(claimable, sa.or_(_c.state == _WAITING, _CLAIMS.run_out())))


# Asked many times a second, and making these takes longer than asking them.
_CLAIMABLE = {
    (suspects, dialect): _claimable(suspects, dialect)
    for suspects in (False, True)
    for dialect in ("sqlite", "postgresql")
}
_IS_WORK = {which: _is_work(claimable) for which, claimable in _CLAIMABLE.items()}


def renew(
    connection: sa.Connection, claims: Sequence[PredictionClaim], *, now: dt.datetime, lease_s: float
) -> set[int]:
    """Make leases last longer; the numbers of those that were still held."""
    return _numbers(_CLAIMS.renew(connection, [_holding(one) for one in claims], now=now, lease_s=lease_s))


def settle(
    connection: sa.Connection, results: Sequence[PredictionResult], *, now: dt.datetime, keep_s: float, lease_s: float
) -> set[int]:
    """Write what became of claimed predictions; the numbers of those that were still held, the others stay as they are.

    What failed for the last time that it may goes to the dead-letter list instead of back to its place. Durable results
    that came along with those that were held are kept.
    """
    settlements = [
        Settlement(holding=_holding(one.claim), state=state.value, values=_values(one, state, now, keep_s, lease_s))
        for one in results
        for state in (one.following,)
    ]
    held = _numbers(_CLAIMS.settle_many(connection, settlements))
    if durable := [one.durable for one in results if one.durable is not None and one.claim.number in held]:
        accept(connection, durable, at=now, forget_s=None)
    return held


def _values(
    result: PredictionResult, state: PredictionState, now: dt.datetime, keep_s: float, lease_s: float
) -> dict[str, object]:
    if state is PredictionState.CLAIMED:
        until = now + dt.timedelta(seconds=lease_s)
        return {"answer": result.answer, "delivery": result.delivery, "lease_until": until}
    kept: dict[str, object] = {} if result.answer is None else {"answer": result.answer}
    if state is PredictionState.WAITING:
        more = 0 if result.counts else 1
        due_at = now + dt.timedelta(seconds=result.delay_s) if result.delay_s else None
        again = {"error": result.error, "due_at": due_at, "most_attempts": result.claim.most_attempts + more}
        return again | kept
    forget_at = forgotten_at(now, kept_s(result.claim, keep_s))
    return {"error": result.error, "settled_at": now, "forget_at": forget_at} | kept


def sweep_needed(connection: sa.Connection, *, now: dt.datetime) -> bool:
    """Whether :func:`sweep` would find anything."""
    wanted = [_overdue(now), _hopeless(now), is_old(now)]
    return any(connection.execute(sa.select(sa.exists().where(one))).scalar() for one in wanted)


def sweep(connection: sa.Connection, *, now: dt.datetime, keep_s: float) -> tuple[int, int]:
    """Discard what came too late, give up what only kills its workers, and forget what was kept long enough.

    Returns
    -------
    tuple of int
        How many were discarded, and given up.
    """
    # A durable result that its sink did not get stays until somebody replays or purges it.
    forget_at = sa.case((_c.kind == PredictionKind.STORED.value, None), else_=forgotten_at(now, keep_s))
    ended: dict[str, object] = {"settled_at": now, "forget_at": forget_at, "lease_until": None}
    late = {**ended, "state": PredictionState.EXPIRED.value, "error": _TOO_LATE}
    expired = connection.execute(sa.update(predictions).where(_overdue(now)).values(late)).rowcount
    failed = _CLAIMS.give_up(
        connection,
        sa.true(),
        now=now,
        attempts=_c.most_attempts,
        error="its workers fell silent each time; look for what kills them, e.g. too little memory, then replay it",
        more=ended,
    )
    forget(connection, now=now)
    return expired, failed


_TOO_LATE = sa.case(
    (_c.error.is_(None), sa.literal("its deadline passed before it was its turn")),
    else_=sa.literal("its deadline passed before it was tried again; it had failed: ") + _c.error,
)


def _overdue(now: dt.datetime) -> sa.ColumnElement[bool]:
    return sa.and_(sa.or_(_c.state == _WAITING, _CLAIMS.run_out(now)), _c.expires_at <= now)


def _hopeless(now: dt.datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_CLAIMS.run_out(now), _c.attempts >= _c.most_attempts)


def owners(connection: sa.Connection) -> list[str]:
    """Who holds predictions now."""
    held = connection.execute(sa.select(_c.owner).where(_c.state == _CLAIMED).distinct()).scalars()
    return [owner for owner in held if owner is not None]


def end_leases(connection: sa.Connection, owner: str, *, now: dt.datetime) -> int:
    """Let others take over at once what is held by an owner that is gone."""
    held = sa.and_(_c.state == _CLAIMED, _c.owner == owner, _c.lease_until > now)
    return connection.execute(sa.update(predictions).where(held).values(lease_until=now)).rowcount


def backlog(connection: sa.Connection, *, now: dt.datetime) -> Backlog:
    """What waits or is being worked on; costs what there is of that, however much is kept of what is settled."""
    counts = {state: (count, int(size)) for state, count, size in connection.execute(_BACKLOG)}
    (waiting, waiting_bytes), (claimed, claimed_bytes) = counts.get(_WAITING, (0, 0)), counts.get(_CLAIMED, (0, 0))
    oldest = connection.execute(_OLDEST).scalar()
    return Backlog(
        waiting=waiting,
        claimed=claimed,
        size_bytes=waiting_bytes + claimed_bytes,
        oldest_s=0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()),
        dead=connection.execute(_DEAD).scalar_one(),
    )


_BACKLOG = (
    sa.select(_c.state, sa.func.count(), sa.func.sum(_c.size_bytes))
    .where(_c.state.in_((_WAITING, _CLAIMED)))
    .group_by(_c.state)
)
_OLDEST = sa.select(_c.accepted_at).where(_c.state == _WAITING).order_by(_c.number).limit(1)


def _dead(most: int) -> sa.Select[int]:
    failed = sa.select(_c.number).where(_c.state == PredictionState.FAILED.value).limit(most)
    return sa.select(sa.func.count()).select_from(failed.subquery())


_DEAD = _dead(MOST_COUNTED)


def settled_among(connection: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those of the ids that are settled, or are not there any more."""
    asked = {number: one for one in ids for number, _ in (parsed_id(one),)}
    active = sa.and_(_c.number.in_(asked), _c.state.in_((_WAITING, _CLAIMED)))
    under_way = set(connection.execute(sa.select(_c.number).where(active)).scalars())
    return {one for number, one in asked.items() if number not in under_way}


def replay(connection: sa.Connection, text: str, *, more_attempts: int) -> None:
    """Let a failed or expired prediction wait again, at its place and without a deadline.

    Raises
    ------
    NotFound
        There is none of this id.
    Conflict
        It neither failed nor expired.
    """
    number, tag = parsed_id(text)
    query = sa.select(_c.state, _c.attempts).where(_c.number == number, _c.tag == tag).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise unknown(text)
    state = PredictionState(row.state)
    if state is PredictionState.CLAIMED or PredictionState.WAITING not in PREDICTION_TRANSITIONS[state]:
        raise Conflict(f"prediction {text} is {state}; only one that failed or expired can be replayed")
    _make_wait(connection, _c.number == number, more_attempts)


def replay_failed(connection: sa.Connection, *, fleet: str | None, more_attempts: int) -> int:
    """Let all failed predictions, or those of one fleet, wait again; how many there were."""
    failed = [_c.state == PredictionState.FAILED.value, *([] if fleet is None else [_c.fleet == fleet])]
    return _make_wait(connection, sa.and_(*failed), more_attempts)


def _make_wait(connection: sa.Connection, which: sa.ColumnElement[bool], more_attempts: int) -> int:
    # Attempts are not counted from the start: a claim that somebody still holds in memory must not fit again.
    values = {
        "state": _WAITING, "most_attempts": _c.attempts + more_attempts, "due_at": None, "expires_at": None,
        "settled_at": None, "forget_at": None, "error": None,
    }  # fmt: skip
    return connection.execute(sa.update(predictions).where(which).values(values)).rowcount


def _holding(claimed: PredictionClaim) -> Holding:
    return Holding(key=(claimed.number,), owner=claimed.owner, attempt=claimed.attempt)


def _numbers(holdings: Sequence[Holding]) -> set[int]:
    return {int(held.key[0]) for held in holdings}


def _claim(row: sa.RowMapping, now: dt.datetime) -> PredictionClaim:
    expires_at: dt.datetime | None = row["expires_at"]
    return PredictionClaim(
        id=id_of(row["number"], row["tag"]),
        number=row["number"],
        kind=PredictionKind(row["kind"]),
        owner=row["owner"],
        attempt=row["attempts"],
        most_attempts=row["most_attempts"],
        fleet=row["fleet"],
        principal=row["principal"],
        request_id=row["request_id"],
        sink=row["sink"],
        request=row["request"],
        answer=row["answer"],
        delivery=row["delivery"],
        accepted_at=row["accepted_at"],
        expires_at=expires_at,
        left_s=None if expires_at is None else (expires_at - now).total_seconds(),
        keep_s=row["keep_s"],
    )
