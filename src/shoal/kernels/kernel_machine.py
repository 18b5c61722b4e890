"""The kernel machine: a weighted sum of kernel evaluations between a row and a model's support vectors.

Layout. Support vectors come in blocks of eight, one per lane, feature by feature: ``support[block, feature, lane]``.
The last block is filled up with zeros whose coefficients are zero, so that there is no remainder to treat apart.
A model with one decision value (regression, anomaly, two classes) has ``coefficients[block, lane]``. From three classes
on there is one decision value per pair of classes, each class fills blocks of its own, and there are
``coefficients[block, classes - 1, lane]``, libsvm's ``sv_coef``: one for each opponent of the block's class.

Order. A tile of four rows meets a pair of blocks at a time, so that a number loaded once serves eight or sixteen
evaluations and everything stays in registers. Each lane adds up its own share, and a row's eight shares are added
last. Which rows stand beside a row changes nothing in this: its answer has the same bits alone and in any company.

Distances are sums of squared differences; expanding the square would save nothing (subtraction has units of its own on
today's processors) and lose half of the digits of rows far from the origin.
"""

import enum

from numba import types as nt

from shoal.kernels.compile import (
    ANSWERS,
    F64_1,
    F64_2,
    F64_3,
    I32_1,
    I32_2,
    I64,
    I64_1,
    I64_2,
    ROWS,
    Kernel,
    array,
    exact,
)
from shoal.kernels.exponential import LOG2_E, exp2, tanh_of_half_log
from shoal.kernels.lanes import (
    FOUR,
    LANE_OPTIONS,
    WIDTH,
    Lanes,
    at_least,
    at_most,
    four_rows,
    lane_function,
    load,
    multiply_add,
    one_row,
    prefetch,
    spread,
    store,
    store_totals,
)
from shoal.kernels.platt import workspace
from shoal.kernels.transform import CHUNK, Culprits, apply
from shoal.kernels.voting import classify
from shoal.types import Bytes, Floats, Indices, Integers


class KernelFunction(enum.IntEnum):
    """The similarity of a row x and a support vector s."""

    LINEAR = 0
    """x s"""
    RBF = 1
    """exp(-gamma |x - s|^2)"""
    POLY = 2
    """(gamma x s + coef0)^degree"""
    SIGMOID = 3
    """tanh(gamma x s + coef0)"""


LINEAR = int(KernelFunction.LINEAR)
RBF = int(KernelFunction.RBF)
POLY = int(KernelFunction.POLY)

#: So many numbers of the next model are fetched while this one is scored; the processor can keep no more in flight.
MOST_EXPECTED = 512


@lane_function
def _power(base: Lanes, degree: int) -> Lanes:
    """By repeated squaring, as libsvm does it."""
    power = at_most(at_least(base, 1.0), 1.0)
    while degree > 0:
        if degree & 1:
            power = power * base
        base = base * base
        degree >>= 1
    return power


@lane_function
def _respond(kernel: int, degree: int, slope: float, shift: float, sums: Lanes) -> Lanes:
    """The kernel's values, from squared distances (rbf) or products."""
    if kernel == RBF:
        return exp2(sums * slope)
    if kernel == LINEAR:
        return sums
    if kernel == POLY:
        return _power(multiply_add(sums, slope, shift), degree)
    return tanh_of_half_log(multiply_add(sums, slope, shift))


@lane_function
def _meet(zero: Lanes, kernel: int, z: Floats, start: int, width: int, support: Floats, block: int) -> Lanes:
    """Squared distances (rbf) or products of the tile's rows and one block of support vectors."""
    sums = zero
    if kernel == RBF:
        for d in range(width):
            x = spread(zero, z, start + d * CHUNK)
            gap = load(one_row(), support, block + d * WIDTH) - x
            sums = multiply_add(gap, gap, sums)
    else:
        for d in range(width):
            x = spread(zero, z, start + d * CHUNK)
            sums = multiply_add(load(one_row(), support, block + d * WIDTH), x, sums)
    return sums


@lane_function
def _meet_two(
    zero: Lanes, kernel: int, z: Floats, start: int, width: int, support: Floats, block: int
) -> tuple[Lanes, Lanes]:
    """:func:`_meet` for two neighbouring blocks, with the same operations for each."""
    left = zero
    right = zero
    behind = width * WIDTH
    if kernel == RBF:
        for d in range(width):
            x = spread(zero, z, start + d * CHUNK)
            near = load(one_row(), support, block + d * WIDTH) - x
            far = load(one_row(), support, block + behind + d * WIDTH) - x
            left = multiply_add(near, near, left)
            right = multiply_add(far, far, right)
    else:
        for d in range(width):
            x = spread(zero, z, start + d * CHUNK)
            left = multiply_add(load(one_row(), support, block + d * WIDTH), x, left)
            right = multiply_add(load(one_row(), support, block + behind + d * WIDTH), x, right)
    return left, right


