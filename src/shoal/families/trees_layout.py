"""Trees as parameters: what every packer of trees hands in, and the arrays that the kernel reads.

Parameters of a model of the family ``trees``
---------------------------------------------
nodes : int64, ragged
    See :mod:`shoal.kernels.tree_links`.
roots : int32, ragged
    Per tree, its first node, counted from the model's first.
answers : float64, ragged
    What leaves answer, each distinct answer once: one number, or one per class where leaves vote.
cuts : float64, ragged
    Distinct thresholds, ascending per input; empty in single precision.
sets : int32, ragged
    Words of the sets of categories that go left; the bit behind the last category stands for a missing value.
cut_starts : int32, shape (width + 1,)
    Input ``i`` has ``cuts[cut_starts[i]:cut_starts[i + 1]]``.
levels : int32, shape (width,)
    How many categories an input has, -1 for numbers.
start : float64, shape (outputs,)
    Where the sums start.
finish : float64, shape (2,)
    Divisor and offset of the link.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UnsupportedEstimator
from shoal.families.contract import Static
from shoal.kernels.tree_answers import Link
from shoal.kernels.tree_keys import Precision
from shoal.kernels.tree_links import distinct, link, rest_row, shift_of
from shoal.types import Floats, Indices, Integers

NAME = "trees"

RAGGED = {
    "nodes": np.int64, "roots": np.int32, "answers": np.float64, "cuts": np.float64,
    "sets": np.int32,
}  # fmt: skip
FIXED = {"cut_starts": np.int32, "levels": np.int32, "start": np.float64, "finish": np.float64}

Parameters = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grown:
    """The trees of one estimator, one behind the other.

    Attributes
    ----------
    left, right : ndarray of int64, shape (nodes,)
        Children, counted from the first node of their tree; negative for a leaf.
    inputs : ndarray of int64, shape (nodes,)
        The input that an inner node compares, as a padded position.
    missing_left : ndarray of bool, shape (nodes,)
        Whether a missing value goes left.
    answers : ndarray of float64, shape (nodes, k)
        What a leaf answers.
    starts : ndarray of int64, shape (trees + 1,)
        Where each tree's nodes start; its root is the first.
    """

    left: Integers
    right: Integers
    inputs: Integers
    missing_left: NDArray[np.bool_]
    answers: Floats
    starts: Integers

    @property
    def leaves(self) -> NDArray[np.bool_]:
        """Which nodes are leaves."""
        return self.left < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """What inner nodes compare with, as whole numbers; the fields are those of the parameters."""

    keys: Indices
    cuts: Floats
    cut_starts: Indices
    sets: Indices
    levels: Indices


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the models of a layout of trees have in common.

    Attributes
    ----------
    precision : Precision
        How inputs become keys.
    missing : bool
        Whether missing values reach the trees.
    sets : bool
        Whether nodes may ask for categories.
    votes : bool
        Whether a leaf answers one number per class; otherwise tree ``t`` adds to the sum ``t % outputs``.
    outputs : int
        How many sums there are.
    link : Link
        What they mean.
    """

    precision: Precision = Precision.SINGLE
    missing: bool = False
    sets: bool = False
    votes: bool = False
    outputs: int = 1
    link: Link

    @property
    def variants(self) -> int:
        """Rows of keys per input."""
        return 2 if self.missing else 1

    def static(self) -> dict[str, Static]:
        """As a layout keeps it."""
        return {
            "precision": int(self.precision), "missing": self.missing, "sets": self.sets, "votes": self.votes,
            "outputs": self.outputs, "link": int(self.link),
        }  # fmt: skip

    @classmethod
    def of(cls, static: Mapping[str, Static]) -> "Shape":
        """From what a layout keeps.

        Raises
        ------
        ValueError, KeyError
            For what no packer writes.
        """
        return cls(
            precision=Precision(_number(static["precision"])),
            missing=_flag(static["missing"]),
            sets=_flag(static["sets"]),
            votes=_flag(static["votes"]),
            outputs=_count(static["outputs"]),
            link=Link(_number(static["link"])),
        )


