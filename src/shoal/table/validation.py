"""What must hold in a stored block before any kernel may see it.

A kernel follows offsets, child indices and targets without looking: a crafted file could make it read or write
out of bounds, or walk in a circle for ever. Everything that it follows is checked here, once per file; what belongs to
one family (trees' children, support vectors' counts) is checked by that family.
"""

import numpy as np
import pyarrow as pa

from shoal.errors import InvalidArtifact, ShoalError
from shoal.families import family
from shoal.families.contract import Layout
from shoal.kernels.program import Op
from shoal.table.block import KEY, Block
from shoal.table.columns import SCHEMA
from shoal.types import FeatureKind, Floats, Task

#: A program longer or wider than this is no honest pipeline, and could ask for any amount of memory.
MOST_STEPS = 100_000
MOST_COLUMNS = 1_000_000

_NUMBERS = {
    Op.IMPUTE: 1, Op.REPLACE: 2, Op.SUBTRACT: 1, Op.DIVIDE: 1, Op.MULTIPLY: 1, Op.ADD: 1, Op.CLIP: 2,
}  # fmt: skip
_FROM_SCRATCH = {Op.COPY, Op.INDICATOR, Op.ONEHOT, Op.ENCODE}


def validate_block(block: Block) -> None:
    """Check a block completely.

    Raises
    ------
    InvalidArtifact
        Says what is wrong.
    """
    try:
        block.batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidArtifact(f"a block's columns are damaged: {error}") from error
    layout = block.header.layout
    _check_columns(block)
    _check_layout(layout)
    for step in layout.program:
        _check_step(layout, step, block.arrays.transform)
    _check_ragged(block)
    _check_labels(block)
    try:
        chosen = family(layout.family)
    except ShoalError as error:
        raise InvalidArtifact(f"a block holds models of the family {layout.family!r}: {error}") from error
    chosen.validate(block.arrays)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArtifact(message)


def _check_columns(block: Block) -> None:
    schema = block.batch.schema
    _require(len(set(schema.names)) == len(schema.names), "a block has two columns of one name")
    for name, dtype in {**SCHEMA, "level": pa.int64()}.items():
        position = schema.get_field_index(name)
        _require(
            position >= 0 and schema.field(position).type.equals(dtype), f"a block's column {name!r} is not {dtype}"
        )
    _require(block.batch.column("level").null_count == 0, "a block's models lack their level")
    keys = sum(name.startswith(KEY) for name in schema.names)
    masks = block.level_masks
    _require(((masks >= 0) & (masks < 2**keys)).all(), "a block's levels name key columns that it does not have")


def _check_layout(layout: Layout) -> None:
    _require(len(layout.program) <= MOST_STEPS, "a column-transform program has too many steps")
    _require(0 <= layout.scratch <= MOST_COLUMNS, "a column-transform program has too many columns")
    inside = layout.first >= 0 and layout.width >= 0 and layout.first + layout.width <= layout.scratch
    _require(inside, "a block's estimators read columns that its program does not have")
    names = [feature.name for feature in layout.features]
    _require(len(set(names)) == len(names), "a block has two features of one name")
    for slot, feature in layout.category_slots:
        known = 0 <= slot < layout.slots and 0 <= feature < len(names)
        _require(known and layout.features[feature].kind is FeatureKind.CATEGORY, "a block's category slots are wrong")


def _check_step(layout: Layout, step: tuple[int, ...], transform: Floats) -> None:
    op, source, target, width, slot, count, feature = step
    _require(op in set(Op), f"a column-transform program has the unknown operation {op}")
    _require(0 <= feature < len(layout.features), "a column-transform step names a feature that is not there")
    if op == Op.LOAD:
        _require(0 <= source < len(layout.features), "a column-transform step loads a feature that is not there")
    if op in _FROM_SCRATCH:
        _require(0 <= source < layout.scratch, "a column-transform step reads a column that is not there")
    cells = width if op == Op.ONEHOT else 1
    _require(cells >= 1, "a column-transform step writes no column")
    _require(target >= 0 and target + cells <= layout.scratch, "a column-transform step writes out of its scratch")
    if op in (Op.ONEHOT, Op.ENCODE):
        _require(count >= 0 and slot >= 0 and slot + 1 + 2 * count <= layout.slots, "a step's entries are out of range")
        _check_entries(transform[:, slot], transform[:, slot + 1 + count : slot + 1 + 2 * count], op, width)
    else:
        needed = _NUMBERS.get(Op(op), 0)
        _require(needed == 0 or (slot >= 0 and slot + needed <= layout.slots), "a step's numbers are out of range")


def _check_entries(unknown: Floats, columns: Floats, op: int, width: int) -> None:
    """The columns of one-hot entries are followed by the kernel, so they must be whole numbers in range."""
    whole = (np.floor(unknown) == unknown).all() and (np.floor(columns) == columns).all()
    _require(whole and (unknown >= -2).all() and (columns >= -1).all(), "a step's entries point nowhere")
    if op == Op.ONEHOT:
        _require((unknown < width).all() and (columns < width).all(), "a step's entries point out of its columns")


def _check_ragged(block: Block) -> None:
    for name, part in block.arrays.ragged.items():
        ends = part.offsets
        ordered = len(ends) == block.arrays.models + 1 and ends[0] >= 0 and (np.diff(ends) >= 0).all()
        _require(ordered and ends[-1] <= len(part.values), f"the offsets of {name!r} are out of order or out of range")


def _check_labels(block: Block) -> None:
    labels, classes = block.header.labels, block.arrays.classes
    _require((classes >= 0).all() and (classes < len(labels)).all(), "a model has a class label that is not listed")
    classifies = block.header.layout.task is Task.CLASSIFICATION
    _require(classifies == (classes.shape[1] > 0), "a block's task and its class labels do not fit")
    kinds = {type(label) for label in labels}
    _require(
        len(kinds) <= 1 and list(labels) == sorted(set(labels)), "a block's class labels are not sorted and of one type"
    )
    _require(
        len(block.header.categories) in (0, len(block.header.layout.features)), "category lists do not fit the features"
    )
