"""From requests that were answered to the columns of the prediction log, many requests at once."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from shoal.serving.frames import DTYPES
from shoal.serving.logged import LoggedRequest, LogSchema
from shoal.serving.outputs import Output, Values
from shoal.serving.scoring import Part, values_of
from shoal.types import Floats


def columns_of(schema: LogSchema, requests: Sequence[LoggedRequest]) -> pl.DataFrame:
    """The rows of logged requests of one snapshot, as they are in a file.

    Returns
    -------
    DataFrame
        ``time``, ``request_id``, ``row``, ``principal``, ``version``, ``model``, the inputs (key columns first), the
        outputs, ``outcome``, ``reason``, ``model_level``, ``latency_ms``.

    Raises
    ------
    InvalidInput
        The rows cannot be put together.
    """
    inputs = schema.inputs.columns([one.rows for one in requests]).columns
    times = pl.Series(np.array([one.at_s for one in requests]) * 1e6).cast(pl.Int64)
    asked = pl.DataFrame(
        {
            "time": times.cast(pl.Datetime("us", "UTC")),
            "request_id": pl.Series([one.request_id for one in requests], dtype=pl.String),
            "row": pl.Series([one.first_row for one in requests], dtype=pl.UInt32),
            "principal": pl.Series([one.principal for one in requests], dtype=pl.String),
            "version": pl.Series(np.full(len(requests), schema.version, dtype=np.int64)),
            "model": pl.Series([one.model for one in requests], dtype=pl.String),
            "latency_ms": pl.Series(np.array([one.latency_ms for one in requests], dtype=np.float64)),
        }
    )
    counts = [one.rows.rows for one in requests]
    if counts != [1] * len(counts):
        asked = _repeated(asked, counts)
    stretches = _stretches(requests)
    series = [
        *[column for column in asked.iter_columns() if column.name != "latency_ms"],
        *(_asked(inputs[name]).alias(column) for name, column in schema.asked.items()),
        *(_column(schema.named[name], stretches).alias(column) for name, column in schema.answered.items()),
        *(_column(schema.named[name], stretches) for name in ("outcome", "reason", "model_level")),
        asked["latency_ms"],
    ]
    return pl.DataFrame(series)


def _asked(column: pl.Series | Floats) -> pl.Series:
    """An input; a missing number is null in the log, and NaN in what is scored."""
    if isinstance(column, np.ndarray):
        series = pl.Series(column)
        return series.fill_nan(None) if np.isnan(column).any() else series
    return column


def _stretches(requests: Sequence[LoggedRequest]) -> list[tuple[Part, bool]]:
    """The parts of all requests and whether each was asked as a model of its own, neighbours of one call as one.

    Requests that shared a kernel call usually stand side by side: their answers are cut out of it once, not each alone.
    """
    found: list[tuple[Part, bool]] = []
    batch, start, stop, is_own = None, 0, 0, False
    for one in requests:
        for part in one.parts:
            if part[0] is batch and part[1] == stop and one.is_own == is_own:
                stop = part[2]
                continue
            if batch is not None:
                found.append(((batch, start, stop), is_own))
            batch, start, stop = part
            is_own = one.is_own
    if batch is not None:
        found.append(((batch, start, stop), is_own))
    return found


def _repeated(asked: pl.DataFrame, counts: Sequence[int]) -> pl.DataFrame:
    """Each request's row as often as it has rows, numbered."""
    which = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum([0, *counts[:-1]])
    within = pl.Series(np.arange(len(which)) - firsts[which], dtype=pl.UInt32)
    return asked[which].with_columns((pl.col("row") + within).alias("row"))


def _column(output: Output, stretches: Sequence[tuple[Part, bool]]) -> pl.Series:
    """An output of many rows; several elements per row become a list, null where none of them is there."""
    values: Values = []
    for part, is_own in stretches:
        values += values_of((part,), output, is_own=is_own)
    dtype, width = DTYPES[output.datatype], output.width
    if not width:
        return pl.Series(output.name, values, dtype=dtype)
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    lists = [None if row.count(None) == width else row for row in rows]
    return pl.Series(output.name, lists, dtype=pl.List(dtype))
