"""Walking rows down a tree, side by side; :mod:`shoal.kernels.tree_links` describes the nodes.

Indices are unsigned: Numba then spares its look for negative ones, a fifth of a step's instructions.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.compile import exact
from shoal.kernels.transform import CHUNK
from shoal.types import Indices, Integers

#: Rows that walk a tree side by side: one row's next step waits for memory, eight rows' steps overlap.
LANES = 8

#: After how many steps to look whether all of them have arrived. Further steps from a leaf stay there.
STRIDE = 4

LOG_CHUNK = np.uint64(6)
ONE, TWO, THREE, FOUR, FIVE, SIX, SEVEN = (np.uint64(lane) for lane in range(1, LANES))
assert 1 << int(LOG_CHUNK) == CHUNK

Unsigned = NDArray[np.uint64]


@exact
def step(nodes: Integers, keys: Indices, i: np.uint64, lane: np.uint64, shift: np.uint64, mask: np.uint64) -> np.uint64:
    """One step down a tree without sets."""
    node = nodes[i]
    low = np.uint64(np.uint32(node))
    greater = keys[((low & mask) << LOG_CHUNK) + lane] > np.int32(node >> 32)
    return i + (low >> shift) + np.uint64(greater)


@exact
def walk(
    nodes: Integers, keys: Indices, places: Unsigned, n: int, shift: np.uint64, mask: np.uint64, leaves: Integers
) -> None:
    """Find the answers' numbers of ``n`` rows in one tree without sets, from where they are."""
    for first in range(0, n, LANES):
        r = np.uint64(first)
        a, b, c, d = places[r], places[r + ONE], places[r + TWO], places[r + THREE]
        e, f, g, h = places[r + FOUR], places[r + FIVE], places[r + SIX], places[r + SEVEN]
        while True:
            for _ in range(STRIDE):
                a = step(nodes, keys, a, r, shift, mask)
                b = step(nodes, keys, b, r + ONE, shift, mask)
                c = step(nodes, keys, c, r + TWO, shift, mask)
                d = step(nodes, keys, d, r + THREE, shift, mask)
                e = step(nodes, keys, e, r + FOUR, shift, mask)
                f = step(nodes, keys, f, r + FIVE, shift, mask)
                g = step(nodes, keys, g, r + SIX, shift, mask)
                h = step(nodes, keys, h, r + SEVEN, shift, mask)
            together = nodes[a] | nodes[b] | nodes[c] | nodes[d] | nodes[e] | nodes[f] | nodes[g] | nodes[h]
            if np.uint64(np.uint32(together)) >> shift == 0:
                break
        leaves[r] = nodes[a] >> 32
        leaves[r + ONE] = nodes[b] >> 32
        leaves[r + TWO] = nodes[c] >> 32
        leaves[r + THREE] = nodes[d] >> 32
        leaves[r + FOUR] = nodes[e] >> 32
        leaves[r + FIVE] = nodes[f] >> 32
        leaves[r + SIX] = nodes[g] >> 32
        leaves[r + SEVEN] = nodes[h] >> 32


@exact
def step_with_sets(
    nodes: Integers, keys: Indices, sets: Indices, i: np.uint64, lane: np.uint64, shift: np.uint64, mask: np.uint64
) -> np.uint64:
    """One step down a tree whose negative keys are sets of categories that go left."""
    node = nodes[i]
    low = np.uint64(np.uint32(node))
    value = keys[((low & mask) << LOG_CHUNK) + lane]
    key = np.int32(node >> 32)
    if key >= 0:
        right = value > key
    else:
        right = (sets[np.uint64(~key + (value >> 5))] >> (value & 31)) & 1 == 0
    return i + (low >> shift) + np.uint64(right)


@exact
def walk_with_sets(
    nodes: Integers, keys: Indices, sets: Indices, root: np.uint64, n: int, shift: np.uint64, mask: np.uint64,
    leaves: Integers,
) -> None:  # fmt: skip
    """Find the answers' numbers of ``n`` rows in one tree with sets."""
    for first in range(0, n, 4):
        r = np.uint64(first)
        a = b = c = d = root
        while np.uint64(np.uint32(nodes[a] | nodes[b] | nodes[c] | nodes[d])) >> shift != 0:
            a = step_with_sets(nodes, keys, sets, a, r, shift, mask)
            b = step_with_sets(nodes, keys, sets, b, r + ONE, shift, mask)
            c = step_with_sets(nodes, keys, sets, c, r + TWO, shift, mask)
            d = step_with_sets(nodes, keys, sets, d, r + THREE, shift, mask)
        leaves[r] = nodes[a] >> 32
        leaves[r + ONE] = nodes[b] >> 32
        leaves[r + TWO] = nodes[c] >> 32
        leaves[r + THREE] = nodes[d] >> 32
