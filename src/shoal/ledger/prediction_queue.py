"""Predictions as work: accepting, claiming, settling and forgetting them; inside the caller's transaction."""

import datetime as dt
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shoal.errors import Conflict, NotFound
from shoal.jobs.states import PREDICTION_TRANSITIONS, PredictionState
from shoal.ledger.claims import ClaimTable, Holding, Settlement, clock
from shoal.ledger.prediction_records import (
    Acceptance,
    Backlog,
    NewPrediction,
    PredictionClaim,
    PredictionKind,
    PredictionRecord,
    PredictionResult,
)
from shoal.ledger.prediction_tables import predictions
from shoal.ledger.stored import fingerprint, id_of
from shoal.storage.arrays import unnested

SILENT_ATTEMPTS = 2
"""What killed its workers so often is claimed alone from then on: it may be what kills them, its neighbours are not."""

MOST_FLEETS = 200
"""Claims for more fleets than this are for all; what cannot be answered here is given back then."""

FORGET_AT_ONCE = 1000

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
_ID = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")
_IDEMPOTENCY_LOCK = 0x5A0A2
_c = predictions.c
_LISTED = [column for column in predictions.columns if column.name not in ("request", "answer")]


def accept(
    connection: sa.Connection, new: Sequence[NewPrediction], *, at: dt.datetime, forget_s: float | None
) -> list[Acceptance | Conflict]:
    """Keep predictions; in the order given which they are and where they stand, or why one could not be kept.

    Of those that wait, each gets its place behind all that were accepted before; those that have an answer and no sink
    are done at once.
    """
    rows = [_row(one, at, forget_s) for one in new]
    found: dict[object, Acceptance | Conflict] = {}
    left = rows
    while left:
        found |= _insert(connection, left)
        left = [row for row in left if row["tag"] not in found and not _settled_by_other(connection, row, found)]
    return [found[row["tag"]] for row in rows]


def known(connection: sa.Connection, new: NewPrediction, *, at: dt.datetime) -> Acceptance | Conflict | None:
    """What has the idempotency key of a prediction, or why it is another's; None where nothing has."""
    row = _row(new, at, None)
    found: dict[object, Acceptance | Conflict] = {}
    _settled_by_other(connection, row, found)
    return found.get(row["tag"])


def _insert(connection: sa.Connection, rows: Sequence[dict[str, object]]) -> dict[object, Acceptance | Conflict]:
    """Insert what has no idempotency key that is taken; what there is now by tag."""
    is_sqlite = connection.dialect.name == "sqlite"
    insert = (sqlite.insert if is_sqlite else postgresql.insert)(predictions)
    if any(row["idempotency_key"] is not None for row in rows):
        if not is_sqlite:
            # Two transactions that insert the same keys in different orders would block each other.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_IDEMPOTENCY_LOCK)))
        insert = insert.on_conflict_do_nothing(
            index_elements=["principal", "idempotency_key"], index_where=sa.text("idempotency_key IS NOT NULL")
        )
    if is_sqlite:
        made = connection.execute(insert.returning(_c.number, _c.tag, _c.state), rows)
    else:
        names = list(rows[0])
        given = unnested({name: _c[name].type for name in names}, rows)
        ordered = sa.select(*[given.c[name] for name in names]).order_by(given.c.place)
        made = connection.execute(insert.from_select(names, ordered).returning(_c.number, _c.tag, _c.state))
    return {tag: Acceptance(id=id_of(number, tag), state=PredictionState(state)) for number, tag, state in made}


def _settled_by_other(
    connection: sa.Connection, row: dict[str, object], found: dict[object, Acceptance | Conflict]
) -> bool:
    """Whether somebody's prediction has the row's idempotency key; False if it was forgotten by now."""
    same = sa.and_(_c.principal == row["principal"], _c.idempotency_key == row["idempotency_key"])
    there = connection.execute(sa.select(_c.number, _c.tag, _c.state, _c.fingerprint).where(same)).one_or_none()
    if there is None:
        return False
    if there.fingerprint == row["fingerprint"]:
        its_id = id_of(there.number, there.tag)
        found[row["tag"]] = Acceptance(id=its_id, state=PredictionState(there.state), is_new=False)
    else:
        found[row["tag"]] = Conflict(
            "the idempotency key was used for another request; send each request with a key of its own"
        )
    return True


