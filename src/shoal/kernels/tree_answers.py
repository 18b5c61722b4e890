"""From the sums of leaves' answers to what an estimator made of trees answers."""

import math
from enum import IntEnum

import numpy as np

from shoal.kernels.compile import exact
from shoal.types import Floats, Indices


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


MEAN = int(Link.MEAN)
IDENTITY = int(Link.IDENTITY)
EXPONENTIAL = int(Link.EXPONENTIAL)
SHARES = int(Link.SHARES)
LOGISTIC = int(Link.LOGISTIC)
HALF_LOGISTIC_FROM_ZERO = int(Link.HALF_LOGISTIC_FROM_ZERO)
SOFTMAX = int(Link.SOFTMAX)


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
def finish_rows(
    link: int, sums: Floats, finish: Floats, names: Indices, n: int, begin: int, values: Floats, labels: Indices,
    p: Floats,
) -> None:  # fmt: skip
    """Write the answers of ``n`` rows from ``begin`` on; ``sums`` (outputs, CHUNK) is used up.

    ``names`` are the model's labels in the fleet's list, empty unless the task is classification.
    """
    if link in (SHARES, SOFTMAX):
        _finish_classes(link, sums, finish, names, n, begin, labels, p)
    elif names.shape[0] > 0:
        _finish_binary(link, sums, names, n, begin, labels, p)
    else:
        _finish_numbers(link, sums, finish, n, begin, values)
