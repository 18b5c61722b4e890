"""Stacking packed models: one list of labels, one list of texts per feature, and fast."""

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from shoal.errors import InvalidInput
from shoal.families import families, family, pack
from shoal.families.contract import Layout
from shoal.families.stacking import sorted_labels, stack

X = np.random.default_rng(0).normal(size=(12, 3))


def classifier(labels):
    return pack(
        LogisticRegression().fit(X, np.array(labels * 6, dtype=object if len(set(map(type, labels))) > 1 else None)),
        "abc",
    )


def encoder(texts):
    data = np.array([[text] for text in texts], dtype=object)
    return pack(make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()).fit(data, range(len(texts))), ["a"])


def test_labels_are_unified():
    stacked = stack([classifier(["b", "d"]), classifier(["a", "b"]), classifier(["b", "d"])])
    assert stacked.labels == ("a", "b", "d")
    np.testing.assert_array_equal(stacked.classes, [[1, 2], [0, 1], [1, 2]])
    assert stacked.classes.dtype == np.int32


def test_labels_of_different_types_stay_apart():
    stacked = stack([classifier([0, 1]), classifier([False, True]), classifier(["0", "1"])])
    assert [(type(label).__name__, label) for label in stacked.labels] == [
        ("bool", False), ("bool", True), ("int", 0), ("int", 1), ("str", "0"), ("str", "1"),
    ]  # fmt: skip
    np.testing.assert_array_equal(stacked.classes, [[2, 3], [0, 1], [4, 5]])
    assert sorted_labels(["b", 3, True, "a", 3, -1]) == (True, -1, 3, "a", "b")


def test_texts_are_unified_and_codes_renumbered():
    models = [encoder(["m", "z"]), encoder(["a", "m", "q"]), encoder(["z"])]
    stacked = stack(models)
    assert stacked.categories == (("a", "m", "q", "z"),)
    entries = stacked.transform[:, [slot for slot, _ in stacked.layout.category_slots]]
    np.testing.assert_array_equal(entries, [[1, 3, *[np.nan] * 2], [0, 1, 2, np.nan], [3, *[np.nan] * 3]])
    assert models[0].transform[1] == 0.0, "the packed models stay as they were"


def test_numeric_features_have_no_texts():
    stacked = stack([pack(Ridge().fit(X, X[:, 0]), "abc")])
    assert stacked.categories == ((), (), ())
    assert stacked.labels == ()
    assert stacked.classes.shape == (1, 0)


def test_models_that_do_not_belong_together():
    plain = pack(Ridge().fit(X, X[:, 0]), "abc")
    with pytest.raises(InvalidInput, match="no models"):
        stack([])
    with pytest.raises(InvalidInput, match="model 1 has another layout"):
        stack([plain, pack(make_pipeline(StandardScaler(), Ridge()).fit(X, X[:, 0]), "abc")])
    with pytest.raises(InvalidInput, match="'coef' has 2 shapes"):
        stack([plain, replace(plain, parameters={**plain.parameters, "coef": np.zeros((1, 4))})])
    with pytest.raises(InvalidInput, match="different numbers of classes"):
        stack([replace(plain, classes=("a", "b")), replace(plain, classes=("a",))])


def test_a_hundred_thousand_models_stack_quickly():
    few = [encoder([f"t{i}", f"t{i + 1}", "u"]) for i in range(20)]
    models = [replace(few[i % 20], transform=few[i % 20].transform.copy()) for i in range(100_000)]
    start = time.process_time()  # what others do on the machine does not count
    stacked = stack(models)
    assert time.process_time() - start < 5.0  # a second, usually; were each compared with each, hours
    assert len(stacked.categories[0]) == 22
    assert stacked.fixed["coef"].shape == (100_000, 1, 4)


def test_families_find_themselves():
    assert family("affine") is families()["affine"]
    assert list(families()) == sorted(families())
    for name, one in families().items():
        assert one.name == name


def test_layouts_can_be_compared_and_hashed():
    layouts: set[Layout] = {pack(Ridge().fit(X + i, X[:, 0]), "abc").layout for i in range(3)}
    assert len(layouts) == 1
