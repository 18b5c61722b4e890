"""Packing single decision trees and forests of them: scikit-learn's decision trees, extra trees, random forests."""

from collections.abc import Sequence

import numpy as np

from shoal.families.contract import PackedModel
from shoal.families.inputs import Inputs
from shoal.families.trees_layout import NAME, Shape, parameters
from shoal.families.trees_sklearn import read_trees, refuse_many_outputs, takes_missing
from shoal.kernels.tree_answers import Link
from shoal.types import Task

TREES = frozenset(
    f"sklearn.tree.{kind}Tree{task}" for kind in ("Decision", "Extra") for task in ("Regressor", "Classifier")
)
FORESTS = frozenset(
    f"sklearn.ensemble.{kind}{task}" for kind in ("RandomForest", "ExtraTrees") for task in ("Regressor", "Classifier")
)


def pack_tree(estimator: object, columns: Inputs) -> PackedModel:
    """Lay out one decision tree: a forest of one."""
    return _pack(estimator, [estimator], columns)


def pack_forest(estimator: object, columns: Inputs) -> PackedModel:
    """Lay out a forest, whose answer is the mean of its trees'."""
    return _pack(estimator, estimator.estimators_, columns)  # type: ignore[attr-defined]


def _pack(estimator: object, trees: Sequence[object], columns: Inputs) -> PackedModel:
    refuse_many_outputs(estimator, columns.part)
    classes = getattr(estimator, "classes_", None)
    missing = takes_missing(trees[0])
    outputs = 1 if classes is None else len(classes)
    if not missing:
        columns.require()
    columns.float32()
    shape = Shape(
        missing=missing, votes=classes is not None, outputs=outputs, link=Link.MEAN if classes is None else Link.SHARES
    )
    grown, keys = read_trees(trees, columns.positions, columns.width)
    return columns.model(
        family=NAME,
        task=Task.REGRESSION if classes is None else Task.CLASSIFICATION,
        parameters=parameters(
            grown, keys, shape, start=np.zeros(outputs), finish=(float(len(trees)), 0.0), part=columns.part
        ),
        static=shape.static(),
        classes=classes,
    )
