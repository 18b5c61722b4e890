"""The vectorised exponential against NumPy's, and its coefficients against their derivation."""

import math
from decimal import Decimal, localcontext

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.kernels import exponential
from shoal.kernels.exponential import exp2, exp2_by_polynomial, exp2_by_table, tanh_of_half_log
from shoal.kernels.lanes import LANE_OPTIONS, WIDTH, four_rows, has_look_up, load, one_row, store


def over_arrays(function, like=one_row, rows=1):
    """The function, compiled for whole arrays, in tiles of so many rows."""

    @numba.njit(**LANE_OPTIONS)
    def run(t, answer):
        for i in range(0, t.shape[0], rows * WIDTH):
            store(function(load(like(), t, i)), answer, i)

    return run


#: The table needs AVX-512; elsewhere the polynomial is what kernels get, and both names mean it.
_by_table = exp2_by_table if has_look_up() else exp2_by_polynomial
WAYS = {
    "chosen": over_arrays(exp2),
    "polynomial": over_arrays(exp2_by_polynomial),
    "table": over_arrays(_by_table),
    "four rows": over_arrays(exp2, four_rows, 4),
}
ways = pytest.mark.parametrize("way", WAYS)
_tanh = over_arrays(tanh_of_half_log)


def run(function, numbers):
    padded = np.zeros(-(-len(numbers) // 32) * 32)
    padded[: len(numbers)] = numbers
    out = np.full_like(padded, np.nan)
    function(padded, out)
    return out[: len(numbers)]


@ways
def test_powers_of_two_over_the_whole_range(way):
    t = np.linspace(-1022, 1023, 200_001)
    np.testing.assert_allclose(run(WAYS[way], t), np.exp2(t), rtol=9e-16, atol=0)


def test_by_table_the_last_bit_is_the_worst():
    t = np.linspace(-1022, 1023, 200_001)
    np.testing.assert_allclose(run(over_arrays(_by_table), t), np.exp2(t), rtol=9e-16 if not has_look_up() else 2.3e-16)


@ways
@given(t=st.lists(st.floats(-1021, 1023), min_size=1, max_size=40))
def test_any_power_of_two(way, t):
    np.testing.assert_allclose(run(WAYS[way], np.array(t)), np.exp2(t), rtol=9e-16, atol=0)


@ways
def test_whole_powers_are_exact(way):
    t = np.arange(-1022.0, 1024.0)
    assert (run(WAYS[way], t) == np.ldexp(1.0, t.astype(int))).all()


@ways
def test_what_underflows_is_between_zero_and_the_smallest_normal_number(way):
    tiny = run(WAYS[way], np.linspace(-1023, -1022, 1001))
    assert ((tiny >= 0) & (tiny <= 2.3e-308)).all()
    assert (run(WAYS[way], np.array([-1023.0, -1023.1, -1e9, -1e308, -np.inf])) == 0.0).all()


@ways
def test_nan_stays_nan_in_its_own_lane(way):
    t = np.array([0.0, np.nan, 1.0, 2.0, np.nan, -5.0, 0.5, -np.inf])
    assert (np.isnan(run(WAYS[way], t)) == np.isnan(t)).all()
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
    alone = run(WAYS["chosen"], np.array(t))
    for way in ("chosen", "four rows"):
        assert (run(WAYS[way], np.array(t)[order]).view(np.int64) == alone[order].view(np.int64)).all()


@pytest.mark.parametrize(("letter", "terms", "half"), [("C", 10, Decimal(1) / 2), ("F", 6, Decimal(1) / 32)])
def test_the_coefficients_are_the_interpolation_in_the_chebyshev_nodes(letter, terms, half):
    with localcontext() as context:
        context.prec = 50
        written = [getattr(exponential, f"{letter}{i}") for i in range(1, terms + 1)]
        assert [float(c) for c in _interpolate(terms, half)] == pytest.approx(written, rel=1e-9)


def test_the_table_holds_the_nearest_numbers():
    with localcontext() as context:
        context.prec = 50
        assert [float(Decimal(2) ** (Decimal(i) / 16)) for i in range(16)] == list(exponential.POWERS)


def _interpolate(terms, half):
    """Coefficients of the polynomial through (2**r - 1) / r in the Chebyshev nodes of [-half, half]."""
    nodes = [Decimal(math.cos(math.pi * (2 * k + 1) / (2 * terms))) * half for k in range(terms)]
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
