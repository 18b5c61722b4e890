"""What changed from one table of models to another."""

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.table.block import FIXED, RAGGED, Block
from shoal.table.keys import level_name
from shoal.table.models import ModelTable
from shoal.types import Integers

_SIDE = ["family", "rows", "trained_at", "metrics"]


def compare(before: ModelTable, after: ModelTable) -> pl.DataFrame:
    """One row per model that was added, removed or changed.

    Returns
    -------
    polars.DataFrame
        The key columns, ``level``, ``change`` (``added``, ``removed`` or ``changed``), and family, rows, time and
        metrics with ``_before`` and ``_after``.

    Raises
    ------
    InvalidInput
        The tables have other key columns.
    """
    if before.keys != after.keys:
        raise InvalidInput("fleets with other key columns cannot be compared")
    keys = [column.name for column in before.keys] + ["level"]
    sides = [_side(before, "_before"), _side(after, "_after")]
    joined = sides[0].join(sides[1], on=keys, how="full", coalesce=True, nulls_equal=True)
    both = joined["_number_before"].is_not_null() & joined["_number_after"].is_not_null()
    same = np.zeros(joined.height, dtype=np.bool_)
    rows = np.flatnonzero(both.to_numpy())
    same[rows] = _same(
        before, joined["_number_before"].gather(rows).to_numpy(), after, joined["_number_after"].gather(rows).to_numpy()
    )
    added, removed = pl.col("_number_before").is_null(), pl.col("_number_after").is_null()
    change = pl.when(added).then(pl.lit("added")).when(removed).then(pl.lit("removed")).otherwise(pl.lit("changed"))
    columns = [name + suffix for name in _SIDE for suffix in ("_before", "_after")]
    return joined.with_columns(change=change).filter(~pl.Series(same)).select(*keys, "change", *columns).sort(keys)


def _side(table: ModelTable, suffix: str) -> pl.DataFrame:
    names = pl.Series([level_name(level) for level in table.levels], dtype=pl.String)
    frame = table.frame.with_columns(names.gather(table.frame["level"].cast(pl.Int64)).alias("level"))
    chosen = frame.select([column.name for column in table.keys] + ["level", *_SIDE, "_number"])
    return chosen.rename({name: name + suffix for name in [*_SIDE, "_number"]})


def _same(before: ModelTable, old: Integers, after: ModelTable, new: Integers) -> NDArray[np.bool_]:
    """Whether models are equal to the bit; those in a shared block need no look."""
    result = np.zeros(len(old), dtype=np.bool_)
    for i, (one, other) in enumerate(zip(_places(before, old), _places(after, new), strict=True)):
        (first, row), (second, other_row) = one, other
        shared = first is second or (first.digest is not None and first.digest == second.digest)
        result[i] = (shared and row == other_row) or _fingerprint(first, row) == _fingerprint(second, other_row)
    return result


def _places(table: ModelTable, numbers: Integers) -> list[tuple[Block, int]]:
    owner = np.searchsorted(table.starts, numbers, side="right") - 1
    rows = numbers - table.starts[owner]
    return [(table.blocks[int(b)], int(row)) for b, row in zip(owner, rows, strict=True)]


def _fingerprint(block: Block, row: int) -> bytes:
    """sha256 over a model's layout, labels and parameters."""
    batch: pa.RecordBatch = block.batch
    names = [n for n in batch.schema.names if n in ("transform", "classes") or n.startswith((FIXED, RAGGED))]
    labels = [block.header.labels[i] for i in block.arrays.classes[row]]
    parts = [repr(block.header.layout), repr(labels), repr(block.header.categories)]
    parts += [f"{name}={batch.column(name)[row].as_py()!r}" for name in sorted(names) if name != "classes"]
    return hashlib.sha256("\n".join(parts).encode()).digest()
