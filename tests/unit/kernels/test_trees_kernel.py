"""The parts of the trees kernel: keys that order as inputs do, nodes in their places, two ways down a tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.families.trees_layout import double_keys, single_keys
from shoal.kernels.transform import CHUNK
from shoal.kernels.tree_answers import isolation
from shoal.kernels.tree_keys import HIGHEST, LOWEST, Precision, make_keys, rank
from shoal.kernels.tree_links import Fault, check, distinct, link, rest_row, shift_of
from shoal.kernels.tree_masks import FEWEST_ROWS, MOST_NODES, ROOM, TOP_NODES
from shoal.kernels.trees import add_up

singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
doubles = st.floats(allow_nan=False)


def keys_of(values, precision, *, variants=2, cuts=(), levels=-1):
    """The keys of up to 64 values of one input: shape (variants, values)."""
    z = np.zeros((1, CHUNK))
    z[0, : len(values)] = values
    keys = np.zeros((variants + 1) * CHUNK, np.int32)
    room = np.empty(CHUNK, np.float32)
    make_keys(
        z, 0, len(values), int(precision), variants, np.array(cuts, np.float64), 0, np.array([0, len(cuts)], np.int32),
        np.array([levels], np.int32), keys, room, room.view(np.int32),
    )  # fmt: skip
    return keys.reshape(-1, CHUNK)[:variants, : len(values)]


@given(singles, doubles)
def test_single_keys_compare_as_the_numbers_do(value, threshold):
    key = keys_of([value], Precision.SINGLE)[:, 0]
    bound = single_keys(np.array([threshold]), 1).keys[0]
    assert ((key <= bound) == (value <= threshold)).all()


@given(singles.filter(lambda value: abs(value) < 3e38), st.sampled_from([np.inf, -np.inf, 0.0]))
def test_single_keys_at_the_threshold_and_beside_it(value, direction):
    threshold = np.nextafter(value, direction)
    values = np.array([value, np.nextafter(np.float32(value), np.float32(direction))], np.float64)
    bound = single_keys(np.array([threshold]), 1).keys[0]
    assert ((keys_of(values, Precision.SINGLE)[0] <= bound) == (values <= threshold)).all()


def test_zero_is_zero_whatever_its_sign():
    keys = keys_of([0.0, -0.0, 1e-45, -1e-45], Precision.SINGLE)[0]
    assert keys.tolist() == [0, 0, 1, -1]
    assert single_keys(np.array([-0.0, 0.0]), 1).keys.tolist() == [0, 0]


@pytest.mark.parametrize("precision", list(Precision))
def test_a_missing_value_is_beyond_every_number_on_the_side_that_a_node_asks_for(precision):
    keys = keys_of([np.nan, -np.nan, 3.0], precision, cuts=(1.0, 2.0))
    assert keys[:, :2].tolist() == [[HIGHEST] * 2, [LOWEST] * 2]
    assert LOWEST < keys[0, 2] == keys[1, 2] < HIGHEST


@given(st.lists(doubles, max_size=40), st.lists(doubles, min_size=1, max_size=20), st.integers(0, 5))
def test_ranks_are_those_of_a_search(cuts, values, before):
    cuts = np.unique(cuts)
    padded = np.concatenate([np.full(before, 7.0), cuts, [-7.0]])
    for value in [*values, *cuts[:10]]:
        assert rank(value, padded, before, before + len(cuts)) == np.searchsorted(cuts, value, side="left")


@given(
    st.lists(st.tuples(st.sampled_from([-2.5, -1.0, 0.0, 1e-300, 4.0]), st.integers(0, 2), st.booleans()), max_size=30)
)
def test_double_keys_compare_as_the_numbers_do(nodes):
    thresholds, inputs, compares = (np.array(part) for part in zip(*nodes, strict=True)) if nodes else ([], [], [])
    thresholds, inputs = np.array(thresholds, np.float64), np.array(inputs, np.int64)
    keys = double_keys(thresholds, inputs, np.array(compares, bool), 3)
    for node in np.flatnonzero(compares):
        own = keys.cuts[keys.cut_starts[inputs[node]] : keys.cut_starts[inputs[node] + 1]]
        values = np.array([-3.0, -1.0, -0.5, 0.0, -0.0, 1e-300, np.nextafter(4.0, 5), 4.0])
        assert (
            (keys_of(values, Precision.DOUBLE, cuts=own)[0] <= keys.keys[node]) == (values <= thresholds[node])
        ).all()


def test_codes_of_categories_stay_in_their_range():
    keys = keys_of([0, 1, 4, 5, 6, -1, -0.0, np.nan, 1e300, -1e300, np.inf, 4.7], Precision.DOUBLE, levels=5)
    assert keys.tolist() == [[0, 1, 4, 5, 5, 5, 0, 5, 5, 5, 5, 4]] * 2


@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 0.1 + 0.2, 0.3]), min_size=2, max_size=2), max_size=60))
def test_distinct_rows_are_numbered_as_they_come(rows):
    rows = np.array(rows, np.float64).reshape(-1, 2)
    numbers, firsts = np.empty(len(rows), np.int32), np.empty(len(rows), np.int64)
    count = distinct(rows.view(np.int64), numbers, firsts)
    assert count == len({row.tobytes() for row in rows})
    assert rows[firsts[:count]][numbers].tobytes() == rows.tobytes()
    assert (np.diff(firsts[:count]) > 0).all()


def random_tree(random, nodes):
    """Children of a random tree in depth-first order, as scikit-learn keeps them, with at least so many nodes."""
    left, right = [-1], [-1]
    open_leaves = [0]
    while len(left) < nodes:
        node = open_leaves.pop(int(random.integers(len(open_leaves))))
        left[node], right[node] = len(left), len(left) + 1
        open_leaves += [len(left), len(left) + 1]
        left += [-1, -1]
        right += [-1, -1]
    return np.array(left), np.array(right)


def forest(random, sizes, width):
    """Linked random trees: nodes, roots, and the same as plain arrays."""
    trees = [random_tree(random, size) for size in sizes]
    starts = np.concatenate([[0], np.cumsum([len(left) for left, _ in trees])]).astype(np.int64)
    left, right = (np.concatenate(part).astype(np.int64) for part in zip(*trees, strict=True))
    rows = random.integers(0, width, len(left))
    keys = random.integers(-50, 50, len(left)).astype(np.int32)
    answers = np.arange(len(left), dtype=np.int32)
    nodes, roots = np.empty(len(left), np.int64), np.empty(len(sizes), np.int32)
    rest = rest_row(width, 1)
    assert link(left, right, rows, keys, answers, starts, shift_of(width, 1), rest, nodes, roots) == len(left)
    return nodes, roots, (left, right, rows, keys, starts)


def walked(plain, tree, inputs):
    """The leaf of one row in one tree, by the plain arrays."""
    left, right, rows, keys, starts = plain
    node = starts[tree]
    while left[node] >= 0:
        node = starts[tree] + (left[node] if inputs[rows[node]] <= keys[node] else right[node])
    return node


def sums_of(nodes, roots, inputs, *, votes=0, outputs=1, answers):
    """The kernel's sums for the rows of ``inputs``, shape (outputs, rows)."""
    width, n = inputs.shape
    keys = np.full((width + 1) * CHUNK, LOWEST, np.int32)
    keys.reshape(-1, CHUNK)[:width, :n] = inputs
    sums = np.zeros((outputs, CHUNK))
    shift = shift_of(width, 1)
    add_up(
        nodes, roots, answers, np.empty(0, np.int32), keys, n, np.uint64(shift), np.uint64((1 << shift) - 1), 0, votes,
        sums, np.zeros(CHUNK, np.uint64), np.zeros(ROOM, np.uint64), np.zeros(CHUNK, np.int64),
    )  # fmt: skip
    return sums[:, :n]


