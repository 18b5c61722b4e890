"""Models that stand each for itself, laid out as one table: a block per layout, and an index over all of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.families.contract import Layout, PackedModel
from shoal.families.stacking import stack
from shoal.table import block as blocks_module
from shoal.table import index
from shoal.table.block import Block
from shoal.table.columns import fact_columns
from shoal.table.facts import ModelFacts
from shoal.table.hashing import BLOCK_SHIFT
from shoal.table.index import Segment
from shoal.table.keys import DTYPES, EncodedKeys, check_key, encode, frame_of
from shoal.table.models import ModelTable, Part, block_key, level_mask
from shoal.types import (
    LISTED_COLUMNS,
    RESERVED_COLUMNS,
    Feature,
    FeatureKind,
    Key,
    KeyColumn,
    Label,
    Level,
    Task,
)

Entry = tuple[Level, Key, PackedModel, ModelFacts]


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
