"""What must hold in a block of trees before the kernel may see it."""

import numpy as np

from shoal.errors import InvalidArtifact
from shoal.families.contract import ModelBlock
from shoal.families.trees_layout import FIXED, RAGGED, Shape
from shoal.families.validation import check_array, check_ragged
from shoal.kernels.tree_answers import Link
from shoal.kernels.tree_keys import Precision
from shoal.kernels.tree_links import Fault, check, rest_row, shift_of
from shoal.types import Integers, Task

LINKS = {
    Task.REGRESSION: {Link.MEAN, Link.IDENTITY, Link.EXPONENTIAL},
    Task.CLASSIFICATION: {
        Link.SHARES, Link.LOGISTIC, Link.LOGISTIC_FROM_ZERO, Link.HALF_LOGISTIC_FROM_ZERO, Link.SOFTMAX,
    },
    Task.ANOMALY: {Link.ISOLATION},
}  # fmt: skip

MOST_CATEGORIES = 1 << 20
"""More than any encoder of scikit-learn hands to trees, and few enough for their sets."""


def validate_trees(block: ModelBlock) -> None:
    """Check everything that the kernel follows.

    Raises
    ------
    InvalidArtifact
        Says what is wrong with which model.
    """
    shape = _shape(block)
    _check_arrays(block, shape)
    _check_numbers(block, shape)
    _check_cuts(block)
    _check_walks(block, shape)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArtifact(f"a block of trees {message}; restore the file from where it came from")


def _shape(block: ModelBlock) -> Shape:
    try:
        shape = Shape.of(dict(block.layout.static))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArtifact(f"a block of trees has a layout that nothing writes: {error!r}") from error
    classes = block.classes.shape[1]
    _require(shape.link in LINKS[block.layout.task], "has a link that does not fit its task")
    if shape.link in (Link.SHARES, Link.SOFTMAX):
        _require(shape.outputs == classes, "has not one sum per class")
    else:
        _require(shape.outputs == 1, "has more sums than its link takes")
        _require(classes <= 2 and (classes > 0) == (block.layout.task is Task.CLASSIFICATION), "has too many classes")
    _require(shape.votes == (shape.link is Link.SHARES), "has leaves that vote, or do not, against its link")
    _require(not shape.sets or shape.precision is Precision.DOUBLE, "has sets of categories in single precision")
    return shape


def _check_arrays(block: ModelBlock, shape: Shape) -> None:
    """Names, dtypes, shapes and ends: what the kernel's signature and its slices rely on."""
    _require(set(block.ragged) == set(RAGGED) and set(block.fixed) == set(FIXED), "has the wrong parameters")
    for name, dtype in RAGGED.items():
        check_ragged(name, block.ragged[name], block.models, np.dtype(dtype))
    width = block.layout.width
    shapes = {"cut_starts": (width + 1,), "levels": (width,), "start": (shape.outputs,), "finish": (2,)}
    for name, dtype in FIXED.items():
        check_array(name, block.fixed[name], np.dtype(dtype), (block.models, *shapes[name]))


def _check_numbers(block: ModelBlock, shape: Shape) -> None:
    for name, numbers in (
        ("start", block.fixed["start"]), ("finish", block.fixed["finish"]), ("answers", block.ragged["answers"].values),
    ):  # fmt: skip
        _require(np.isfinite(numbers).all(), f"has {name} that are not finite")
    if shape.link in (Link.MEAN, Link.SHARES):
        divisors = block.fixed["finish"][:, 0].astype(np.float64)
        _require((divisors > 0).all(), "divides by zero trees")
    levels = block.fixed["levels"].astype(np.int32, copy=False)
    _require(((levels >= -1) & (levels <= MOST_CATEGORIES)).all(), "has an impossible number of categories")
    _require(shape.sets or (levels == -1).all(), "has categories that its layout does not know of")
    if shape.votes:
        counts = np.diff(block.ragged["answers"].offsets)
        _require((counts % shape.outputs == 0).all(), "has a leaf that does not vote on every class")


def _check_cuts(block: ModelBlock) -> None:
    starts = block.fixed["cut_starts"].astype(np.int64)
    ends = block.ragged["cuts"].offsets
    inside = (starts[:, 0] == 0) & (starts[:, -1] == np.diff(ends)) & (np.diff(starts, axis=1) >= 0).all(axis=1)
    _require(inside.all(), "has cuts that are out of order or out of range")
    cuts = block.ragged["cuts"].values.astype(np.float64, copy=False)
    rising = np.zeros(len(cuts), bool)
    rising[1:] = cuts[1:] > cuts[:-1]
    firsts = (starts[:, :-1] + ends[:-1, None]).reshape(-1)
    rising[firsts[firsts < len(cuts)]] = True
    _require(rising.all() and not np.isnan(cuts).any(), "has cuts that do not rise")


def _check_walks(block: ModelBlock, shape: Shape) -> None:
    votes = shape.outputs if shape.votes else 1
    words: Integers = np.diff(block.ragged["sets"].offsets) if shape.sets else np.full(block.models, -1, np.int64)
    model = np.zeros(1, np.int64)
    fault = check(
        block.ragged["nodes"].values, block.ragged["nodes"].offsets,
        block.ragged["roots"].values, block.ragged["roots"].offsets,
        np.diff(block.ragged["answers"].offsets) // votes, words, block.fixed["levels"],
        shift_of(block.layout.width, shape.variants), rest_row(block.layout.width, shape.variants), shape.variants,
        1 if shape.votes else shape.outputs, model,
    )  # fmt: skip
    _require(fault == Fault.NONE, f"is damaged: model {model[0]} {Fault(fault).words}")
