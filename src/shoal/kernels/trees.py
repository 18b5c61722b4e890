"""The trees kernel: every estimator made of decision trees, from one tree to boosted forests.

Per chunk of rows of one model: run the column-transform program, turn the inputs into keys
(:mod:`shoal.kernels.tree_keys`), find each tree's leaves (:mod:`shoal.kernels.tree_walks`, and for the tops of trees
:mod:`shoal.kernels.tree_masks`), add the leaves' answers up in the order of the trees, and turn the sums into what the
estimator answers (:mod:`shoal.kernels.tree_answers`). Nothing of it is compiled with ``FAST``: a label hangs on the
last bit of a sum.
"""

import numpy as np

from shoal.kernels.compile import ANSWERS, F64_1, F64_2, I32_1, I32_2, I64, I64_1, ROWS, exact, kernel
from shoal.kernels.transform import CHUNK, Culprits, apply
from shoal.kernels.tree_answers import finish_rows
from shoal.kernels.tree_keys import LOWEST, make_keys
from shoal.kernels.tree_masks import FEWEST_ROWS, MOST_NODES, ROOM, add_small_tree, skip_top
from shoal.kernels.tree_walks import LANES, LOG_CHUNK, Unsigned, walk, walk_with_sets
from shoal.types import Bytes, Floats, Indices, Integers


@exact
def _add(sums: Floats, tree: int, answers: Floats, leaves: Integers, n: int, votes: int) -> None:
    outputs = sums.shape[0]
    if votes:
        for k in range(outputs):
            for i in range(n):
                sums[k, i] += answers[leaves[i] * outputs + k]
    else:
        k = tree % outputs
        for i in range(n):
            sums[k, i] += answers[leaves[i]]


@exact
def add_up(
    nodes: Integers, roots: Indices, answers: Floats, sets: Indices, keys: Indices, n: int, shift: np.uint64,
    mask: np.uint64, with_sets: int, votes: int, sums: Floats, places: Unsigned, reached: Unsigned, leaves: Integers,
) -> None:  # fmt: skip
    """Add the answers of one model's trees, in their order, to the sums of ``n`` rows.

    Which way a leaf is found depends on how many rows there are; the additions do not.
    """
    padded = (n + LANES - 1) // LANES * LANES
    many = n >= FEWEST_ROWS
    flat = sums.reshape(-1)
    for tree in range(roots.shape[0]):
        root = np.uint64(roots[tree])
        size = np.uint64(roots[tree + 1] if tree + 1 < roots.shape[0] else nodes.shape[0]) - root
        if many and not votes and not with_sets and size <= MOST_NODES:
            offset = np.uint64(tree % sums.shape[0]) << LOG_CHUNK
            add_small_tree(nodes, root, size, shift, mask, keys, answers, reached, flat, offset)
            continue
        if with_sets:
            walk_with_sets(nodes, keys, sets, root, padded, shift, mask, leaves)
        else:
            if many:
                skip_top(nodes, root, size, shift, mask, keys, reached, places)
            else:
                places[:] = root
            walk(nodes, keys, places, padded, shift, mask, leaves)
        _add(sums, tree, answers, leaves, n, votes)


@kernel(
    *ROWS, I64_1, I64_1, I32_1, I64_1, F64_1, I64_1, F64_1, I64_1, I32_1, I64_1,
    I32_2, I32_2, F64_2, F64_2, I32_2, I32_1, I64, I64, I64, I64, I64, I64, *ANSWERS,
)  # fmt: skip
def score(
    X: Floats, units: Integers, lo: int, hi: int, program: Indices, transform: Floats, scratch: int, first: int,
    nodes: Integers, node_ends: Integers, roots: Indices, root_ends: Integers,
    answers: Floats, answer_ends: Integers, cuts: Floats, cut_ends: Integers, sets: Indices, set_ends: Integers,
    cut_starts: Indices, levels: Indices, start: Floats, finish: Floats, classes: Indices, class_map: Indices,
    precision: int, variants: int, with_sets: int, votes: int, link: int, shift_bits: int,
    values: Floats, labels: Indices, p: Floats, reasons: Bytes, culprits: Culprits,
) -> None:  # fmt: skip
    """Score units ``lo`` to ``hi`` with arrays as :mod:`shoal.families.trees_layout` describes them, checked before."""
    rest = levels.shape[1] * variants
    shift, mask = np.uint64(shift_bits), np.uint64((1 << shift_bits) - 1)
    z = np.zeros((scratch, CHUNK))
    keys = np.full((rest + 1) * CHUNK, LOWEST, np.int32)
    singles = np.empty(CHUNK, np.float32)
    sums = np.empty((start.shape[1], CHUNK))
    places = np.empty(CHUNK, np.uint64)
    reached = np.empty(ROOM, np.uint64)
    leaves = np.empty(CHUNK, np.int64)
    names = np.empty(classes.shape[1], np.int32)
    for unit in range(lo, hi):
        model, stop = units[unit, 0], units[unit, 2]
        own = nodes[node_ends[model] : node_ends[model + 1]]
        own_answers = answers[answer_ends[model] : answer_ends[model + 1]]
        own_sets = sets[set_ends[model] : set_ends[model + 1]]
        for k in range(names.shape[0]):
            names[k] = class_map[classes[model, k]]
        for begin in range(units[unit, 1], stop, CHUNK):
            n = min(CHUNK, stop - begin)
            padded = (n + LANES - 1) // LANES * LANES
            apply(X, begin, n, program, transform[model], z, reasons, culprits)
            make_keys(
                z, first, padded, precision, variants, cuts, cut_ends[model], cut_starts[model], levels[model],
                keys, singles, singles.view(np.int32),
            )  # fmt: skip
            for k in range(sums.shape[0]):
                sums[k, :] = start[model, k]
            add_up(
                own, roots[root_ends[model] : root_ends[model + 1]], own_answers, own_sets, keys, n, shift, mask,
                with_sets, votes, sums, places, reached, leaves,
            )  # fmt: skip
            finish_rows(link, sums, finish[model], names, n, begin, values, labels, p)
