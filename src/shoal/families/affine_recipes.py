"""Which linear estimators are known, and how each one's weights, link and classes are read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.names import class_name
from shoal.kernels.affine import Link
from shoal.types import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read from a fitted linear estimator.

    Attributes
    ----------
    coef : ndarray of float64, shape (outputs, n_features_in_)
        Weights.
    intercept : ndarray of float64, shape (outputs,)
        Added to the sums.
    link : Link
        What becomes of the sums.
    classes : ndarray or None
        Class labels; None for regression.
    """

    coef: Floats
    intercept: Floats
    link: Link
    classes: np.ndarray | None = None


def read(estimator: object, part: str) -> Reading:
    """Read a fitted linear estimator.

    Raises
    ------
    UnsupportedEstimator
        Names the parameter that stopped it.
    """
    recipe = RECIPES[class_name(estimator)]
    if not hasattr(estimator, "coef_"):
        raise UnsupportedEstimator(part, "is not fitted; call fit first")
    reading = recipe(estimator, part)
    for name, array in (("coef_", reading.coef), ("intercept_", reading.intercept)):
        if not np.isfinite(array).all():
            raise UnsupportedEstimator(f"{part}, {name}", "has values that are not finite; fit it again")
    return reading


def _regression(link: Link) -> Callable[[object, str], Reading]:
    def recipe(estimator: object, part: str) -> Reading:
        coef = _dense(estimator.coef_)  # type: ignore[attr-defined]
        if coef.ndim != 1:
            raise UnsupportedEstimator(
                f"{part}, coef_",
                f"has the shape {coef.shape}: it was fitted on a 2-d target; pass y with one dimension",
            )
        intercept = np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1)  # type: ignore[attr-defined]
        return Reading(coef=coef[None, :], intercept=intercept, link=link)

    return recipe


def _tweedie(estimator: object, part: str) -> Reading:
    link: str = estimator.link  # type: ignore[attr-defined]
    power: float = estimator.power  # type: ignore[attr-defined]
    exponential = link == "log" or (link == "auto" and power > 0)
    return _regression(Link.EXP if exponential else Link.IDENTITY)(estimator, part)


def _classification(one: Link, many: Link) -> Callable[[object, str], Reading]:
    """A classifier with ``one`` link for two classes and another for ``many``."""

    def recipe(estimator: object, part: str) -> Reading:
        coef, intercept, classes = _outputs(estimator, part)
        return Reading(coef=coef, intercept=intercept, link=one if len(coef) == 1 else many, classes=classes)

    return recipe


def _outputs(estimator: object, part: str) -> tuple[Floats, Floats, np.ndarray]:
    coef = np.atleast_2d(_dense(estimator.coef_))  # type: ignore[attr-defined]
    classes = np.asarray(estimator.classes_)  # type: ignore[attr-defined]
    if classes.ndim != 1 or len(coef) != (1 if len(classes) == 2 else len(classes)) or len(classes) < 2:
        raise UnsupportedEstimator(
            f"{part}, classes_", f"has {len(classes)} classes for {len(coef)} outputs; fit it on one label per row"
        )
    intercept = np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1)  # type: ignore[attr-defined]
    return coef, np.ascontiguousarray(np.broadcast_to(intercept, (len(coef),))), classes


def _ridge_classifier(estimator: object, part: str) -> Reading:
    kind = estimator._label_binarizer.y_type_  # type: ignore[attr-defined]
    if kind.startswith("multilabel"):
        raise UnsupportedEstimator(f"{part}, target", f"is {kind}; fit it on one label per row")
    return _classification(Link.SIGN, Link.ARGMAX)(estimator, part)


def _sgd(estimator: object, part: str) -> Reading:
    loss = estimator.loss  # type: ignore[attr-defined]
    links = {"log_loss": (Link.LOGISTIC, Link.LOGISTIC_EACH), "modified_huber": (Link.HUBER, Link.HUBER_EACH)}
    return _classification(*links.get(loss, (Link.SIGN, Link.ARGMAX)))(estimator, part)


def _logistic(estimator: object, part: str) -> Reading:
    """Older releases let the user choose ``multi_class``; for two classes, multinomial is a softmax of (-d, d)."""
    scheme = getattr(estimator, "multi_class", "auto")
    each = scheme in ("ovr", "warn") or estimator.solver == "liblinear"  # type: ignore[attr-defined]
    coef, intercept, classes = _outputs(estimator, part)
    if len(coef) == 1 and scheme == "multinomial":
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
        return Reading(coef=coef, intercept=intercept, link=Link.SOFTMAX, classes=classes)
    many = Link.LOGISTIC_EACH if each else Link.SOFTMAX
    return Reading(coef=coef, intercept=intercept, link=Link.LOGISTIC if len(coef) == 1 else many, classes=classes)


def _dense(coef: object) -> Floats:
    """Weights as a dense array; ``sparsify()`` makes them a sparse matrix."""
    array = coef.toarray() if hasattr(coef, "toarray") else coef
    return np.asarray(array, dtype=np.float64)


_IDENTITY = _regression(Link.IDENTITY)
_EXP = _regression(Link.EXP)
_LABELS = _classification(Link.SIGN, Link.ARGMAX)

RECIPES: dict[str, Callable[[object, str], Reading]] = {
    "sklearn.linear_model.ARDRegression": _IDENTITY,
    "sklearn.linear_model.BayesianRidge": _IDENTITY,
    "sklearn.linear_model.ElasticNet": _IDENTITY,
    "sklearn.linear_model.ElasticNetCV": _IDENTITY,
    "sklearn.linear_model.GammaRegressor": _EXP,
    "sklearn.linear_model.HuberRegressor": _IDENTITY,
    "sklearn.linear_model.Lasso": _IDENTITY,
    "sklearn.linear_model.LassoCV": _IDENTITY,
    "sklearn.linear_model.LinearRegression": _IDENTITY,
    "sklearn.linear_model.LogisticRegression": _logistic,
    "sklearn.linear_model.LogisticRegressionCV": _logistic,
    "sklearn.linear_model.Perceptron": _LABELS,
    "sklearn.linear_model.PoissonRegressor": _EXP,
    "sklearn.linear_model.QuantileRegressor": _IDENTITY,
    "sklearn.linear_model.Ridge": _IDENTITY,
    "sklearn.linear_model.RidgeCV": _IDENTITY,
    "sklearn.linear_model.RidgeClassifier": _ridge_classifier,
    "sklearn.linear_model.RidgeClassifierCV": _ridge_classifier,
    "sklearn.linear_model.SGDClassifier": _sgd,
    "sklearn.linear_model.SGDRegressor": _IDENTITY,
    "sklearn.linear_model.TweedieRegressor": _tweedie,
    "sklearn.svm.LinearSVC": _LABELS,
    "sklearn.svm.LinearSVR": _IDENTITY,
}
"""Every estimator of the family, by the public name of its class."""
