"""Rows as the tensors of a request, and the tensors of a response as rows: what those need who have frames."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
import polars as pl

from shoal.errors import InvalidInput, StorageError
from shoal.scoring.columns import require_feature, to_numbers, to_texts
from shoal.scoring.outcomes import OUTCOME_WORDS
from shoal.serving.messages import Datatype, Tensor, TensorMetadata
from shoal.table.keys import coerce
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType

ON_REQUEST: Final = ("outcome", "reason", "model_level", "snapshot")
"""Outputs that a prediction has where the caller says so."""

DTYPES: Final = {
    Datatype.FP64: pl.Float64(), Datatype.INT64: pl.Int64(), Datatype.BOOL: pl.Boolean(), Datatype.BYTES: pl.String(),
}  # fmt: skip
"""The columns that outputs become."""


Elements: TypeAlias = list[str | float | int | bool | None]


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
    data: Elements


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


def request_tensors(
    frame: pl.DataFrame, inputs: Sequence[TensorMetadata], keys: Sequence[str], types: Mapping[str, KeyType]
) -> tuple[Tensor, ...]:
    """Rows as inputs, converted as a fleet converts what it scores.

    Features may be left out: where they are looked up by key, that is as it should be. A column with something in it
    that cannot be converted goes as texts, so that only those rows are invalid.

    Parameters
    ----------
    frame : polars.DataFrame
        The rows; columns that are no inputs are ignored.
    inputs : sequence of TensorMetadata
        What the fleet or model takes.
    keys : sequence of str
        The key columns among them.
    types : mapping of str to KeyType
        Types of the key columns, and of columns that features are looked up by; other inputs are features.

    Raises
    ------
    InvalidInput
        A key column is missing, or a column is of a type that no key or feature can come from.
    """
    missing = [name for name in keys if name not in frame.columns]
    if missing:
        raise InvalidInput(f"the rows lack the key column(s) {missing}; they have {frame.columns}")
    return tuple(
        [_tensor(one, frame[one.name], types.get(one.name)) for one in inputs if one.name in frame.columns]
    )  # fmt: skip


def answer_frame(answered: Answered, levels: Sequence[str] = ()) -> pl.DataFrame:
    """The outputs of an answer as columns; several elements per row become an array.

    Parameters
    ----------
    answered : Answered
        The answer.
    levels : sequence of str
        Names of the fleet's levels, finest first; where they are not known, ``model_level`` is a column of texts.

    Raises
    ------
    StorageError
        They are not of the types that the protocol promises.
    """
    try:
        return pl.DataFrame([_column(output, _dtype(output, levels)) for output in answered.outputs])
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the server's answer cannot be read ({error}); is it a Shoal server?") from error


def wanted_outputs(
    usual: Sequence[str], *, outcome: bool, model_level: bool, snapshot: bool, reason: bool = False
) -> tuple[str, ...]:
    """Names of the outputs that a prediction is asked for: the answer's, and those that the caller names.

    Parameters
    ----------
    usual : sequence of str
        All that there are, or those of the answer.
    outcome, model_level, snapshot, reason : bool
        Whether the one of that name is wanted.
    """
    wanted = {"outcome": outcome, "reason": reason, "model_level": model_level, "snapshot": snapshot}
    answer = [name for name in usual if name not in ON_REQUEST]
    return (*answer, *[name for name in ON_REQUEST if wanted[name]])


def _tensor(one: TensorMetadata, column: pl.Series, key: KeyType | None) -> Tensor:
    if key is None:
        datatype, data = _feature(one, column)
    else:
        datatype, data = _key(one, column, KeyColumn(name=one.name, type=key))
    return Tensor(name=one.name, datatype=datatype, shape=(len(data),), data=data)


def _key(one: TensorMetadata, column: pl.Series, key: KeyColumn) -> tuple[Datatype, Elements]:
    values, wrong = coerce(column, key)
    if wrong is None:
        return one.datatype, (values.cast(pl.String) if key.type is KeyType.DATE else values).to_list()
    given = pl.select(pl.when(pl.Series(wrong)).then(column.cast(pl.String)).otherwise(values.cast(pl.String)))
    return Datatype.BYTES, given.to_series().to_list()


def _feature(one: TensorMetadata, column: pl.Series) -> tuple[Datatype, Elements]:
    is_text = one.datatype is Datatype.BYTES
    kind = FeatureKind.CATEGORY if is_text else FeatureKind.NUMERIC
    require_feature(Feature(name=one.name, kind=kind), column.dtype)
    if is_text:
        return one.datatype, to_texts(column).to_list()
    numbers, wrong = to_numbers(column)
    if wrong is not None:
        return Datatype.BYTES, to_texts(column).to_list()
    values: Elements = numbers.tolist()
    if np.isinf(numbers).any():  # which JSON cannot write
        return Datatype.BYTES, [None if value != value else repr(value) for value in values]
    return one.datatype, [None if value != value else value for value in values]


def _dtype(output: Output, levels: Sequence[str]) -> pl.DataType:
    """The type that :meth:`Fleet.predict` gives the column."""
    if output.name == OUTCOME_WORDS.name:
        return OUTCOME_WORDS.dtype
    if output.name == "model_level" and levels:
        return pl.Enum(levels)
    return DTYPES[output.datatype]


def _column(output: Output, dtype: pl.DataType) -> pl.Series:
    values = pl.Series(output.name, output.data, dtype=dtype)
    if len(output.shape) < 2:
        return values
    width = output.shape[1]
    rows = values.reshape((-1, width))
    known = values.is_not_null().reshape((-1, width)).arr.any()
    return pl.select(pl.when(known).then(rows)).to_series().alias(output.name)
