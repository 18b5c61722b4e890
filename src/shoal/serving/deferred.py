"""Predictions that nobody waits for: accepted, kept, made in batches by whoever is free, and asked for later."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import TypeVar

from shoal.errors import NotFound, Overloaded, TooLarge
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import Backlog, NewPrediction, PredictionKind, PredictionRecord
from shoal.ledger.predictions import Predictions
from shoal.serving.addresses import split
from shoal.serving.claim_loop import ClaimLoop
from shoal.serving.deferred_options import DeferredCounts, DeferredOptions
from shoal.serving.messages import InferenceRequest, RequestContext
from shoal.serving.payloads import encode_request
from shoal.serving.plane import DataPlane
from shoal.serving.sinks import Sinks
from shoal.serving.waiters import Waiters

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What a caller says beside the request.

    Attributes
    ----------
    ordering_key : str or None
        Predictions of a fleet with the same key are made one after the other, in the order they were accepted.
    idempotency_key : str or None
        A request that comes again with the same key is the same prediction.
    sink : str or None
        Name of the sink that the result goes to.
    deadline_s : float or None
        After so many seconds the prediction is discarded.
    """

    ordering_key: str | None = None
    idempotency_key: str | None = None
    sink: str | None = None
    deadline_s: float | None = None


class DeferredPredictions:
    """Accepts predictions, works on them, and tells what became of them. Belongs to one event loop.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    predictions : Predictions
        Where they are kept.
    sinks : Sinks
        Where results may go.
    options : DeferredOptions, optional
        How.
    """

    def __init__(
        self, plane: DataPlane, predictions: Predictions, sinks: Sinks, options: DeferredOptions | None = None
    ) -> None:
        self._plane = plane
        self._predictions = predictions
        self._sinks = sinks
        self.options = options or DeferredOptions()
        self._waiters = Waiters(self.options.waiters)
        self._loop = ClaimLoop(plane, predictions, sinks, self._waiters, self.options)

    @property
    def counts(self) -> DeferredCounts:
        """What this process has done."""
        return self._loop.counts

    @property
    def backlog(self) -> Backlog:
        """What waits or is being worked on, wherever, as of a second ago."""
        return self._loop.backlog

    def start(self) -> None:
        """Begin to work."""
        self._loop.start()

    def close_doors(self) -> None:
        """Answer all who wait with what is known now, and take on no more work; accepting goes on."""
        self._waiters.close()
        self._loop.stop_claiming()

    async def drain(self, timeout_s: float) -> None:
        """Finish what is being worked on, give the rest back, and stop.

        Parameters
        ----------
        timeout_s : float
            How long to wait, in seconds.
        """
        self.close_doors()
        await self._loop.drain(timeout_s)
        await self._sinks.close()

    async def accept(self, request: InferenceRequest, context: RequestContext, wishes: Wishes) -> str:
        """Keep a request; when this returns it survives a power cut.

        Returns
        -------
        str
            The prediction's id.

        Raises
        ------
        NotFound
            There is no such fleet here, or no such sink.
        TooLarge
            The request is too large.
        Overloaded
            Too many predictions wait.
        Conflict
            The idempotency key was used for another request.
        Unavailable, StorageError
            The database cannot be reached.
        """
        self._plane.require_registry()
        fleet = split(request.model)[0]
        if not self._plane.serves(fleet):
            raise NotFound(f"fleet {fleet[:100]!r} is not served here; `shoal fleets list` says which there are")
        if wishes.sink is not None:
            await self._sinks.open(wishes.sink)
        packed = encode_request(request)
        self._require_room(len(packed))
        return await self._loop.accept(
            NewPrediction(
                kind=PredictionKind.DEFERRED,
                fleet=fleet,
                principal=context.principal,
                request_id=context.request_id,
                request=packed,
                ordering_key=wishes.ordering_key,
                idempotency_key=wishes.idempotency_key,
                sink=wishes.sink,
                deadline_s=wishes.deadline_s,
                most_attempts=self.options.attempts,
            )
        )

    def _require_room(self, size_bytes: int) -> None:
        options, backlog = self.options, self._loop.backlog
        if size_bytes > options.request_bytes:
            raise TooLarge(
                f"a request that nobody waits for may have {options.request_bytes} bytes at most, this one has "
                f"{size_bytes}; split it, or score files with `shoal score`"
            )
        if backlog.requests >= options.backlog or backlog.size_bytes + size_bytes > options.backlog_bytes:
            raise Overloaded(f"{backlog.requests} predictions are waiting already; try again later", retry_after_s=5.0)

    async def get(self, prediction_id: str) -> PredictionRecord:
        """A prediction as it stands.

        Raises
        ------
        NotFound
            There is none of this id.
        """
        return await self._thread(self._predictions.one, prediction_id)

    async def wait(self, prediction_id: str, timeout_s: float) -> None:
        """Return when a prediction is settled, by whatever process, or the time is over.

        Raises
        ------
        Overloaded
            Too many wait.
        """
        await self._waiters.wait(prediction_id, timeout_s)

    async def listed(
        self, *, state: PredictionState | None, fleet: str | None, principal: str | None, limit: int
    ) -> list[PredictionRecord]:
        """The newest predictions, newest first, without what was asked and answered."""
        return await self._thread(
            lambda: self._predictions.listed(state=state, fleet=fleet, principal=principal, limit=limit)
        )

    async def replay(self, prediction_id: str) -> PredictionRecord:
        """Let a prediction that failed or expired wait again.

        Raises
        ------
        NotFound
            There is none of this id.
        Conflict
            It neither failed nor expired.
        """
        again = await self._thread(lambda: self._predictions.replay(prediction_id, more_attempts=self.options.attempts))
        self._loop.look()
        return again

    async def _thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        self._plane.require_registry()
        return await asyncio.to_thread(work, *arguments)
