"""Inputs of trees as whole numbers that order as the inputs do, so that a walk compares nothing but integers.

Not a single comparison changes:

- ``SINGLE``: inputs are single-precision numbers; their bits, read as sign and magnitude, order as they do. Thresholds
  are rounded down to single precision when packed, which no single-precision input can tell.
- ``DOUBLE``: the key is how many of the model's distinct thresholds (*cuts*) of that input are below the value.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.compile import exact
from shoal.kernels.transform import CHUNK
from shoal.types import Floats, Indices

#: Below and above every number's key; the rest row holds the first, and missing values become either.
LOWEST = -(2**31)
HIGHEST = 2**31 - 1
INFINITY_BITS = 0x7F800000

Singles = NDArray[np.float32]


class Precision(IntEnum):
    """How inputs become keys. The numbers are part of the block format."""

    SINGLE = 0
    DOUBLE = 1


SINGLE = int(Precision.SINGLE)


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
def make_keys(
    z: Floats, first: int, n: int, precision: int, variants: int, cuts: Floats, cut_start: int, cut_starts: Indices,
    levels: Indices, keys: Indices, singles: Singles, bits: Indices,
) -> None:  # fmt: skip
    """Fill ``keys`` for ``n`` rows of one model.

    Parameters
    ----------
    z : ndarray of float64, shape (scratch, CHUNK)
        The inputs are its columns from ``first`` on.
    first, n : int
        First input and number of rows.
    precision, variants : int
        A :class:`Precision`, and the rows of keys per input.
    cuts, cut_start, cut_starts : ndarray of float64, int, ndarray of int32
        The model's cuts start at ``cut_start``, those of an input at its entry of ``cut_starts`` from there.
    levels : ndarray of int32, shape (width,)
        How many categories an input has, -1 for numbers.
    keys : ndarray of int32, shape (rows of keys * CHUNK,)
        Filled, but for the rest row.
    singles, bits : ndarray of float32 and int32, shape (CHUNK,)
        Room, twice the same.
    """
    for column in range(levels.shape[0]):
        at = column * variants * CHUNK
        if precision == SINGLE:
            _single_keys(z, first + column, n, variants, keys, at, singles, bits)
        elif levels[column] >= 0:
            _category_keys(z, first + column, n, variants, keys, at, levels[column])
        else:
            low, high = cut_start + cut_starts[column], cut_start + cut_starts[column + 1]
            _double_keys(z, first + column, n, variants, keys, at, cuts, low, high)
