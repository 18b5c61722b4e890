"""Crafted and damaged blocks of kernel machines are refused before the kernel sees them."""

from dataclasses import replace

import numpy as np
import pytest
from kernel_machine_cases import block_of, fitted, names
from sklearn.svm import SVC, OneClassSVM

from shoal.errors import InvalidArtifact
from shoal.families.contract import Ragged
from shoal.families.kernel_machine import FAMILY
from shoal.types import Task


@pytest.fixture(scope="module")
def block():
    models = [fitted(OneClassSVM(), seed, rows=rows) for seed, rows in ((0, 30), (1, 55))]
    return block_of(*(model for model, _ in models), features=names(models[0][1]))


@pytest.fixture(scope="module")
def classes():
    models = [fitted(SVC(probability=True, random_state=0), seed, rows=45, classes=3) for seed in (0, 1)]
    return block_of(*(model for model, _ in models), features=names(models[0][1]))


def with_fixed(block, name, change):
    array = block.fixed[name].copy()
    changed = change(array)
    return replace(block, fixed={**block.fixed, name: array if changed is None else changed})


def with_static(block, **changes):
    static = tuple(sorted({**dict(block.layout.static), **changes}.items()))
    return replace(block, layout=replace(block.layout, static=static))


def with_ragged(block, name, *, offsets=None, values=None):
    part = block.ragged[name]
    part = Ragged(
        offsets=part.offsets if offsets is None else offsets, values=part.values if values is None else values
    )
    return replace(block, ragged={**block.ragged, name: part})


def put(index, value):
    def change(array):
        array[index] = value

    return change


def refused(block, match=None):
    with pytest.raises(InvalidArtifact, match=match):
        FAMILY.validate(block)


def test_honest_blocks_pass(block, classes):
    FAMILY.validate(block)
    FAMILY.validate(classes)


@pytest.mark.parametrize("blocks", [-1, 0, 1, 100, 2**62, -(2**63)])
def test_a_wrong_number_of_blocks(block, blocks):
    refused(with_fixed(block, "blocks", put((1, 0), blocks)), "block|number of support vectors")


@pytest.mark.parametrize("wrong", [[2**62, 2**62, 2**62], [2**63 - 1, 2**63 - 1, 2], [-1, 3, 4], [0, 0, 0]])
def test_wrong_numbers_of_blocks_per_class(classes, wrong):
    refused(with_fixed(classes, "blocks", put(1, wrong)))


def test_blocks_moved_from_one_class_to_another_stay_in_range(classes):
    total = classes.fixed["blocks"][0].sum()
    FAMILY.validate(with_fixed(classes, "blocks", put(0, [total, 0, 0])))


@pytest.mark.parametrize("name", ["gamma", "coef0", "intercept", "platt"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite(classes, name, number):
    refused(with_fixed(classes, name, put(0, number)), "finite")


def test_a_negative_gamma(block):
    refused(with_fixed(block, "gamma", put(0, -0.1)), "gamma")


@pytest.mark.parametrize("name", ["support", "coefficients"])
def test_ragged_parts_that_do_not_fit(block, name):
    part = block.ragged[name]
    refused(with_ragged(block, name, values=np.append(part.values, 0.0)))
    refused(with_ragged(block, name, values=part.values[:-1]))
    refused(with_ragged(block, name, values=np.where(np.arange(len(part.values)) == 3, np.nan, part.values)), "finite")
    refused(with_ragged(block, name, values=part.values.astype(np.float32)))
    refused(with_ragged(block, name, offsets=part.offsets[:-1]))
    moved = part.offsets.copy()
    moved[1] -= 8
    refused(with_ragged(block, name, offsets=moved))
    backwards = part.offsets.copy()
    backwards[1] = backwards[2] + 8
    refused(with_ragged(block, name, offsets=backwards))
    negative = part.offsets.copy()
    negative[0] = -8
    refused(with_ragged(block, name, offsets=negative))


@pytest.mark.parametrize(
    "static",
    [
        {"kernel": "laplacian"}, {"kernel": 1}, {"degree": -1}, {"degree": 2**40}, {"degree": 2.0}, {"classes": 1},
        {"classes": 3}, {"classes": -3}, {"classes": 10**6}, {"probability": True}, {"probability": 1},
        {"break_ties": None}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_layout_that_says_something_else(block, static):
    refused(with_static(block, **static))


def test_a_task_that_does_not_fit_the_classes(block, classes):
    refused(replace(block, layout=replace(block.layout, task=Task.CLASSIFICATION)))
    refused(replace(classes, layout=replace(classes.layout, task=Task.REGRESSION)))
    refused(replace(classes, classes=classes.classes[:, :2].copy()), "classes")


def test_lacking_strange_and_misshapen_parameters(block, classes):
    refused(replace(block, fixed={k: v for k, v in block.fixed.items() if k != "gamma"}), "parameters")
    refused(replace(block, fixed={**block.fixed, "platt": np.zeros((2, 1, 2))}), "parameters")
    refused(replace(block, ragged={"support": block.ragged["support"]}), "parameters")
    refused(with_fixed(block, "gamma", lambda array: array[:1]))
    refused(with_fixed(block, "gamma", lambda array: array.astype(np.float32)))
    refused(with_fixed(block, "blocks", lambda array: array.astype(np.int32)))
    refused(with_fixed(classes, "platt", lambda array: array[:, :2]))
    refused(with_fixed(classes, "intercept", lambda array: np.asfortranarray(array)))


def test_a_wider_layout(block):
    refused(replace(block, layout=replace(block.layout, width=block.layout.width - 1)), "support vectors")
