"""Rows as the tensors of a request, and the tensors of a response as rows: what those need who have frames."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.errors import InvalidInput, StorageError
from shoal.serving.messages import Datatype, Tensor, TensorMetadata

ON_REQUEST: Final = ("outcome", "model_level", "snapshot")
"""Outputs that a prediction has where the caller says so."""

_DTYPES: Final = {
    Datatype.FP64: pl.Float64(), Datatype.INT64: pl.Int64(), Datatype.BOOL: pl.Boolean(), Datatype.BYTES: pl.String(),
}  # fmt: skip


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """An output as JSON has it.

    Attributes
    ----------
    name, datatype : str, Datatype
        Its name and the type of its elements.
    shape : tuple of int
        The first dimension counts rows.
    data : list
        The elements, flat; None where there is none.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: list[str | float | int | bool | None]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one request as JSON has it.

    Attributes
    ----------
    model_name, model_version : str
        Who was asked, and the snapshot that answered.
    id : str or None
        The request's.
    outputs : list of Output
        Its tensors.
    """

    model_name: str = ""
    model_version: str
    id: str | None = None
    outputs: list[Output]


def request_tensors(frame: pl.DataFrame, inputs: Sequence[TensorMetadata], keys: Sequence[str]) -> tuple[Tensor, ...]:
    """Rows as inputs. Features may be left out: where they are looked up by key, that is as it should be.

    Parameters
    ----------
    frame : polars.DataFrame
        The rows; columns that are no inputs are ignored.
    inputs : sequence of TensorMetadata
        What the fleet or model takes.
    keys : sequence of str
        The key columns among them.

    Raises
    ------
    InvalidInput
        A key column is missing.
    """
    missing = [name for name in keys if name not in frame.columns]
    if missing:
        raise InvalidInput(f"the rows lack the key column(s) {missing}; they have {frame.columns}")
    return tuple([_tensor(one, frame[one.name]) for one in inputs if one.name in frame.columns])


def answer_frame(answered: Answered) -> pl.DataFrame:
    """The outputs of an answer as columns; several elements per row become an array.

    Raises
    ------
    StorageError
        They are not of the types that the protocol promises.
    """
    try:
        return pl.DataFrame([_column(output) for output in answered.outputs])
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the server's answer cannot be read ({error}); is it a Shoal server?") from error


def wanted_outputs(usual: Sequence[str], *, outcome: bool, model_level: bool, snapshot: bool) -> tuple[str, ...]:
    """Names of the outputs that a prediction is asked for: the answer's, and those that the caller names.

    Parameters
    ----------
    usual : sequence of str
        All that there are, or those of the answer.
    outcome, model_level, snapshot : bool
        Whether the one of that name is wanted.
    """
    wanted = {"outcome": outcome, "model_level": model_level, "snapshot": snapshot}
    answer = [name for name in usual if name not in (*ON_REQUEST, "reason")]
    return (*answer, *[name for name in ON_REQUEST if wanted[name]])


def _tensor(one: TensorMetadata, column: pl.Series) -> Tensor:
    data = column.to_list()
    if one.datatype is Datatype.BYTES:
        data = [value.isoformat() if isinstance(value, dt.date) else value for value in data]
    elif column.dtype == pl.Boolean and one.datatype is Datatype.FP64:
        data = [None if value is None else float(value) for value in data]
    return Tensor(name=one.name, datatype=one.datatype, shape=(len(data),), data=data)


def _column(output: Output) -> pl.Series:
    values = pl.Series(output.name, output.data, dtype=_DTYPES[output.datatype])
    if len(output.shape) < 2:
        return values
    width = output.shape[1]
    rows = values.reshape((-1, width))
    known = values.is_not_null().reshape((-1, width)).arr.any()
    return pl.select(pl.when(known).then(rows)).to_series().alias(output.name)