def _row(one: NewPrediction, at: dt.datetime, forget_s: float | None) -> dict[str, object]:
    is_done = one.answer is not None and one.sink is None
    return {
        "tag": secrets.token_hex(8),
        "kind": one.kind.value,
        "state": PredictionState.DONE.value if is_done else _WAITING,
        "fleet": one.fleet,
        "principal": one.principal,
        "request_id": one.request_id,
        "lane": None if one.ordering_key is None else f"{one.fleet}:{one.ordering_key}",
        "idempotency_key": one.idempotency_key,
        "fingerprint": None if one.idempotency_key is None else fingerprint(one),
        "sink": one.sink,
        "attempts": 0,
        "most_attempts": one.most_attempts,
        "accepted_at": at,
        "expires_at": None if one.deadline_s is None else at + dt.timedelta(seconds=one.deadline_s),
        "settled_at": at if is_done else None,
        "forget_at": _forget_at(at, _kept_s(one, forget_s)) if is_done else None,
        "keep_s": one.keep_s,
        "size_bytes": len(one.request),
        "request": one.request,
        "answer": one.answer,
    }


def _kept_s(one: NewPrediction | PredictionClaim, others_s: float | None) -> float | None:
    """How long a prediction is kept; None for ever."""
    return one.keep_s if one.kind is PredictionKind.STORED else others_s


def _forget_at(at: dt.datetime, keep_s: float | None) -> dt.datetime | None:
    return None if keep_s is None else at + dt.timedelta(seconds=keep_s)


def is_work(connection: sa.Connection, fleets: Collection[str], *, now: dt.datetime, suspects: bool) -> bool:
    """Whether there seems to be something to claim; asked before, for claiming keeps other writers out."""
    question, asked = _IS_WORK[suspects, len(fleets) <= MOST_FLEETS], _asked(fleets, now)
    return bool(connection.execute(question, {**asked, **clock(now)}).scalar())


def claim(
    connection: sa.Connection,
    fleets: Collection[str],
    *,
    owner: str,
    now: dt.datetime,
    lease_s: float,
    limit: int,
    suspects: bool,
) -> list[PredictionClaim]:
    """Take predictions that wait or whose worker fell silent; or one of those whose workers did so again and again."""
    rows = _CLAIMS.claim(
        connection,
        _CLAIMABLE[suspects, len(fleets) <= MOST_FLEETS],
        owner=owner,
        now=now,
        lease_s=lease_s,
        limit=1 if suspects else limit,
        parameters=_asked(fleets, now),
    )
    return [_claim(row, now) for row in rows]


def _asked(fleets: Collection[str], now: dt.datetime) -> dict[str, object]:
    few = {"fleets": sorted(fleets)} if len(fleets) <= MOST_FLEETS else {}
    return {"now": now, **few}


def _claimable(suspects: bool, few: bool) -> sa.ColumnElement[bool]:
    now = sa.bindparam("now", type_=_c.due_at.type)
    silent = sa.and_(_c.state == _CLAIMED, _c.attempts >= SILENT_ATTEMPTS)
    conditions = [
        silent if suspects else sa.not_(silent),
        _c.attempts < _c.most_attempts,
        sa.or_(_c.due_at.is_(None), _c.due_at <= now),
        sa.or_(_c.expires_at.is_(None), _c.expires_at > now),
    ]
    if few:
        conditions.append(_c.fleet.in_(sa.bindparam("fleets", expanding=True)))
    return sa.and_(*conditions)


