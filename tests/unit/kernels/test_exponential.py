"""The vectorised exponential against NumPy's, and its coefficients against their derivation."""

import math
from decimal import Decimal, localcontext

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.kernels import exponential
from shoal.kernels.exponential import exp2, tanh_of_half_log
from shoal.kernels.lanes import LANE_OPTIONS, WIDTH, four_rows, load, one_row, store


@numba.njit(**LANE_OPTIONS)
def _exp2(t, power):
    for i in range(0, t.shape[0], WIDTH):
        store(exp2(load(one_row(), t, i)), power, i)


@numba.njit(**LANE_OPTIONS)
def _exp2_of_four(t, power):
    for i in range(0, t.shape[0], 4 * WIDTH):
        store(exp2(load(four_rows(), t, i)), power, i)


@numba.njit(**LANE_OPTIONS)
def _tanh(t, answer):
    for i in range(0, t.shape[0], WIDTH):
        store(tanh_of_half_log(load(one_row(), t, i)), answer, i)


def run(function, numbers):
    padded = np.zeros(-(-len(numbers) // 32) * 32)
    padded[: len(numbers)] = numbers
    out = np.full_like(padded, np.nan)
    function(padded, out)
    return out[: len(numbers)]


def test_powers_of_two_over_the_whole_range():
    t = np.linspace(-1022, 1023, 200_001)
    np.testing.assert_allclose(run(_exp2, t), np.exp2(t), rtol=9e-16, atol=0)


@given(st.lists(st.floats(-1021, 1023), min_size=1, max_size=40))
def test_any_power_of_two(t):
    np.testing.assert_allclose(run(_exp2, np.array(t)), np.exp2(t), rtol=9e-16, atol=0)


def test_whole_powers_are_exact():
    t = np.arange(-1022.0, 1024.0)
    assert (run(_exp2, t) == np.ldexp(1.0, t.astype(int))).all()


def test_what_underflows_is_between_zero_and_the_smallest_normal_number():
    tiny = run(_exp2, np.linspace(-1023, -1022, 1001))
    assert ((tiny >= 0) & (tiny <= 2.3e-308)).all()
    assert (run(_exp2, np.array([-1023.0, -1023.1, -1e9, -1e308, -np.inf])) == 0.0).all()


def test_nan_stays_nan_in_its_own_lane():
    t = np.array([0.0, np.nan, 1.0, 2.0, np.nan, -5.0, 0.5, -np.inf])
    assert (np.isnan(run(_exp2, t)) == np.isnan(t)).all()
    assert (np.isnan(run(_tanh, t)) == np.isnan(t)).all()


@given(st.lists(st.floats(allow_infinity=True, allow_nan=False), min_size=1, max_size=40))
def test_hyperbolic_tangent(t):
    with np.errstate(under="ignore"):
        expected = np.tanh(np.array(t) * (math.log(2) / 2))
    np.testing.assert_allclose(run(_tanh, np.array(t)), expected, rtol=0, atol=5e-16)


@given(st.lists(st.floats(-1100, 1023), min_size=64, max_size=64), st.randoms())
def test_the_bits_depend_on_neither_lane_nor_neighbours(t, random):
    order = list(range(64))
    random.shuffle(order)
    alone = run(_exp2, np.array(t))
    for function in (_exp2, _exp2_of_four):
        assert (run(function, np.array(t)[order]).view(np.int64) == alone[order].view(np.int64)).all()


def test_the_coefficients_are_the_interpolation_in_the_chebyshev_nodes():
    with localcontext() as context:
        context.prec = 50
        written = [getattr(exponential, f"C{i}") for i in range(1, 11)]
        assert [float(c) for c in _interpolate(10)] == pytest.approx(written, rel=1e-15)


def _interpolate(terms):
    """Coefficients of the polynomial through (2**r - 1) / r in the Chebyshev nodes of [-1/2, 1/2]."""
    nodes = [Decimal(math.cos(math.pi * (2 * k + 1) / (2 * terms))) / 2 for k in range(terms)]
    differences = [(Decimal(2) ** r - 1) / r for r in nodes]
    for order in range(1, terms):
        for i in range(terms - 1, order - 1, -1):
            differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order])
    polynomial = [Decimal(0)]
    for node, difference in zip(reversed(nodes), reversed(differences), strict=True):
        raised = [Decimal(0), *polynomial]
        polynomial = [high - node * low for high, low in zip(raised, [*polynomial, Decimal(0)], strict=True)]
        polynomial[0] += difference
    return polynomial[:terms]
