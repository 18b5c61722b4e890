"""Listings of models as JSON that loses no type on its way: rows, and what kind each column is of."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.errors import StorageError

KINDS: Final[Mapping[str, pl.DataType]] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "time": pl.Datetime("us", "UTC"),
}
"""Kinds of columns, and their types in frames."""

_TEXTS: Final[Mapping[str, type]] = {"date": dt.date, "time": dt.datetime}


def columns_of(frame: pl.DataFrame) -> dict[str, str]:
    """The kind of each column, in their order.

    Raises
    ------
    KeyError
        A column is of a type that listings do not have.
    """
    kinds = {dtype: kind for kind, dtype in KINDS.items()}
    return {name: kinds[dtype] for name, dtype in frame.schema.items()}


def frame_of(columns: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """The frame that rows of a listing were made of; a number that is none (NaN) has become null.

    Parameters
    ----------
    columns : mapping of str to str
        The kind of each column.
    rows : sequence of mapping
        Dates and times as texts.

    Raises
    ------
    StorageError
        A kind is not known, or a value is not of its column's kind.
    """
    try:
        return pl.DataFrame([_series(name, kind, rows) for name, kind in columns.items()])
    except (KeyError, TypeError, msgspec.ValidationError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the server's listing cannot be read ({error}); is it of another version?") from error


def _series(name: str, kind: str, rows: Sequence[Mapping[str, object]]) -> pl.Series:
    values = [row[name] for row in rows]
    if kind in _TEXTS:
        values = [None if value is None else msgspec.convert(value, type=_TEXTS[kind]) for value in values]
    return pl.Series(name, values, dtype=KINDS[kind])
