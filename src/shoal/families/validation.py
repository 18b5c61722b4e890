"""Checking what every block has, whatever its family, before a kernel follows it.

Kernels check no bounds. A damaged or crafted file must be refused here: no step of the program may point outside the
raw features, the scratch or the model's numbers, and no one-hot entry outside its columns.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidArtifact
from shoal.families.contract import Layout, ModelBlock, Ragged
from shoal.kernels.program import Op
from shoal.types import Floats

MOST_COLUMNS = 1 << 20
"""No program works on more scratch columns than this (512 MiB of scratch)."""

_NUMBERS = {
    Op.IMPUTE: 1, Op.REPLACE: 2, Op.SUBTRACT: 1, Op.DIVIDE: 1, Op.MULTIPLY: 1, Op.ADD: 1, Op.CLIP: 2,
}  # fmt: skip
"""How many numbers a step reads, where that is not 0 and does not depend on its ``count``."""


def check_block(block: ModelBlock) -> None:
    """Check the program, its numbers and the classes of a block.

    Raises
    ------
    InvalidArtifact
        Says what is wrong with which step or model.
    """
    layout = block.layout
    if block.models < 1:
        raise InvalidArtifact("the block has no models")
    _check_layout(layout)
    expected = np.array(layout.program, dtype=np.int32).reshape(-1, 7)
    if not np.array_equal(block.program, expected) or block.program.dtype != np.int32:
        raise InvalidArtifact("the block's program is not the one of its layout")
    check_array("transform", block.transform, np.dtype(np.float64), (block.models, layout.slots))
    for number, step in enumerate(layout.program):
        _check_step(number, step, layout)
        if step[0] in (Op.ONEHOT, Op.ENCODE):
            _check_entries(number, step, block.transform)
    _check_order(layout)
    _check_category_slots(layout)
    _check_classes(block)


def check_array(
    name: str, array: NDArray[np.generic], dtype: np.dtype[np.generic], shape: tuple[int | None, ...]
) -> None:
    """Check an array's type, shape (None: any length) and memory order.

    Raises
    ------
    InvalidArtifact
        Says what the array is and what it should be.
    """
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, actual) for actual, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != dtype or not array.flags.c_contiguous:
        raise InvalidArtifact(f"{name} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}, C order")


def check_ragged(name: str, ragged: Ragged, models: int, dtype: np.dtype[np.generic]) -> None:
    """Check that offsets start at 0, never fall, and end where the values end.

    Raises
    ------
    InvalidArtifact
        Says which model's offset is wrong.
    """
    check_array(f"{name} offsets", ragged.offsets, np.dtype(np.int64), (models + 1,))
    check_array(f"{name} values", ragged.values, dtype, (None,))
    if ragged.offsets[0] != 0 or ragged.offsets[-1] != len(ragged.values):
        raise InvalidArtifact(f"{name}: offsets run from {ragged.offsets[0]} to {ragged.offsets[-1]}, "
                              f"the values from 0 to {len(ragged.values)}")  # fmt: skip
    falling = ragged.offsets[1:] < ragged.offsets[:-1]
    if falling.any():
        raise InvalidArtifact(f"{name}: the offset of model {int(np.argmax(falling))} is behind its end")


def _check_layout(layout: Layout) -> None:
    if not (0 <= layout.scratch <= MOST_COLUMNS and layout.slots >= 0 and layout.width >= 0 and layout.first >= 0):
        raise InvalidArtifact(f"the layout has impossible sizes: scratch {layout.scratch}, slots {layout.slots}")
    if layout.first + layout.width > layout.scratch:
        raise InvalidArtifact(f"the estimator's inputs end at column {layout.first + layout.width} of {layout.scratch}")
    if any(len(step) != 7 for step in layout.program):
        raise InvalidArtifact("a step of the program does not have seven numbers")


def _check_step(number: int, step: tuple[int, ...], layout: Layout) -> None:
    op, source, target, width, slot, count, feature = step
    if op not in list(Op):
        raise InvalidArtifact(f"step {number}: no operation has the number {op}")
    sources = len(layout.features) if op == Op.LOAD else layout.scratch
    if not (0 <= source < sources and 0 <= feature < len(layout.features)):
        raise InvalidArtifact(f"step {number} ({Op(op).name}): reads column {source} of {sources}, feature {feature}")
    if not (target >= 0 and width >= 1 and target + width <= layout.scratch and (width == 1 or op == Op.ONEHOT)):
        raise InvalidArtifact(f"step {number} ({Op(op).name}): writes columns {target} to {target + width}")
    needed = 1 + 2 * count if op in (Op.ONEHOT, Op.ENCODE) else _NUMBERS.get(Op(op), 0)
    if not (min(slot, count) >= 0 and slot + needed <= layout.slots):
        raise InvalidArtifact(f"step {number} ({Op(op).name}): reads numbers {slot} to {slot + needed}")


def _check_order(layout: Layout) -> None:
    """No column is read before it is written: a stale one would hold another row's values."""
    written: set[int] = set()
    for number, (op, source, target, width, *_) in enumerate(layout.program):
        read = source if op in (Op.COPY, Op.INDICATOR, Op.ONEHOT, Op.ENCODE) else target
        if op != Op.LOAD and read not in written:
            raise InvalidArtifact(f"step {number} ({Op(op).name}): reads column {read} before it is written")
        written.update(range(target, target + width))
    lacking = set(range(layout.first, layout.first + layout.width)) - written
    if lacking:
        raise InvalidArtifact(f"the program never writes the estimator's input in column {min(lacking)}")


def _check_entries(number: int, step: tuple[int, ...], transform: Floats) -> None:
    """The columns of a look-up are whole numbers from -1 (unknown ones from -2) to the last column."""
    op, _, _, width, slot, count, _ = step
    size = width if op == Op.ONEHOT else count
    for values, lowest in ((transform[:, slot : slot + 1], -2), (transform[:, slot + 1 + count :][:, :count], -1)):
        with np.errstate(invalid="ignore"):
            good = (values >= lowest) & (values < size) & (values == np.floor(values))
        if not good.all():
            model = int(np.argmin(good.all(axis=1)))
            raise InvalidArtifact(f"step {number} ({Op(op).name}): model {model} names a column outside 0 to {size}")


def _check_category_slots(layout: Layout) -> None:
    for slot, feature in layout.category_slots:
        if not (0 <= slot < layout.slots and 0 <= feature < len(layout.features)):
            raise InvalidArtifact(f"category slot {slot} of feature {feature} is outside the layout")


def _check_classes(block: ModelBlock) -> None:
    check_array("classes", block.classes, np.dtype(np.int32), (block.models, None))
    check_array("class map", block.class_map, np.dtype(np.int32), (None,))
    if block.classes.size and not (block.classes.min() >= 0 and block.classes.max() < len(block.class_map)):
        raise InvalidArtifact(f"a class number is outside the block's {len(block.class_map)} labels")
    if block.class_map.size and block.class_map.min() < 0:
        raise InvalidArtifact("the class map has a negative number")
