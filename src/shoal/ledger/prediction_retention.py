"""How long predictions are kept, and forgetting them; inside the caller's transaction."""

import datetime as dt

import sqlalchemy as sa

from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import NewPrediction, PredictionClaim, PredictionKind
from shoal.ledger.prediction_tables import predictions

FORGET_AT_ONCE = 1000

_WAITING, _CLAIMED = PredictionState.WAITING.value, PredictionState.CLAIMED.value
_c = predictions.c


def kept_s(one: NewPrediction | PredictionClaim, others_s: float | None) -> float | None:
    """How long a prediction is kept; None for ever."""
    return one.keep_s if one.kind is PredictionKind.STORED else others_s


def forgotten_at(at: dt.datetime, keep_s: float | None) -> dt.datetime | None:
    """When a prediction is forgotten that is kept so long; None for never."""
    return None if keep_s is None else at + dt.timedelta(seconds=keep_s)


def is_old(now: dt.datetime) -> sa.ColumnElement[bool]:
    """Whether a prediction was kept long enough."""
    return _c.forget_at <= now


def forget(connection: sa.Connection, *, now: dt.datetime) -> None:
    """Forget some of what was kept long enough."""
    old = sa.select(_c.number).where(is_old(now)).order_by(_c.forget_at).limit(FORGET_AT_ONCE)
    connection.execute(sa.delete(predictions).where(_c.number.in_(old)))


def purge(connection: sa.Connection, fleet: str, *, before: dt.datetime) -> int:
    """Forget some durable results of a fleet that are older and need no worker any more; how many."""
    settled = _c.state.not_in((_WAITING, _CLAIMED))
    stored = sa.and_(_c.kind == sa.literal_column("'stored'"), _c.fleet == fleet)
    old = sa.select(_c.number).where(stored, settled, _c.accepted_at < before).order_by(_c.number)
    return connection.execute(sa.delete(predictions).where(_c.number.in_(old.limit(FORGET_AT_ONCE)))).rowcount
