"""One attempt at a claimed prediction: answered, delivered, or what follows from its failure."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from shoal.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArtifact,
    InvalidInput,
    LeaseLost,
    NotFound,
    NotReady,
    Overloaded,
    ShoalError,
    StorageError,
    TooLarge,
)
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import NewPrediction, PredictionClaim, PredictionResult
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.deliveries import Deliveries
from shoal.serving.messages import RequestContext
from shoal.serving.payloads import decode_request, decode_response, encode_response
from shoal.serving.plane import DataPlane
from shoal.serving.sink_kinds import Delivery
from shoal.storage.columns import keepable

_HOPELESS: Final = (InvalidInput, InvalidArtifact, NotFound, TooLarge)
"""Trying again would bring the same."""

_BUSY: Final = (NotReady, Overloaded)
"""This server is not able just now, which is not the request's fault; a neighbour that is away counts."""

_LONGEST_ERROR: Final = 1000

_log = logging.getLogger("shoal.serving")


class Attempts:
    """Answers predictions.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    deliveries : Deliveries
        What brings answers to sinks.
    options : DeferredOptions
        When to try again.
    """

    def __init__(self, plane: DataPlane, deliveries: Deliveries, options: DeferredOptions) -> None:
        self._plane = plane
        self._deliveries = deliveries
        self._options = options

    async def result(self, claim: PredictionClaim) -> PredictionResult:
        """What becomes of a prediction by this attempt.

        Raises
        ------
        LeaseLost
            It is somebody else's by now; there is nothing to settle.
        """
        deadline_s = None if claim.left_s is None else time.monotonic() + claim.left_s
        try:
            delivery = await self._delivery(claim, deadline_s)
            answer = encode_response(delivery.response) if claim.answer is None else None
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the prediction's fate
            return self._failure(claim, error, deadline_s)
        # What its sink did not take is kept as well: from now on it is only delivered.
        delivered = await self._delivered(delivery, deadline_s)
        return msgspec.structs.replace(delivered, answer=answer, durable=delivery.durable)

    async def _delivered(self, delivery: Delivery, deadline_s: float | None) -> PredictionResult:
        claim = delivery.claim
        try:
            if claim.sink is not None:
                await self._deliveries.deliver(delivery)
        except LeaseLost:
            raise
        except asyncio.CancelledError:  # the sink may get it all the same, so it must not get another
            return given_back(claim)
        except Exception as error:  # noqa: BLE001
            return self._failure(claim, error, deadline_s)
        return PredictionResult(claim=claim, state=PredictionState.DONE)

    async def _delivery(self, claim: PredictionClaim, deadline_s: float | None) -> Delivery:
        """What is to be delivered: the answer that is there already, or a new one."""
        delivery = await self._made(claim, deadline_s)
        if _is_over(deadline_s):
            raise DeadlineExceeded("its deadline passed while it was worked on")
        return delivery

    async def _made(self, claim: PredictionClaim, deadline_s: float | None) -> Delivery:
        if claim.answer is not None:
            return Delivery(claim=claim, response=decode_response(claim.answer))
        # A durable result is committed with what becomes of the claim: before, it could be one that never counts.
        durable: list[NewPrediction] = []
        context = RequestContext(
            request_id=claim.request_id, principal=claim.principal, deadline_s=deadline_s, keep=durable.append
        )
        response = await self._plane.infer(decode_request(claim.request), context)
        return Delivery(claim=claim, response=response, durable=_beside(claim, durable))

    def _failure(self, claim: PredictionClaim, error: Exception, deadline_s: float | None) -> PredictionResult:
        text = self._said(claim, error)
        # Its fleet's own limit is over sooner, and says nothing of how long the prediction is wanted.
        if isinstance(error, DeadlineExceeded) and _is_over(deadline_s):
            return PredictionResult(claim=claim, state=PredictionState.EXPIRED, error=text)
        if isinstance(error, _HOPELESS) and not self._is_elsewhere(claim, error):
            return PredictionResult(claim=claim, state=PredictionState.FAILED, error=text)
        counts = not (isinstance(error, _BUSY) or self._is_elsewhere(claim, error))
        delay_s = self._delay_s(claim, error) * random.uniform(0.8, 1.2)  # noqa: S311
        return PredictionResult(claim=claim, state=PredictionState.WAITING, error=text, delay_s=delay_s, counts=counts)

    def _is_elsewhere(self, claim: PredictionClaim, error: Exception) -> bool:
        """Whether it failed only because its fleet is not for this server any more; others may serve it."""
        return isinstance(error, NotFound) and not self._plane.serves(claim.fleet)

    def _delay_s(self, claim: PredictionClaim, error: Exception) -> float:
        """How long to wait before the next attempt, in seconds."""
        options = self._options
        if isinstance(error, _BUSY):
            return max(error.retry_after_s or 0.0, options.backoff_s)
        return min(options.longest_backoff_s, options.backoff_s * 2.0 ** min(claim.attempt - 1, 30))

    def _said(self, claim: PredictionClaim, error: Exception) -> str:
        """What callers may know; all that there is to say goes to the log."""
        if isinstance(error, ShoalError) and _is_fit(error):
            text = error.message
            if error.detail:
                _log.warning("prediction %s of request %s failed: %s", claim.id, claim.request_id, error)
                text = f"{text}; the server's log says more: {claim.request_id}"
        else:
            _log.error("prediction %s of request %s failed", claim.id, claim.request_id, exc_info=error)
            text = f"something went wrong here, not with the request; the server's log says what: {claim.request_id}"
        return " ".join(keepable(text).split())[:_LONGEST_ERROR]


def given_back(claim: PredictionClaim) -> PredictionResult:
    """What becomes of a prediction that a server cannot finish because it ends."""
    error = "the server ended before it was done"
    return PredictionResult(claim=claim, state=PredictionState.WAITING, error=error, counts=False)


def _is_over(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.monotonic() >= deadline_s


def _is_fit(error: ShoalError) -> bool:
    """Whether callers may read an error's message: it tells of no files and no database of ours."""
    return isinstance(error, ConnectionFailed) or not isinstance(error, InvalidArtifact | StorageError)


def _beside(claim: PredictionClaim, durable: Sequence[NewPrediction]) -> NewPrediction | None:
    """The durable result that is kept beside a claim, once for each; a sink that both name gets the claim's only."""
    for one in durable:
        # No caller can say a key with such a dot, so nobody can take it before.
        key = f"stored\N{MIDDLE DOT}{claim.id}"
        return msgspec.structs.replace(one, idempotency_key=key, sink=None if one.sink == claim.sink else one.sink)
    return None
