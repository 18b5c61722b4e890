"""What must hold in a stored block before any kernel may see it.

A kernel follows offsets, child indices and targets without looking: a crafted file could make it read or write
out of bounds, or walk in a circle for ever. Everything that it follows is checked once per file: the columns here, the
program, the counts and the indices by :func:`shoal.families.validate`.
"""

import pyarrow as pa

from shoal.errors import InvalidArtifact
from shoal.families import validate
from shoal.table.block import KEY, Block
from shoal.table.columns import SCHEMA
from shoal.types import FeatureKind, Task


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
    _check_columns(block)
    _check_features(block)
    _check_labels(block)
    validate(block.arrays)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArtifact(message)


def _check_columns(block: Block) -> None:
    schema = block.batch.schema
    _require(len(set(schema.names)) == len(schema.names), "a block has two columns of one name")
    for name, dtype in {**SCHEMA, "level": pa.int64()}.items():
        position = schema.get_field_index(name)
        found = position >= 0 and schema.field(position).type.equals(dtype)
        _require(found, f"a block's column {name!r} is not {dtype}")
    _require(block.batch.column("level").null_count == 0, "a block's models lack their level")
    keys = sum(name.startswith(KEY) for name in schema.names)
    masks = block.level_masks
    _require(((masks >= 0) & (masks < 2**keys)).all(), "a block's levels name key columns that it does not have")


def _check_features(block: Block) -> None:
    layout = block.header.layout
    names = [feature.name for feature in layout.features]
    _require(len(set(names)) == len(names), "a block has two features of one name")
    lists = block.header.categories
    _require(len(lists) in (0, len(names)), "a block's category lists do not fit its features")
    for feature, texts in zip(layout.features, lists, strict=False):
        listed = feature.kind is FeatureKind.CATEGORY or not texts
        _require(listed and len(set(texts)) == len(texts), f"the categories of {feature.name!r} cannot be")


def _check_labels(block: Block) -> None:
    labels = block.header.labels
    ordered = len({type(label) for label in labels}) <= 1 and list(labels) == sorted(set(labels))
    _require(ordered, "a block's class labels are not sorted and of one type")
    classifies = block.header.layout.task is Task.CLASSIFICATION
    fits = classifies == (block.arrays.classes.shape[1] > 0)
    _require(fits, "a block's task and its class labels do not fit")
