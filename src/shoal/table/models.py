"""The table of models: blocks, and the index that finds a row's model in them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.engines.threads import Threads
from shoal.families.contract import ModelBlock
from shoal.table.block import KEY, Block
from shoal.table.columns import facts_frame
from shoal.table.hashing import ABSENT
from shoal.table.index import Segment
from shoal.table.keys import DTYPES, EncodedKeys, KeyRows, encode, frame_of, frame_of_keys
from shoal.types import (
    Feature,
    Integers,
    Key,
    KeyColumn,
    Label,
    Level,
    Task,
)

#: Rows whose keys are looked up at a time: they fit a core's cache, also where neighbours must first be joined.
FIND_ROWS = 32_768


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A segment of the index, and which of the table's blocks it counts.

    Attributes
    ----------
    segment : Segment
        The sorted entries.
    blocks : tuple of int
        The segment's block ``i`` is the table's block ``blocks[i]``.
    digest : str or None
        sha256 of its file; None if never stored.
    """

    segment: Segment
    blocks: tuple[int, ...]
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelTable:
    """All models of one snapshot.

    A model's *number* counts through the blocks; a number whose model was replaced or removed is no longer live.

    Attributes
    ----------
    keys : tuple of KeyColumn
        Key columns of the fleet.
    levels : tuple of Level
        From the finest to the coarsest.
    features : tuple of Feature
        Union of the blocks' features: the fleet's input schema.
    task : Task
        What it predicts.
    labels : tuple of Label
        Sorted union of the blocks' class labels.
    blocks : tuple of Block
        The models.
    parts : tuple of Part
        The index, newest segment first.
    """

    keys: tuple[KeyColumn, ...]
    levels: tuple[Level, ...]
    features: tuple[Feature, ...]
    task: Task
    labels: tuple[Label, ...]
    blocks: tuple[Block, ...]
    parts: tuple[Part, ...]

    @cached_property
    def starts(self) -> Integers:
        """Number of the first model of each block, shape (blocks + 1,)."""
        return np.cumsum([0, *(len(block) for block in self.blocks)], dtype=np.int64)

    @cached_property
    def arrays(self) -> tuple[ModelBlock, ...]:
        """Per block, what its kernel reads, with its labels mapped to the fleet's."""
        return tuple(dataclasses.replace(b.arrays, class_map=self._class_map(b)) for b in self.blocks)

    def _class_map(self, block: Block) -> NDArray[np.int32]:
        position = {label: i for i, label in enumerate(self.labels)}
        return np.asarray([position[label] for label in block.header.labels], dtype=np.int32)

    @cached_property
    def feature_positions(self) -> tuple[NDArray[np.int16], ...]:
        """Per block, where in ``features`` each of its features is; then -1, for what no feature is to blame for."""
        position = {feature.name: i for i, feature in enumerate(self.features)}
        names = [[feature.name for feature in block.header.layout.features] for block in self.blocks]
        return tuple(np.array([*(position[name] for name in each), -1], dtype=np.int16) for each in names)

    def find(self, keys: Sequence[pl.Series | None], height: int, level: Level, threads: Threads) -> Integers:
        """Find each row's model at one level.

        Parameters
        ----------
        keys : sequence of polars.Series or None
            One per key column, in exactly the keys' types; those that the level leaves out are not looked at.
        height : int
            How many rows there are: a fleet of one model has no key column that would tell.
        level : Level
            Which key columns count.
        threads : Threads
            Where the search runs.

        Returns
        -------
        ndarray of int64, shape (rows,)
            Model numbers, negative where there is none.
        """
        if not level:
            return np.full(height, self._global)
        found = np.empty(height, dtype=np.int64)  # its pages are first touched by the threads that fill them

        def search(lo: int, hi: int) -> None:
            for start in range(lo, hi, FIND_ROWS):
                piece = found[start : min(start + FIND_ROWS, hi)]
                piece[:] = ABSENT
                rows = keys if len(piece) == height else [k if k is None else k.slice(start, len(piece)) for k in keys]
                self._find(KeyRows.of_series(self.keys, rows, level), self.parts, piece)

        threads.over(height, search, grain=FIND_ROWS)
        return found

    def number(self, level: Level, key: Key) -> int:
        """Number of the model of a key at one level, negative where there is none; raises as :func:`check_key` does."""
        frame = frame_of_keys(self.keys, level, [key])
        found = np.full(1, ABSENT, dtype=np.int64)
        self._find(encode(self.keys, frame, level), self.parts, found)
        return int(found[0])

    @cached_property
    def _global(self) -> np.int64:
        """Number of the model that no key leads to, for it is everybody's; negative where there is none."""
        found = np.full(1, ABSENT, dtype=np.int64)
        self._find(encode(self.keys, pl.DataFrame(height=1), ()), self.parts, found)
        number: np.int64 = found[0]
        return number

    def _find(self, keys: EncodedKeys | KeyRows, parts: Sequence[Part], found: Integers) -> None:
        for part in parts:
            part.segment.find(keys, self.starts[list(part.blocks)], found)

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Which model numbers a key still leads to, shape (models in all blocks,)."""
        alive = np.zeros(int(self.starts[-1]), dtype=np.bool_)
        for depth, part in enumerate(self.parts):
            entries = part.segment
            hidden = entries.removed | (self.known(entries.keys, self.parts[:depth]))
            numbers = self.starts[list(part.blocks)]
            shown = ~hidden
            alive[numbers[entries.block_numbers[shown]] + entries.row_numbers[shown]] = True
        return alive

    def known(self, keys: EncodedKeys, parts: Sequence[Part]) -> NDArray[np.bool_]:
        """Which keys have an entry, be it a removal, in one of these parts of the index; shape (keys,)."""
        found = np.full(len(keys), ABSENT, dtype=np.int64)
        self._find(keys, parts, found)
        known: NDArray[np.bool_] = found != ABSENT
        return known

    def __len__(self) -> int:
        return int(self.live.sum())

    @cached_property
    def frame(self) -> pl.DataFrame:
        """One row per live model, ordered by number.

        Columns: the key columns, ``level`` (int8, position in ``levels``), ``family``, the facts, and ``_number``.
        """
        frames = [self._block_frame(i, block) for i, block in enumerate(self.blocks)]
        columns = {c.name: DTYPES[c.type] for c in self.keys}
        if not frames:
            return pl.DataFrame(schema={**columns, "level": pl.Int8(), "family": pl.String(), "_number": pl.Int64()})
        return pl.concat(frames).filter(pl.Series(self.live))

    def _block_frame(self, number: int, block: Block) -> pl.DataFrame:
        masks = {level_mask(self.keys, level): i for i, level in enumerate(self.levels)}
        keys = frame_of([block_key(block, c) for c in self.keys], len(block))
        return keys.with_columns(
            level=pl.Series([masks.get(int(m), -1) for m in block.level_masks], dtype=pl.Int8),
            family=pl.lit(block.header.layout.family),
            **{c.name: c for c in facts_frame(block.batch)},
            _number=pl.int_range(len(block), dtype=pl.Int64) + int(self.starts[number]),
        )


def level_mask(keys: Sequence[KeyColumn], level: Level) -> int:
    """A level as bits: bit ``i`` is set where the level has key column ``i``."""
    return sum(1 << i for i, column in enumerate(keys) if column.name in level)


def block_key(block: Block, column: KeyColumn) -> pl.Series:
    """A block's key column in the key's type; all null in a block without it."""
    if KEY + column.name not in block.batch.schema.names:
        return pl.Series(column.name, [None] * len(block), dtype=DTYPES[column.type])
    series = pl.Series(column.name, block.batch.column(KEY + column.name))
    return series.cast(DTYPES[column.type])
