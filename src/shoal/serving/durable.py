"""Results that are committed before they are answered."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from shoal.errors import Conflict, ShoalError
from shoal.ledger import NewPrediction, PredictionKind, Predictions
from shoal.serving.group_commit import GroupCommit
from shoal.serving.logged import LoggedRequest
from shoal.serving.messages import InferenceRequest, InferenceResponse, Tensor
from shoal.serving.payloads import encode_request, encode_response
from shoal.serving.scoring import values_of


class DurableStore:
    """Commits results to the ledger, those that come at the same time together.

    Parameters
    ----------
    predictions : Predictions
        Where they are kept.
    most_attempts : int
        How often a sink is tried.
    """

    def __init__(self, predictions: Predictions, *, most_attempts: int = 8) -> None:
        self._predictions = predictions
        self._most_attempts = most_attempts
        self._group: GroupCommit[Durable, str] = GroupCommit(self._commit, name="shoal-durable")

    def commit(
        self, logged: LoggedRequest, *, sink: str | None = None, keep_s: float | None = None
    ) -> "asyncio.Future[str]":
        """Keep a result; it may be answered when what this returns is done.

        The same result of the same request, e.g. one that a caller sent again because it was not answered, is kept
        once.

        Parameters
        ----------
        logged : LoggedRequest
            What was asked and what was found.
        sink : str, optional
            Where it goes beside the database, as soon as a worker comes to it.
        keep_s : float, optional
            How long it is kept, in seconds; for ever unless told.

        Returns
        -------
        Future of str
            The prediction's id; a StorageError where the database cannot be reached, or the disk is full.

        Raises
        ------
        StorageError
            The store was closed.
        Overloaded
            Too many results wait to be committed.
        """
        return self._group.submit(Durable(logged, sink, keep_s), logged.size_bytes)

    def close(self, timeout_s: float = 30.0) -> None:
        """Commit what waits, and end."""
        self._group.close(timeout_s)

    def _commit(self, items: "Sequence[Durable]") -> Sequence[str | ShoalError]:
        new = [self.prediction(item.logged, sink=item.sink, keep_s=item.keep_s) for item in items]
        sunk = any(one.sink is not None for one in new)
        kept: list[str | Conflict] = self._predictions.accept(new) if sunk else self._predictions.store(new)
        return kept

    def prediction(
        self, logged: LoggedRequest, *, sink: str | None = None, keep_s: float | None = None
    ) -> NewPrediction:
        """A result as it is committed, for whoever does that together with something else; as of :meth:`commit`."""
        request, answer = encode_request(_request(logged)), encode_response(_response(logged))
        return NewPrediction(
            kind=PredictionKind.STORED,
            fleet=logged.schema.fleet,
            principal=logged.principal,
            request_id=logged.request_id,
            request=request,
            answer=answer,
            idempotency_key=_identity(logged, request, answer),
            sink=sink,
            keep_s=keep_s,
            most_attempts=self._most_attempts,
        )


class Durable(NamedTuple):
    """A result that is to be committed.

    Attributes
    ----------
    logged : LoggedRequest
        What was asked and found.
    sink : str or None
        Where it goes beside the database.
    keep_s : float or None
        How long it is kept, in seconds.
    """

    logged: LoggedRequest
    sink: str | None
    keep_s: float | None


def _identity(logged: LoggedRequest, request: bytes, answer: bytes) -> str:
    """What makes a result the same as another: its request's id, and all that was asked and answered.

    The content is part of it, for callers may use an id, e.g. of a trace, for several requests; and a request that
    meets another snapshot or other features when it is sent again has another answer, which is kept as well.
    """
    digest = hashlib.sha256(b"%d\n%s%s" % (len(request), request, answer)).hexdigest()
    return f"stored:{digest}:{logged.request_id}"


def _request(logged: LoggedRequest) -> InferenceRequest:
    """The inputs as they were scored, looked up ones among them."""
    inputs = [
        Tensor(name=one.name, datatype=one.datatype, shape=(logged.rows.rows,), data=logged.rows.columns[one.position])  # type: ignore[arg-type]
        for one in logged.schema.inputs.inputs
    ]
    return InferenceRequest(model=logged.model, version=str(logged.schema.version), inputs=tuple(inputs))


def _response(logged: LoggedRequest) -> InferenceResponse:
    """All outputs, whichever the caller wanted."""
    outputs = [
        output.tensor(values_of(logged.parts, output, is_own=logged.is_own)) for output in logged.schema.named.values()
    ]
    return InferenceResponse(model_name=logged.model, model_version=str(logged.schema.version), outputs=tuple(outputs))
