"""The table of models: blocks, and the index that finds a row's model in them."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.engines.threads import Threads
from shoal.errors import InvalidInput
from shoal.families.contract import Layout, ModelBlock, PackedModel
from shoal.families.stacking import stack
from shoal.table import block as blocks_module
from shoal.table import index
from shoal.table.block import KEY, Block
from shoal.table.columns import fact_columns, facts_frame
from shoal.table.facts import ModelFacts
from shoal.table.hashing import ABSENT, BLOCK_SHIFT
from shoal.table.index import Segment
from shoal.table.keys import DTYPES, EncodedKeys, KeyRows, check_key, encode, frame_of, frame_of_keys
from shoal.types import (
    LISTED_COLUMNS,
    RESERVED_COLUMNS,
    Feature,
    FeatureKind,
    Integers,
    Key,
    KeyColumn,
    Label,
    Level,
    Task,
)

#: Rows whose keys are looked up at a time: they fit a core's cache, also where neighbours must first be joined.
FIND_ROWS = 32_768

Entry = tuple[Level, Key, PackedModel, ModelFacts]


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


def check_key_columns(keys: Sequence[KeyColumn]) -> None:
    """Refuse key columns that could not stand beside the predictions.

    Raises
    ------
    InvalidInput
        Two have one name, or one is called like a column that Shoal writes.
    """
    names = [column.name for column in keys]
    if len(set(names)) != len(names):
        raise InvalidInput(f"key columns {names} repeat a name")
    taken = sorted((RESERVED_COLUMNS | LISTED_COLUMNS).intersection(names))
    if taken:
        raise InvalidInput(
            f"key column {taken[0]!r} is called like a column that Shoal writes beside the keys; rename it, "
            f"e.g. to {taken[0].strip('_') + '_key'!r}"
        )


def check_levels(keys: Sequence[KeyColumn], levels: Sequence[Level]) -> tuple[Level, ...]:
    """Put the levels in order, finest first, and refuse any that cannot be.

    Raises
    ------
    InvalidInput
        A level names an unknown column, or two are the same.
    """
    names = [column.name for column in keys]
    ordered: list[Level] = []
    for level in levels:
        unknown = set(level) - set(names)
        if unknown:
            raise InvalidInput(f"level {level!r} names {sorted(unknown)}, which is no key column; those are {names}")
        ordered.append(tuple(name for name in names if name in level))
    if len(set(ordered)) != len(ordered):
        raise InvalidInput(f"a fallback level is given twice in {list(levels)}")
    return tuple(sorted(ordered, key=len, reverse=True))


def from_packed(
    *,
    keys: Sequence[KeyColumn],
    levels: Sequence[Level],
    features: Sequence[Feature],
    task: Task,
    models: Iterable[Entry],
) -> ModelTable:
    """Lay packed models out as a table in memory: a block per layout, one index segment.

    Raises
    ------
    InvalidInput
        Two models have one key, a key does not fit, tasks differ, or a feature is a number here and a text there.
    """
    check_key_columns(keys)
    grouped: dict[Layout, list[Entry]] = {}
    ordered = check_levels(keys, levels)
    for entry in models:
        if entry[0] not in ordered:
            raise InvalidInput(f"a model has level {entry[0]!r}, which is not among the fleet's levels {ordered}")
        if entry[2].layout.task is not task:
            raise InvalidInput(f"model {entry[1]!r} does {entry[2].layout.task}, but the fleet does {task}")
        grouped.setdefault(entry[2].layout, []).append(entry)
    blocks = tuple(_block(keys, entries) for entries in grouped.values())
    return assemble(keys=tuple(keys), levels=ordered, features=features, task=task, blocks=blocks)


def assemble(
    *,
    keys: tuple[KeyColumn, ...],
    levels: tuple[Level, ...],
    features: Sequence[Feature],
    task: Task,
    blocks: tuple[Block, ...],
) -> ModelTable:
    """A table over blocks, with one new index segment over all their models."""
    segment = _index(keys, levels, blocks)
    return ModelTable(
        keys=keys,
        levels=levels,
        features=union_of_features(features, blocks),
        task=task,
        labels=union_of_labels(blocks),
        blocks=blocks,
        parts=(Part(segment=segment, blocks=tuple(range(len(blocks)))),),
    )


def _block(keys: Sequence[KeyColumn], entries: Sequence[Entry]) -> Block:
    values: dict[str, list[object]] = {column.name: [] for column in keys}
    masks = []
    for level, key, _, _ in entries:
        check_key([column for column in keys if column.name in level], key)
        present = dict(zip(level, key, strict=True))
        for name, column in values.items():
            column.append(present.get(name))
        masks.append(level_mask(keys, level))
    arrow = {c.name: pl.Series(values[c.name], dtype=DTYPES[c.type]).to_arrow() for c in keys}
    return blocks_module.build(
        stack([packed for _, _, packed, _ in entries]),
        arrow,
        np.asarray(masks, dtype=np.int64),
        fact_columns([facts for _, _, _, facts in entries]),
    )


def _index(keys: Sequence[KeyColumn], levels: Sequence[Level], blocks: Sequence[Block]) -> Segment:
    """Encode the keys of every block, level by level, and sort them."""
    parts: list[EncodedKeys] = []
    places: list[NDArray[np.uint64]] = []
    for number, block in enumerate(blocks):
        frame = frame_of([block_key(block, c) for c in keys], len(block))
        masks = block.level_masks
        for level in levels:
            rows = np.flatnonzero(masks == level_mask(keys, level))
            chosen = frame[rows] if len(rows) != len(block) else frame
            parts.append(encode(keys, chosen, level))
            places.append((np.uint64(number) << BLOCK_SHIFT) | rows.astype(np.uint64))
    return index.build(index.concatenate(parts), np.concatenate([np.empty(0, np.uint64), *places]))


def union_of_features(first: Sequence[Feature], blocks: Sequence[Block]) -> tuple[Feature, ...]:
    """The features of ``first``, then those that only some blocks have.

    Raises
    ------
    InvalidInput
        A feature is a number in one model and a text in another.
    """
    kinds: dict[str, FeatureKind] = {}
    for block in blocks:
        for feature in block.header.layout.features:
            if kinds.setdefault(feature.name, feature.kind) is not feature.kind:
                raise InvalidInput(
                    f"feature {feature.name!r} is a number in some models and a text in others: rename one"
                )
    names = [feature.name for feature in first]
    given = {feature.name: feature.kind for feature in first}
    names += [name for name in kinds if name not in given]
    return tuple(Feature(name=name, kind=kinds.get(name, given.get(name, FeatureKind.NUMERIC))) for name in names)


def union_of_labels(blocks: Sequence[Block]) -> tuple[Label, ...]:
    """Sorted class labels of all blocks.

    Raises
    ------
    InvalidInput
        Some are texts and others numbers.
    """
    labels = {label for block in blocks for label in block.header.labels}
    if len({type(label) for label in labels}) > 1:
        raise InvalidInput("the models' class labels are of different types; fit them all on labels of one type")
    return tuple(sorted(labels))
