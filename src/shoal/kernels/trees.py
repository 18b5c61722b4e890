"""The trees kernel: every estimator made of decision trees, from one tree to boosted forests.

Per chunk of rows of one model: run the column-transform program, turn each input into a whole number that orders as
the input does (:mod:`shoal.kernels.tree_links` says how nodes use it), walk each tree with eight rows in lock-step, add
the leaves' answers up in the order of the trees, and turn the sums into what the estimator answers. Nothing here is
compiled with ``FAST``: a label hangs on the last bit of a sum.

How inputs become keys, without changing a single comparison:

- ``SINGLE``: inputs are single-precision numbers; their bits, read as sign and magnitude, order as they do. Thresholds
  are rounded down to single precision when packed, which no single-precision input can tell.
- ``DOUBLE``: the key is how many of the model's distinct thresholds (*cuts*) of that input are below the value.
"""

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.compile import (
    ANSWERS,
    F64_1,
    F64_2,
    I32_1,
    I32_2,
    I64,
    I64_1,
    ROWS,
    exact,
    kernel,
)
from shoal.kernels.transform import CHUNK, Culprits, apply
from shoal.types import Bytes, Floats, Indices, Integers

#: Rows that walk a tree side by side: one row's next step waits for memory, eight rows' steps overlap.
LANES = 8

#: After how many steps to look whether all of them have arrived.
STRIDE = 6

LOWEST = -(2**31)
HIGHEST = 2**31 - 1
INFINITY_BITS = 0x7F800000

Singles = NDArray[np.float32]


class Precision(IntEnum):
    """How inputs become keys. The numbers are part of the block format."""

    SINGLE = 0
    DOUBLE = 1


class Link(IntEnum):
    """What the sums of the leaves' answers mean. The numbers are part of the block format."""

    MEAN = 0  # divided by ``finish[0]``
    IDENTITY = 1
    EXPONENTIAL = 2
    SHARES = 3  # probabilities, once divided by ``finish[0]``; the largest is the label
    LOGISTIC = 4  # one sum, label 1 above zero
    LOGISTIC_FROM_ZERO = 5  # one sum, label 1 from zero on
    HALF_LOGISTIC_FROM_ZERO = 6  # the same, probability expit(2 * sum)
    SOFTMAX = 7
    ISOLATION = 8  # -(2 ** -(sum / finish[0])) - finish[1]


SINGLE = int(Precision.SINGLE)
MEAN = int(Link.MEAN)
IDENTITY = int(Link.IDENTITY)
EXPONENTIAL = int(Link.EXPONENTIAL)
SHARES = int(Link.SHARES)
LOGISTIC = int(Link.LOGISTIC)
HALF_LOGISTIC_FROM_ZERO = int(Link.HALF_LOGISTIC_FROM_ZERO)
SOFTMAX = int(Link.SOFTMAX)


@exact
def _single_keys(
    z: Floats, column: int, n: int, variants: int, keys: Indices, at: int, singles: Singles, bits: Indices
) -> None:
    for i in range(n):
        singles[i] = np.float32(z[column, i])
    for i in range(n):
        size = bits[i] & np.int32(HIGHEST)
        key = size if bits[i] >= 0 else -size
        missing = size > np.int32(INFINITY_BITS)
        keys[at + i] = np.int32(HIGHEST) if missing else key
        if variants == 2:
            keys[at + CHUNK + i] = np.int32(LOWEST) if missing else key


@exact
def rank(value: float, cuts: Floats, first: int, last: int) -> int:
    """How many of the ascending ``cuts[first:last]`` are below ``value``, found without a branch on the values."""
    if last <= first:
        return 0
    base = first
    length = last - first
    while length > 1:
        half = length >> 1
        base += half * int(cuts[base + half - 1] < value)
        length -= half
    return base - first + int(cuts[base] < value)


