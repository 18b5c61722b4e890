"""The compiled column-transform stage against plain NumPy, operation by operation and in random programs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.families.contract import Layout, ModelBlock
from shoal.kernels.program import Op
from shoal.kernels.transform import CHUNK
from shoal.testing.programs import compiled_inputs, reference_inputs
from shoal.types import Feature, FeatureKind, Reason, Task

FEATURES = 3
NAN, INF = float("nan"), float("inf")


def block(steps, numbers, scratch=FEATURES, first=0, width=FEATURES):
    layout = Layout(
        family="affine",
        task=Task.REGRESSION,
        features=tuple(Feature(name=f"f{i}", kind=FeatureKind.NUMERIC) for i in range(FEATURES)),
        program=tuple(steps),
        scratch=scratch,
        first=first,
        width=width,
        slots=len(numbers),
    )
    nothing = np.zeros((1, 0), dtype=np.int32)
    return ModelBlock(
        layout=layout,
        models=1,
        program=np.array(steps, dtype=np.int32).reshape(-1, 7),
        transform=np.array([numbers], dtype=np.float64),
        fixed={},
        ragged={},
        classes=nothing,
        class_map=nothing[0],
    )


def step(op, source=0, target=0, width=1, slot=0, count=0, feature=0):
    return (int(op), source, target, width, slot, count, feature)


def run(steps, numbers, rows, **sizes):
    return compiled_inputs(
        block([step(Op.LOAD), *steps], numbers, **sizes), 0, np.array([rows] * FEATURES, dtype=float)
    )


VALUES = [1.0, -2.5, 0.0, -0.0, NAN, 1e300, 5e-324, 3.0]


@pytest.mark.parametrize(
    ("op", "numbers", "expected"),
    [
        (Op.IMPUTE, [7.0], lambda x: np.where(np.isnan(x), 7.0, x)),
        (Op.REPLACE, [3.0, 9.0], lambda x: np.where(x == 3.0, 9.0, x)),
        (Op.REPLACE, [0.0, 1.0], lambda x: np.where(x == 0.0, 1.0, x)),
        (Op.SUBTRACT, [0.1], lambda x: x - 0.1),
        (Op.ADD, [0.1], lambda x: x + 0.1),
        (Op.MULTIPLY, [0.7], lambda x: x * 0.7),
        (Op.DIVIDE, [0.7], lambda x: x / 0.7),
        (Op.CLIP, [-1.0, 2.0], lambda x: np.clip(x, -1.0, 2.0)),
    ],
)
def test_arithmetic_keeps_every_bit_and_nan(op, numbers, expected):
    Z, reasons, _ = run([step(op)], numbers, VALUES)
    assert Z[0].tobytes() == expected(np.array(VALUES)).tobytes()
    assert not reasons.any()


def test_division_is_not_a_multiplication_by_the_reciprocal():
    rows = np.random.default_rng(0).normal(size=5 * CHUNK + 7)
    for divisor in (0.3, 7.0, 49.0, 1e-3):
        Z, _, _ = run([step(Op.DIVIDE)], [divisor], rows)
        np.testing.assert_array_equal(Z[0], rows / divisor)
    assert (rows / 49.0 != rows * (1 / 49.0)).any()


def test_indicator_and_copy():
    Z, _, _ = run([step(Op.COPY, 0, 1), step(Op.INDICATOR, 0, 2)], [], [1.0, NAN])
    np.testing.assert_array_equal(Z, [[1.0, NAN], [1.0, NAN], [0.0, 1.0]])


ENTRIES = [-1.0, 0.0, 2.0, 5.0, INF, NAN, NAN, NAN, NAN]
COLUMNS = [0.0, -1.0, 2.0, 1.0, -1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("unknown", [-1.0, 1.0])
def test_one_hot(unknown):
    steps = [step(Op.ONEHOT, 0, 1, width=3, count=8)]
    numbers = [unknown, *ENTRIES[1:], *COLUMNS]
    Z, reasons, _ = run(steps, numbers, [0.0, -0.0, 2.0, 5.0, NAN, 7.0], scratch=4, first=1, width=3)
    rest = [0.0, float(unknown == 1.0), 0.0]
    np.testing.assert_array_equal(Z.T, [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], rest])
    assert not reasons.any()


def test_one_hot_marks_unknown_and_missing_values():
    numbers = [-2.0, 0.0, 1.0, NAN, NAN, 0.0, 1.0, -1.0, -1.0]
    _, reasons, culprits = run([step(Op.ONEHOT, 0, 1, width=2, count=4, feature=2)], numbers, [0.0, 3.0, NAN, 1.0])
    assert reasons.tolist() == [0, Reason.UNKNOWN_CATEGORY, Reason.MISSING_VALUE, 0]
    assert culprits.tolist() == [0, 2, 2, 0]


def test_encode():
    numbers = [-1.0, 1.0, 4.0, 9.0, NAN, 2.0, 0.0, 1.0, -1.0]
    Z, _, _ = run([step(Op.ENCODE, count=4)], numbers, [1.0, 4.0, 9.0, 5.0, NAN, -1.0])
    np.testing.assert_array_equal(Z[0], [2.0, 0.0, 1.0, NAN, NAN, NAN])


def test_marks_keep_the_first_reason():
    rows = [1.0, NAN, INF, -INF, 1e39, 1e300]
    _, reasons, _ = run([step(Op.FLOAT32), step(Op.REQUIRE)], [], rows)
    infinite, large = Reason.INFINITE_VALUE, Reason.TOO_LARGE_FOR_FLOAT32
    assert reasons.tolist() == [0, Reason.MISSING_VALUE, infinite, infinite, large, large]


def test_marks_are_by_row_across_chunks():
    rows = np.zeros(3 * CHUNK + 5)
    bad = [0, CHUNK - 1, CHUNK, 3 * CHUNK + 4]
    rows[bad] = NAN
    _, reasons, culprits = run([step(Op.REQUIRE, feature=1)], [], rows)
    assert np.flatnonzero(reasons).tolist() == bad
    assert np.flatnonzero(culprits).tolist() == bad


@st.composite
def programs(draw):
    """Random steps over five columns, with as many numbers as they read."""
    steps = [step(Op.LOAD, source=i, target=i, feature=i) for i in range(FEATURES)]
    steps += [step(Op.COPY, 0, 3), step(Op.COPY, 1, 4)]
    numbers = []
    simple = st.sampled_from([op for op in Op if op not in (Op.LOAD, Op.ONEHOT, Op.ENCODE)])
    column = st.integers(0, 4)
    number = st.sampled_from([0.0, -0.0, 1.0, -2.5, 0.1, 1e-300, 1e300, 3.0])
    for _ in range(draw(st.integers(0, 12))):
        op = draw(simple)
        steps.append(step(op, draw(column), draw(column), slot=len(numbers)))
        numbers += draw(st.lists(number, min_size=2, max_size=2))
    entries = sorted(set(draw(st.lists(number, min_size=4, max_size=4)))) + [NAN] * 4
    found = draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=4, max_size=4))
    last = draw(st.sampled_from([Op.ONEHOT, Op.ENCODE]))
    width = 2 if last is Op.ONEHOT else 1
    steps.append(step(last, draw(st.integers(0, 2)), 3, width=width, slot=len(numbers), count=4))
    return steps, [*numbers, draw(st.sampled_from([-2.0, -1.0, 0.0])), *entries[:4], *found]


@settings(max_examples=200, deadline=None)
@given(programs(), st.integers(1, 2 * CHUNK + 1), st.integers(0, 2**32 - 1))
def test_random_programs(program, rows, seed):
    steps, numbers = program
    generator = np.random.default_rng(seed)
    X = generator.choice([0.0, -0.0, 1.0, -2.5, 0.1, 3.0, NAN, 1e300, 1e-300, 7.7], size=(FEATURES, rows))
    one = block(steps, numbers, scratch=5, width=5)
    Z, reasons, _ = compiled_inputs(one, 0, X)
    good = reasons == 0
    np.testing.assert_array_equal(Z[:, good], reference_inputs(one, 0, X)[:, good])
