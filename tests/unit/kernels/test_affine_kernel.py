"""The affine kernel alone: its exponential, its sums, and its links at their edges."""

import math

import numba
import numpy as np
import pytest

from shoal.kernels.affine import Link, _exp, score_affine
from shoal.kernels.program import Op
from shoal.kernels.transform import CHUNK
from shoal.types import Reason

_exps = numba.vectorize(["float64(float64)"], nopython=True)(lambda x: _exp(x))


def test_exponential():
    x = np.concatenate([np.linspace(-708, 709.6, 100_001), np.random.default_rng(0).normal(size=10_000) * 10])
    np.testing.assert_allclose(_exps(x), np.exp(x), rtol=1e-15)
    assert _exps(0.0) == _exps(-0.0) == 1.0


def test_exponential_beyond_its_range():
    with np.errstate(invalid="ignore"):
        assert _exps(710.0) == _exps(np.inf) == np.inf
        assert _exps(-710.0) == _exps(-1e300) == _exps(-np.inf) == 0.0
        assert np.isnan(_exps(np.nan))


def run(X, coef, intercept, link, units=None, classes=0):
    """One model, or several with units."""
    coef = np.asarray(coef, dtype=float)
    features, rows = X.shape
    program = np.array([[Op.LOAD, i, i, 1, 0, 0, i] for i in range(features)], dtype=np.int32).reshape(-1, 7)
    units = np.array([[0, 0, rows]]) if units is None else units
    labels, values = np.full(rows, -1, dtype=np.int32), np.full(rows, np.nan)
    probabilities = np.full((rows, classes), np.nan)
    reasons, culprits = np.zeros(rows, dtype=np.uint8), np.zeros(rows, dtype=np.int16)
    score_affine(
        X, units, 0, len(units), program, np.zeros((len(coef), 0)), features, 0, coef,
        np.asarray(intercept, dtype=float), int(link), np.tile(np.arange(classes, dtype=np.int32), (len(coef), 1)),
        np.arange(classes, dtype=np.int32), values, labels, probabilities, reasons, culprits,
    )  # fmt: skip
    return values, labels, probabilities, reasons


@pytest.mark.parametrize("features", range(1, 14))
def test_sums_for_every_number_of_inputs(features):
    generator = np.random.default_rng(features)
    X, coef = generator.normal(size=(features, 3 * CHUNK + 5)), generator.normal(size=(1, 1, features))
    values, *_ = run(X, coef, [[0.25]], Link.IDENTITY)
    exact = [math.fsum([*(coef[0, 0] * X[:, i]), 0.25]) for i in range(X.shape[1])]
    np.testing.assert_allclose(values, exact, rtol=1e-12, atol=1e-14)


def test_only_the_units_asked_for_are_touched():
    X = np.ones((1, 10))
    units = np.array([[1, 2, 5], [0, 7, 8]])
    values, *_ = run(X, [[[2.0]], [[3.0]]], [[0.0], [1.0]], Link.IDENTITY, units=units)
    np.testing.assert_array_equal(values, [np.nan, np.nan, 4, 4, 4, np.nan, np.nan, 2, np.nan, np.nan])


DECISIONS = np.array([[0.0, -0.0, 1e-320, -1e-320, 800.0, -800.0, 1e300, -1e300, 0.5, -3.0]])


def test_two_classes_by_sign():
    _, labels, probabilities, reasons = run(DECISIONS, [[[1.0]]], [[0.0]], Link.SIGN, classes=2)
    np.testing.assert_array_equal(labels, [0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    assert np.isnan(probabilities).all()
    assert not reasons.any()


def test_logistic_saturates():
    _, _, probabilities, _ = run(DECISIONS, [[[1.0]]], [[0.0]], Link.LOGISTIC, classes=2)
    expected = [0.5, 0.5, 0.5, 0.5, 1.0, 0.0, 1.0, 0.0, 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(3.0))]
    np.testing.assert_allclose(probabilities[:, 1], expected, rtol=1e-14)
    np.testing.assert_array_equal(probabilities.sum(axis=1), 1.0)


def test_modified_huber_clips():
    _, _, probabilities, _ = run(DECISIONS, [[[1.0]]], [[0.0]], Link.HUBER, classes=2)
    np.testing.assert_array_equal(probabilities[:, 1], (np.clip(DECISIONS[0], -1, 1) + 1) / 2)


@pytest.mark.parametrize("link", [Link.LOGISTIC_EACH, Link.HUBER_EACH])
def test_equal_shares_when_every_weight_is_zero(link):
    _, labels, probabilities, _ = run(np.array([[-1e9]]), np.ones((1, 3, 1)), np.zeros((1, 3)), link, classes=3)
    np.testing.assert_array_equal(probabilities, 1 / 3)
    assert labels[0] == 0


def test_softmax_of_huge_decisions():
    X = np.array([[1e300, -1e300, 0.0]])
    _, labels, probabilities, reasons = run(X, [[[1.0], [-1.0], [0.5]]], np.zeros((1, 3)), Link.SOFTMAX, classes=3)
    np.testing.assert_array_equal(labels, [0, 1, 0])
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [0, 1, 0], [1 / 3] * 3])
    assert not reasons.any()


def test_answers_that_are_not_finite_are_marked():
    marked = Reason.NOT_FINITE_ANSWER
    *_, reasons = run(np.array([[1e308, -1e308, 1.0]]), [[[10.0]]], [[0.0]], Link.IDENTITY)
    assert reasons.tolist() == [marked, marked, 0]
    *_, reasons = run(np.array([[711.0, -1e300, 1.0]]), [[[1.0]]], [[0.0]], Link.EXP)
    assert reasons.tolist() == [marked, 0, 0]
    *_, reasons = run(np.array([[1e308, 1.0]]), np.array([[[10.0], [1.0]]]), np.zeros((1, 2)), Link.SOFTMAX, classes=2)
    assert reasons.tolist() == [marked, 0]


@pytest.mark.parametrize("link", [Link.EXP, Link.LOGISTIC, Link.SOFTMAX, Link.LOGISTIC_EACH])
def test_bits_do_not_depend_on_neighbours(link):
    """Every row alone, and every length of a chunk from 1 to more than two."""
    generator = np.random.default_rng(2)
    outputs = 3 if link in (Link.SOFTMAX, Link.LOGISTIC_EACH) else 1
    classes = {Link.EXP: 0, Link.LOGISTIC: 2}.get(link, 3)
    X = generator.normal(size=(5, 2 * CHUNK + 3)) * 3
    coef, intercept = generator.normal(size=(1, outputs, 5)), generator.normal(size=(1, outputs))
    whole = run(X, coef, intercept, link, classes=classes)
    for length in range(1, X.shape[1] + 1):
        part = run(np.ascontiguousarray(X[:, -length:]), coef, intercept, link, classes=classes)
        for one, all_ in zip(part, whole, strict=True):
            assert one.tobytes() == np.ascontiguousarray(all_[-length:]).tobytes()
