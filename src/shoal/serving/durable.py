"""Results that are committed before they are answered."""

from collections.abc import Sequence

from shoal.errors import Conflict, ShoalError
from shoal.ledger import NewPrediction, PredictionKind, Predictions
from shoal.serving.group_commit import GroupCommit
from shoal.serving.log import REQUEST_BYTES, LoggedRequest
from shoal.serving.messages import InferenceRequest, InferenceResponse, Tensor
from shoal.serving.payloads import encode_request, encode_response


class DurableStore:
    """Commits results to the ledger, those that come at the same time together.

    Parameters
    ----------
    predictions : Predictions
        Where they are kept.
    keep_s : float, optional
        How long, in seconds; for ever unless told.
    most_attempts : int
        How often a sink is tried.
    """

    def __init__(self, predictions: Predictions, *, keep_s: float | None = None, most_attempts: int = 8) -> None:
        self._predictions = predictions
        self._keep_s = keep_s
        self._most_attempts = most_attempts
        self._group: GroupCommit[tuple[LoggedRequest, str | None], str] = GroupCommit(
            self._commit, name="shoal-durable"
        )

    async def commit(self, logged: LoggedRequest, *, sink: str | None = None) -> str:
        """Keep a result; it may be answered when this returns.

        Parameters
        ----------
        logged : LoggedRequest
            What was asked and what was found.
        sink : str, optional
            Where it goes beside the database, as soon as a worker comes to it.

        Returns
        -------
        str
            The prediction's id.

        Raises
        ------
        StorageError
            The database cannot be reached, or the disk is full.
        Overloaded
            Too many results wait to be committed.
        """
        return await self._group.submit((logged, sink), logged.rows.size_bytes + REQUEST_BYTES)

    def close(self, timeout_s: float = 30.0) -> None:
        """Commit what waits, and end."""
        self._group.close(timeout_s)

    def _commit(self, items: Sequence[tuple[LoggedRequest, str | None]]) -> Sequence[str | ShoalError]:
        new = [self._new(logged, sink) for logged, sink in items]
        kept: list[str | Conflict] = self._predictions.accept(new, keep_s=self._keep_s)
        return kept

    def _new(self, logged: LoggedRequest, sink: str | None) -> NewPrediction:
        return NewPrediction(
            kind=PredictionKind.STORED,
            fleet=logged.schema.fleet,
            principal=logged.principal,
            request_id=logged.request_id,
            request=encode_request(_request(logged)),
            answer=encode_response(_response(logged)),
            sink=sink,
            most_attempts=self._most_attempts,
        )


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
        output.tensor([value for batch, start, stop in logged.parts for value in batch.values(output, start, stop)])
        for output in logged.schema.named.values()
    ]
    return InferenceResponse(model_name=logged.model, model_version=str(logged.schema.version), outputs=tuple(outputs))
