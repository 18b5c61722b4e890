"""Rows as the open inference protocol takes them, and answers as frames."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.errors import InvalidInput, StorageError
from shoal.types import Json

ROWS_PER_REQUEST: Final = 10_000
"""More rows are asked about in several requests, all of one snapshot."""

_DTYPES: Final = {"FP64": pl.Float64, "INT64": pl.Int64, "BOOL": pl.Boolean, "BYTES": pl.String}


class TensorShape(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output as the server describes it.

    Attributes
    ----------
    name, datatype : str
        Its name and the type of its elements.
    shape : list of int
        -1 for the rows; a second dimension where there are several elements per row.
    """

    name: str
    datatype: str
    shape: list[int]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet or a single model as the server describes it.

    Attributes
    ----------
    name : str
        Its address.
    versions : list of str
        The snapshot that is served.
    inputs, outputs : list of TensorShape
        What it takes and gives.
    properties : dict
        ``task``; of a fleet ``keys``: so many inputs, from the first on, are key columns; ``labels``.
    """

    name: str
    versions: list[str]
    inputs: list[TensorShape]
    outputs: list[TensorShape]
    properties: dict[str, str | int | float | bool] = {}

    @property
    def keys(self) -> list[str]:
        """Names of the key columns."""
        return [one.name for one in self.inputs[: int(self.properties.get("keys", 0))]]

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [one.name for one in self.inputs[int(self.properties.get("keys", 0)) :]]


class _Output(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: list[int]
    data: list[str | float | int | bool | None]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one request.

    Attributes
    ----------
    model_version : str
        The snapshot that answered.
    outputs : list
        Its tensors.
    """

    model_version: str
    outputs: list[_Output]


def request_body(frame: pl.DataFrame, described: Described, outputs: Sequence[str]) -> bytes:
    """Rows as a request. Features may be left out: a server that looks them up by key does without.

    Raises
    ------
    InvalidInput
        A key column is missing.
    """
    missing = [name for name in described.keys if name not in frame.columns]
    if missing:
        raise InvalidInput(f"the rows lack the key column(s) {missing}; they have {frame.columns}")
    given = [one for one in described.inputs if one.name in frame.columns]
    inputs: list[Json] = [_input(one, frame[one.name]) for one in given]
    return msgspec.json.encode({"inputs": inputs, "outputs": [{"name": name} for name in outputs]})


def answer_frame(answered: Answered) -> pl.DataFrame:
    """The outputs of an answer as columns.

    Raises
    ------
    StorageError
        They are not of the types that the protocol promises.
    """
    try:
        return pl.DataFrame([_column(output) for output in answered.outputs])
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the server's answer cannot be read ({error}); is it a Shoal server?") from error


def _input(one: TensorShape, column: pl.Series) -> dict[str, Json]:
    data = column.to_list()
    if one.datatype == "BYTES":
        data = [_text(value) for value in data]
    elif column.dtype == pl.Boolean and one.datatype == "FP64":
        data = [None if value is None else float(value) for value in data]
    return {"name": one.name, "datatype": one.datatype, "shape": [len(data)], "data": data}


def _text(value: object) -> Json:
    return value.isoformat() if isinstance(value, dt.date) else value  # type: ignore[return-value]


def _column(output: _Output) -> pl.Series:
    values = pl.Series(output.name, output.data, dtype=_DTYPES[output.datatype])
    if len(output.shape) < 2:
        return values
    width = output.shape[1]
    rows = values.reshape((-1, width))
    known = values.is_not_null().reshape((-1, width)).arr.any()
    return pl.select(pl.when(known).then(rows)).to_series().alias(output.name)
