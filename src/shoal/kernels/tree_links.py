"""Decision trees as one array of numbers: how nodes are laid out, linked and checked.

A node is one ``int64``, so that a step down costs one load::

    63           32 31            shift shift-1       0
    [  key: int32  ][  delta: unsigned ][ row: unsigned ]

- An inner node compares ``keys[row]``, the number that stands for one input of the row to be scored, with its
  ``key``: the next node is ``i + delta`` when it is at most the key and ``i + delta + 1`` when it is greater. Both
  children are neighbours, and ``delta >= 1``, so a step only ever goes forward and a walk ends.
- A leaf has ``delta == 0``, the *rest* row (see below), and as ``key`` the number of its answer. The rest row holds a
  number smaller than any, so one step further stays where it is, and rows may walk a tree in lock-step.
- An inner node with a negative key, in layouts with ``sets``, asks whether a category is in a set: ``~key`` is where
  the set's words (32 bits each) start.

``keys`` has ``variants`` rows per input, then the rest row. With two variants a missing value is greater than every
key in the first and smaller in the second; a node reads the one that sends missing values its way.

The nodes of a tree are in breadth-first order, exactly: the first inner node's children follow the root, those of the
second follow them, and so on. So the top of a tree, which every row passes, is a handful of neighbouring nodes.
"""

from enum import IntEnum

import numpy as np

from shoal.kernels.compile import I32_1, I32_2, I64, I64_1, array, exact, kernel
from shoal.types import Indices, Integers

I32_OUT = array(I32_1.dtype, 1, writable=True)
I64_OUT = array(I64, 1, writable=True)


class Fault(IntEnum):
    """What :func:`check` found in a model's trees; the words are what users read."""

    NONE = 0
    NO_TREES = 1
    ROOTS = 2
    CHILDREN = 3
    ROWS = 4
    ANSWERS = 5
    SETS = 6

    @property
    def words(self) -> str:
        """The fault as the end of a sentence that starts with the model."""
        return {
            Fault.NONE: "is sound",
            Fault.NO_TREES: "has no trees, or not the same number for every output",
            Fault.ROOTS: "has roots that are out of order or out of range",
            Fault.CHILDREN: "has a node whose children are not where they belong",
            Fault.ROWS: "has a node that reads an input that is not there",
            Fault.ANSWERS: "has a leaf whose answer is not there",
            Fault.SETS: "has a node whose set of categories is not there",
        }[self]


FAULT_NO_TREES = int(Fault.NO_TREES)
FAULT_ROOTS = int(Fault.ROOTS)
FAULT_CHILDREN = int(Fault.CHILDREN)
FAULT_ROWS = int(Fault.ROWS)
FAULT_ANSWERS = int(Fault.ANSWERS)
FAULT_SETS = int(Fault.SETS)


def rest_row(width: int, variants: int) -> int:
    """The row of ``keys`` that leaves read."""
    return width * variants


def shift_of(width: int, variants: int) -> int:
    """How many bits of a node hold the row of ``keys``."""
    return rest_row(width, variants).bit_length()


@exact
def _node(key: int, delta: int, row: int, shift: int) -> int:
    return (key << 32) | (delta << shift) | row


@kernel(I64_1, I64_1, I64_1, I32_1, I32_1, I64_1, I64, I64, I64_OUT, I32_OUT, returns=I64)
def link(
    left: Integers, right: Integers, rows: Integers, keys: Indices, answers: Indices, starts: Integers,
    shift: int, rest: int, nodes: Integers, roots: Indices,
) -> int:  # fmt: skip
    """Lay out a model's trees.

    Parameters
    ----------
    left, right : ndarray of int64, shape (n,)
        Children of each node, counted from the first node of its tree; negative for a leaf.
    rows, keys : ndarray of int64 and int32, shape (n,)
        What an inner node compares with what.
    answers : ndarray of int32, shape (n,)
        Number of a leaf's answer.
    starts : ndarray of int64, shape (trees + 1,)
        Where each tree's nodes start; the root is the first.
    shift, rest : int
        Bits of the row, and the row that leaves read.
    nodes, roots : ndarray of int64 and int32, shapes (n,) and (trees,)
        Filled.

    Returns
    -------
    int
        How many nodes were written; -1 when a child is too far away for the bits that are left.
    """
    farthest = 1 << (32 - shift)
    order = np.empty(left.shape[0] + 2, np.int64)
    written = 0
    for tree in range(starts.shape[0] - 1):
        first = starts[tree]
        roots[tree] = written
        order[0] = 0
        count = 1
        i = 0
        while i < count:
            node = first + order[i]
            if left[node] < 0:
                nodes[written + i] = _node(answers[node], 0, rest, shift)
            else:
                delta = count - i
                if delta >= farthest:
                    return -1
                nodes[written + i] = _node(keys[node], delta, rows[node], shift)
                order[count] = left[node]
                order[count + 1] = right[node]
                count += 2
            i += 1
        written += count
    return written