@lane_function
def _sum_tile(
    zero: Lanes, kernel: int, degree: int, slope: float, shift: float, z: Floats, start: int, width: int,
    support: Floats, block: int, coefficients: Floats, weight: int, blocks: int, sums: Floats, row: int,
) -> None:  # fmt: skip
    """Write the tile's weighted sums over all blocks."""
    total = zero
    done = 0
    while done + 2 <= blocks:
        left, right = _meet_two(zero, kernel, z, start, width, support, block)
        left = _respond(kernel, degree, slope, shift, left)
        right = _respond(kernel, degree, slope, shift, right)
        total = multiply_add(left, load(one_row(), coefficients, weight), total)
        total = multiply_add(right, load(one_row(), coefficients, weight + WIDTH), total)
        done += 2
        weight += 2 * WIDTH
        block += 2 * WIDTH * width
    if done < blocks:
        last = _respond(kernel, degree, slope, shift, _meet(zero, kernel, z, start, width, support, block))
        total = multiply_add(last, load(one_row(), coefficients, weight), total)
    store_totals(total, sums, row)


@exact
def _decide(
    n: int, kernel: int, degree: int, slope: float, shift: float, z: Floats, first: int, width: int,
    support: Floats, block: int, coefficients: Floats, weight: int, blocks: int, sums: Floats,
) -> None:  # fmt: skip
    """One weighted sum for each of ``n`` rows of the scratch; not inlined, so that registers are dealt out afresh."""
    row = 0
    while row < n:
        start = first * CHUNK + row
        if n - row > 1:  # what lies behind the last row is computed and never looked at
            _sum_tile(
                four_rows(), kernel, degree, slope, shift, z, start, width,
                support, block, coefficients, weight, blocks, sums, row,
            )  # fmt: skip
            row += FOUR
        else:
            _sum_tile(
                one_row(), kernel, degree, slope, shift, z, start, width,
                support, block, coefficients, weight, blocks, sums, row,
            )  # fmt: skip
            row += 1


@exact
def pair_position(classes: int, c: int, opponent: int) -> int:
    """Where the pair of two classes stands among all pairs: (0, 1), (0, 2), ..., (1, 2), ..."""
    low = min(c, opponent)
    return low * (2 * classes - low - 1) // 2 + max(c, opponent) - low - 1


@lane_function
def _pairs_tile(
    zero: Lanes, rows: int, kernel: int, degree: int, slope: float, shift: float, z: Floats, start: int, width: int,
    support: Floats, block: int, coefficients: Floats, weight: int, blocks: Integers, model: int,
    shares: Floats, decisions: Floats, row: int,
) -> None:  # fmt: skip
    """Write the tile's decision value for every pair of classes, without the intercepts."""
    classes = blocks.shape[1]
    pairs = classes * (classes - 1) // 2
    cell = rows * WIDTH
    for pair in range(pairs):
        store(zero, shares, pair * cell)
    for c in range(classes):
        for _ in range(blocks[model, c]):
            values = _respond(kernel, degree, slope, shift, _meet(zero, kernel, z, start, width, support, block))
            for opponent in range(classes):
                if opponent != c:
                    place = pair_position(classes, c, opponent) * cell
                    share = multiply_add(values, load(one_row(), coefficients, weight), load(zero, shares, place))
                    store(share, shares, place)
                    weight += WIDTH
            block += WIDTH * width
    for pair in range(pairs):
        store_totals(load(zero, shares, pair * cell), decisions, pair * CHUNK + row)


@exact
def _decide_pairs(
    n: int, kernel: int, degree: int, slope: float, shift: float, z: Floats, first: int, width: int,
    support: Floats, block: int, coefficients: Floats, weight: int, blocks: Integers, model: int,
    shares: Floats, decisions: Floats,
) -> None:  # fmt: skip
    """:func:`_decide` for three classes and more."""
    row = 0
    while row < n:
        start = first * CHUNK + row
        if n - row > 1:
            _pairs_tile(
                four_rows(), FOUR, kernel, degree, slope, shift, z, start, width,
                support, block, coefficients, weight, blocks, model, shares, decisions, row,
            )  # fmt: skip
            row += FOUR
        else:
            _pairs_tile(
                one_row(), 1, kernel, degree, slope, shift, z, start, width,
                support, block, coefficients, weight, blocks, model, shares, decisions, row,
            )  # fmt: skip
            row += 1


@exact
def _slope(kernel: int, gamma: float) -> float:
    """What a distance or product is multiplied with before the kernel's own function."""
    if kernel == RBF:
        return -gamma * LOG2_E
    if kernel == LINEAR:
        return 1.0
    return gamma if kernel == POLY else 2.0 * LOG2_E * gamma


