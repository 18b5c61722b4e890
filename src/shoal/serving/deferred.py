"""Predictions that nobody waits for: accepted, kept, made in batches by whoever is free, and asked for later."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from shoal.errors import InvalidInput, NotFound, TooLarge, Unloaded
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import Acceptance, Backlog, NewPrediction, PredictionKind, PredictionRecord
from shoal.ledger.predictions import Predictions
from shoal.registry.names import check_printable
from shoal.serving.addresses import split
from shoal.serving.claim_loop import ClaimLoop
from shoal.serving.contact import NOTHING_DONE
from shoal.serving.deferred_options import DeferredCounts, DeferredOptions
from shoal.serving.messages import InferenceRequest, RequestContext
from shoal.serving.payloads import encode_request
from shoal.serving.plane import DataPlane
from shoal.serving.sinks import Sinks
from shoal.serving.waiters import Waiters

Result = TypeVar("Result")

LONGEST_DEADLINE_S: Final = 30 * 86_400.0
"""Longest time that a prediction may be wanted, in seconds."""

_THREADS: Final = 4
_PERHAPS_REPLAYED: Final = "and nobody knows whether anything waits again; look before you ask once more"


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

    def require_usable(self) -> None:
        """Raise where something in it cannot be used.

        Raises
        ------
        InvalidInput
            A text is no name or key, or the deadline is no time.
        """
        texts = {"ordering key": self.ordering_key, "idempotency key": self.idempotency_key, "sink": self.sink}
        for what, text in texts.items():
            if text is not None:
                check_printable(text, what=what)
        if self.deadline_s is not None and not 0 < self.deadline_s <= LONGEST_DEADLINE_S:
            raise InvalidInput(f"the timeout has to be a number of seconds above 0, at most {LONGEST_DEADLINE_S:.0f}")


def new_prediction(
    request: InferenceRequest, wishes: Wishes, *, principal: str, request_id: str, attempts: int
) -> NewPrediction:
    """What is kept of a request that nobody waits for.

    Parameters
    ----------
    request : InferenceRequest
        What is asked.
    wishes : Wishes
        How it is to be handled.
    principal, request_id : str
        Who asks, and the request's id in logs.
    attempts : int
        How often it may fail.
    """
    return NewPrediction(
        kind=PredictionKind.DEFERRED,
        fleet=split(request.model)[0],
        principal=principal,
        request_id=request_id,
        request=encode_request(request),
        ordering_key=wishes.ordering_key,
        idempotency_key=wishes.idempotency_key,
        sink=wishes.sink,
        deadline_s=wishes.deadline_s,
        most_attempts=attempts,
    )


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
        self._asking = ThreadPoolExecutor(_THREADS, thread_name_prefix="shoal-predictions-ask")
        self._loop = ClaimLoop(plane, predictions, sinks, self._waiters, self.options)

    @property
    def counts(self) -> DeferredCounts:
        """What this process has done."""
        return self._loop.counts

    @property
    def backlog(self) -> Backlog:
        """What waits or is being worked on, wherever, as of a second ago."""
        return self._loop.backlog

    def oldest_s(self) -> float:
        """How long the first of those that wait, wherever, has waited, in seconds; 0 where none waits."""
        return self._loop.oldest_s()

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
        self._asking.shutdown(wait=False, cancel_futures=True)
        await self._sinks.close()

    async def accept(self, request: InferenceRequest, context: RequestContext, wishes: Wishes) -> Acceptance:
        """Keep a request; when this returns it survives a power cut.

        Returns
        -------
        Acceptance
            The prediction's id, and where it stands: a request that was sent before may be done by now.

        Raises
        ------
        InvalidInput
            The inputs do not fit, there is no such output, or the sink's secrets are not known here.
        NotFound
            There is no such fleet here, no such model or version of it, or no such sink.
        NotReady
            It is not known yet which fleets are here.
        Unloaded
            The fleet was unloaded.
        TooLarge
            The request is too large, or has too many rows.
        Overloaded
            Too many predictions wait.
        Conflict
            The idempotency key was used for another request.
        Unavailable, StorageError
            The database cannot be reached. Where it went away while the request was being kept, nobody knows whether it
            is; the idempotency key makes sending it again harmless.
        """
        self._plane.contact.require()
        fleet = split(request.model)[0]
        self._plane.require(fleet)
        try:
            await self._plane.check(request)
            if wishes.sink is not None:
                await self._plane.contact.during(self._sinks.open(wishes.sink))
        except (InvalidInput, NotFound, TooLarge, Unloaded):
            known = await self._known(request, context, wishes)
            if known is None:
                raise
            return known
        new = self._new(request, context, wishes)
        self.options.require_room(len(new.request), self.backlog)
        return await self._loop.accept(new)

    async def _known(self, request: InferenceRequest, context: RequestContext, wishes: Wishes) -> Acceptance | None:
        """What a request became that was accepted before; it may have fitted then."""
        if wishes.idempotency_key is None:
            return None
        return await self._thread(self._predictions.known, self._new(request, context, wishes))

    def _new(self, request: InferenceRequest, context: RequestContext, wishes: Wishes) -> NewPrediction:
        principal, request_id = context.principal, context.request_id
        return new_prediction(
            request, wishes, principal=principal, request_id=request_id, attempts=self.options.attempts
        )

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
        self,
        *,
        state: PredictionState | None = None,
        kind: PredictionKind | None = None,
        fleet: str | None = None,
        principal: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int,
    ) -> list[PredictionRecord]:
        """The newest predictions, newest first, without what was asked and answered; see :meth:`Predictions.listed`."""
        return await self._thread(
            lambda: self._predictions.listed(
                state=state, kind=kind, fleet=fleet, principal=principal, since=since, until=until, limit=limit
            )
        )

    async def of_request(self, request_id: str, *, principal: str | None, limit: int) -> list[PredictionRecord]:
        """The durable results of a request, newest first; see :meth:`Predictions.of_request`."""
        return await self._thread(
            lambda: self._predictions.of_request(request_id, principal=principal, limit=limit)
        )  # fmt: skip

    async def purge(self, fleet: str, *, before: dt.datetime) -> int:
        """Forget older durable results of a fleet; how many there were. See :meth:`Predictions.purge`."""
        return await self._thread(lambda: self._predictions.purge(fleet, before=before))

    async def replay(self, prediction_id: str) -> PredictionRecord:
        """Let a prediction that failed or expired wait again.

        Raises
        ------
        NotFound
            There is none of this id.
        Conflict
            It neither failed nor expired.
        """
        attempts = self.options.attempts
        again = await self._thread(
            lambda: self._predictions.replay(prediction_id, more_attempts=attempts), what_now=_PERHAPS_REPLAYED
        )
        self._loop.look()
        return again

    async def replay_failed(self, *, fleet: str | None) -> int:
        """Let all that failed, or those of one fleet, wait again; how many there were."""
        attempts = self.options.attempts
        count = await self._thread(
            lambda: self._predictions.replay_failed(fleet=fleet, more_attempts=attempts), what_now=_PERHAPS_REPLAYED
        )
        self._loop.look()
        return count

    async def _thread(self, work: Callable[..., Result], *arguments: object, what_now: str = NOTHING_DONE) -> Result:
        """Ask the database in a thread of our own: what hangs there must not take up those of others."""
        self._plane.contact.require()
        asked = asyncio.get_running_loop().run_in_executor(self._asking, work, *arguments)
        return await self._plane.contact.during(asked, what_now)
