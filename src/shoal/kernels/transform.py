"""The column-transform stage: runs a :mod:`shoal.kernels.program` over a chunk of rows of one model.

Model kernels call :func:`apply` for each chunk of a unit and find the estimator's inputs in the scratch. Everything
here is compiled *without* ``FAST``: ``arcp`` would turn a division into a multiplication by the reciprocal, whose last
bit differs, and a tree would then send a value that lies on a threshold the other way.
"""

import math

import numpy as np

from shoal.kernels.compile import exact
from shoal.kernels.program import Op
from shoal.types import Bytes, Floats, Indices, Reason

#: Rows that the scratch holds. One chunk of a handful of columns stays in the first-level cache.
CHUNK = 64

LOAD = int(Op.LOAD)
COPY = int(Op.COPY)
IMPUTE = int(Op.IMPUTE)
REPLACE = int(Op.REPLACE)
SUBTRACT = int(Op.SUBTRACT)
DIVIDE = int(Op.DIVIDE)
MULTIPLY = int(Op.MULTIPLY)
ADD = int(Op.ADD)
CLIP = int(Op.CLIP)
INDICATOR = int(Op.INDICATOR)
ONEHOT = int(Op.ONEHOT)
ENCODE = int(Op.ENCODE)
FLOAT32 = int(Op.FLOAT32)
REQUIRE = int(Op.REQUIRE)

MISSING_VALUE = int(Reason.MISSING_VALUE)
INFINITE_VALUE = int(Reason.INFINITE_VALUE)
UNKNOWN_CATEGORY = int(Reason.UNKNOWN_CATEGORY)
TOO_LARGE_FOR_FLOAT32 = int(Reason.TOO_LARGE_FOR_FLOAT32)

Culprits = np.ndarray[tuple[int], np.dtype[np.int16]]


@exact
def mark(reasons: Bytes, culprits: Culprits, row: int, reason: int, feature: int) -> None:
    """Mark a row, unless it is marked already: the first reason stays."""
    if reasons[row] == 0:
        reasons[row] = reason
        culprits[row] = feature


@exact
def _load(
    X: Floats, source: int, start: int, n: int, z: Floats, target: int, reasons: Bytes, culprits: Culprits, feature: int
) -> None:
    infinite = 0
    for i in range(n):
        value = X[source, start + i]
        z[target, i] = value
        infinite += abs(value) == np.inf
    if infinite:
        for i in range(n):
            if abs(z[target, i]) == np.inf:
                mark(reasons, culprits, start + i, INFINITE_VALUE, feature)


@exact
def _require(z: Floats, target: int, start: int, n: int, reasons: Bytes, culprits: Culprits, feature: int) -> None:
    bad = 0
    for i in range(n):
        bad += not abs(z[target, i]) < np.inf
    if bad:
        for i in range(n):
            if math.isnan(z[target, i]):
                mark(reasons, culprits, start + i, MISSING_VALUE, feature)
            elif math.isinf(z[target, i]):
                mark(reasons, culprits, start + i, INFINITE_VALUE, feature)


@exact
def _float32(z: Floats, target: int, start: int, n: int, reasons: Bytes, culprits: Culprits, feature: int) -> None:
    infinite = 0
    for i in range(n):
        rounded = np.float64(np.float32(z[target, i]))
        z[target, i] = rounded
        infinite += abs(rounded) == np.inf
    if infinite:
        for i in range(n):
            if math.isinf(z[target, i]):
                mark(reasons, culprits, start + i, TOO_LARGE_FOR_FLOAT32, feature)


@exact
def _calculate(op: int, z: Floats, target: int, n: int, number: float) -> None:
    if op == SUBTRACT:
        for i in range(n):
            z[target, i] -= number
    elif op == DIVIDE:
        for i in range(n):
            z[target, i] /= number
    elif op == MULTIPLY:
        for i in range(n):
            z[target, i] *= number
    else:
        for i in range(n):
            z[target, i] += number


@exact
def _replace(op: int, z: Floats, target: int, n: int, numbers: Floats, slot: int) -> None:
    first = numbers[slot]
    if op == IMPUTE:
        for i in range(n):
            value = z[target, i]
            z[target, i] = first if value != value else value
    elif op == REPLACE:
        second = numbers[slot + 1]
        for i in range(n):
            value = z[target, i]
            z[target, i] = second if value == first else value
    else:
        second = numbers[slot + 1]
        for i in range(n):
            value = z[target, i]
            value = first if value < first else value
            z[target, i] = second if value > second else value


