"""Predictions that are kept, as servers tell of them; the words of a workspace's ``predictions``."""

import datetime as dt
import time
from typing import Final

import msgspec
import polars as pl

from shoal.client import records
from shoal.client.exchange import Door, Question, asking, get, part, reading, send
from shoal.client.sending import Dialogue, Pause, asked
from shoal.client.transport import AsyncTransport, Transport
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind, PredictionRecord
from shoal.serving.documents import prediction_frame
from shoal.times import in_utc

_PATH: Final = "/api/v1/predictions"
_LONGEST_WAIT_S: Final = 10.0
_SHORTEST_WAIT_S: Final = 0.001
_PAUSE_S: Final = 0.1


class _Waiting(msgspec.Struct):
    waiting: int


class _Purged(msgspec.Struct):
    purged: int


class RemotePredictions:
    """Predictions that are kept; those of the API key's name, and everybody's for whoever may read.

    What was asked is not told over the network: ``request`` of a record is None.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def listed(
        self,
        *,
        state: PredictionState | None = None,
        kind: PredictionKind | None = None,
        fleet: str | None = None,
        principal: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 50,
    ) -> list[PredictionRecord]:
        """The newest predictions, newest first, filtered; without what was answered. At most 10,000."""
        return self._transport.ask(_listed(state, kind, fleet, principal, since, until, limit))

    def one(self, prediction_id: str) -> PredictionRecord:
        """A prediction, with what was answered; raises NotFound where there is none of this id."""
        return self._transport.ask(_one(prediction_id, None))

    def wait(self, prediction_id: str, *, timeout_s: float) -> PredictionRecord:
        """A prediction as soon as it is settled, or as it stands after so many seconds."""
        return self._transport.converse(waiting(prediction_id, timeout_s, self._transport.timeout_s))

    def replay(self, prediction_id: str) -> PredictionRecord:
        """Let a prediction that failed or came too late wait again; raises Conflict where it did neither."""
        return self._transport.ask(_replay(prediction_id))

    def replay_failed(self, *, fleet: str | None = None) -> int:
        """Let all failed predictions, or those of one fleet, wait again; how many there were."""
        return self._transport.ask(_replay_failed(fleet))

    def of_request(self, request_id: str, *, principal: str | None = None, limit: int = 100) -> list[PredictionRecord]:
        """The newest durable results of a request, newest first, with what was answered; at most 10,000."""
        return self._transport.ask(_of_request(request_id, principal, limit))

    def purge(self, fleet: str, *, before: dt.datetime) -> int:
        """Forget the durable results of a fleet that were accepted before; how many there were. For admins."""
        return self._transport.ask(_purge(fleet, before))


class AsyncRemotePredictions:
    """Predictions that are kept; methods as of :class:`RemotePredictions`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def listed(
        self,
        *,
        state: PredictionState | None = None,
        kind: PredictionKind | None = None,
        fleet: str | None = None,
        principal: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 50,
    ) -> list[PredictionRecord]:
        """As :meth:`RemotePredictions.listed`."""
        return await self._transport.ask(_listed(state, kind, fleet, principal, since, until, limit))

    async def one(self, prediction_id: str) -> PredictionRecord:
        """As :meth:`RemotePredictions.one`."""
        return await self._transport.ask(_one(prediction_id, None))

    async def wait(self, prediction_id: str, *, timeout_s: float) -> PredictionRecord:
        """As :meth:`RemotePredictions.wait`."""
        return await self._transport.converse(waiting(prediction_id, timeout_s, self._transport.timeout_s))

    async def replay(self, prediction_id: str) -> PredictionRecord:
        """As :meth:`RemotePredictions.replay`."""
        return await self._transport.ask(_replay(prediction_id))

    async def replay_failed(self, *, fleet: str | None = None) -> int:
        """As :meth:`RemotePredictions.replay_failed`."""
        return await self._transport.ask(_replay_failed(fleet))

    async def of_request(
        self, request_id: str, *, principal: str | None = None, limit: int = 100
    ) -> list[PredictionRecord]:
        """As :meth:`RemotePredictions.of_request`."""
        return await self._transport.ask(_of_request(request_id, principal, limit))

    async def purge(self, fleet: str, *, before: dt.datetime) -> int:
        """As :meth:`RemotePredictions.purge`."""
        return await self._transport.ask(_purge(fleet, before))


def waiting(prediction_id: str, timeout_s: float, answer_s: float) -> Dialogue[PredictionRecord]:
    """Ask for a prediction until it is settled or the time is over; ``answer_s``: how long one answer may take."""
    until_s = time.monotonic() + timeout_s
    while True:
        left_s = until_s - time.monotonic()
        wait_s = min(left_s, _LONGEST_WAIT_S, answer_s / 2)
        record = yield from asked(_one(prediction_id, wait_s if wait_s >= _SHORTEST_WAIT_S else None))
        if record.is_settled or time.monotonic() >= until_s:
            return record
        yield Pause(seconds=_PAUSE_S)  # a server that ends answers at once


def resulting(prediction_id: str, timeout_s: float, answer_s: float) -> Dialogue[pl.DataFrame]:
    """Wait for a prediction, and give what it answered."""
    record = yield from waiting(prediction_id, timeout_s, answer_s)
    return prediction_frame(record)


def _listed(
    state: PredictionState | None,
    kind: PredictionKind | None,
    fleet: str | None,
    principal: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
) -> Question[list[PredictionRecord]]:
    return get(
        _PATH, records.predictions, door=Door.INFERENCE, state=state, kind=kind, fleet=fleet, principal=principal,
        since=_text(since), until=_text(until), limit=limit,
    )  # fmt: skip


def _text(moment: dt.datetime | None) -> str | None:
    return None if moment is None else in_utc(moment).isoformat()


def _one(prediction_id: str, wait_s: float | None) -> Question[PredictionRecord]:
    return get(f"{_PATH}/{part(prediction_id)}", records.prediction, door=Door.INFERENCE, timeout=wait_s)


def _replay(prediction_id: str) -> Question[PredictionRecord]:
    return send("POST", f"{_PATH}/{part(prediction_id)}/replay", None, records.prediction, door=Door.INFERENCE)


def _replay_failed(fleet: str | None) -> Question[int]:
    read = reading(_Waiting)
    path = f"{_PATH}/replay{asking({'fleet': fleet})}"
    return send("POST", path, None, lambda content: read(content).waiting, door=Door.INFERENCE)


def _of_request(request_id: str, principal: str | None, limit: int) -> Question[list[PredictionRecord]]:
    path = f"/api/v1/requests/{part(request_id)}/predictions"
    return get(path, records.predictions, door=Door.INFERENCE, principal=principal, limit=limit)


def _purge(fleet: str, before: dt.datetime) -> Question[int]:
    read = reading(_Purged)
    path = f"{_PATH}/purge{asking({'fleet': fleet, 'before': _text(before)})}"
    return send("POST", path, None, lambda content: read(content).purged, door=Door.INFERENCE)