@exact
def _double_keys(
    z: Floats, column: int, n: int, variants: int, keys: Indices, at: int, cuts: Floats, first: int, last: int
) -> None:
    for i in range(n):
        value = z[column, i]
        missing = value != value
        key = np.int32(rank(value, cuts, first, last))
        keys[at + i] = np.int32(HIGHEST) if missing else key
        if variants == 2:
            keys[at + CHUNK + i] = np.int32(LOWEST) if missing else key


@exact
def _category_keys(z: Floats, column: int, n: int, variants: int, keys: Indices, at: int, categories: int) -> None:
    """Codes of categories; whatever is none of them gets the one behind the last, which stands for a missing value."""
    for i in range(n):
        value = z[column, i]
        code = np.int32(categories)
        if value >= 0.0 and value < categories:
            code = np.int32(value)
        keys[at + i] = code
        if variants == 2:
            keys[at + CHUNK + i] = code


@exact
def step(nodes: Integers, keys: Indices, i: int, lane: int, shift: np.uint32, mask: np.uint32) -> int:
    """One step down a tree without sets."""
    node = nodes[i]
    low = np.uint32(node)
    greater = keys[int(low & mask) * CHUNK + lane] > np.int32(node >> 32)
    return i + int(low >> shift) + int(greater)


@exact
def walk(
    nodes: Integers, keys: Indices, root: int, depth: int, n: int, shift: np.uint32, mask: np.uint32, leaves: Integers
) -> None:
    """Find the answers' numbers of ``n`` rows in one tree without sets."""
    for r in range(0, n, LANES):
        a = b = c = d = e = f = g = h = root
        level = 0
        while True:
            for _ in range(min(STRIDE, depth - level)):
                a = step(nodes, keys, a, r, shift, mask)
                b = step(nodes, keys, b, r + 1, shift, mask)
                c = step(nodes, keys, c, r + 2, shift, mask)
                d = step(nodes, keys, d, r + 3, shift, mask)
                e = step(nodes, keys, e, r + 4, shift, mask)
                f = step(nodes, keys, f, r + 5, shift, mask)
                g = step(nodes, keys, g, r + 6, shift, mask)
                h = step(nodes, keys, h, r + 7, shift, mask)
            level += STRIDE
            if level >= depth:
                break
            together = nodes[a] | nodes[b] | nodes[c] | nodes[d] | nodes[e] | nodes[f] | nodes[g] | nodes[h]
            if np.uint32(together) >> shift == 0:
                break
        leaves[r] = nodes[a] >> 32
        leaves[r + 1] = nodes[b] >> 32
        leaves[r + 2] = nodes[c] >> 32
        leaves[r + 3] = nodes[d] >> 32
        leaves[r + 4] = nodes[e] >> 32
        leaves[r + 5] = nodes[f] >> 32
        leaves[r + 6] = nodes[g] >> 32
        leaves[r + 7] = nodes[h] >> 32


@exact
def step_with_sets(
    nodes: Integers, keys: Indices, sets: Indices, i: int, lane: int, shift: np.uint32, mask: np.uint32
) -> int:
    """One step down a tree whose negative keys are sets of categories that go left."""
    node = nodes[i]
    low = np.uint32(node)
    value = int(keys[int(low & mask) * CHUNK + lane])
    key = int(node >> 32)
    if key < 0:
        greater = 1 - ((int(sets[~key + (value >> 5)]) >> (value & 31)) & 1)
    else:
        greater = int(value > key)
    return i + int(low >> shift) + greater


@exact
def walk_with_sets(
    nodes: Integers, keys: Indices, sets: Indices, root: int, depth: int, n: int, shift: np.uint32, mask: np.uint32,
    leaves: Integers,
) -> None:  # fmt: skip
    """Find the answers' numbers of ``n`` rows in one tree with sets."""
    for r in range(0, n, 4):
        a = b = c = d = root
        for _ in range(depth):
            a = step_with_sets(nodes, keys, sets, a, r, shift, mask)
            b = step_with_sets(nodes, keys, sets, b, r + 1, shift, mask)
            c = step_with_sets(nodes, keys, sets, c, r + 2, shift, mask)
            d = step_with_sets(nodes, keys, sets, d, r + 3, shift, mask)
        leaves[r] = nodes[a] >> 32
        leaves[r + 1] = nodes[b] >> 32
        leaves[r + 2] = nodes[c] >> 32
        leaves[r + 3] = nodes[d] >> 32