SIZES = [1, 3, 7, int(TOP_NODES) - 2, int(TOP_NODES), int(TOP_NODES) + 2, MOST_NODES - 1, MOST_NODES + 1, 300]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(SIZES), min_size=1, max_size=6), st.integers(1, 5))
def test_leaves_are_those_of_a_plain_walk_however_many_rows_there_are(seed, sizes, width):
    random = np.random.default_rng(seed)
    nodes, roots, plain = forest(random, sizes, width)
    inputs = random.integers(-60, 60, (width, CHUNK)).astype(np.int32)
    answers = random.normal(size=len(nodes))
    expected = np.zeros(CHUNK)
    for tree in range(len(sizes)):
        expected += [answers[walked(plain, tree, inputs[:, i])] for i in range(CHUNK)]
    for rows in (1, 7, 8, FEWEST_ROWS - 1, FEWEST_ROWS, CHUNK - 1, CHUNK):
        found = sums_of(nodes, roots, np.ascontiguousarray(inputs[:, :rows]), answers=answers)
        assert found.tobytes() == expected[:rows].tobytes()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 0), (3, 0), (2, 1), (3, 1)]))
def test_trees_take_turns_or_vote(seed, kind):
    outputs, votes = kind
    random = np.random.default_rng(seed)
    nodes, roots, plain = forest(random, [9, 100] * outputs, 3)
    inputs = random.integers(-60, 60, (3, CHUNK)).astype(np.int32)
    answers = random.normal(size=(len(nodes), outputs if votes else 1))
    expected = np.zeros((outputs, CHUNK))
    for tree in range(len(roots)):
        leaves = [walked(plain, tree, inputs[:, i]) for i in range(CHUNK)]
        chosen = slice(None) if votes else slice(tree % outputs, tree % outputs + 1)
        expected[chosen] += answers[leaves].T
    for rows in (5, CHUNK):
        asked = np.ascontiguousarray(inputs[:, :rows])
        found = sums_of(nodes, roots, asked, votes=votes, outputs=outputs, answers=answers.reshape(-1))
        np.testing.assert_array_equal(found, expected[:, :rows])


