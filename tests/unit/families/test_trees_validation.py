"""A damaged or crafted block of trees is refused before the kernel sees it, whatever was changed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from threadpoolctl import threadpool_limits

from shoal.errors import InvalidArtifact
from shoal.families import pack
from shoal.families.contract import Ragged
from shoal.families.stacking import stack
from shoal.families.trees import FAMILY
from shoal.families.trees_layout import FIXED, RAGGED
from shoal.kernels.tree_links import shift_of
from shoal.testing.families import score
from shoal.types import Task

FEATURES = ("a", "b", "c")
KINDS = ("forest", "boosting", "histogram", "isolation")


def fitted(kind, seed):
    random = np.random.default_rng(seed)
    X = random.normal(size=(80, 3))
    y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])
    if kind == "forest":
        return RandomForestClassifier(3, random_state=seed).fit(X, y)
    if kind == "boosting":
        return GradientBoostingClassifier(n_estimators=3, random_state=seed).fit(X, y)
    if kind == "isolation":
        return IsolationForest(n_estimators=3, random_state=seed).fit(X)
    frame = pd.DataFrame(X, columns=list(FEATURES)).assign(b=random.integers(0, 5, 80))
    estimator = HistGradientBoostingRegressor(max_iter=4, min_samples_leaf=2, categorical_features=["b"])
    return estimator.fit(frame, X[:, 0] + frame["b"] % 3)


def block_of(kind):
    with threadpool_limits(1):
        return stack([pack(fitted(kind, seed), FEATURES) for seed in range(3)]).block()


BLOCKS = {kind: block_of(kind) for kind in KINDS}


def changed(block, name, change):
    """The block with one array changed; offsets are called ``name offsets``."""
    name, _, offsets = name.partition(" ")
    if name in FIXED:
        return replace(block, fixed={**block.fixed, name: change(block.fixed[name].copy())})
    part = block.ragged[name]
    if offsets:
        part = Ragged(offsets=change(part.offsets.copy()), values=part.values)
    else:
        part = Ragged(offsets=part.offsets, values=change(part.values.copy()))
    return replace(block, ragged={**block.ragged, name: part})


def refused(block, words="."):
    with pytest.raises(InvalidArtifact, match=words):
        FAMILY.validate(block)


def put(at, value):
    def change(array):
        array[at] = value
        return array

    return change


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_packers_write_is_sound(kind):
    FAMILY.validate(BLOCKS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*RAGGED, *FIXED])
def test_types_and_shapes(kind, name):
    block = BLOCKS[kind]
    refused(changed(block, name, lambda array: array.astype(np.float32)))
    refused(changed(block, name, lambda array: array.astype(array.dtype.newbyteorder())))
    refused(
        changed(block, name, lambda array: np.concatenate([array, array if name in FIXED else [1]]).astype(array.dtype))
    )
    refused(changed(block, name, lambda array: array[..., None]))
    if name in FIXED and block.fixed[name].shape[1] > 1:
        refused(changed(block, name, np.asfortranarray))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*RAGGED, *FIXED])
def test_missing_and_strange_parameters(kind, name):
    block = BLOCKS[kind]
    held = "ragged" if name in RAGGED else "fixed"
    arrays = dict(getattr(block, held))
    refused(replace(block, **{held: {**arrays, "strange": arrays[name]}}))
    del arrays[name]
    refused(replace(block, **{held: arrays}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize("value", [-1, 1, 10**6, 2**62])
def test_offsets(kind, name, value):
    block = BLOCKS[kind]
    refused(changed(block, f"{name} offsets", put(0, value)))
    refused(changed(block, f"{name} offsets", put(-1, block.ragged[name].offsets[-1] + value)))
    if value != 1:
        refused(changed(block, f"{name} offsets", put(1, value)))


def node(block, key=None, delta=None, row=None, *, like):
    """A node like another one, in parts."""
    shift = shift_of(block.layout.width, 2 if dict(block.layout.static)["missing"] else 1)
    low = int(like) & 0xFFFFFFFF
    key = int(like) >> 32 if key is None else key
    delta = low >> shift if delta is None else delta
    row = low & ((1 << shift) - 1) if row is None else row
    return (key << 32) | (delta << shift) | row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [{"delta": 0}, {"delta": 2}, {"delta": 5000}, {"row": 7}, {"row": 6}])
def test_roots_that_lead_astray(kind, part):
    block = BLOCKS[kind]
    root = block.ragged["nodes"].values[0]
    if part == {"row": 6} and kind == "boosting":
        part = {"row": 3}  # without missing values three inputs have three rows
    changed_root = node(block, **part, like=root)
    if changed_root != root:
        refused(changed(block, "nodes", put(0, changed_root)), "model 0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [-1, -(2**31), 2**31 - 1])
def test_leaves_without_an_answer(kind, key):
    block = BLOCKS[kind]
    refused(
        changed(block, "nodes", put(-1, node(block, key=key, like=block.ragged["nodes"].values[-1]))), "model 2 .*leaf"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_leaf_that_reads_an_input(kind):
    block = BLOCKS[kind]
    refused(changed(block, "nodes", put(-1, node(block, row=0, like=block.ragged["nodes"].values[-1]))), "input")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-5, 0, 1, 2, 10**6, 2**31 - 1])
def test_roots(kind, value):
    block = BLOCKS[kind]
    refused(changed(block, "roots", put(1, value)))
    refused(changed(block, "roots", put(0, value or 3)))


def test_sets():
    block = BLOCKS["histogram"]
    nodes = block.ragged["nodes"].values
    at = int(np.flatnonzero(nodes < 0)[0])
    for key in (-(2**31), ~len(block.ragged["sets"].values)):
        refused(changed(block, "nodes", put(at, node(block, key=key, like=nodes[at]))), "set")
    refused(changed(block, "levels", put((slice(None), 1), -1)), "set")
    refused(changed(block, "levels", put((0, 1), 10**6)), "set")
    refused(changed(block, "levels", put((0, 1), 2**31 - 1)), "categories")
    refused(changed(block, "levels", put((0, 0), -2)), "categories")
    refused(changed(BLOCKS["forest"], "levels", put((0, 0), 3)), "categories")


@pytest.mark.parametrize("value", [-1, 1, 10**6, 2**31 - 1])
def test_cuts_out_of_range(value):
    block = BLOCKS["histogram"]
    for at in ((0, 0), (2, -1)):
        refused(
            changed(block, "cut_starts", put(at, np.int32(min(int(block.fixed["cut_starts"][at]) + value, 2**31 - 1)))),
            "cuts",
        )
    refused(changed(BLOCKS["forest"], "cut_starts", put((1, 2), value)), "cuts")


def test_cuts_that_do_not_rise():
    block = BLOCKS["histogram"]
    refused(changed(block, "cuts", put(0, np.nan)), "rise")
    refused(changed(block, "cuts", put(0, np.inf)), "rise")
    refused(changed(block, "cuts", put(1, block.ragged["cuts"].values[0])), "rise")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(kind, value):
    for name in ("answers", "start", "finish"):
        at = 0 if name in RAGGED else (0, 0)
        refused(changed(BLOCKS[kind], name, put(at, value)), name)


def test_no_division_by_zero_trees():
    refused(changed(BLOCKS["forest"], "finish", put((0, 0), 0.0)), "zero")


LIES = [
    ("forest", "link", 0), ("forest", "link", 8), ("forest", "link", 99), ("forest", "link", 7),
    ("forest", "outputs", 2),
    ("forest", "outputs", 0), ("forest", "outputs", "3"), ("forest", "outputs", True), ("forest", "votes", False),
    ("forest", "votes", 1), ("forest", "sets", True), ("forest", "precision", 2), ("forest", "missing", "yes"),
    ("boosting", "votes", True), ("boosting", "link", 4), ("boosting", "outputs", 1), ("boosting", "missing", True),
    ("histogram", "sets", False), ("histogram", "outputs", 2), ("histogram", "link", 8), ("histogram", "precision", 0),
    ("histogram", "missing", False), ("isolation", "link", 1), ("isolation", "outputs", 3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value"), LIES)
def test_layouts_that_lie(kind, name, value):
    block = BLOCKS[kind]
    static = dict(block.layout.static) | {name: value}
    refused(replace(block, layout=replace(block.layout, static=tuple(static.items()))))
    del static[name]
    refused(replace(block, layout=replace(block.layout, static=tuple(static.items()))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0, 1, 2, 4, 300])
def test_layouts_of_another_width(kind, width):
    block = BLOCKS[kind]
    refused(replace(block, layout=replace(block.layout, width=width)))


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_another_task(kind, task):
    block = BLOCKS[kind]
    if task is not block.layout.task:
        refused(replace(block, layout=replace(block.layout, task=task)))


@settings(max_examples=400)
@given(
    st.sampled_from(KINDS), st.sampled_from([*RAGGED, *FIXED]), st.integers(0, 10**6), st.binary(min_size=8, max_size=8)
)
def test_whatever_passes_can_be_scored(kind, name, at, garbage):
    """Random bytes somewhere: refused, or harmless. The arrays end where their memory ends, so a step outside shows."""
    block = BLOCKS[kind]

    def scribble(array):
        flat = array.reshape(-1)
        if len(flat):
            flat[at % len(flat)] = np.frombuffer(garbage, flat.dtype)[0]
        return array

    damaged = changed(block, name, scribble)
    try:
        FAMILY.validate(damaged)
    except InvalidArtifact:
        return
    X = np.random.default_rng(0).normal(size=(3, 40))
    units = np.array([[model, 0, 40] for model in range(3)], dtype=np.int64)
    answers = score(damaged, X, units, 3)
    if block.layout.task is Task.CLASSIFICATION:
        assert ((answers.labels >= 0) & (answers.labels < 3)).all()
