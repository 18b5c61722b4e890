"""Output columns as checks and rules see them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.requests.spec import FleetSchema
from shoal.types import Label, Task

PREFIX = "probability_"


def probability_columns(schema: FleetSchema) -> dict[str, pl.DataType]:
    """The columns ``probability_LABEL`` that checks and rules may speak of, and their types."""
    if schema.task is not Task.CLASSIFICATION:
        return {}
    return {PREFIX + _word(label): pl.Float64() for label in schema.labels}


def with_probabilities(frame: pl.DataFrame, wanted: Iterable[str], labels: Sequence[Label]) -> pl.DataFrame:
    """The frame, with those of the columns ``probability_LABEL`` that are wanted and not there."""
    positions: Mapping[str, int] = {PREFIX + _word(label): i for i, label in enumerate(labels)}
    missing = [name for name in dict.fromkeys(wanted) if name in positions and name not in frame.columns]
    if not missing:
        return frame
    lists = pl.col("probability")
    return frame.with_columns(lists.arr.get(positions[name], null_on_oob=True).alias(name) for name in missing)


def without(column: pl.Series, rows: NDArray[np.bool_]) -> pl.Series:
    """The column with nulls in those rows."""
    kept = pl.when(pl.lit(pl.Series(~rows))).then(pl.lit(column))  # probabilities are arrays, which cannot be scattered
    return pl.select(kept.alias(column.name)).to_series()


def _word(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def beside(frame: pl.DataFrame, columns: Sequence[pl.Series]) -> pl.DataFrame:
    """A frame with more columns, or others of the same names. A query would cost more than all else on a few rows."""
    every = {column.name: column for column in (*frame.iter_columns(), *columns)}
    return pl.DataFrame(list(every.values())) if every else frame
