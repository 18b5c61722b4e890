"""The affine kernel: a weighted sum of the inputs per output, then a link function.

One loop serves all linear models. Sums run over the inputs in their order, one rounding per operation, for many rows
side by side: a row's answer has the same bits whatever its neighbours are.
"""

import math
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.compile import ANSWERS, F64_2, F64_3, I32_1, I32_2, I64, ROWS, exact, kernel
from shoal.kernels.transform import CHUNK, Culprits, apply, mark
from shoal.types import Bytes, Floats, Indices, Integers, Reason

Cube: TypeAlias = NDArray[np.float64]


class Link(IntEnum):
    """What becomes of the sums. The numbers are part of the block format.

    Regression: ``IDENTITY``, ``EXP``. Classification by label alone: ``SIGN`` (one output, two classes), ``ARGMAX``.
    With probabilities: ``LOGISTIC`` (one output), ``SOFTMAX``, ``LOGISTIC_EACH`` (one against the rest, normalised),
    ``HUBER`` and ``HUBER_EACH`` (modified Huber loss).
    """

    IDENTITY = 0
    EXP = 1
    SIGN = 2
    ARGMAX = 3
    LOGISTIC = 4
    SOFTMAX = 5
    LOGISTIC_EACH = 6
    HUBER = 7
    HUBER_EACH = 8


IDENTITY = int(Link.IDENTITY)
EXP = int(Link.EXP)
SIGN = int(Link.SIGN)
ARGMAX = int(Link.ARGMAX)
LOGISTIC = int(Link.LOGISTIC)
SOFTMAX = int(Link.SOFTMAX)
LOGISTIC_EACH = int(Link.LOGISTIC_EACH)
HUBER = int(Link.HUBER)
HUBER_EACH = int(Link.HUBER_EACH)

NOT_FINITE_ANSWER = int(Reason.NOT_FINITE_ANSWER)

NO_FEATURE = -1
"""The culprit of a reason that is about no feature in particular."""

LOG2_E = 1.4426950408889634
LOG_2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero, so that a whole number times it is exact
LOG_2_LOW = 1.90821492927058770002e-10
ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it rounds, and leaves the whole number in the lowest bits
LEAST, MOST = -708.0, 709.7  # below and above, the exponential is called zero and infinite
TAYLOR = tuple(1.0 / math.factorial(k) for k in range(12, -1, -1))


@exact
def _exp(x: float) -> float:
    """The exponential; relative error below 1e-15, NaN stays NaN.

    A call of ``math.exp`` would be vectorised by one mathematics library and not by another, and the last rows of a
    chunk would get other bits than the first.
    """
    inside = min(max(x, LEAST), MOST)
    rounded = inside * LOG2_E + ROUND
    n = rounded - ROUND
    r = (inside - n * LOG_2_HIGH) - n * LOG_2_LOW
    p = TAYLOR[0]
    for c in TAYLOR[1:]:
        p = p * r + c
    bits = np.float64(p).view(np.int64) + (np.float64(rounded).view(np.int64) << 52)
    power: float = np.int64(bits).view(np.float64)
    power = 0.0 if x < LEAST else power
    power = np.inf if x > MOST else power
    return x if x != x else power


@exact
def _sums(z: Floats, first: int, n: int, coef: Cube, intercept: Floats, model: int, sums: Floats) -> None:
    """Fill ``sums[k, :n]``. Four inputs per pass, so that the sums are read and written a quarter as often."""
    inputs = coef.shape[2]
    whole = inputs - inputs % 4
    for k in range(coef.shape[1]):
        for i in range(n):
            sums[k, i] = 0.0
        for j in range(0, whole, 4):
            a, b, c, d = coef[model, k, j], coef[model, k, j + 1], coef[model, k, j + 2], coef[model, k, j + 3]
            column = first + j
            for i in range(n):
                total = sums[k, i] + a * z[column, i] + b * z[column + 1, i]
                sums[k, i] = total + c * z[column + 2, i] + d * z[column + 3, i]
        for j in range(whole, inputs):
            a = coef[model, k, j]
            for i in range(n):
                sums[k, i] += a * z[first + j, i]
        for i in range(n):
            sums[k, i] += intercept[model, k]


@exact
def _check(sums: Floats, outputs: int, start: int, n: int, reasons: Bytes, culprits: Culprits) -> None:
    """Mark rows with a sum that is infinite or not a number."""
    for k in range(outputs):
        bad = 0
        for i in range(n):
            bad += not abs(sums[k, i]) < np.inf
        if bad:
            for i in range(n):
                if not abs(sums[k, i]) < np.inf:
                    mark(reasons, culprits, start + i, NOT_FINITE_ANSWER, NO_FEATURE)


@exact
def _regress(sums: Floats, link: int, start: int, n: int, values: Floats, reasons: Bytes, culprits: Culprits) -> None:
    if link == EXP:
        for i in range(n):
            sums[0, i] = _exp(sums[0, i])
        _check(sums, 1, start, n, reasons, culprits)
    for i in range(n):
        values[start + i] = sums[0, i]


@exact
def _label_one(sums: Floats, model: int, start: int, n: int, classes: Indices, map_: Indices, labels: Indices) -> None:
    """Two classes: the second where the sum is above zero."""
    no = map_[classes[model, 0]]
    yes = map_[classes[model, 1]]
    for i in range(n):
        labels[start + i] = yes if sums[0, i] > 0.0 else no


