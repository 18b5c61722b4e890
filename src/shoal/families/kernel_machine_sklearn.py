"""Reading scikit-learn's kernel machines: its five classes around libsvm, and kernel ridge regression."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UnsupportedEstimator
from shoal.families.kernel_machine_layout import Machine
from shoal.kernels.kernel_machine import KernelFunction
from shoal.types import Floats

KERNELS = {
    "linear": KernelFunction.LINEAR,
    "rbf": KernelFunction.RBF,
    "poly": KernelFunction.POLY,
    "polynomial": KernelFunction.POLY,
    "sigmoid": KernelFunction.SIGMOID,
}

#: Degrees above this, and more classes than this, are no honest model, and the latter take memory by their square.
MOST_DEGREE = 1_000_000
MOST_CLASSES = 500


def read_svm(estimator: Any, part: str) -> Machine:
    """A fitted OneClassSVM, SVC, NuSVC, SVR or NuSVR.

    Raises
    ------
    UnsupportedEstimator
        Names the parameter that stopped it.
    """
    if not hasattr(estimator, "support_vectors_"):
        raise UnsupportedEstimator(part, "is not fitted; call fit first")
    kernel = _kernel(estimator, part)
    classes = getattr(estimator, "classes_", None)
    counts = np.asarray(estimator._n_support, dtype=np.int64)
    support = _dense(estimator.support_vectors_)
    machine = Machine(
        kernel=kernel,
        degree=_degree(estimator, kernel, part),
        gamma=0.0 if kernel is KernelFunction.LINEAR else float(estimator._gamma),
        coef0=float(estimator.coef0) if kernel in (KernelFunction.POLY, KernelFunction.SIGMOID) else 0.0,
        support=support,
        coefficients=_dense(estimator._dual_coef_).reshape(-1, len(support)) if len(support) else np.zeros((1, 0)),
        intercept=np.array(estimator._intercept_, dtype=np.float64),
        counts=counts if classes is not None and len(classes) > 2 else np.array([len(support)], dtype=np.int64),
        platt=None if classes is None else _platt(estimator),
        break_ties=_breaks_ties(estimator, part),
        classes=classes,
    )
    return _checked(machine, part)


def read_kernel_ridge(estimator: Any, part: str) -> Machine:
    """A fitted KernelRidge with one target.

    Raises
    ------
    UnsupportedEstimator
        Names the parameter that stopped it.
    """
    if not hasattr(estimator, "dual_coef_"):
        raise UnsupportedEstimator(part, "is not fitted; call fit first")
    kernel = _kernel(estimator, part)
    if np.ndim(estimator.dual_coef_) != 1:
        raise UnsupportedEstimator(f"{part}, dual_coef_", "predicts several targets; fit one estimator per target")
    support = _dense(estimator.X_fit_)
    gamma = 1.0 / support.shape[1] if estimator.gamma is None else float(estimator.gamma)
    machine = Machine(
        kernel=kernel,
        degree=_degree(estimator, kernel, part),
        gamma=0.0 if kernel is KernelFunction.LINEAR else gamma,
        coef0=float(estimator.coef0) if kernel in (KernelFunction.POLY, KernelFunction.SIGMOID) else 0.0,
        support=support,
        coefficients=_dense(estimator.dual_coef_).reshape(1, -1),
        intercept=np.zeros(1),
        counts=np.array([len(support)], dtype=np.int64),
    )
    return _checked(machine, part)


def _kernel(estimator: Any, part: str) -> KernelFunction:
    name = estimator.kernel
    if not isinstance(name, str) or name not in KERNELS:
        shown = name if isinstance(name, str) else "a function"
        raise UnsupportedEstimator(f"{part}, kernel", f"is {shown}; only linear, rbf, poly and sigmoid can be packed")
    return KERNELS[name]


def _degree(estimator: Any, kernel: KernelFunction, part: str) -> int:
    if kernel is not KernelFunction.POLY:
        return 0
    degree = float(estimator.degree)
    if not (degree.is_integer() and 0 <= degree <= MOST_DEGREE):
        raise UnsupportedEstimator(f"{part}, degree", f"is {degree}; it must be a whole number up to {MOST_DEGREE}")
    return int(degree)


def _dense(matrix: Any) -> Floats:
    """As a dense float64 array; an estimator that was fitted on a sparse matrix keeps sparse ones."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def _platt(estimator: Any) -> Floats | None:
    slopes: NDArray[np.float64] = np.asarray(estimator._probA, dtype=np.float64)
    return np.stack([slopes, estimator._probB], axis=1) if slopes.size else None


def _breaks_ties(estimator: Any, part: str) -> bool:
    if not getattr(estimator, "break_ties", False):
        return False
    if estimator.decision_function_shape == "ovo":
        raise UnsupportedEstimator(f"{part}, break_ties", "has no meaning with decision_function_shape='ovo'")
    return len(estimator.classes_) > 2


def _checked(machine: Machine, part: str) -> Machine:
    """Refuse numbers that no fit leaves behind: somebody changed them, or the fit overflowed."""
    numbers: list[Floats | float] = [
        machine.support,
        machine.coefficients,
        machine.intercept,
        machine.gamma,
        machine.coef0,
    ]
    if machine.platt is not None:
        numbers.append(machine.platt)
    if not all(np.isfinite(array).all() for array in numbers):
        raise UnsupportedEstimator(part, "has parameters that are not finite; look at its training data")
    classes = 0 if machine.classes is None else len(machine.classes)
    if classes > MOST_CLASSES:
        raise UnsupportedEstimator(f"{part}, classes_", f"has {classes} classes; at most {MOST_CLASSES} can be packed")
    n, pairs = len(machine.support), max(1, classes * (classes - 1) // 2)
    shapes = (machine.coefficients.shape, machine.intercept.shape, int(machine.counts.sum()), len(machine.counts))
    if shapes != ((max(1, classes - 1), n), (pairs,), n, classes if classes > 2 else 1) or machine.gamma < 0.0:
        raise UnsupportedEstimator(part, "has fitted attributes that do not fit together; fit it again")
    return machine