@exact
def _move(op: int, z: Floats, source: int, target: int, n: int) -> None:
    if op == COPY:
        for i in range(n):
            z[target, i] = z[source, i]
    else:
        for i in range(n):
            z[target, i] = 1.0 if z[source, i] != z[source, i] else 0.0


@exact
def find(value: float, numbers: Floats, slot: int, count: int) -> int:
    """Position of ``value`` among ``count`` ascending numbers (NaN behind them all), or -1."""
    lo = 0
    hi = count
    while lo < hi:
        middle = (lo + hi) >> 1
        if numbers[slot + middle] < value:
            lo = middle + 1
        else:
            hi = middle
    if lo < count and numbers[slot + lo] == value:
        return lo
    return -1


@exact
def _look_up(value: float, numbers: Floats, slot: int, count: int) -> float:
    """The column of a category; ``numbers[slot]`` when it is unknown. A missing value is looked up as +inf."""
    entry = find(np.inf if math.isnan(value) else value, numbers, slot + 1, count)
    column: float = numbers[slot] if entry < 0 else numbers[slot + 1 + count + entry]
    return column


@exact
def _one_hot(
    z: Floats, source: int, target: int, width: int, start: int, n: int, numbers: Floats, slot: int, count: int,
    reasons: Bytes, culprits: Culprits, feature: int,
) -> None:  # fmt: skip
    for column in range(target, target + width):
        for i in range(n):
            z[column, i] = 0.0
    for i in range(n):
        column = int(_look_up(z[source, i], numbers, slot, count))
        if column >= 0:
            z[target + column, i] = 1.0
        elif column == -2:
            reason = MISSING_VALUE if math.isnan(z[source, i]) else UNKNOWN_CATEGORY
            mark(reasons, culprits, start + i, reason, feature)


@exact
def _encode(z: Floats, source: int, target: int, n: int, numbers: Floats, slot: int, count: int) -> None:
    for i in range(n):
        column = _look_up(z[source, i], numbers, slot, count)
        z[target, i] = np.nan if column < 0.0 else column


@exact
def apply(
    X: Floats, start: int, n: int, program: Indices, numbers: Floats, z: Floats, reasons: Bytes, culprits: Culprits
) -> None:
    """Fill the scratch for rows ``start`` to ``start + n`` of one model.

    Parameters
    ----------
    X : ndarray of float64, shape (features, rows)
        Raw features.
    start, n : int
        First row and number of rows, at most ``CHUNK``.
    program : ndarray of int32, shape (steps, 7)
        The steps, checked beforehand: nothing is bounds-checked here.
    numbers : ndarray of float64, shape (slots,)
        The model's row of ``transform``.
    z : ndarray of float64, shape (scratch, CHUNK)
        The scratch; its columns hold ``n`` values afterwards, what lies behind them is left as it was.
    reasons, culprits : ndarray of uint8 and int16, shape (rows,)
        Marks of rows that cannot be scored, by row of ``X``.
    """
    for step in range(program.shape[0]):
        op = program[step, 0]
        source = program[step, 1]
        target = program[step, 2]
        slot = program[step, 4]
        count = program[step, 5]
        feature = program[step, 6]
        if op == LOAD:
            _load(X, source, start, n, z, target, reasons, culprits, feature)
        elif SUBTRACT <= op <= ADD:
            _calculate(op, z, target, n, numbers[slot])
        elif op in (COPY, INDICATOR):
            _move(op, z, source, target, n)
        elif op == REQUIRE:
            _require(z, target, start, n, reasons, culprits, feature)
        elif op == FLOAT32:
            _float32(z, target, start, n, reasons, culprits, feature)
        elif op == ONEHOT:
            width = program[step, 3]
            _one_hot(z, source, target, width, start, n, numbers, slot, count, reasons, culprits, feature)
        elif op == ENCODE:
            _encode(z, source, target, n, numbers, slot, count)
        else:
            _replace(op, z, target, n, numbers, slot)
