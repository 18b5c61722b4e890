"""The rows of a request, checked, and how the columns of many become one."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.scoring.columns import Flags
from shoal.types import Floats

Column: TypeAlias = Sequence[object] | NDArray[np.generic]
"""One input of one request: Python values (None where missing) or an array."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of one request, checked.

    Attributes
    ----------
    columns : tuple of Column
        In the order of the schema's inputs.
    rows : int
        How many.
    size_bytes : int
        About how much memory they take.
    notes : mapping of int to str
        Rows that are not to be scored, and why.
    defaulted : mapping of int to str
        Rows that are scored with defaults because their source failed, and what there is to say of it.
    wrong : mapping of int to ndarray of bool
        By position of a column that came as texts: rows whose text is nothing that the column can hold.
    """

    columns: tuple[Column, ...]
    rows: int
    size_bytes: int
    notes: Mapping[int, str] = {}
    defaulted: Mapping[int, str] = {}
    wrong: Mapping[int, Flags] = {}

    def is_repeatable(self, row: int) -> bool:
        """Whether a row's columns say all that its answer, and its reason, depend on."""
        return (
            row not in self.notes and row not in self.defaulted and not any(flags[row] for flags in self.wrong.values())
        )

    def slice(self, start: int, stop: int) -> "Rows":
        """Neighbouring rows."""
        columns = tuple([column[start:stop] for column in self.columns])
        size_bytes = self.size_bytes * (stop - start) // self.rows
        wrong = {position: flags[start:stop] for position, flags in self.wrong.items()}
        return Rows(
            columns=columns,
            rows=stop - start,
            size_bytes=size_bytes,
            notes=_between(self.notes, start, stop),
            defaulted=_between(self.defaulted, start, stop),
            wrong=wrong,
        )

    def take(self, chosen: Sequence[int]) -> "Rows":
        """Some of the rows."""
        columns = tuple([[column[row] for row in chosen] for column in self.columns])
        size_bytes = self.size_bytes * len(chosen) // max(self.rows, 1)
        wrong = {position: flags[list(chosen)] for position, flags in self.wrong.items()}
        return Rows(
            columns=columns,
            rows=len(chosen),
            size_bytes=size_bytes,
            notes=_of(self.notes, chosen),
            defaulted=_of(self.defaulted, chosen),
            wrong=wrong,
        )


def _between(notes: Mapping[int, str], start: int, stop: int) -> Mapping[int, str]:
    """What is noted of neighbouring rows."""
    return {row - start: note for row, note in notes.items() if start <= row < stop} if notes else notes


def _of(notes: Mapping[int, str], chosen: Sequence[int]) -> Mapping[int, str]:
    """What is noted of some rows."""
    return {i: notes[row] for i, row in enumerate(chosen) if row in notes} if notes else notes


def _merged(columns: Sequence[Column]) -> list[object]:
    """Python values of many requests, one behind the other."""
    if np.ndarray in set(map(type, columns)):
        columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    return list(chain.from_iterable(columns))


def merged_numbers(_name: str, columns: Sequence[Column]) -> Floats:
    """Numbers of many requests, one behind the other, float64; NaN where missing."""
    if len(columns) == 1:
        return np.asarray(columns[0], dtype=np.float64)
    if max(map(len, columns)) >= 256:
        return np.concatenate([np.asarray(column, dtype=np.float64) for column in columns])
    return np.array(_merged(columns), dtype=np.float64)


def merged_integers(name: str, columns: Sequence[Column]) -> pl.Series:
    """Integers of many requests, one behind the other; raises where one does not fit 64 bits."""
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    if len(arrays) == len(columns):
        return pl.Series(name, np.concatenate(arrays))
    return pl.Series(name, _merged(columns), dtype=pl.Int64)


def merged_texts(name: str, columns: Sequence[Column]) -> pl.Series:
    """Texts of many requests, one behind the other."""
    return pl.Series(name, _merged(columns) if len(columns) > 1 else columns[0], dtype=pl.String)


def merged_booleans(name: str, columns: Sequence[Column]) -> pl.Series:
    """Booleans of many requests, one behind the other."""
    return pl.Series(name, _merged(columns), dtype=pl.Boolean)
