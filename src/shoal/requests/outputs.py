"""Output columns as checks and rules see them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.requests.spec import FleetSchema
from shoal.types import Label, Task

PREFIX = "probability_"

Columns: TypeAlias = Mapping[str, pl.Series]
"""Columns by name, all of the same length. On a few rows, making a frame of them would cost more than what is done."""


def probability_columns(schema: FleetSchema) -> dict[str, pl.DataType]:
    """The columns ``probability_LABEL`` that checks and rules may speak of, and their types."""
    if schema.task is not Task.CLASSIFICATION:
        return {}
    return {PREFIX + _word(label): pl.Float64() for label in schema.labels}


def with_probabilities(columns: Columns, wanted: Iterable[str], labels: Sequence[Label]) -> Columns:
    """The columns, with those of ``probability_LABEL`` that are wanted and not there."""
    positions: Mapping[str, int] = {PREFIX + _word(label): i for i, label in enumerate(labels)}
    missing = [name for name in dict.fromkeys(wanted) if name in positions and name not in columns]
    if not missing:
        return columns
    lists = columns["probability"].arr
    return {**columns, **{name: lists.get(positions[name], null_on_oob=True).alias(name) for name in missing}}


def without(column: pl.Series, rows: NDArray[np.bool_]) -> pl.Series:
    """The column with nulls in those rows."""
    kept = pl.when(pl.lit(pl.Series(~rows))).then(pl.lit(column))  # probabilities are arrays, which cannot be scattered
    return pl.select(kept.alias(column.name)).to_series()


def _word(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)
