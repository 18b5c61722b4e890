"""From rows to models: the key of each row, and the level that has a model for it."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.engines.threads import Threads
from shoal.errors import InvalidInput
from shoal.table.keys import coerce, frame_of
from shoal.table.models import ModelTable
from shoal.types import Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """Which model answers each row.

    Attributes
    ----------
    keys : polars.DataFrame
        The key columns in the fleet's types.
    models : ndarray of int64, shape (rows,)
        Model numbers, negative where no level has one.
    levels : ndarray of int8, shape (rows,)
        Position of the answering level, -1 where none.
    wrong_keys : ndarray of int16, shape (rows,), or None
        Position of the key column whose value has the wrong type, -1 where none has; None if nowhere.
    """

    keys: pl.DataFrame
    models: Integers
    levels: NDArray[np.int8]
    wrong_keys: NDArray[np.int16] | None


def resolve(table: ModelTable, frame: pl.DataFrame, threads: Threads, *, fallback: bool = True) -> Resolved:
    """Find the model of every row: its own, else that of the next coarser level.

    Parameters
    ----------
    table : ModelTable
        The models.
    frame : polars.DataFrame
        Holds the key columns.
    threads : Threads
        Where the search runs.
    fallback : bool
        False: only the finest level answers.

    Raises
    ------
    InvalidInput
        A key column is missing or of a type that no key can come from.
    """
    keys, wrong = _key_frame(table, frame)
    models = np.full(frame.height, -1, dtype=np.int64)
    levels = np.full(frame.height, -1, dtype=np.int8)
    open_rows: Integers | None = None  # all, at first
    if wrong is not None:
        open_rows = np.flatnonzero(wrong < 0)
    for number, level in enumerate(table.levels if fallback else table.levels[:1]):
        rows = keys if open_rows is None else keys[open_rows]
        found = table.find(rows, level, threads)
        hit = found >= 0
        if open_rows is None and hit.all():
            levels[:] = number
            return Resolved(keys=keys, models=found, levels=levels, wrong_keys=wrong)
        target = np.arange(frame.height) if open_rows is None else open_rows
        models[target[hit]] = found[hit]
        levels[target[hit]] = number
        open_rows = target[~hit]
        if not len(open_rows):
            break
    return Resolved(keys=keys, models=models, levels=levels, wrong_keys=wrong)


def _key_frame(table: ModelTable, frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int16] | None]:
    missing = [column.name for column in table.keys if column.name not in frame.columns]
    if missing:
        raise InvalidInput(f"the input lacks the key column(s) {missing}; it has {frame.columns}")
    wrong: NDArray[np.int16] | None = None
    columns = []
    for position, column in enumerate(table.keys):
        series, bad = coerce(frame[column.name], column)
        columns.append(series)
        if bad is not None:
            wrong = np.full(frame.height, -1, dtype=np.int16) if wrong is None else wrong
            wrong[bad & (wrong < 0)] = position
    return frame_of(columns, frame.height), wrong
