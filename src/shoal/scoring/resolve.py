"""From rows to models: the key of each row, and the level that has a model for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.engines.threads import Threads
from shoal.scoring.columns import RowColumns
from shoal.table.keys import coerce, frame_of
from shoal.table.models import ModelTable
from shoal.types import Integers, Level


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """Which model answers each row.

    Attributes
    ----------
    key_columns : sequence of polars.Series
        The key columns in the fleet's types.
    models : ndarray of int64, shape (rows,)
        Model numbers, negative where no level has one.
    levels : ndarray of int8, shape (rows,)
        Position of the answering level, -1 where none.
    wrong_keys : ndarray of int16, shape (rows,), or None
        Position of the key column whose value has the wrong type, -1 where none has; None if nowhere.
    """

    key_columns: Sequence[pl.Series]
    models: Integers
    levels: NDArray[np.int8]
    wrong_keys: NDArray[np.int16] | None

    @cached_property
    def keys(self) -> pl.DataFrame:
        """The key columns as a frame."""
        return frame_of(self.key_columns, len(self.models))


def resolve(table: ModelTable, rows: RowColumns, threads: Threads, *, fallback: bool = True) -> Resolved:
    """Find the model of every row: its own, else that of the next coarser level.

    Parameters
    ----------
    table : ModelTable
        The models.
    rows : RowColumns
        Hold the key columns.
    threads : Threads
        Where the search runs.
    fallback : bool
        False: only the finest level answers.

    Raises
    ------
    InvalidInput
        A key column is missing or of a type that no key can come from.
    """
    keys, wrong = _key_columns(table, rows)
    first, *coarser = table.levels if fallback else table.levels[:1]
    models = table.find(keys, rows.height, first, threads)
    if wrong is not None:
        models[wrong >= 0] = -1
    levels = np.zeros(rows.height, dtype=np.int8)
    resolved = Resolved(key_columns=keys, models=models, levels=levels, wrong_keys=wrong)
    open_rows = (models < 0).nonzero()[0]
    if len(open_rows):
        models[open_rows] = -1
        levels[open_rows] = -1
        _fall_back(table, resolved, coarser, open_rows if wrong is None else open_rows[wrong[open_rows] < 0], threads)
    return resolved


def _fall_back(
    table: ModelTable, resolved: Resolved, coarser: Sequence[Level], open_rows: Integers, threads: Threads
) -> None:
    """Let coarser levels answer the rows that are still open, one level after the other."""
    for number, level in enumerate(coarser, start=1):
        if not len(open_rows):
            return
        keys = [series.gather(open_rows) for series in resolved.key_columns]
        found = table.find(keys, len(open_rows), level, threads)
        hit = found >= 0
        resolved.models[open_rows[hit]] = found[hit]
        resolved.levels[open_rows[hit]] = number
        open_rows = open_rows[~hit]


def _key_columns(table: ModelTable, rows: RowColumns) -> tuple[list[pl.Series], NDArray[np.int16] | None]:
    rows.require([column.name for column in table.keys], "key")
    wrong: NDArray[np.int16] | None = None
    columns = []
    for position, column in enumerate(table.keys):
        series, bad = coerce(rows.series(column.name), column)
        columns.append(series)
        bad = rows.wrong.get(column.name, bad)
        if bad is not None:
            wrong = np.full(rows.height, -1, dtype=np.int16) if wrong is None else wrong
            wrong[bad & (wrong < 0)] = position
    return columns, wrong