@exact
def _add(sums: Floats, tree: int, answers: Floats, at: int, leaves: Integers, n: int, votes: int) -> None:
    outputs = sums.shape[0]
    if votes:
        for k in range(outputs):
            for i in range(n):
                sums[k, i] += answers[at + leaves[i] * outputs + k]
    else:
        k = tree % outputs
        for i in range(n):
            sums[k, i] += answers[at + leaves[i]]


@exact
def logistic(x: float) -> float:
    """The logistic function."""
    return 1.0 / (1.0 + math.exp(-x))


@exact
def isolation(depth: float, usual: float, offset: float) -> float:
    """How normal a path of summed length ``depth`` is: the decision function of an isolation forest.

    Liu, Ting and Zhou, *Isolation forest*, ICDM 2008, with scikit-learn's sign and offset. The power's last bits
    differ between libraries, yet the offset may be a training row's own score: nearer than that is on it.
    """
    ratio = 1.0 if usual == 0.0 else depth / usual
    score = -(2.0**-ratio)
    decision = score - offset
    return 0.0 if abs(decision) <= 4.0 * np.finfo(np.float64).eps * abs(offset) else decision


@exact
def _finish_numbers(link: int, sums: Floats, finish: Floats, n: int, begin: int, values: Floats) -> None:
    for i in range(n):
        total = sums[0, i]
        if link == MEAN:
            values[begin + i] = total / finish[0]
        elif link == IDENTITY:
            values[begin + i] = total
        elif link == EXPONENTIAL:
            values[begin + i] = math.exp(total)
        else:
            values[begin + i] = isolation(total, finish[0], finish[1])


@exact
def _finish_binary(link: int, sums: Floats, names: Indices, n: int, begin: int, labels: Indices, p: Floats) -> None:
    for i in range(n):
        total = sums[0, i]
        second = total > 0.0 if link == LOGISTIC else total >= 0.0
        share = logistic(2.0 * total if link == HALF_LOGISTIC_FROM_ZERO else total)
        labels[begin + i] = names[min(np.int64(second), names.shape[0] - 1)]
        p[begin + i, names[0]] = 1.0 - share
        if names.shape[0] > 1:
            p[begin + i, names[1]] = share


@exact
def _shares(link: int, sums: Floats, i: int, divisor: float) -> None:
    """Turn one row's sums into probabilities, in place."""
    outputs = sums.shape[0]
    if link == SHARES:
        for k in range(outputs):
            sums[k, i] /= divisor
        return
    highest = sums[0, i]
    for k in range(1, outputs):
        highest = max(highest, sums[k, i])
    total = 0.0
    for k in range(outputs):
        sums[k, i] = math.exp(sums[k, i] - highest)
        total += sums[k, i]
    for k in range(outputs):
        sums[k, i] /= total


@exact
def _largest(sums: Floats, i: int) -> int:
    best = 0
    for k in range(1, sums.shape[0]):
        if sums[k, i] > sums[best, i]:
            best = k
    return best


@exact
def _finish_classes(
    link: int, sums: Floats, finish: Floats, names: Indices, n: int, begin: int, labels: Indices, p: Floats
) -> None:
    for i in range(n):
        best = _largest(sums, i)  # of the raw sums, unless division makes a tie of the shares
        _shares(link, sums, i, finish[0])
        if link == SHARES:
            best = _largest(sums, i)
        labels[begin + i] = names[best]
        for k in range(sums.shape[0]):
            p[begin + i, names[k]] = sums[k, i]