@exact
def _label_most(
    sums: Floats, spare: int, model: int, start: int, n: int, classes: Indices, map_: Indices, labels: Indices
) -> None:
    """The class of the largest sum, among equals the first; the largest sums are left in the spare row."""
    for i in range(n):
        sums[spare, i] = sums[0, i]
        labels[start + i] = map_[classes[model, 0]]
    for k in range(1, spare):
        label = map_[classes[model, k]]
        for i in range(n):
            larger = sums[k, i] > sums[spare, i]
            labels[start + i] = label if larger else labels[start + i]
            sums[spare, i] = sums[k, i] if larger else sums[spare, i]


@exact
def _squash(sums: Floats, link: int, outputs: int, n: int) -> None:
    """Turn every sum into the weight of its class: logistic, or clipped as the modified Huber loss has it."""
    for k in range(outputs):
        if link in (LOGISTIC, LOGISTIC_EACH):
            for i in range(n):
                power = _exp(-abs(sums[k, i]))
                sums[k, i] = (1.0 if sums[k, i] >= 0.0 else power) / (1.0 + power)
        else:
            for i in range(n):
                sums[k, i] = (min(max(sums[k, i], -1.0), 1.0) + 1.0) / 2.0


@exact
def _exponentiate(sums: Floats, spare: int, n: int) -> None:
    """Softmax without its division; the largest sum is taken off first so that nothing overflows."""
    for k in range(spare):
        for i in range(n):
            sums[k, i] = _exp(sums[k, i] - sums[spare, i])


@exact
def _share(
    sums: Floats, spare: int, model: int, start: int, n: int, classes: Indices, map_: Indices, probabilities: Floats
) -> None:
    """Divide the weights by their total; equal shares where all are zero."""
    for i in range(n):
        sums[spare, i] = 0.0
    for k in range(spare):
        for i in range(n):
            sums[spare, i] += sums[k, i]
    for k in range(spare):
        column = map_[classes[model, k]]
        for i in range(n):
            total = sums[spare, i]
            probabilities[start + i, column] = sums[k, i] / total if total > 0.0 else 1.0 / spare


@exact
def _split(
    sums: Floats, model: int, start: int, n: int, classes: Indices, map_: Indices, probabilities: Floats
) -> None:
    """Two classes: the weight, and what is left of one."""
    no = map_[classes[model, 0]]
    yes = map_[classes[model, 1]]
    for i in range(n):
        probabilities[start + i, no] = 1.0 - sums[0, i]
        probabilities[start + i, yes] = sums[0, i]


@exact
def _classify(
    sums: Floats, outputs: int, link: int, model: int, start: int, n: int, classes: Indices, map_: Indices,
    labels: Indices, probabilities: Floats,
) -> None:  # fmt: skip
    if outputs == 1:
        _label_one(sums, model, start, n, classes, map_, labels)
    else:
        _label_most(sums, outputs, model, start, n, classes, map_, labels)
    if link in (SIGN, ARGMAX):
        return
    if link == SOFTMAX:
        _exponentiate(sums, outputs, n)
    else:
        _squash(sums, link, outputs, n)
    if outputs == 1:
        _split(sums, model, start, n, classes, map_, probabilities)
    else:
        _share(sums, outputs, model, start, n, classes, map_, probabilities)


@kernel(*ROWS, F64_3, F64_2, I64, I32_2, I32_1, *ANSWERS)
def score_affine(
    X: Floats, units: Integers, lo: int, hi: int, program: Indices, transform: Floats, scratch: int, first: int,
    coef: Cube, intercept: Floats, link: int, classes: Indices, class_map: Indices,
    values: Floats, labels: Indices, probabilities: Floats, reasons: Bytes, culprits: Culprits,
) -> None:  # fmt: skip
    """Score units ``lo`` to ``hi``.

    Parameters
    ----------
    X, units, lo, hi, program, transform, scratch, first
        See :mod:`shoal.kernels.compile` and :mod:`shoal.families.contract`.
    coef : ndarray of float64, shape (models, outputs, width)
        Weights of the inputs.
    intercept : ndarray of float64, shape (models, outputs)
        Added to the sums.
    link : int
        A :class:`Link`.
    classes : ndarray of int32, shape (models, n_classes)
        Positions in the block's labels.
    class_map : ndarray of int32
        From the block's labels to the fleet's, which are the columns of ``probabilities``.
    values, labels, probabilities, reasons, culprits
        See :class:`shoal.families.contract.Answers`.
    """
    z = np.zeros((scratch, CHUNK))
    outputs = coef.shape[1]
    sums = np.zeros((outputs + 1, CHUNK))
    for unit in range(lo, hi):
        model = units[unit, 0]
        stop = units[unit, 2]
        for start in range(units[unit, 1], stop, CHUNK):
            n = min(CHUNK, stop - start)
            apply(X, start, n, program, transform[model], z, reasons, culprits)
            _sums(z, first, n, coef, intercept, model, sums)
            _check(sums, outputs, start, n, reasons, culprits)
            if link in (IDENTITY, EXP):
                _regress(sums, link, start, n, values, reasons, culprits)
            else:
                _classify(sums, outputs, link, model, start, n, classes, class_map, labels, probabilities)
