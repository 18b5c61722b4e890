"""Records of the ledger as they come over the network."""

import datetime as dt
from typing import Final

import msgspec

from shoal.client.exchange import Question, get
from shoal.errors import StorageError
from shoal.jobs.states import RunState
from shoal.ledger import RunRecord

_TIME: Final = dt.datetime | None
_TIMES: Final = ("created_at", "started_at", "ended_at", "expires_at")


def runs(path: str, *, fleet: str | None, limit: int) -> Question[list[RunRecord]]:
    """Ask for the newest runs."""
    asked = get(path, list[dict[str, object]], fleet=fleet, limit=limit)
    return Question(
        method=asked.method, path=asked.path, read=lambda content: [_run(one) for one in asked.read(content)]
    )


def _run(told: dict[str, object]) -> RunRecord:
    """A run; what it was told to do stays the JSON that it is."""
    try:
        times = {name: msgspec.convert(told[name], type=_TIME) for name in _TIMES}
        state = msgspec.convert(told["state"], type=RunState)
        return RunRecord(**{**told, **times, "state": state})  # type: ignore[arg-type]
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise StorageError(f"the server's run cannot be read ({error}); is it of another version?") from error