@exact
def _check_roots(roots: Indices, first: int, last: int, outputs: int, size: int) -> int:
    if last <= first or (last - first) % outputs != 0:
        return FAULT_NO_TREES
    if roots[first] != 0:
        return FAULT_ROOTS
    for tree in range(first, last):
        end = roots[tree + 1] if tree + 1 < last else size
        if end <= roots[tree] or end > size:
            return FAULT_ROOTS
    return 0


@exact
def _check_inner(row: int, key: int, rest: int, variants: int, levels: Indices, words: int) -> int:
    if row >= rest:
        return FAULT_ROWS
    if words >= 0 and key < 0:
        categories = levels[row // variants]
        if categories < 0 or ~key + (categories >> 5) >= words:
            return FAULT_SETS
    return 0


@exact
def _check_leaf(row: int, key: int, rest: int, answers: int) -> int:
    if row != rest:
        return FAULT_ROWS
    if key < 0 or key >= answers:
        return FAULT_ANSWERS
    return 0


@exact
def _check_tree(
    nodes: Integers, root: int, end: int, shift: int, rest: int, variants: int, answers: int, levels: Indices,
    words: int,
) -> int:  # fmt: skip
    mask = (1 << shift) - 1
    known = root + 1  # the nodes before this one are the root or somebody's children
    for i in range(root, end):
        node = nodes[i]
        low = node & 0xFFFFFFFF
        delta, row, key = low >> shift, low & mask, node >> 32
        if delta == 0:
            fault = _check_leaf(row, key, rest, answers)
        else:
            fault = _check_inner(row, key, rest, variants, levels, words)
            if i + delta != known or known + 2 > end:
                fault = FAULT_CHILDREN
            known += 2
        if fault != 0:
            return fault
    return 0 if known == end else FAULT_CHILDREN


@kernel(I64_1, I64_1, I32_1, I64_1, I64_1, I64_1, I32_2, I64, I64, I64, I64, I64_OUT, returns=I64)
def check(
    nodes: Integers, node_ends: Integers, roots: Indices, root_ends: Integers, answers: Integers, words: Integers,
    levels: Indices, shift: int, rest: int, variants: int, outputs: int, model_of: Integers,
) -> int:  # fmt: skip
    """Check everything that a walk follows, in one pass over the nodes of all models.

    Parameters
    ----------
    nodes, node_ends : ndarray of int64, shapes (n,) and (models + 1,)
        The nodes of all models, and where each model's start.
    roots, root_ends : ndarray of int32 and int64, shapes (trees,) and (models + 1,)
        The roots of all models, and where each model's start.
    answers : ndarray of int64, shape (models,)
        How many answers each model's leaves may name.
    words : ndarray of int64, shape (models,)
        How many words of sets each model has; -1 where keys are never sets.
    levels : ndarray of int32, shape (models, width)
        How many categories an input has, -1 for numbers.
    shift, rest, variants : int
        See the module.
    outputs : int
        The number of trees must be a multiple of it.
    model_of : ndarray of int64, shape (1,)
        Filled with the faulty model.

    Returns
    -------
    int
        A :class:`Fault`.
    """
    for model in range(node_ends.shape[0] - 1):
        model_of[0] = model
        own = nodes[node_ends[model] : node_ends[model + 1]]
        first, last = root_ends[model], root_ends[model + 1]
        fault = _check_roots(roots, first, last, outputs, own.shape[0])
        if fault != 0:
            return fault
        for tree in range(first, last):
            end = roots[tree + 1] if tree + 1 < last else own.shape[0]
            fault = _check_tree(
                own, roots[tree], end, shift, rest, variants, answers[model], levels[model], words[model]
            )
            if fault != 0:
                return fault
    return 0


@exact
def _hash(rows: Integers, i: int) -> np.uint64:
    mixed = np.uint64(0x9E3779B97F4A7C15)
    for column in range(rows.shape[1]):
        mixed = (mixed ^ np.uint64(rows[i, column])) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return mixed


@exact
def _same(rows: Integers, i: int, j: int) -> bool:
    equal = True
    for column in range(rows.shape[1]):
        equal &= rows[i, column] == rows[j, column]
    return equal


@kernel(array(I64, 2), I32_OUT, I64_OUT, returns=I64)
def distinct(rows: Integers, numbers: Indices, firsts: Integers) -> int:
    """Number equal rows alike, in the order in which they come.

    Leaves repeat their answers: a forest's pure leaves, a depth, a training row's own target. Kept once, they stay in
    the cache.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, k)
        The bits of the numbers, so that 0.0 and -0.0 stay apart.
    numbers : ndarray of int32, shape (n,)
        Filled with the number of each row's value.
    firsts : ndarray of int64, shape (n,)
        Filled with where each number was met first.

    Returns
    -------
    int
        How many differ.
    """
    size = 16
    while size < 2 * rows.shape[0]:
        size *= 2
    slots = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    count = 0
    for i in range(rows.shape[0]):
        slot = _hash(rows, i) & mask
        while slots[slot] >= 0 and not _same(rows, firsts[slots[slot]], i):
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot] = count
            firsts[count] = i
            count += 1
        numbers[i] = slots[slot]
    return count