@exact
def _shift(kernel: int, coef0: float) -> float:
    """What is added then; the radial kernel has no such number."""
    return coef0 if kernel == POLY else 2.0 * LOG2_E * coef0


@lane_function
def _expect(values: Floats, start: int, stop: int) -> None:
    """Begin to fetch a model's numbers."""
    for place in range(start, min(stop, start + MOST_EXPECTED), WIDTH):
        prefetch(values, place)


def scratch_sizes(classes: int) -> tuple[int, int, int]:
    """How many rows of decision values, shares and numbers of workspace :func:`score` needs."""
    pairs = max(1, classes * (classes - 1) // 2)
    return pairs, pairs * FOUR * WIDTH, 3 * classes + workspace(classes)


def score(
    X: Floats, units: Integers, lo: int, hi: int, program: Indices, transform: Floats, scratch: int, first: int,
    width: int, kernel: int, degree: int, break_ties: bool, gamma: Floats, coef0: Floats,
    support_starts: Integers, support: Floats, weight_starts: Integers, coefficients: Floats, blocks: Integers,
    intercept: Floats, platt: Floats, classes: Indices, class_map: Indices,
    z: Floats, decisions: Floats, shares: Floats, work: Floats,
    values: Floats, labels: Indices, probabilities: Floats, reasons: Bytes, culprits: Culprits,
) -> None:  # fmt: skip
    """Score units ``lo`` to ``hi``; see the contract of families for what stands at the beginning and the end.

    Parameters
    ----------
    width : int
        Inputs of a model.
    kernel, degree : int
        A :class:`KernelFunction`; the exponent of the polynomial one.
    break_ties : bool
        How several winners are told apart, see :func:`shoal.kernels.voting.elect`.
    gamma, coef0 : ndarray of float64, shape (models, 1)
        The kernel's numbers.
    support_starts, weight_starts : ndarray of int64, shape (models + 1,)
        Where a model's support vectors and coefficients begin.
    support, coefficients : ndarray of float64
        As described above.
    blocks : ndarray of int64, shape (models, classes) or (models, 1)
        Blocks per class, if there are at least three; else the number of blocks.
    intercept : ndarray of float64, shape (models, pairs)
        Added to the decision values.
    platt : ndarray of float64, shape (models, pairs, 2) or (0, 0, 2)
        Slopes and offsets of the sigmoids, if there are any.
    classes, class_map : ndarray of int32
        Each model's labels in the block's list, and that list in the fleet's.
    z, decisions, shares, work : ndarray of float64
        Scratch: (scratch, CHUNK), (pairs, CHUNK), and see :func:`scratch_sizes`.
    """
    count = classes.shape[1]
    for unit in range(lo, hi):
        model = units[unit, 0]
        if unit + 1 < hi:
            follower = units[unit + 1, 0]
            _expect(support, support_starts[follower], support_starts[follower + 1])
            _expect(coefficients, weight_starts[follower], weight_starts[follower + 1])
        slope = _slope(kernel, gamma[model, 0])
        shift = _shift(kernel, coef0[model, 0])
        for start in range(units[unit, 1], units[unit, 2], CHUNK):
            n = min(CHUNK, units[unit, 2] - start)
            apply(X, start, n, program, transform[model], z, reasons, culprits)
            if count < 3:
                _decide(
                    n, kernel, degree, slope, shift, z, first, width, support, support_starts[model],
                    coefficients, weight_starts[model], blocks[model, 0], decisions,
                )  # fmt: skip
            else:
                _decide_pairs(
                    n, kernel, degree, slope, shift, z, first, width, support, support_starts[model],
                    coefficients, weight_starts[model], blocks, model, shares, decisions,
                )  # fmt: skip
            for pair in range(intercept.shape[1]):
                for row in range(n):
                    decisions[pair, row] += intercept[model, pair]
            if count:
                classify(
                    start, n, decisions, platt, model, break_ties, classes, class_map, work, labels, probabilities,
                    reasons,
                )  # fmt: skip
            else:
                for row in range(n):
                    values[start + row] = decisions[0, row]


_WRITABLE_1 = array(nt.float64, 1, writable=True)
_WRITABLE_2 = array(nt.float64, 2, writable=True)

SCORE = Kernel(
    score,
    nt.void(
        *ROWS, I64, I64, I64, nt.boolean, F64_2, F64_2, I64_1, F64_1, I64_1, F64_1, I64_2, F64_2, F64_3, I32_2, I32_1,
        _WRITABLE_2, _WRITABLE_2, _WRITABLE_1, _WRITABLE_1, *ANSWERS,
    ),
    LANE_OPTIONS,
)  # fmt: skip
