"""Packing isolation forests: how long a path isolates a row, as scikit-learn counts it."""

from dataclasses import replace
from typing import Any

import numpy as np

from shoal.families.contract import PackedModel
from shoal.families.inputs import Inputs
from shoal.families.trees_layout import NAME, Shape, parameters
from shoal.families.trees_sklearn import read_trees
from shoal.kernels.tree_answers import Link
from shoal.types import Integers, Task

ISOLATION_FORESTS = frozenset({"sklearn.ensemble.IsolationForest"})


def pack_isolation_forest(estimator: object, columns: Inputs) -> PackedModel:
    """Lay out an isolation forest; its answer is ``decision_function``, anomalous below zero."""
    forest: Any = estimator
    columns.float32()
    grown, keys = read_trees(forest.estimators_, _places(forest, columns.positions), columns.width)
    shape = Shape(missing=True, link=Link.ISOLATION)
    # scikit-learn's own order of additions: depth counted from 1, the usual rest of the path, minus 1.
    depths = np.concatenate(forest._decision_path_lengths)
    lengths = depths + np.concatenate(forest._average_path_length_per_tree) - 1.0
    usual = len(forest.estimators_) * usual_path(forest._max_samples)
    return columns.model(
        family=NAME,
        task=Task.ANOMALY,
        parameters=parameters(
            replace(grown, answers=lengths[:, None]), keys, shape,
            start=np.zeros(1), finish=(usual, float(forest.offset_)), part=columns.part,
        ),
        static=shape.static(),
    )  # fmt: skip


def _places(forest: Any, positions: Integers) -> Integers | list[Integers]:
    """Where each tree's features are; trees that were given all features ignore the order they were drawn in."""
    if forest._max_features == len(positions):
        return positions
    return [positions[own] for own in forest.estimators_features_]


def usual_path(rows: int) -> float:
    """The average length of a path that isolates one of so many rows.

    Equation 1 of Liu, Ting and Zhou, *Isolation forest*, ICDM 2008, with scikit-learn's values for two rows and less.
    """
    if rows <= 2:
        return float(rows == 2)
    return float(2.0 * (np.log(rows - 1.0) + np.euler_gamma) - 2.0 * (rows - 1.0) / rows)
