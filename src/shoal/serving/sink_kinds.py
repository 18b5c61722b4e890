"""The kinds of sinks that are places: a table, a folder of Parquet files."""

import asyncio
import datetime as dt
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
import polars as pl

from shoal.errors import ConnectionFailed, LeaseLost, StorageError
from shoal.ledger.prediction_records import NewPrediction, PredictionClaim
from shoal.serving.documents import response_json
from shoal.serving.messages import InferenceResponse, Tensor
from shoal.storage.sink_parquet import SinkFolder
from shoal.storage.sink_sql import SinkRow, SinkTable

_OWN: Final = ("prediction_id", "row", "version", "request_id", "accepted_at")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A result on its way to a sink.

    Attributes
    ----------
    claim : PredictionClaim
        The prediction.
    response : InferenceResponse
        What was answered.
    durable : NewPrediction or None
        What the fleet wants kept of it, where that is not committed yet.
    """

    claim: PredictionClaim
    response: InferenceResponse
    durable: NewPrediction | None = None


class Sink(Protocol):
    """Where results go. Belongs to one event loop."""

    def next_name(self) -> str | None:
        """A name for the next delivery, to be written down before it; None where delivering twice is harmless."""
        ...

    async def has_delivered(self, delivery: Delivery, name: str) -> bool:
        """Whether an earlier delivery of this name, by whomever, was made; if not, it never will be.

        Raises
        ------
        StorageError
            The sink cannot be reached.
        """
        ...

    async def deliver(self, deliveries: Sequence[Delivery], name: str) -> "list[Exception | None]":
        """Deliver results; what became of each.

        Raises
        ------
        StorageError
            The sink cannot be reached; none was delivered.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class TableSink:
    """A table: each result is a row, and a row is written once, for its key is the prediction's id.

    Parameters
    ----------
    url, table : str
        As in :class:`~shoal.storage.sink_sql.SinkTable`.
    """

    def __init__(self, url: str, table: str) -> None:
        self._table = SinkTable(url, table)

    def next_name(self) -> None:
        """None is needed."""
        return

    async def has_delivered(self, delivery: Delivery, name: str) -> bool:  # noqa: D102 - as the protocol says
        return False

    async def deliver(self, deliveries: Sequence[Delivery], name: str) -> list[Exception | None]:  # noqa: D102
        await asyncio.to_thread(self._table.write, [_row(one) for one in deliveries])
        return [None] * len(deliveries)

    async def close(self) -> None:  # noqa: D102
        await asyncio.to_thread(self._table.close)


class FolderSink:
    """Parquet files, in a folder for each fleet; a row for each row of an answer.

    Parameters
    ----------
    folder : SinkFolder
        Where.
    """

    def __init__(self, folder: SinkFolder) -> None:
        self._folder = folder

    def next_name(self) -> str:
        """Sorts by time."""
        return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"

    async def has_delivered(self, delivery: Delivery, name: str) -> bool:  # noqa: D102
        like = _frame([delivery])
        try:
            return await asyncio.to_thread(self._folder.was_published, delivery.claim.fleet, name, like)
        except StorageError as error:
            raise _unwritable(error) from error

    async def deliver(self, deliveries: Sequence[Delivery], name: str) -> list[Exception | None]:  # noqa: D102
        by_fleet: defaultdict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(deliveries):
            by_fleet[one.claim.fleet].append(place)
        outcomes: list[Exception | None] = [None] * len(deliveries)
        for fleet, places in by_fleet.items():
            try:
                await asyncio.to_thread(self._publish, fleet, name, [deliveries[place] for place in places])
            except (StorageError, LeaseLost) as error:
                for place in places:
                    outcomes[place] = _unwritable(error) if isinstance(error, StorageError) else error
        return outcomes

    def _publish(self, fleet: str, name: str, deliveries: Sequence[Delivery]) -> None:
        self._folder.publish(fleet, name, _frame(deliveries))

    async def close(self) -> None:
        """There is nothing to let go of."""


def _unwritable(error: StorageError) -> ConnectionFailed:
    return ConnectionFailed("the sink's folder cannot be written", detail=str(error))


def _row(delivery: Delivery) -> SinkRow:
    claim, response = delivery.claim, delivery.response
    return SinkRow(
        prediction_id=claim.id,
        fleet=claim.fleet,
        model=response.model_name,
        version=response.model_version,
        request_id=claim.request_id,
        principal=claim.principal,
        accepted_at=claim.accepted_at,
        response=response_json(response).decode(),
    )


def _frame(deliveries: Sequence[Delivery]) -> pl.DataFrame:
    """A row for each row of each answer; outputs that not all of the answers have are null there."""
    return pl.concat([_rows(one) for one in deliveries], how="diagonal_relaxed")


def _rows(delivery: Delivery) -> pl.DataFrame:
    claim, response = delivery.claim, delivery.response
    outputs = {tensor.name: _column(tensor) for tensor in response.outputs if tensor.name not in _OWN}
    count = response.outputs[0].shape[0] if response.outputs else 0
    return pl.DataFrame(
        {
            "prediction_id": pl.Series([claim.id] * count, dtype=pl.String),
            "row": pl.Series(range(count), dtype=pl.Int64),
            "model": pl.Series([response.model_name] * count, dtype=pl.String),
            "version": pl.Series([int(response.model_version)] * count, dtype=pl.Int64),
            "request_id": pl.Series([claim.request_id] * count, dtype=pl.String),
            "accepted_at": pl.Series([claim.accepted_at] * count, dtype=pl.Datetime("us", "UTC")),
            **outputs,
        }
    )


def _column(tensor: Tensor) -> pl.Series:
    """A tensor as a column; several elements per row are a list."""
    data = tensor.data.tolist() if isinstance(tensor.data, np.ndarray) else list(tensor.data)
    values = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in data]
    if len(tensor.shape) > 1:
        width = tensor.shape[1]
        rows = [values[start : start + width] for start in range(0, len(values), width)]
        return pl.Series(tensor.name, rows, dtype=pl.List(_DTYPES[tensor.datatype.value]))
    return pl.Series(tensor.name, values, dtype=_DTYPES[tensor.datatype.value])


_DTYPES: Final[Mapping[str, type[pl.DataType]]] = {
    "BOOL": pl.Boolean, "BYTES": pl.String, "FP64": pl.Float64, "FP32": pl.Float32, "FP16": pl.Float32,
    "INT64": pl.Int64, "INT32": pl.Int32, "INT16": pl.Int16, "INT8": pl.Int8,
    "UINT64": pl.UInt64, "UINT32": pl.UInt32, "UINT16": pl.UInt16, "UINT8": pl.UInt8,
}  # fmt: skip