def _flag(value: Static) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not a flag")
    return value


def _number(value: Static) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a number")
    return value


def _count(value: Static) -> int:
    if _number(value) < 1:
        raise ValueError(f"{value!r} is not a count")
    return _number(value)


def single_keys(thresholds: Floats, width: int) -> Keys:
    """Keys of thresholds that single-precision inputs are compared with.

    A threshold is rounded down to single precision: no single-precision number lies between the two. The bits, read
    as sign and magnitude, then order as the numbers do (and -0.0 equals 0.0).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = thresholds.astype(np.float32)
        rounded = np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    bits = rounded.view(np.int32)
    return Keys(
        keys=np.where(bits >= 0, bits, -(bits & np.int32(0x7FFFFFFF))),
        cuts=np.empty(0),
        cut_starts=np.zeros(width + 1, np.int32),
        sets=np.empty(0, np.int32),
        levels=np.full(width, -1, np.int32),
    )


def double_keys(thresholds: Floats, inputs: Integers, compares: NDArray[np.bool_], width: int) -> Keys:
    """Keys of thresholds that double-precision inputs are compared with: positions among the input's cuts.

    Parameters
    ----------
    thresholds, inputs : ndarray, shape (nodes,)
        What is compared with what.
    compares : ndarray of bool, shape (nodes,)
        Which nodes compare numbers; the keys of the others are 0.
    width : int
        How many inputs there are.
    """
    chosen = np.flatnonzero(compares)
    order = chosen[np.lexsort((thresholds[chosen], inputs[chosen]))]
    values, owners = thresholds[order], inputs[order]
    new = np.ones(len(order), bool)
    new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    cut_starts = np.searchsorted(owners[new], np.arange(width + 1)).astype(np.int32)
    keys = np.zeros(len(thresholds), np.int32)
    keys[order] = np.cumsum(new) - 1 - cut_starts[owners]
    return Keys(
        keys=keys,
        cuts=values[new],
        cut_starts=cut_starts,
        sets=np.empty(0, np.int32),
        levels=np.full(width, -1, np.int32),
    )


def parameters(
    grown: Grown, keys: Keys, shape: Shape, *, start: Floats, finish: tuple[float, float], part: str
) -> Parameters:
    """The parameters of one model.

    Raises
    ------
    UnsupportedEstimator
        When a tree is too large, or an answer or threshold is not a number.
    """
    width = len(keys.levels)
    numbers, answers = _distinct_answers(grown, part)
    rows = grown.inputs * shape.variants + (grown.missing_left if shape.missing else 0)
    trees = len(grown.starts) - 1
    nodes, roots = np.empty(len(rows), np.int64), np.empty(trees, np.int32)
    written = link(
        grown.left, grown.right, rows, keys.keys, numbers, grown.starts,
        shift_of(width, shape.variants), rest_row(width, shape.variants), nodes, roots,
    )  # fmt: skip
    if written < 0:
        raise UnsupportedEstimator(part, "has a tree with too many leaves; limit max_leaf_nodes or max_depth")
    return {
        "nodes": nodes[:written], "roots": roots, "answers": answers.reshape(-1), "cuts": keys.cuts,
        "sets": keys.sets, "cut_starts": keys.cut_starts, "levels": keys.levels,
        "start": np.asarray(start, np.float64), "finish": np.array(finish, np.float64),
    }  # fmt: skip


def _distinct_answers(grown: Grown, part: str) -> tuple[Indices, Floats]:
    leaves = np.flatnonzero(grown.leaves)
    answers = np.ascontiguousarray(grown.answers[leaves], np.float64)
    if not np.isfinite(answers).all():
        raise UnsupportedEstimator(part, "has a leaf whose value is not finite; fit it again on finite data")
    numbers, firsts = np.empty(len(leaves), np.int32), np.empty(len(leaves), np.int64)
    count = distinct(answers.view(np.int64), numbers, firsts)
    spread = np.zeros(len(grown.left), np.int32)
    spread[leaves] = numbers
    return spread, answers[firsts[:count]]
