"""Fitted kernel machines and ways to score them, for the tests of their family."""

import warnings

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from shoal.families import pack, validate
from shoal.families.contract import Answers, Batch
from shoal.families.kernel_machine import FAMILY
from shoal.families.stacking import stack

KERNELS = ("linear", "rbf", "poly", "sigmoid")
CLASSIFIERS = (SVC, NuSVC)
OTHERS = (OneClassSVM, SVR, NuSVR, KernelRidge)


def data(seed, *, rows=60, features=4, classes=0):
    """Inputs, and a target: numbers, or labels that are more or less separable."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, features)) * random.uniform(0.5, 2.0, size=features)
    if not classes:
        return X, X[:, 0] + np.sin(X).sum(axis=1) + 0.1 * random.normal(size=rows)
    centres = random.normal(size=(classes, features)) * 1.5
    labels = np.arange(rows) % classes
    return X + centres[labels], np.array([f"class {label}" for label in labels])


def fitted(estimator, seed, *, scale=False, **shape):
    """The estimator, fitted on :func:`data`, behind a scaler if asked for; and the inputs."""
    X, y = data(seed, **shape)
    whole = make_pipeline(StandardScaler(), estimator) if scale else estimator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-learn 1.9 announces the end of `probability`
        warnings.filterwarnings("ignore", message="Singular matrix")  # kernel ridge, whose sigmoid is no true kernel
        whole.fit(X, y)
    return whole, X


def names(X):
    return [f"x{i}" for i in range(X.shape[1])]


def block_of(*estimators, features):
    """A validated block."""
    block = stack([pack(estimator, features) for estimator in estimators]).block()
    validate(block)
    return block


def empty_answers(rows, labels):
    return Answers(
        values=np.zeros(rows),
        labels=np.full(rows, -1, np.int32),
        probabilities=np.full((rows, labels), np.nan),
        reasons=np.zeros(rows, np.uint8),
        culprits=np.zeros(rows, np.int16),
    )


def score(block, X, units=None):
    """Answers to rows of raw inputs, by default all for the block's first model."""
    answers = empty_answers(len(X), len(block.class_map))
    units = np.array([[0, 0, len(X)]] if units is None else units, dtype=np.int64)
    FAMILY.score(block, Batch(X=np.ascontiguousarray(X.T), units=units), answers, 0, len(units))
    return answers


def bits(array):
    return np.ascontiguousarray(array).view(np.int64)