def _is_work(claimable: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(sa.exists().where(claimable, sa.or_(_c.state == _WAITING, _CLAIMS.run_out())))


# Asked many times a second, and making these takes longer than asking them.
_CLAIMABLE = {(suspects, few): _claimable(suspects, few) for suspects in (False, True) for few in (False, True)}
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

    What failed for the last time that it may goes to the dead-letter list instead of back to its place.
    """
    settlements = [
        Settlement(holding=_holding(one.claim), state=state.value, values=_values(one, state, now, keep_s, lease_s))
        for one in results
        for state in (one.following,)
    ]
    return _numbers(_CLAIMS.settle_many(connection, settlements))


def _values(
    result: PredictionResult, state: PredictionState, now: dt.datetime, keep_s: float, lease_s: float
) -> dict[str, object]:
    if state is PredictionState.CLAIMED:
        until = now + dt.timedelta(seconds=lease_s)
        return {"answer": result.answer, "delivery": result.delivery, "lease_until": until}
    if state is PredictionState.WAITING:
        more = 0 if result.counts else 1
        due_at = now + dt.timedelta(seconds=result.delay_s) if result.delay_s else None
        return {"error": result.error, "due_at": due_at, "most_attempts": result.claim.most_attempts + more}
    forget_at = _forget_at(now, _kept_s(result.claim, keep_s))
    ended: dict[str, object] = {"error": result.error, "settled_at": now, "forget_at": forget_at}
    return {**ended, "answer": result.answer} if state is PredictionState.DONE else ended


def sweep_needed(connection: sa.Connection, *, now: dt.datetime) -> bool:
    """Whether :func:`sweep` would find anything."""
    wanted = [_overdue(now), _hopeless(now), _c.forget_at <= now]
    return any(connection.execute(sa.select(sa.exists().where(one))).scalar() for one in wanted)


def sweep(connection: sa.Connection, *, now: dt.datetime, keep_s: float) -> tuple[int, int]:
    """Discard what came too late, give up what only kills its workers, and forget what was kept long enough.

    Returns
    -------
    tuple of int
        How many were discarded, and given up.
    """
    # A durable result that its sink did not get stays until somebody replays or purges it.
    forget_at = sa.case((_c.kind == PredictionKind.STORED.value, None), else_=_forget_at(now, keep_s))
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
    old = sa.select(_c.number).where(_c.forget_at <= now).order_by(_c.forget_at).limit(FORGET_AT_ONCE)
    connection.execute(sa.delete(predictions).where(_c.number.in_(old)))
    return expired, failed


_TOO_LATE = sa.case(
    (_c.error.is_(None), sa.literal("its deadline passed before it was its turn")),
    else_=sa.literal("its deadline passed before it was tried again; it had failed: ") + _c.error,
)


def purge(connection: sa.Connection, fleet: str, *, before: dt.datetime) -> int:
    """Forget some durable results of a fleet that are older and need no worker any more; how many."""
    settled = _c.state.not_in((_WAITING, _CLAIMED))
    stored = sa.and_(_c.kind == sa.literal_column("'stored'"), _c.fleet == fleet)
    old = sa.select(_c.number).where(stored, settled, _c.accepted_at < before).order_by(_c.number)
    return connection.execute(sa.delete(predictions).where(_c.number.in_(old.limit(FORGET_AT_ONCE)))).rowcount


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


def one(connection: sa.Connection, text: str) -> PredictionRecord:
    """A prediction with all that is kept of it.

    Raises
    ------
    NotFound
        There is none of this id.
    """
    number, tag = parsed_id(text)
    row = connection.execute(sa.select(predictions).where(_c.number == number, _c.tag == tag)).mappings().one_or_none()
    if row is None:
        raise _unknown(text)
    return _record(row)


def many(connection: sa.Connection, ids: Sequence[str]) -> list[PredictionRecord]:
    """Predictions with all that is kept of them, in the order given; those that are not there are left out.

    Raises
    ------
    NotFound
        A text is no id.
    """
    numbers = [parsed_id(one)[0] for one in ids]
    rows = connection.execute(sa.select(predictions).where(_c.number.in_(numbers))).mappings()
    found = {record.id: record for record in map(_record, rows)}
    return [found[one] for one in ids if one in found]


def of_request(
    connection: sa.Connection, request_id: str, *, principal: str | None, limit: int
) -> list[PredictionRecord]:
    """The newest durable results of a request, newest first, with all that is kept of them."""
    wanted = sa.and_(_c.kind == sa.literal_column("'stored'"), _c.request_id == request_id)
    if principal is not None:
        wanted = sa.and_(wanted, _c.principal == principal)
    found = connection.execute(sa.select(predictions).where(wanted).order_by(_c.number.desc()).limit(limit))
    return [_record(row) for row in found.mappings()]


def listed(
    connection: sa.Connection,
    *,
    state: PredictionState | None,
    kind: PredictionKind | None,
    fleet: str | None,
    principal: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
) -> list[PredictionRecord]:
    """The newest predictions, newest first, filtered; without what was asked and answered."""
    wanted = {"state": state, "kind": kind, "fleet": fleet, "principal": principal}
    conditions = [_c[name] == str(value) for name, value in wanted.items() if value is not None]
    conditions += [] if since is None else [_c.accepted_at >= since]
    conditions += [] if until is None else [_c.accepted_at < until]
    query = sa.select(*_LISTED).where(*conditions).order_by(_c.number.desc()).limit(limit)
    return [_record(row) for row in connection.execute(query).mappings()]


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
        raise _unknown(text)
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


def parsed_id(text: str) -> tuple[int, str]:
    """Number and tag of an id.

    Raises
    ------
    NotFound
        No prediction has such an id.
    """
    found = _ID.fullmatch(text)
    if found is None:
        raise _unknown(text)
    return int(found[1]), found[2]


def _unknown(text: str) -> NotFound:
    return NotFound(
        f"there is no prediction {text[:60]!r}; results are forgotten after a while, see `shoal predictions list`"
    )


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


def _record(row: sa.RowMapping) -> PredictionRecord:
    lane: str | None = row["lane"]
    return PredictionRecord(
        id=id_of(row["number"], row["tag"]),
        kind=PredictionKind(row["kind"]),
        state=PredictionState(row["state"]),
        fleet=row["fleet"],
        principal=row["principal"],
        request_id=row["request_id"],
        ordering_key=None if lane is None else lane.partition(":")[2],
        idempotency_key=row["idempotency_key"],
        sink=row["sink"],
        attempts=row["attempts"],
        accepted_at=row["accepted_at"],
        due_at=row["due_at"],
        expires_at=row["expires_at"],
        settled_at=row["settled_at"],
        forget_at=row["forget_at"],
        error=row["error"],
        request=row.get("request"),
        answer=row.get("answer"),
    )
