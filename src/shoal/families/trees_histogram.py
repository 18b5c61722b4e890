"""Packing histogram gradient boosting: double-precision thresholds, missing values and sets of categories."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UnsupportedEstimator
from shoal.families.categories import is_missing
from shoal.families.contract import PackedModel
from shoal.families.inputs import Inputs
from shoal.families.trees_layout import NAME, Grown, Keys, Shape, double_keys, parameters
from shoal.kernels.tree_answers import Link
from shoal.kernels.tree_keys import Precision
from shoal.types import Indices, Integers, Task

HISTOGRAM_BOOSTING = frozenset(f"sklearn.ensemble.HistGradientBoosting{task}" for task in ("Regressor", "Classifier"))

LINKS = {
    "squared_error": Link.IDENTITY, "absolute_error": Link.IDENTITY, "quantile": Link.IDENTITY,
    "poisson": Link.EXPONENTIAL, "gamma": Link.EXPONENTIAL, "log_loss": Link.LOGISTIC,
}  # fmt: skip


def pack_histogram_boosting(estimator: object, columns: Inputs) -> PackedModel:
    """Lay out histogram gradient boosting."""
    boosting: Any = estimator
    levels = _encode_categories(boosting, columns)
    trees = [tree for iteration in boosting._predictors for tree in iteration]
    nodes = np.concatenate([tree.nodes for tree in trees])
    grown = _grown(nodes, [len(tree.nodes) for tree in trees], columns.positions[_order(boosting)])
    classes = getattr(boosting, "classes_", None)
    shape = Shape(
        precision=Precision.DOUBLE, missing=True, sets=bool((levels >= 0).any()),
        outputs=boosting.n_trees_per_iteration_, link=_link(boosting, columns.part),
    )  # fmt: skip
    return columns.model(
        family=NAME,
        task=Task.REGRESSION if classes is None else Task.CLASSIFICATION,
        parameters=parameters(
            grown, _keys(grown, nodes, trees, levels), shape,
            start=boosting._baseline_prediction.reshape(-1), finish=(1.0, 0.0), part=columns.part,
        ),
        static=shape.static(),
        classes=classes,
    )  # fmt: skip


def _link(boosting: Any, part: str) -> Link:
    if boosting.n_trees_per_iteration_ > 1:
        return Link.SOFTMAX
    if boosting.loss not in LINKS:
        raise UnsupportedEstimator(f"{part}, loss", f"is {boosting.loss!r}; {', '.join(LINKS)} can be packed")
    return LINKS[boosting.loss]


def _encode_categories(boosting: Any, columns: Inputs) -> Indices:
    """Write the encoding of categorical columns; returns how many categories each position has, -1 for numbers."""
    levels = np.full(columns.width, -1, np.int32)
    if boosting._preprocessor is None:
        return levels
    encoder = boosting._preprocessor.named_transformers_["encoder"]
    for column, categories in zip(np.flatnonzero(boosting.is_categorical_), encoder.categories_, strict=True):
        known = [category for category in categories if category is None or not is_missing(category)]
        columns.encode(int(column), known)
        levels[columns.positions[column]] = len(known)
    return levels


def _order(boosting: Any) -> Integers:
    """The columns in the order that the trees number them: scikit-learn moves the categorical ones to the front."""
    if boosting._preprocessor is None:
        return np.arange(boosting.n_features_in_)
    categorical = boosting.is_categorical_
    return np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])


def _grown(nodes: NDArray[np.void], counts: list[int], places: Integers) -> Grown:
    leaf = nodes["is_leaf"] != 0
    return Grown(
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        inputs=places[np.where(leaf, 0, nodes["feature_idx"])],
        missing_left=(nodes["missing_go_to_left"] != 0) & (nodes["is_categorical"] == 0),
        answers=nodes["value"][:, None].astype(np.float64),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _keys(grown: Grown, nodes: NDArray[np.void], trees: list[Any], levels: Indices) -> Keys:
    inner = ~grown.leaves
    splits = inner & (nodes["is_categorical"] != 0)
    thresholds = nodes["num_threshold"].astype(np.float64)
    numeric = double_keys(thresholds, grown.inputs, inner & ~splits, len(levels))
    if not splits.any():
        return replace(numeric, levels=levels)
    bitsets = np.concatenate([tree.raw_left_cat_bitsets for tree in trees])
    chosen = np.flatnonzero(splits)
    firsts = np.concatenate([[0], np.cumsum([len(tree.raw_left_cat_bitsets) for tree in trees])[:-1]])
    owners = np.repeat(firsts, np.diff(grown.starts))[chosen] + nodes["bitset_idx"][chosen]
    sets, offsets = _sets(bitsets[owners], levels[grown.inputs[chosen]], nodes["missing_go_to_left"][chosen] != 0)
    keys = numeric.keys.copy()
    keys[chosen] = ~offsets
    return replace(numeric, keys=keys, sets=sets, levels=levels)


def _sets(bitsets: NDArray[np.uint32], levels: Indices, missing_left: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Words of the sets that go left, each no longer than it needs to be, and where they start.

    A category that is unknown, or missing, is the one behind the last.
    """
    words = bitsets.astype(np.uint32)
    last = levels >> 5
    bit = np.uint32(1) << (levels & 31).astype(np.uint32)
    rows = np.arange(len(words))
    words[rows, last] = np.where(missing_left, words[rows, last] | bit, words[rows, last] & ~bit)
    lengths = last + 1
    kept = words[np.arange(words.shape[1]) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
    return kept.view(np.int32), offsets
