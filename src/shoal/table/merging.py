"""Tables out of tables: the winners of a retraining put over a fleet, a selection, a compaction."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.table import index
from shoal.table.assembly import assemble, check_levels, union_of_features, union_of_labels
from shoal.table.block import Block
from shoal.table.hashing import BLOCK_SHIFT, PLACE, REMOVED
from shoal.table.index import MOST_SEGMENTS
from shoal.table.models import ModelTable, Part
from shoal.types import Integers, KeyColumn


def merge(base: ModelTable, winners: ModelTable) -> ModelTable:
    """The models of ``base``, replaced or joined by those of ``winners``.

    Blocks are shared: storing the result writes the winners' blocks, a small segment and a manifest.

    Raises
    ------
    InvalidInput
        The two have other key columns or another task.
    """
    if base.keys != winners.keys:
        raise InvalidInput(f"the winners' key columns {_names(winners)} are not the fleet's {_names(base)}")
    if base.task is not winners.task:
        raise InvalidInput(f"the winners do {winners.task}, but the fleet does {base.task}")
    blocks = base.blocks + winners.blocks
    shifted = [
        dataclasses.replace(part, blocks=tuple(number + len(base.blocks) for number in part.blocks))
        for part in winners.parts
    ]
    merged = ModelTable(
        keys=base.keys,
        levels=check_levels(base.keys, list(dict.fromkeys([*base.levels, *winners.levels]))),
        features=union_of_features(base.features, blocks),
        task=base.task,
        labels=union_of_labels(blocks),
        blocks=blocks,
        parts=(*shifted, *base.parts),
    )
    return merged if len(merged.parts) <= MOST_SEGMENTS else fold(merged)


def fold(table: ModelTable) -> ModelTable:
    """The same models under one index segment; blocks without live models are left out."""
    keys, places = [], []
    for depth, part in enumerate(table.parts):
        shown = np.flatnonzero(_shown(table, depth))
        keys.append(index.take(part.segment.keys, shown))
        blocks = np.asarray(part.blocks, dtype=np.uint64)[part.segment.block_numbers[shown]]
        places.append((blocks << BLOCK_SHIFT) | part.segment.row_numbers[shown].astype(np.uint64))
    place = np.concatenate(places)
    used = np.unique((place >> BLOCK_SHIFT).astype(np.int64))
    renumbered = np.zeros(len(table.blocks), dtype=np.uint64)
    renumbered[used] = np.arange(len(used))
    place = (renumbered[(place >> BLOCK_SHIFT).astype(np.int64)] << BLOCK_SHIFT) | (place & np.uint64(0xFFFFFFFF))
    kept = tuple(table.blocks[int(number)] for number in used)
    segment = index.build(index.concatenate(keys), place)
    return dataclasses.replace(
        table,
        labels=union_of_labels(kept) if kept else table.labels,
        blocks=kept,
        parts=(Part(segment=segment, blocks=tuple(range(len(kept)))),),
    )


def _shown(table: ModelTable, depth: int) -> NDArray[np.bool_]:
    """Entries of a segment that no newer segment hides."""
    part = table.parts[depth]
    shown: NDArray[np.bool_] = ~(part.segment.removed | table.known(part.segment.keys, table.parts[:depth]))
    return shown


def select(table: ModelTable, numbers: Integers) -> ModelTable:
    """A table of the chosen models only, in blocks of their own.

    Parameters
    ----------
    table : ModelTable
        The models.
    numbers : ndarray of int64
        Numbers of live models.
    """
    owner = np.searchsorted(table.starts, numbers, side="right") - 1
    blocks: list[Block] = []
    for number in np.unique(owner):
        rows = np.sort(numbers[owner == number]) - table.starts[number]
        block = table.blocks[int(number)]
        blocks.append(block if len(rows) == len(block) else block.take(rows))
    return assemble(
        keys=table.keys, levels=table.levels, features=table.features, task=table.task, blocks=tuple(blocks)
    )


def remove(table: ModelTable, numbers: Integers) -> ModelTable:
    """The table without the chosen models: one small segment says that their keys are gone."""
    doomed = select(table, numbers)
    segment = doomed.parts[0].segment
    entries = segment.entries.copy()
    entries[:, PLACE] = REMOVED
    gone = dataclasses.replace(segment, entries=entries)
    without = dataclasses.replace(table, parts=(Part(segment=gone, blocks=()), *table.parts))
    return without if len(without.parts) <= MOST_SEGMENTS else fold(without)


def compact(table: ModelTable) -> ModelTable:
    """The same models without the replaced and removed ones: what a long row of merges leaves behind is dropped."""
    return select(table, np.flatnonzero(table.live))


def _names(table: ModelTable) -> Sequence[tuple[str, str]]:
    return [_name(column) for column in table.keys]


def _name(column: KeyColumn) -> tuple[str, str]:
    return column.name, str(column.type)