def checked(nodes, roots, width):
    model = np.zeros(1, np.int64)
    fault = check(
        nodes, np.array([0, len(nodes)]), roots, np.array([0, len(roots)]), np.array([len(nodes)]), np.array([-1]),
        np.full((1, width), -1, np.int32), shift_of(width, 1), rest_row(width, 1), 1, 1, model,
    )  # fmt: skip
    return Fault(fault)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.data())
def test_no_changed_child_passes_the_check(seed, choices):
    random = np.random.default_rng(seed)
    nodes, roots, _ = forest(random, [7, 1, 15], 3)
    assert checked(nodes, roots, 3) is Fault.NONE
    at = choices.draw(st.integers(0, len(nodes) - 1))
    shift = shift_of(3, 1)
    low = int(nodes[at]) & 0xFFFFFFFF
    delta = choices.draw(st.integers(0, 40).filter(lambda d: d != low >> shift))
    nodes[at] = (nodes[at] >> 32 << 32) | (delta << shift) | (low & ((1 << shift) - 1))
    assert checked(nodes, roots, 3) is not Fault.NONE


def test_a_child_too_far_away_is_told():
    left, right = random_tree(np.random.default_rng(0), 40)
    size = len(left)
    arrays = left, right, np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, np.int32)
    assert link(*arrays, np.array([0, size]), 30, 1, np.empty(size, np.int64), np.empty(1, np.int32)) == -1


def test_a_score_beside_the_offset_is_on_it():
    score = -(2.0 ** -(5.3 / 7.1))
    assert isolation(5.3, 7.1, score) == 0.0
    assert isolation(5.3, 7.1, np.nextafter(score, 1)) == 0.0
    assert isolation(5.3, 7.1, score + 1e-14) < 0 < isolation(5.3, 7.1, score - 1e-14)
    assert isolation(0.0, 0.0, -0.5) == 0.0
