"""The segments of every level, and which rows are theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.table.keys import key_text, level_name
from shoal.training.splitting import Role, Roles
from shoal.types import Integers, Key, KeyColumn, Level


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """All segments of one level.

    Attributes
    ----------
    level : Level
        The level.
    keys : tuple of Key
        Each segment's key.
    texts : tuple of str
        The keys as text.
    order : ndarray of int64, shape (rows,)
        Positions of rows, segment by segment; ascending within one.
    starts : ndarray of int64, shape (segments + 1,)
        Segment ``i`` has the rows ``order[starts[i]:starts[i + 1]]``.
    train, validation, outliers : ndarray of int64, shape (segments,)
        How many rows each has to be fitted on, after dropping outliers; to be measured on; and how many of those to
        fit on were dropped or clipped.
    """

    level: Level
    keys: tuple[Key, ...]
    texts: tuple[str, ...]
    order: Integers
    starts: Integers
    train: Integers
    validation: Integers
    outliers: Integers

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def name(self) -> str:
        """The level as people read it."""
        return level_name(self.level)


def group(
    frame: pl.DataFrame,
    columns: Sequence[KeyColumn],
    level: Level,
    roles: Roles,
    *,
    outlying: NDArray[np.bool_],
    dropped: NDArray[np.bool_],
) -> Segments:
    """Group rows by the keys of a level.

    Parameters
    ----------
    frame : polars.DataFrame
        The rows, with the key columns.
    columns : sequence of KeyColumn
        The fleet's key columns.
    level : Level
        Which of them count.
    roles : ndarray of uint8, shape (rows,)
        What each row is used for.
    outlying, dropped : ndarray of bool, shape (rows,)
        Rows with an outlying value; those of them that no model is fitted on.
    """
    order, starts, keys = _runs(frame, level)
    training = roles == Role.TRAIN

    def count(rows: NDArray[np.bool_]) -> Integers:
        sums: Integers = np.concatenate([[0], np.cumsum(rows[order])])
        return sums[starts[1:]] - sums[starts[:-1]]

    return Segments(
        level=level,
        keys=keys,
        texts=tuple(key_text(columns, level, key) for key in keys),
        order=order,
        starts=starts,
        train=count(training & ~dropped),
        validation=count(roles == Role.VALIDATION),
        outliers=count(training & outlying),
    )


def _runs(frame: pl.DataFrame, level: Level) -> tuple[Integers, Integers, tuple[Key, ...]]:
    if not level:
        return np.arange(frame.height), np.array([0, frame.height]), ((),)
    # Renamed, so that no key can be called like the columns made here.
    keys = frame.select(pl.col(name).alias(f"key {i}") for i, name in enumerate(level))
    rows = keys.with_row_index("row").sort(*keys.columns, "row")
    runs = rows.group_by(keys.columns, maintain_order=True).agg(pl.len().alias("rows"))
    starts = np.concatenate([[0], np.cumsum(runs["rows"].to_numpy(), dtype=np.int64)])
    return rows["row"].to_numpy().astype(np.int64), starts, tuple(cast("list[Key]", runs.drop("rows").rows()))
