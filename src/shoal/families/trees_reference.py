"""Trees in plain NumPy: slow, and written from the description of the nodes rather than from the kernel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.families.contract import ModelBlock, ReferenceAnswer
from shoal.families.trees_layout import Shape
from shoal.kernels.tree_answers import Link
from shoal.kernels.tree_keys import Precision
from shoal.kernels.tree_links import shift_of
from shoal.types import Floats, Integers

EMPTY = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """One model's own slices of a block."""

    shape: Shape
    width: int
    parts: dict[str, NDArray[np.generic]]

    @classmethod
    def of(cls, block: ModelBlock, model: int) -> "_Model":
        ragged = {
            name: part.values[part.offsets[model] : part.offsets[model + 1]] for name, part in block.ragged.items()
        }
        fixed = {name: array[model] for name, array in block.fixed.items()}
        return cls(shape=Shape.of(dict(block.layout.static)), width=block.layout.width, parts={**ragged, **fixed})


def answer(block: ModelBlock, model: int, Z: Floats) -> ReferenceAnswer:
    """Answer for the inputs ``Z`` of shape (width, rows)."""
    own = _Model.of(block, model)
    sums = _sums(own, Z)
    link, (divisor, offset) = own.shape.link, own.parts["finish"]
    if link is Link.MEAN:
        return ReferenceAnswer(values=sums[:, 0] / divisor, labels=EMPTY)
    if link is Link.IDENTITY:
        return ReferenceAnswer(values=sums[:, 0], labels=EMPTY)
    if link is Link.EXPONENTIAL:
        return ReferenceAnswer(values=np.exp(sums[:, 0]), labels=EMPTY)
    if link is Link.ISOLATION:
        ratios = sums[:, 0] / divisor if divisor else np.ones(len(sums))
        return ReferenceAnswer(values=-(2.0**-ratios) - offset, labels=EMPTY)
    labels, probabilities = _shares(link, sums, divisor, block.classes.shape[1])
    return ReferenceAnswer(values=np.full(len(sums), np.nan), labels=labels, probabilities=probabilities)


def _shares(link: Link, sums: Floats, divisor: float, classes: int) -> tuple[Integers, Floats]:
    if link is Link.SHARES:
        shares = sums / divisor
        return shares.argmax(axis=1), shares
    if link is Link.SOFTMAX:
        powers = np.exp(sums - sums.max(axis=1, keepdims=True))
        return sums.argmax(axis=1), powers / powers.sum(axis=1, keepdims=True)
    raw = sums[:, 0]
    second = raw > 0 if link is Link.LOGISTIC else raw >= 0
    with np.errstate(over="ignore"):
        share = 1 / (1 + np.exp(-2 * raw if link is Link.HALF_LOGISTIC_FROM_ZERO else -raw))
    both = np.stack([1 - share, share], axis=1)
    return np.minimum(second.astype(np.int64), classes - 1), both[:, :classes]


def _sums(own: _Model, Z: Floats) -> Floats:
    shape, rows = own.shape, Z.shape[1]
    sums = np.repeat(own.parts["start"].astype(np.float64)[None], rows, axis=0)
    answers = own.parts["answers"].astype(np.float64)
    for tree, root in enumerate(own.parts["roots"]):
        leaves = _leaves(own, Z, int(root))
        if shape.votes:
            sums += answers.reshape(-1, shape.outputs)[leaves]
        else:
            sums[:, tree % shape.outputs] += answers[leaves]
    return sums


def _leaves(own: _Model, Z: Floats, root: int) -> Integers:
    """The number of each row's answer in one tree."""
    nodes = own.parts["nodes"].astype(np.int64)
    shift = shift_of(own.width, own.shape.variants)
    at = np.full(Z.shape[1], root)
    while True:
        low, keys = nodes[at] & 0xFFFFFFFF, (nodes[at] >> 32).astype(np.int32)
        delta, row = low >> shift, low & ((1 << shift) - 1)
        if not delta.any():
            numbers: Integers = keys.astype(np.int64)
            return numbers
        right = np.array(
            [
                d > 0 and _goes_right(own, Z[:, i], r, k)
                for i, (d, r, k) in enumerate(zip(delta, row, keys, strict=True))
            ]
        )
        at = at + delta + right


def _goes_right(own: _Model, inputs: Floats, row: int, key: int) -> bool:
    column, variant = divmod(int(row), own.shape.variants)
    value, levels = inputs[column], own.parts["levels"]
    if levels[column] >= 0:
        known = 0 <= value < levels[column]
        code = int(value) if known else int(levels[column])
        return not (int(own.parts["sets"][~int(key) + (code >> 5)]) >> (code & 31)) & 1
    if np.isnan(value):
        return variant == 0
    return bool(value > _threshold(own, column, int(key)))


def _threshold(own: _Model, column: int, key: int) -> float:
    if own.shape.precision is Precision.DOUBLE:
        return float(own.parts["cuts"][own.parts["cut_starts"][column] + key])
    size = np.array(abs(key), np.int32).view(np.float32)
    return float(size if key >= 0 else -size)
