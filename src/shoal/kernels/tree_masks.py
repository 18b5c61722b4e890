"""Small trees, all rows of a chunk at once: which rows reach a node is one 64-bit mask.

A walk takes a row down a tree step by step, and each step waits for the one before. Here every inner node compares its
key with the keys of all 64 rows of a chunk in a few vector instructions, and the masks of its children follow from its
own; a leaf adds its answer to the sums of the rows in its mask. All nodes are visited, so this pays for small trees
only: on a CPU with 512-bit vectors 15 nodes take a quarter of the walk's time, 60 nodes half, 110 as long.

Each row's sum is changed by one addition per tree, as when walking, so the bits are the same.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types as nt
from numba.extending import intrinsic

from shoal.kernels.compile import exact
from shoal.kernels.transform import CHUNK
from shoal.kernels.tree_walks import LOG_CHUNK, ONE, TWO, Unsigned
from shoal.types import Floats, Indices, Integers

#: The mask of a chunk of rows is one register.
ROWS = 64
assert ROWS == CHUNK

#: Trees with more nodes are walked.
MOST_NODES = 80

#: So are fewer rows than this: the masks cost the same for one row as for all.
FEWEST_ROWS = 32

#: Of larger trees, so many nodes are passed by masks: about five steps of a walk.
TOP_NODES = np.uint64(31)

#: Masks that both ways need room for: a node passed hands two on.
ROOM = max(MOST_NODES, 2 * int(TOP_NODES) + 1)

EVERY = np.uint64(0xFFFFFFFFFFFFFFFF)
ZERO = np.uint64(0)

Generated = tuple[Any, Callable[..., Any]]


def _vector_at(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, element: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), ir.VectorType(element, ROWS).as_pointer())


def _everywhere(builder: Any, value: Any) -> Any:
    """A vector with ``value`` in each of its places."""
    vector, index = ir.VectorType(value.type, ROWS), ir.IntType(32)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(index, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(index, ROWS), [0] * ROWS))


def _greater(_context: Any, keys: Any, offset: Any, key: Any) -> Generated:
    """``keys[offset + i] > key`` for 64 rows, as the bits of a mask."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _vector_at(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(32))
        found = builder.icmp_signed(">", builder.load(place, align=4), _everywhere(builder, arguments[2]))
        return builder.bitcast(found, ir.IntType(64))

    return nt.uint64(keys, nt.uint64, nt.int32), generate


def _add_to(_context: Any, sums: Any, offset: Any, mask: Any, value: Any) -> Generated:
    """``sums[offset + i] += value`` for the rows in a mask."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _vector_at(context, builder, signature.args[0], arguments[0], arguments[1], ir.DoubleType())
        old = builder.load(place, align=8)
        chosen = builder.bitcast(arguments[2], ir.VectorType(ir.IntType(1), ROWS))
        new = builder.select(chosen, builder.fadd(old, _everywhere(builder, arguments[3])), old)
        builder.store(new, place, align=8)
        return context.get_dummy_value()

    return nt.void(sums, nt.uint64, nt.uint64, nt.float64), generate


def _put(_context: Any, places: Any, offset: Any, mask: Any, value: Any) -> Generated:
    """``places[offset + i] = value`` for the rows in a mask."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _vector_at(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(64))
        chosen = builder.bitcast(arguments[2], ir.VectorType(ir.IntType(1), ROWS))
        new = builder.select(chosen, _everywhere(builder, arguments[3]), builder.load(place, align=8))
        builder.store(new, place, align=8)
        return context.get_dummy_value()

    return nt.void(places, nt.uint64, nt.uint64, nt.uint64), generate


greater = cast("Callable[[Indices, np.uint64, np.int32], np.uint64]", intrinsic(_greater))
add_to = cast("Callable[[Floats, np.uint64, np.uint64, np.float64], None]", intrinsic(_add_to))
put = cast("Callable[[Unsigned, np.uint64, np.uint64, np.uint64], None]", intrinsic(_put))


@exact
def add_small_tree(
    nodes: Integers, root: np.uint64, size: np.uint64, shift: np.uint64, mask: np.uint64, keys: Indices,
    answers: Floats, reached: Unsigned, sums: Floats, offset: np.uint64,
) -> None:  # fmt: skip
    """Add one tree's answers to the sums of all rows of a chunk.

    Parameters
    ----------
    nodes : ndarray of int64
        See :mod:`shoal.kernels.tree_links`.
    root, size : int
        Where the tree's nodes start, and how many they are: at most ``MOST_NODES``.
    shift, mask : int
        Where a node keeps its row of keys.
    keys : ndarray of int32, shape (rows of keys * 64,)
        What the rows' inputs compare as.
    answers : ndarray of float64
        The model's answers.
    reached : ndarray of uint64, shape (ROOM,)
        Room for the masks.
    sums, offset : ndarray of float64, int
        The rows' sums start at ``offset``.
    """
    reached[ZERO] = EVERY
    for i in range(size):
        node = nodes[root + i]
        low = np.uint64(np.uint32(node))
        delta = low >> shift
        if delta == ZERO:
            add_to(sums, offset, reached[i], answers[np.uint64(node >> 32)])
        else:
            right = greater(keys, (low & mask) << LOG_CHUNK, np.int32(node >> 32))
            reached[i + delta] = reached[i] & ~right
            reached[i + delta + ONE] = reached[i] & right


@exact
def skip_top(
    nodes: Integers, root: np.uint64, size: np.uint64, shift: np.uint64, mask: np.uint64, keys: Indices,
    reached: Unsigned, places: Unsigned,
) -> None:  # fmt: skip
    """Find where each row of a chunk is once the first ``TOP_NODES`` nodes of a tree are behind it.

    Parameters
    ----------
    places : ndarray of uint64, shape (64,)
        Filled with each row's node.

    The others are those of :func:`add_small_tree`.
    """
    reached[ZERO] = EVERY
    known = ONE
    top = min(TOP_NODES, size)
    for i in range(top):
        node = nodes[root + i]
        low = np.uint64(np.uint32(node))
        delta = low >> shift
        if delta == ZERO:
            put(places, ZERO, reached[i], root + i)
        else:
            right = greater(keys, (low & mask) << LOG_CHUNK, np.int32(node >> 32))
            reached[i + delta] = reached[i] & ~right
            reached[i + delta + ONE] = reached[i] & right
            known = i + delta + TWO
    for i in range(top, known):
        put(places, ZERO, reached[i], root + i)
