"""Packing gradient boosting: trees that add up, from a constant, to a raw prediction behind a link."""

from dataclasses import replace
from typing import Any

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.contract import PackedModel
from shoal.families.inputs import Inputs
from shoal.families.names import class_name
from shoal.families.trees_layout import NAME, Shape, parameters
from shoal.families.trees_sklearn import read_trees
from shoal.kernels.tree_answers import Link
from shoal.types import Floats, Task

BOOSTING = frozenset(f"sklearn.ensemble.GradientBoosting{task}" for task in ("Regressor", "Classifier"))

CONSTANT_CLASSIFIERS = frozenset({"prior", "most_frequent", "constant"})


def pack_boosting(estimator: object, columns: Inputs) -> PackedModel:
    """Lay out gradient boosting whose ``init`` is a constant."""
    boosting: Any = estimator
    start = _start(boosting, columns.part)
    columns.require()
    columns.float32()
    grown, keys = read_trees(boosting.estimators_.ravel(), columns.positions, columns.width)
    classes = getattr(boosting, "classes_", None)
    shape = Shape(outputs=len(start), link=_link(boosting, len(start), columns.part))
    return columns.model(
        family=NAME,
        task=Task.REGRESSION if classes is None else Task.CLASSIFICATION,
        parameters=parameters(
            replace(grown, answers=boosting.learning_rate * grown.answers), keys, shape,
            start=start, finish=(1.0, 0.0), part=columns.part,
        ),
        static=shape.static(),
        classes=classes,
    )  # fmt: skip


def _start(boosting: Any, part: str) -> Floats:
    """The raw prediction before the first tree, as scikit-learn's ``_raw_predict_init`` makes it."""
    outputs = boosting.n_trees_per_iteration_
    if isinstance(boosting.init_, str) and boosting.init_ == "zero":
        return np.zeros(outputs)
    rows = np.zeros((1, boosting.n_features_in_))
    name = class_name(boosting.init_)
    if name == "sklearn.dummy.DummyRegressor":
        guess = boosting.init_.predict(rows).astype(np.float64)
    elif name == "sklearn.dummy.DummyClassifier" and boosting.init_.strategy in CONSTANT_CLASSIFIERS:
        shares = boosting.init_.predict_proba(rows)
        tiny = np.finfo(np.float64).eps
        guess = np.clip(shares if outputs > 1 else shares[:, 1], tiny, 1 - tiny, dtype=np.float64)
    else:
        raise UnsupportedEstimator(f"{part}, init", f"is {name}; only the default, constants and 'zero' can be packed")
    return np.asarray(boosting._loss.link.link(guess), np.float64).reshape(outputs)


def _link(boosting: Any, outputs: int, part: str) -> Link:
    if getattr(boosting, "classes_", None) is None:
        return Link.IDENTITY
    if outputs > 1:
        return Link.SOFTMAX
    if boosting.loss == "exponential":
        return Link.HALF_LOGISTIC_FROM_ZERO
    if boosting.loss == "log_loss":
        return Link.LOGISTIC_FROM_ZERO
    raise UnsupportedEstimator(f"{part}, loss", f"is {boosting.loss!r}; log_loss and exponential can be packed")
