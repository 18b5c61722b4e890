"""Crafted blocks are refused before a kernel follows them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from shoal.errors import InvalidArtifact
from shoal.families import pack, validate
from shoal.families.contract import Ragged
from shoal.families.stacking import stack
from shoal.families.validation import check_ragged
from shoal.kernels.program import Op

TEXTS = np.array([["x", "u"], ["y", "u"], ["z", "v"], ["x", "v"]], dtype=object)


@pytest.fixture(scope="module")
def good():
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(TEXTS, ["p", "q", "r", "p"])
    block = stack([pack(model, ["a", "b"])] * 3).block()
    validate(block)
    return block


def refused(block, match=None):
    with pytest.raises(InvalidArtifact, match=match):
        validate(block)


def with_layout(block, **changes):
    layout = replace(block.layout, **changes)
    return replace(block, layout=layout, program=np.array(layout.program, dtype=np.int32).reshape(-1, 7))


def with_step(block, number, **changes):
    """The block with some fields of one step changed, in its layout and its array."""
    fields = ["op", "source", "target", "width", "slot", "count", "feature"]
    step = list(block.layout.program[number])
    for name, value in changes.items():
        step[fields.index(name)] = value
    steps = [tuple(step) if i == number else old for i, old in enumerate(block.layout.program)]
    return with_layout(block, program=tuple(steps))


def one_hot(block):
    return next(i for i, step in enumerate(block.layout.program) if step[0] == Op.ONEHOT)


@pytest.mark.parametrize("changes", [
    {"op": 99}, {"op": -1}, {"source": 2}, {"source": -1}, {"target": 10**6}, {"target": -1}, {"width": 2},
    {"width": 0}, {"feature": 2}, {"feature": -1}, {"slot": -1}, {"count": -1},
])  # fmt: skip
def test_steps_that_point_outside(good, changes):
    refused(with_step(good, 0, **changes), "step 0")


@pytest.mark.parametrize("changes", [
    {"slot": 10**6}, {"count": 10**6}, {"width": 10**6}, {"source": 10**6}, {"target": 9}, {"width": 3},
])  # fmt: skip
def test_look_ups_that_point_outside(good, changes):
    refused(with_step(good, one_hot(good), **changes), "step|never writes")


@pytest.mark.parametrize("changes", [
    {"scratch": 2**40}, {"scratch": 3}, {"scratch": -1}, {"first": -1}, {"first": 10**6}, {"width": 10**6},
    {"width": -1}, {"slots": -1}, {"slots": 5}, {"category_slots": ((10**6, 0),)}, {"category_slots": ((0, 2),)},
    {"features": ()}, {"program": ((0, 0, 0),)},
])  # fmt: skip
def test_layouts_with_impossible_sizes(good, changes):
    layout = replace(good.layout, **changes)
    refused(replace(good, layout=layout))


@pytest.mark.parametrize("value", [4.0, -2.0, 0.5, np.nan, np.inf, 1e300])
def test_one_hot_entries_outside_their_columns(good, value):
    _, _, _, _, slot, count, _ = good.layout.program[one_hot(good)]
    transform = good.transform.copy()
    transform[1, slot + 1 + count] = value
    refused(replace(good, transform=transform), "model 1 names a column")


@pytest.mark.parametrize("value", [4.0, -3.0, np.nan])
def test_columns_of_unknown_categories(good, value):
    slot = good.layout.program[one_hot(good)][4]
    transform = good.transform.copy()
    transform[2, slot] = value
    refused(replace(good, transform=transform), "model 2 names a column")


def test_columns_that_are_read_before_they_are_written(good):
    first = good.layout.program[0]
    steps = ((int(Op.COPY), 1, 0, 1, 0, 0, 0), *good.layout.program)
    refused(with_layout(good, program=steps), r"step 0 \(COPY\): reads column 1 before")
    refused(with_layout(good, program=(first,)), "never writes the estimator's input")


def test_arrays_that_do_not_fit_the_layout(good):
    refused(replace(good, program=good.program[:-1]), "not the one of its layout")
    refused(replace(good, program=good.program.astype(np.int64)), "not the one of its layout")
    refused(replace(good, transform=good.transform[:2]), "transform is")
    refused(replace(good, transform=good.transform.astype(np.float32)), "transform is")
    refused(replace(good, transform=np.asfortranarray(good.transform)), "transform is")
    refused(replace(good, models=0), "no models")
    refused(replace(good, models=10**9), "transform is")


def test_classes_outside_the_labels(good):
    for value in (3, -1, 2**31 - 1):
        classes = good.classes.copy()
        classes[1, 1] = value
        refused(replace(good, classes=classes), "class number")
    refused(replace(good, classes=good.classes[:, :2].copy()), "classes")
    refused(replace(good, class_map=np.array([0, 1, -1], dtype=np.int32)), "negative")
    refused(replace(good, classes=good.classes.astype(np.int64)), "classes is")


def test_parameters_of_the_affine_family(good):
    coef, intercept = good.fixed["coef"], good.fixed["intercept"]
    refused(replace(good, fixed={"coef": coef}), "lacks the parameter 'intercept'")
    refused(replace(good, fixed={"coef": coef[:, :2].copy(), "intercept": intercept}), "coef is")
    refused(replace(good, fixed={"coef": coef[:, :, :-1].copy(), "intercept": intercept}), "coef is")
    refused(replace(good, fixed={"coef": coef, "intercept": intercept[:, :1].copy()}), "intercept is")
    refused(replace(good, fixed={"coef": coef * np.nan, "intercept": intercept}), "not finite")


@pytest.mark.parametrize("static", [
    (), (("link", "softmax"),), (("link", "quantum"), ("outputs", 3)), (("link", "softmax"), ("outputs", 4)),
    (("link", "softmax"), ("outputs", -3)), (("link", "sign"), ("outputs", 3)), (("link", "identity"), ("outputs", 1)),
    (("link", "softmax"), ("outputs", "three")), (("link", "logistic"), ("outputs", 1)),
])  # fmt: skip
def test_links_that_do_not_fit(good, static):
    refused(replace(good, layout=replace(good.layout, static=static)))


def test_families_that_do_not_exist(good):
    refused(replace(good, layout=replace(good.layout, family="oracle")), "no family is called 'oracle'")


@pytest.mark.parametrize(
    ("offsets", "match"),
    [([0, 2, 1, 4], "model 1"), ([1, 2, 3, 4], "run from 1"), ([0, 1, 2, 3], "to 3"), ([0, 2, 4], "offsets is")],
)
def test_offsets_of_ragged_parameters(offsets, match):
    ragged = Ragged(offsets=np.array(offsets, dtype=np.int64), values=np.zeros(4))
    with pytest.raises(InvalidArtifact, match=match):
        check_ragged("values", ragged, 3, np.dtype(np.float64))