@exact
def _finish(
    link: int, sums: Floats, finish: Floats, names: Indices, n: int, begin: int, values: Floats, labels: Indices,
    p: Floats,
) -> None:  # fmt: skip
    if link in (SHARES, SOFTMAX):
        _finish_classes(link, sums, finish, names, n, begin, labels, p)
    elif names.shape[0] > 0:
        _finish_binary(link, sums, names, n, begin, labels, p)
    else:
        _finish_numbers(link, sums, finish, n, begin, values)


@exact
def _all_keys(
    z: Floats, first: int, n: int, precision: int, variants: int, cuts: Floats, cut_start: int, cut_starts: Indices,
    levels: Indices, keys: Indices, singles: Singles, bits: Indices,
) -> None:  # fmt: skip
    for column in range(levels.shape[0]):
        at = column * variants * CHUNK
        if precision == SINGLE:
            _single_keys(z, first + column, n, variants, keys, at, singles, bits)
        elif levels[column] >= 0:
            _category_keys(z, first + column, n, variants, keys, at, levels[column])
        else:
            low, high = cut_start + cut_starts[column], cut_start + cut_starts[column + 1]
            _double_keys(z, first + column, n, variants, keys, at, cuts, low, high)


@kernel(
    *ROWS, I64_1, I64_1, I32_1, I32_1, I64_1, F64_1, I64_1, F64_1, I64_1, I32_1, I64_1,
    I32_2, I32_2, F64_2, F64_2, I32_2, I32_1, I64, I64, I64, I64, I64, I64, *ANSWERS,
)  # fmt: skip
def score(
    X: Floats, units: Integers, lo: int, hi: int, program: Indices, transform: Floats, scratch: int, first: int,
    nodes: Integers, node_ends: Integers, roots: Indices, depths: Indices, root_ends: Integers,
    answers: Floats, answer_ends: Integers, cuts: Floats, cut_ends: Integers, sets: Indices, set_ends: Integers,
    cut_starts: Indices, levels: Indices, start: Floats, finish: Floats, classes: Indices, class_map: Indices,
    precision: int, variants: int, with_sets: int, votes: int, link: int, shift_bits: int,
    values: Floats, labels: Indices, p: Floats, reasons: Bytes, culprits: Culprits,
) -> None:  # fmt: skip
    """Score units ``lo`` to ``hi``; :mod:`shoal.families.trees` describes the arrays and has checked them."""
    rest = levels.shape[1] * variants
    shift, mask = np.uint32(shift_bits), np.uint32((1 << shift_bits) - 1)
    z = np.zeros((scratch, CHUNK))
    keys = np.full((rest + 1) * CHUNK, LOWEST, np.int32)
    singles = np.empty(CHUNK, np.float32)
    sums = np.empty((start.shape[1], CHUNK))
    leaves = np.empty(CHUNK, np.int64)
    names = np.empty(classes.shape[1], np.int32)
    for unit in range(lo, hi):
        model, stop = units[unit, 0], units[unit, 2]
        own = nodes[node_ends[model] : node_ends[model + 1]]
        own_sets = sets[set_ends[model] : set_ends[model + 1]]
        for k in range(names.shape[0]):
            names[k] = class_map[classes[model, k]]
        for begin in range(units[unit, 1], stop, CHUNK):
            n = min(CHUNK, stop - begin)
            padded = (n + LANES - 1) // LANES * LANES
            apply(X, begin, n, program, transform[model], z, reasons, culprits)
            _all_keys(
                z, first, padded, precision, variants, cuts, cut_ends[model], cut_starts[model], levels[model],
                keys, singles, singles.view(np.int32),
            )  # fmt: skip
            for k in range(sums.shape[0]):
                sums[k, :] = start[model, k]
            for tree in range(root_ends[model], root_ends[model + 1]):
                if with_sets:
                    walk_with_sets(own, keys, own_sets, roots[tree], depths[tree], padded, shift, mask, leaves)
                else:
                    walk(own, keys, roots[tree], depths[tree], padded, shift, mask, leaves)
                _add(sums, tree - root_ends[model], answers, answer_ends[model], leaves, n, votes)
            _finish(link, sums, finish[model], names, n, begin, values, labels, p)
